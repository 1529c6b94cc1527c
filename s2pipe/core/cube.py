"""The cube: Sentinel-2 bands at their native resolutions, one node for each, checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from affine import Affine

from s2pipe.core.bands import BANDS, BANDS_BY_GSD, GSDS, node_name
from s2pipe.core.encoding import Encoding
from s2pipe.core.errors import InputError
from s2pipe.core.lattice import STEP

DIMS = ("time", "band", "y", "x")
PER_DATE_COORDS = ("item_id", "platform", "processing_baseline", "source_offset")
"""Coordinates along time that travel with the pixels into results and stores; the last is the offset of the files."""


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
