"""`data.s2`: the functions of s2pipe as methods of a DataArray or a cube."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

if TYPE_CHECKING:
    from s2pipe.core.progress import Progress
    from s2pipe.methods import Method, Sharpener
    from s2pipe.physics.sensor import Sensor
    from s2pipe.store.location import StoreLike


@xr.register_datatree_accessor("s2")
@xr.register_dataarray_accessor("s2")
class S2Accessor:
    """Forwards to the functions of the same name."""

    def __init__(self, obj: Any) -> None:
        self._obj = obj

    def sharpen(
        self,
        method: str | Method | Sharpener = "mtf-resnet",
        *,
        sensor: Sensor | str | None = None,
        bands: Sequence[str] | None = None,
        device: str = "auto",
        precision: str = "auto",
        seed: int = 0,
        checkpoint: str | Path | None = None,
        progress: Progress | None = None,
        **fit_options: Any,
    ) -> xr.DataArray:
        """See `s2pipe.sharpen`."""
        from s2pipe.engine.sharpening import sharpen

        return sharpen(
            self._obj,
            method,
            sensor=sensor,
            bands=bands,
            device=device,
            precision=precision,
            seed=seed,
            checkpoint=checkpoint,
            progress=progress,
            **fit_options,
        )

    def to_zarr(
        self,
        store: StoreLike,
        *,
        group: str | None = None,
        overwrite: bool = False,
        resume: bool = False,
        refit: bool = False,
        shards: bool = True,
        compute: bool = True,
    ) -> Any:
        """See `s2pipe.to_zarr`."""
        from s2pipe.store.zarr_io import to_zarr

        return to_zarr(
            self._obj, store, group=group, overwrite=overwrite, resume=resume, refit=refit, shards=shards, compute=compute
        )
