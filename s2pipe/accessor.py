"""`data.s2`: the functions of s2pipe as methods of a DataArray or a cube."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

if TYPE_CHECKING:
    import pandas as pd
    from dask.delayed import Delayed

    from s2pipe.core.progress import Progress
    from s2pipe.methods import Method, Sharpener
    from s2pipe.physics.sensor import Sensor
    from s2pipe.store.location import StoreLike


@xr.register_datatree_accessor("s2")
@xr.register_dataarray_accessor("s2")
class S2Accessor:
    """Forwards to the functions of the same name, with the data as their first argument."""

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
        seed: int | None = None,
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

    def fit(self, method: str | Method = "mtf-resnet", **options: Any) -> Sharpener:
        """See `s2pipe.fit`."""
        from s2pipe.engine.fit import fit

        return fit(self._obj, method, **options)

    def sharpen_to_store(self, store: StoreLike, method: str | Method | Sharpener = "mtf-resnet", **options: Any) -> None:
        """See `s2pipe.sharpen_to_store`."""
        from s2pipe.jobs.job import sharpen_to_store

        sharpen_to_store(self._obj, store, method, **options)

    def to_zarr(self, store: StoreLike, **options: Any) -> Delayed | None:
        """See `s2pipe.to_zarr`."""
        from s2pipe.store.zarr_io import to_zarr

        return to_zarr(self._obj, store, **options)

    def evaluate(self, methods: str | Method | Sharpener | Sequence[str | Method | Sharpener], **options: Any) -> pd.DataFrame:
        """See `s2pipe.evaluate`."""
        from s2pipe.quality.evaluation import evaluate

        return evaluate(self._obj, methods, **options)
