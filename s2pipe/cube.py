"""The cube: Sentinel-2 bands at their native resolutions, from arrays or from one 10 m DataArray, checked once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import pystac
import xarray as xr
from affine import Affine

from s2pipe.bands import BAND_BY_KEY, BANDS, BANDS_BY_GSD, GSDS, node_name
from s2pipe.errors import InputError
from s2pipe.lattice import STEP, check_chunks
from s2pipe.radiometry import BASELINE_PROPERTIES, Encoding, resolve_offset

DIMS = ("time", "band", "y", "x")
PER_DATE_COORDS = ("item_id", "platform", "processing_baseline", "source_offset")
"""Coordinates along time that travel with the pixels into results and stores; the last is the offset of the files."""


def from_arrays(
    r10m: Any,
    r20m: Any,
    r60m: Any = None,
    *,
    scale: float | None = None,
    offset: float = 0.0,
    crs: Any = None,
    transform: Any = None,
    time: Any = None,
    nodata: float | None = None,
) -> xr.DataTree:
    """A cube of arrays, whose numbers it keeps: reflectance = number * scale + offset.

    Parameters
    ----------
    r10m : array, (4, y, x) or (time, 4, y, x)
        B02 B03 B04 B08. numpy or dask, integers (DN) or floats (reflectance), all resolutions of one dtype.
    r20m : array or None, (..., 6, y / 2, x / 2)
        B05 B06 B07 B8A B11 B12.
    r60m : array or None, (..., 2, y / 6, x / 6)
        B01 B09.
    scale : float, optional
        Default 1e-4 for integers and 1 for floats.
    offset : float
        In reflectance.
    crs : optional
        Anything pyproj understands; without it the cube has no CRS.
    transform : affine.Affine or six numbers, optional
        Of the 10 m grid, in metres; default: the upper-left corner at (0, 0).
    time : datetime-like or sequence of them, optional
        One for each date.
    nodata : float, optional
        Number of a pixel that was not seen; default 0 for integers and NaN for floats.

    Returns
    -------
    xarray.DataTree
        Nodes ``r10m``, ``r20m``, ``r60m``, each with ``reflectance`` (time, band, y, x) as given, pixel-centre coordinates.

    Raises
    ------
    InputError
        If shapes are off the 10/20/60 m lattice, band counts or dtypes differ from the above, times do not match or repeat,
        or arrays in memory hold infinities, or NaN although nodata is a number.
    """
    given = {gsd: array for gsd, array in zip(GSDS, (r10m, r20m, r60m), strict=True) if array is not None}
    if 10 not in given:
        raise InputError("r10m is missing; the 10 m bands are needed to sharpen the others")
    arrays = {gsd: _with_time(array, gsd) for gsd, array in given.items()}
    dates = arrays[10].shape[0]
    for gsd, array in arrays.items():
        if array.shape[0] != dates or array.shape[1] != len(BANDS_BY_GSD[gsd]):
            raise InputError(
                f"{node_name(gsd)} has {array.shape[0]} dates and {array.shape[1]} bands; expected {dates} dates and the "
                f"{len(BANDS_BY_GSD[gsd])} bands {' '.join(BANDS_BY_GSD[gsd])}"
            )
    dtypes = {node_name(gsd): str(array.dtype) for gsd, array in arrays.items()}
    if len(set(dtypes.values())) > 1:
        raise InputError(f"the arrays are of several dtypes, {dtypes}; give all resolutions one")
    encoding = Encoding.default(arrays[10].dtype, scale=scale, offset=offset, nodata=nodata)
    times = _times(time, dates)
    _check_crs(crs)
    corner = _affine(transform)
    nodes = {
        node_name(gsd): make_node(
            array, BANDS_BY_GSD[gsd], encoding=encoding, transform=corner @ Affine.scale(gsd // 10), crs=crs, time=times
        )
        for gsd, array in arrays.items()
    }
    return check_cube(xr.DataTree.from_dict(nodes))


def make_node(
    array: Any,
    bands: Sequence[str],
    *,
    encoding: Encoding,
    transform: Affine,
    crs: Any = None,
    time: Any = None,
    per_date: dict[str, Any] | None = None,
) -> xr.Dataset:
    """One resolution of a cube: `array` (time, band, y, x) with its labels; `transform` is this grid's own."""
    height, width = array.shape[-2:]
    coords: dict[str, Any] = {
        "band": ("band", np.asarray(bands, dtype=np.str_)),
        "y": ("y", transform.f + (np.arange(height) + 0.5) * transform.e, {"units": "m", "axis": "Y"}),
        "x": ("x", transform.c + (np.arange(width) + 0.5) * transform.a, {"units": "m", "axis": "X"}),
    }
    if time is not None:
        coords["time"] = ("time", time)
    for name, values in (per_date or {}).items():
        coords[name] = ("time", np.asarray(values))
    reflectance = xr.DataArray(array, dims=DIMS, coords=coords, attrs=encoding.attrs(), name="reflectance")
    if crs is not None:
        import rioxarray  # noqa: F401  # registers .rio

        reflectance = reflectance.rio.write_crs(crs).rio.write_transform(transform)
        reflectance.attrs.pop("grid_mapping", None)
        reflectance.encoding["grid_mapping"] = "spatial_ref"
    return reflectance.to_dataset()


def as_cube(data: xr.DataTree | xr.DataArray) -> xr.DataTree:
    """The cube of `data`: itself, checked, or the one recovered from a DataArray on one 10 m grid.

    Raises
    ------
    InputError
        If `data` is neither, or is not usable as a cube; the message says what to change.
    """
    if isinstance(data, xr.DataTree):
        return check_cube(data)
    if isinstance(data, xr.DataArray):
        return _from_dataarray(data)
    raise InputError(
        f"got a {type(data).__name__}; give a cube (DataTree of s2pipe.load or s2pipe.from_arrays) or one 10 m DataArray"
    )


def nodes(cube: xr.DataTree) -> dict[int, xr.DataArray]:
    """The ``reflectance`` (time, band, y, x) of every resolution the cube has, by GSD in metres."""
    return {gsd: cube[node_name(gsd)].to_dataset()["reflectance"] for gsd in GSDS if node_name(gsd) in cube.children}


def band_names(array: xr.DataArray) -> tuple[str, ...]:
    """Names of the bands of one node, in its order."""
    return tuple(str(name) for name in array["band"].values)


def bands_by_gsd(cube: xr.DataTree) -> dict[int, tuple[str, ...]]:
    """Names of the bands of every resolution the cube has, by GSD in metres."""
    return {gsd: band_names(array) for gsd, array in nodes(cube).items()}


def encoding_of(cube: xr.DataTree) -> Encoding:
    """The one encoding that all nodes of a checked cube share."""
    array = nodes(cube)[10]
    return Encoding.from_attrs(array.dtype, array.attrs)


def check_bands(bands: str | Iterable[str], available: Iterable[str] = BANDS) -> tuple[str, ...]:
    """The bands asked for, once each and in ESA's order.

    Raises
    ------
    InputError
        Naming every band that is unknown or not available, and those that are.
    """
    if isinstance(bands, str):
        bands = (bands,)
    asked, available = list(bands), tuple(available)
    if bad := [band for band in asked if band not in available]:
        raise InputError(f"bands {', '.join(map(repr, bad))} are not available; legal bands are {', '.join(available)}")
    if not asked:
        raise InputError(f"bands is empty; legal bands are {', '.join(available)}")
    return tuple(band for band in BANDS if band in asked)


def check_cube(cube: xr.DataTree) -> xr.DataTree:
    """Check that `cube` is one: nodes, dimensions, bands, dtypes, lattice, times and, for arrays in memory, numbers.

    Raises
    ------
    InputError
        At the first of these that does not hold.
    """
    if node_name(10) not in cube.children:
        raise InputError(f"the cube has no node r10m but {sorted(cube.children) or 'none'}; the 10 m bands are needed")
    for name in cube.children:
        if name in map(node_name, GSDS) and "reflectance" not in cube[name].data_vars:
            raise InputError(f"node {name} has no variable 'reflectance' but {sorted(cube[name].data_vars)}")
    arrays = nodes(cube)
    for gsd, array in arrays.items():
        _check_node(array, gsd)
    fine = arrays[10]
    for gsd, array in arrays.items():
        _check_beside(array, fine, gsd)
    if "time" in fine.coords:
        _check_times(fine["time"].values)
    return cube


def _check_node(array: xr.DataArray, gsd: int) -> None:
    name = node_name(gsd)
    if array.dims != DIMS:
        raise InputError(f"{name} has dims {array.dims}; expected {DIMS}: use transpose or expand_dims")
    if "band" not in array.coords:
        raise InputError(f"{name} has no coordinate 'band' to name its bands")
    bands = band_names(array)
    if bands != tuple(band for band in BANDS_BY_GSD[gsd] if band in bands):
        raise InputError(
            f"{name} has bands {', '.join(bands)}; legal are {', '.join(BANDS_BY_GSD[gsd])}, once each and in this order"
        )
    if not all(array.shape):
        raise InputError(f"{name} is empty: its shape is {array.shape}")
    encoding = Encoding.from_attrs(array.dtype, array.attrs)
    if isinstance(array.data, np.ndarray) and not encoding.is_integer:
        encoding.check_finite(array.data)


def _check_beside(array: xr.DataArray, fine: xr.DataArray, gsd: int) -> None:
    name, ratio = node_name(gsd), gsd // 10
    if array.dtype != fine.dtype:
        raise InputError(f"{name} is {array.dtype} and r10m is {fine.dtype}; give all resolutions one dtype")
    encoding, fine_encoding = (Encoding.from_attrs(a.dtype, a.attrs).attrs() for a in (array, fine))
    if not all(np.array_equal(encoding[key], fine_encoding[key], equal_nan=key != "units") for key in encoding):
        raise InputError(f"{name} is encoded as {encoding} and r10m as {fine_encoding}; give all resolutions one encoding")
    if array.sizes["time"] != fine.sizes["time"] or any(array.sizes[axis] * ratio != fine.sizes[axis] for axis in ("y", "x")):
        raise InputError(
            f"{name} has {array.sizes['time']} dates of {array.sizes['y']} x {array.sizes['x']} px, but r10m has "
            f"{fine.sizes['time']} of {fine.sizes['y']} x {fine.sizes['x']} px; shapes must lie on one lattice, {ratio} to 1: "
            f"crop the 10 m bands to multiples of {STEP} px and the others to match"
        )
    if not array.get_index("time").equals(fine.get_index("time")):
        raise InputError(f"{name} has other times than r10m")
    for axis in ("y", "x"):
        if axis in array.coords and axis in fine.coords:
            centres = fine[axis].values.reshape(-1, ratio).mean(axis=1)
            if not np.allclose(array[axis].values, centres, rtol=0, atol=0.01):
                raise InputError(
                    f"{name} does not cover the same ground as r10m along {axis}: its first centre is "
                    f"{array[axis].values[0]}, expected {centres[0]} m"
                )


def _check_times(times: npt.NDArray[Any]) -> None:
    values, counts = np.unique(times, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"time {values[counts > 1][0]} occurs {counts.max()} times; keep one item for each date and tile")


def _with_time(array: Any, gsd: int) -> Any:
    if isinstance(array, (xr.DataArray, xr.Dataset)):
        order = " ".join(BANDS_BY_GSD[gsd])
        raise InputError(f"{node_name(gsd)} is a {type(array).__name__}; give its .data, bands in the order {order}")
    if not hasattr(array, "dask"):
        try:
            array = np.asarray(array)
        except ValueError:
            raise InputError(f"{node_name(gsd)} is no array: its rows differ in length") from None
    if array.ndim not in (3, 4):
        raise InputError(f"{node_name(gsd)} has {array.ndim} dimensions; expected (band, y, x) or (time, band, y, x)")
    return array[None] if array.ndim == 3 else array


def _times(time: Any, dates: int) -> npt.NDArray[np.datetime64] | None:
    if time is None:
        return None
    try:
        times = np.atleast_1d(np.asarray(time, dtype="datetime64[ns]"))
    except (TypeError, ValueError):
        raise InputError(f"time={time!r} is not a date or a sequence of dates") from None
    if np.isnat(times).any():
        raise InputError(f"time={time!r} holds NaT; give a date for each, or none at all")
    if times.shape != (dates,):
        raise InputError(f"time has {times.size} dates, the arrays have {dates}")
    return times


def _check_crs(crs: Any) -> None:
    if crs is not None:
        try:
            pyproj.CRS.from_user_input(crs)
        except pyproj.exceptions.CRSError:
            raise InputError(f"crs={crs!r} is no CRS that pyproj knows; give an EPSG code, such as 'EPSG:32633'") from None


def _affine(transform: Any) -> Affine:
    try:
        affine = Affine(10, 0, 0, 0, -10, 0) if transform is None else Affine(*tuple(transform)[:6])
    except TypeError:
        raise InputError(f"transform={transform!r} is no affine transform; give (10, 0, left, 0, -10, top)") from None
    if (affine.a, affine.b, affine.d, affine.e) != (10, 0, 0, -10):
        raise InputError(f"transform {tuple(affine)[:6]} is not that of a north-up 10 m grid, (10, 0, left, 0, -10, top)")
    return affine


def _from_dataarray(array: xr.DataArray) -> xr.DataTree:
    """The cube behind one 10 m DataArray whose 20 m and 60 m bands were repeated (nearest) to 10 m."""
    if not {"band", "y", "x"} <= set(array.dims) <= set(DIMS):
        raise InputError(f"the DataArray has dims {array.dims}; expected (time, band, y, x) or (band, y, x)")
    if "time" not in array.dims:
        array = array.expand_dims("time")
    array = array.transpose(*DIMS)
    known = _known_bands(array)
    transform = _transform_of(array)
    coarsest = max(BANDS[band].gsd for band in known.values())
    _check_origin(array, transform, coarsest)
    encoding = _encoding_of_array(array)
    built = {}
    for gsd in GSDS:
        positions = {band: i for i, band in known.items() if BANDS[band].gsd == gsd}
        bands = [band for band in BANDS_BY_GSD[gsd] if band in positions]
        if bands:
            data = array.data[:, [positions[band] for band in bands]]
            built[node_name(gsd)] = make_node(
                data if gsd == 10 else _reduce_blocks(data, gsd // 10, bands),
                bands,
                encoding=encoding,
                transform=transform @ Affine.scale(gsd // 10),
                crs=_crs_of(array),
                time=array["time"].values if "time" in array.coords else None,
                per_date=_per_date_of(array),
            )
    if node_name(10) not in built:
        raise InputError("the DataArray has no 10 m band; add at least one of B02, B03, B04, B08")
    return check_cube(xr.DataTree.from_dict(built))


def _known_bands(array: xr.DataArray) -> dict[int, str]:
    if "band" not in array.coords:
        raise InputError("the DataArray has no coordinate 'band' to name its bands")
    labels = [str(label) for label in array["band"].values]
    if unknown := [label for label in labels if label not in BAND_BY_KEY]:
        raise InputError(
            f"bands {', '.join(map(repr, unknown))} of the DataArray are unknown; keep only these with "
            "data.sel(band=[...]): "
            f"{', '.join(f'{b.name} or {b.keys[0]}' for b in BANDS.values())}"
        )
    names = [BAND_BY_KEY[label] for label in labels]
    if len(set(names)) < len(names):
        raise InputError(f"the DataArray has a band twice: {', '.join(labels)}")
    return dict(enumerate(names))


def _transform_of(array: xr.DataArray) -> Affine:
    if "x" not in array.coords or "y" not in array.coords:
        return _affine(None)
    x, y = array["x"].values, array["y"].values
    if not (np.allclose(np.diff(x), 10) and np.allclose(np.diff(y), -10)):
        raise InputError("the DataArray is not on a north-up 10 m grid; stack it with resolution=10, or use s2pipe.load")
    return Affine(10, 0, float(x[0]) - 5, 0, -10, float(y[0]) + 5)


def _check_origin(array: xr.DataArray, transform: Affine, coarsest: int) -> None:
    if "x" in array.coords and (transform.c % 10 or transform.f % 10):
        raise InputError("the DataArray's x and y are not pixel centres; stack it with xy_coords='center'")
    lattice = max(coarsest, 20)
    if transform.c % lattice or transform.f % lattice:
        raise InputError(
            f"the DataArray's upper-left corner ({transform.c:.0f}, {transform.f:.0f}) is not on the {lattice} m lattice "
            f"of its bands; stack it with bounds that are multiples of {lattice} m"
        )
    step = lattice // 10
    for axis in ("y", "x"):
        if array.sizes[axis] % step:
            raise InputError(f"the DataArray has {array.sizes[axis]} px along {axis}; crop it to a multiple of {step} px")


def _encoding_of_array(array: xr.DataArray) -> Encoding:
    """What the attributes state; else, for DN whose coordinates (stackstac's) name a processing baseline, what that means."""
    if array.dtype.kind in "iu" and "add_offset" not in array.attrs:
        offsets = {offset for i in range(array.sizes["time"]) if (offset := _stated_offset(array, i)) is not None}
        if len(offsets) > 1:
            raise InputError(
                "the DataArray mixes dates with and without a radiometric offset; use s2pipe.load, which moves them to one"
            )
        if offsets:
            return Encoding.from_attrs(array.dtype, array.attrs | {"add_offset": offsets.pop()})
    return Encoding.from_attrs(array.dtype, array.attrs)


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
        raise InputError(f"{error}; or, for a DataArray, data.assign_attrs(add_offset=...)") from None


def _crs_of(array: xr.DataArray) -> Any:
    import rioxarray  # noqa: F401  # registers .rio

    return array.rio.crs


def _per_date_of(array: xr.DataArray) -> dict[str, Any]:
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


def _reduce_blocks(data: Any, ratio: int, bands: Sequence[str]) -> Any:
    if isinstance(data, np.ndarray):
        return _block_value(data, ratio=ratio, bands=tuple(bands))
    for axis, name in ((2, "y"), (3, "x")):
        check_chunks(data.chunks[axis], halo=0, axis=name)
    chunks = (*data.chunks[:2], *(tuple(c // ratio for c in data.chunks[axis]) for axis in (2, 3)))
    return data.map_blocks(
        partial(_block_value, ratio=ratio, bands=tuple(bands)), chunks=chunks, dtype=data.dtype, meta=data._meta
    )


def _block_value(block: npt.NDArray[Any], *, ratio: int, bands: tuple[str, ...]) -> npt.NDArray[Any]:
    """The one value of each `ratio` x `ratio` block, which is what a coarse pixel repeated to 10 m holds."""
    value = block[..., ::ratio, ::ratio]
    repeated = value.repeat(ratio, axis=-2).repeat(ratio, axis=-1)
    same = (block == repeated) | ((block != block) & (repeated != repeated))
    if not same.all():
        raise InputError(
            f"bands {', '.join(bands)} are not constant over the {ratio} x {ratio} blocks of 10 m pixels that their own pixels "
            "cover, so they were interpolated or shifted; stack them with "
            "resampling=rasterio.enums.Resampling.nearest and bounds on the 60 m lattice, or use s2pipe.load"
        )
    return value
