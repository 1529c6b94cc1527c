"""The cube of what a user gives: a cube, or one DataArray on a 10 m grid whose coarse bands were repeated."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
import pystac
import xarray as xr
from affine import Affine

from s2pipe.core.bands import BAND_BY_KEY, BANDS, BANDS_BY_GSD, GSDS
from s2pipe.core.cube import DIMS, Cube, make_node
from s2pipe.core.encoding import Encoding
from s2pipe.core.errors import InputError
from s2pipe.core.lattice import check_chunks
from s2pipe.core.types import AnyArray, ArrayLike
from s2pipe.inputs.arrays import grid_transform
from s2pipe.inputs.offsets import BASELINE_PROPERTIES, resolve_offset

if TYPE_CHECKING:
    from rasterio.crs import CRS


def as_cube(data: xr.DataTree | xr.DataArray | Cube) -> Cube:
    """The cube of `data`: that of a tree, checked, or the one recovered from a DataArray on one 10 m grid.

    Raises
    ------
    InputError
        If `data` is neither, or is not usable as a cube; the message says what to change.
    """
    if isinstance(data, Cube):
        return data
    if isinstance(data, xr.DataArray):
        return _from_dataarray(data)
    if isinstance(data, xr.DataTree):
        return Cube.of_tree(data)
    raise InputError(
        f"got a {type(data).__name__}; give a cube (DataTree of s2pipe.load or s2pipe.from_arrays) or one 10 m DataArray",
        argument="data",
    )


def _from_dataarray(array: xr.DataArray) -> Cube:
    """The cube behind one 10 m DataArray whose 20 m and 60 m bands were repeated (nearest) to 10 m."""
    if not {"band", "y", "x"} <= set(array.dims) <= set(DIMS):
        raise InputError(f"the DataArray has dims {array.dims}; expected (time, band, y, x) or (band, y, x)", argument="data")
    if "time" not in array.dims:
        array = array.expand_dims("time")
    array = array.transpose(*DIMS)
    known = _known_bands(array)
    transform = _transform_of(array)
    coarsest = max(BANDS[band].gsd for band in known.values())
    _check_origin(array, transform, coarsest)
    positions = {band: i for i, band in known.items()}
    bands = {gsd: held for gsd in GSDS if (held := [band for band in BANDS_BY_GSD[gsd] if band in positions])}
    if 10 not in bands:
        raise InputError("the DataArray has no 10 m band; add at least one of B02, B03, B04, B08", argument="data")
    attrs, crs, per_date = _attrs_of(array), _crs_of(array), _per_date_of(array)
    numbers = {
        gsd: _reduce_blocks(array.data[:, [positions[band] for band in held]], gsd // 10, held) for gsd, held in bands.items()
    }
    encoding = Encoding.from_attrs(array.dtype, attrs)
    time = array["time"].values if "time" in array.coords else None
    arrays = {
        gsd: make_node(
            numbers[gsd],
            held,
            encoding=encoding,
            transform=transform @ Affine.scale(gsd // 10),
            crs=crs,
            time=time,
            per_date=per_date,
        )
        for gsd, held in bands.items()
    }
    return Cube.checked(arrays, encoding)


def _known_bands(array: xr.DataArray) -> dict[int, str]:
    if "band" not in array.coords:
        raise InputError("the DataArray has no coordinate 'band' to name its bands", argument="data")
    labels = [str(label) for label in array["band"].values]
    if unknown := [label for label in labels if label not in BAND_BY_KEY]:
        raise InputError(
            f"bands {', '.join(map(repr, unknown))} of the DataArray are unknown; keep only these with "
            "data.sel(band=[...]): "
            f"{', '.join(f'{b.name} or {b.keys[0]}' for b in BANDS.values())}",
            argument="data",
        )
    names = [BAND_BY_KEY[label] for label in labels]
    if len(set(names)) < len(names):
        raise InputError(f"the DataArray has a band twice: {', '.join(labels)}", argument="data")
    return dict(enumerate(names))


def _transform_of(array: xr.DataArray) -> Affine:
    if "x" not in array.coords or "y" not in array.coords:
        return grid_transform(None)
    x, y = array["x"].values, array["y"].values
    if not (np.allclose(np.diff(x), 10) and np.allclose(np.diff(y), -10)):
        message = "the DataArray is not on a north-up 10 m grid; stack it with resolution=10, or use s2pipe.load"
        raise InputError(message, argument="data")
    return Affine(10, 0, float(x[0]) - 5, 0, -10, float(y[0]) + 5)


def _check_origin(array: xr.DataArray, transform: Affine, coarsest: int) -> None:
    if "x" in array.coords and (transform.c % 10 or transform.f % 10):
        raise InputError("the DataArray's x and y are not pixel centres; stack it with xy_coords='center'", argument="data")
    lattice = max(coarsest, 20)
    if transform.c % lattice or transform.f % lattice:
        raise InputError(
            f"the DataArray's upper-left corner ({transform.c:.0f}, {transform.f:.0f}) is not on the {lattice} m lattice "
            f"of its bands; stack it with bounds that are multiples of {lattice} m",
            argument="data",
        )
    step = lattice // 10
    for axis in ("y", "x"):
        if array.sizes[axis] % step:
            message = f"the DataArray has {array.sizes[axis]} px along {axis}; crop it to a multiple of {step} px"
            raise InputError(message, argument="data")


def _attrs_of(array: xr.DataArray) -> dict[str, object]:
    """Its attributes; where these state no offset, with that of the processing baseline, which stackstac's coordinates name."""
    if array.dtype.kind in "iu" and "add_offset" not in array.attrs:
        offsets = {offset for i in range(array.sizes["time"]) if (offset := _stated_offset(array, i)) is not None}
        if len(offsets) > 1:
            raise InputError(
                "the DataArray mixes dates with and without a radiometric offset; use s2pipe.load, which moves them to one",
                argument="data",
            )
        if offsets:
            return {**array.attrs, "add_offset": offsets.pop()}
    return dict(array.attrs)


def _stated_offset(array: xr.DataArray, date: int) -> float | None:
    properties = {
        str(name): stated[date] if coord.dims else stated
        for name, coord in array.coords.items()
        if coord.dims in ((), ("time",)) and (stated := coord.values.tolist()) is not None
    }
    if not any(properties.get(name) for name in BASELINE_PROPERTIES):
        return None
    item = pystac.Item(
        id=str(properties.get("id", "of the DataArray")), geometry=None, bbox=None, datetime=datetime.min, properties=properties
    )
    try:
        return resolve_offset(item).offset
    except InputError as error:
        raise InputError(f"{error}; or, for a DataArray, data.assign_attrs(add_offset=...)", argument="data") from None


def _crs_of(array: xr.DataArray) -> CRS | None:
    import rioxarray  # noqa: F401  # registers .rio

    return array.rio.crs


def _per_date_of(array: xr.DataArray) -> dict[str, AnyArray]:
    """item_id, platform and baseline, under these names or stackstac's."""
    sources = {
        "item_id": ("item_id", "id"),
        "platform": ("platform",),
        "processing_baseline": ("processing_baseline", *BASELINE_PROPERTIES),
    }
    found = {}
    for name, candidates in sources.items():
        for candidate in candidates:
            if candidate in array.coords and array[candidate].dims in ((), ("time",)):
                found[name] = np.broadcast_to(array[candidate].values, (array.sizes["time"],)).astype(str)
                break
    if "platform" in found:
        found["platform"] = np.char.lower(found["platform"])
    return found


def _reduce_blocks(data: ArrayLike, ratio: int, bands: Sequence[str]) -> ArrayLike:
    if ratio == 1:
        return data
    if isinstance(data, np.ndarray):
        return _block_value(data, ratio=ratio, bands=tuple(bands))
    for axis, name in ((2, "y"), (3, "x")):
        check_chunks(data.chunks[axis], halo=0, axis=name)
    chunks = (*data.chunks[:2], *(tuple(c // ratio for c in data.chunks[axis]) for axis in (2, 3)))
    value_of = partial(_block_value, ratio=ratio, bands=tuple(bands))
    values: da.Array = da.map_blocks(value_of, data, chunks=chunks, dtype=data.dtype, meta=data._meta)
    return values


def _block_value(block: AnyArray, *, ratio: int, bands: tuple[str, ...]) -> AnyArray:
    """The one value of each `ratio` x `ratio` block, which is what a coarse pixel repeated to 10 m holds."""
    value = block[..., ::ratio, ::ratio]
    repeated = value.repeat(ratio, axis=-2).repeat(ratio, axis=-1)
    same = (block == repeated) | ((block != block) & (repeated != repeated))
    if not same.all():
        raise InputError(
            f"bands {', '.join(bands)} are not constant over the {ratio} x {ratio} blocks of 10 m pixels that their own pixels "
            "cover, so they were interpolated or shifted; stack them with "
            "resampling=rasterio.enums.Resampling.nearest and bounds on the 60 m lattice, or use s2pipe.load",
            argument="data",
        )
    return value
