"""`data.s2`: the functions of s2pipe as methods of a DataArray or a cube."""

from __future__ import annotations

from typing import Any

import xarray as xr


@xr.register_datatree_accessor("s2")
@xr.register_dataarray_accessor("s2")
class S2Accessor:
    """Forwards to the functions of the same name."""

    def __init__(self, obj: Any) -> None:
        self._obj = obj

    def sharpen(self, method: Any = "ssc-cnn", **options: Any) -> xr.DataArray:
        """See `s2pipe.sharpen`."""
        from s2pipe.sharpening import sharpen

        return sharpen(self._obj, method, **options)

    def to_zarr(self, store: Any, **options: Any) -> Any:
        """See `s2pipe.to_zarr`."""
        from s2pipe.store import to_zarr

        return to_zarr(self._obj, store, **options)
