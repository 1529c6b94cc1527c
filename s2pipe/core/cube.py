"""The cube: Sentinel-2 bands at their native resolutions, checked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import xarray as xr
from affine import Affine

from s2pipe.core.bands import BAND_BY_KEY, BANDS, BANDS_BY_GSD, GSDS, node_name
from s2pipe.core.encoding import Encoding
from s2pipe.core.errors import InputError
from s2pipe.core.lattice import STEP
from s2pipe.core.types import AnyArray, ArrayLike

DIMS = ("time", "band", "y", "x")
PER_DATE_COORDS = ("item_id", "platform", "processing_baseline", "source_offset")
"""Coordinates along time that travel with the pixels into results and stores; the last is the offset of the files."""


def make_node(
    array: ArrayLike,
    bands: Sequence[str],
    *,
    encoding: Encoding,
    transform: Affine,
    crs: object = None,
    time: object = None,
    per_date: Mapping[str, object] | None = None,
) -> xr.DataArray:
    """One resolution of a cube: `array` (time, band, y, x) with its labels; `transform` is this grid's own."""
    height, width = array.shape[-2:]
    coords: dict[str, object] = {
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
    return reflectance


@dataclass(frozen=True, eq=False)
class Cube:
    """A scene, checked once by the public functions; everything behind them relies on it.

    Attributes
    ----------
    arrays : dict of int to xarray.DataArray, (time, band, y, x)
        The ``reflectance`` of every resolution there is, by GSD in metres, finest first; the 10 m bands are always there. Their
        coordinates are the grid and the dates.
    encoding : Encoding
        Of all of them: how their numbers encode reflectance, and which are invalid.
    """

    arrays: dict[int, xr.DataArray]
    encoding: Encoding

    @classmethod
    def checked(cls, arrays: Mapping[int, xr.DataArray], encoding: Encoding | None = None) -> Cube:
        """The cube of these arrays, by GSD, if they are one; `encoding` is what their attributes state, where it is known.

        Checked are dimensions, bands, dtypes, lattice, grid, times and, for arrays in memory, numbers.

        Raises
        ------
        InputError
            At the first of these that does not hold.
        """
        if 10 not in arrays:
            given = ", ".join(map(node_name, arrays)) or "none"
            raise InputError(f"the cube has no node r10m but {given}; the 10 m bands are needed", argument="data")
        for gsd, array in arrays.items():
            _check_node(array, gsd)
        fine = arrays[10]
        encoding = encoding or Encoding.from_attrs(fine.dtype, fine.attrs)
        for gsd, array in arrays.items():
            _check_beside(array, fine, gsd, encoding)
            if isinstance(array.data, np.ndarray) and not encoding.is_integer:
                encoding.check_finite(array.data)
        _check_grid(fine)
        if "time" in fine.coords:
            check_times(fine["time"].values, argument="data")
        return cls({gsd: arrays[gsd] for gsd in GSDS if gsd in arrays}, encoding)

    @classmethod
    def of_tree(cls, tree: xr.DataTree) -> Cube:
        """The cube whose nodes are ``r10m``, ``r20m`` and ``r60m``; other nodes are ignored.

        Raises
        ------
        InputError
            If it is none, see `checked`.
        """
        arrays = {}
        for gsd in GSDS:
            if (name := node_name(gsd)) in tree.children:
                node = tree[name].to_dataset()
                if "reflectance" not in node:
                    raise InputError(f"node {name} has no variable 'reflectance' but {[*node.data_vars]}", argument="data")
                arrays[gsd] = node["reflectance"]
        return cls.checked(arrays)

    @property
    def fine(self) -> xr.DataArray:
        """The 10 m bands."""
        return self.arrays[10]

    @cached_property
    def bands(self) -> dict[int, tuple[str, ...]]:
        """Names of the bands of every resolution, by GSD."""
        return {gsd: band_names(array) for gsd, array in self.arrays.items()}

    @property
    def all_bands(self) -> tuple[str, ...]:
        """Names of all bands, in ESA's order."""
        present = {band for bands in self.bands.values() for band in bands}
        return tuple(band for band in BANDS if band in present)

    def bands_named(self, bands: str | Iterable[str] | None) -> tuple[str, ...]:
        """The bands asked for, see `check_bands`; all that there are where None is."""
        return self.all_bands if bands is None else check_bands(bands, self.all_bands)

    def keep(self, gsds: Collection[int]) -> Cube:
        """The cube with these of its resolutions only."""
        return replace(self, arrays={gsd: array for gsd, array in self.arrays.items() if gsd in gsds})

    def to_tree(self) -> xr.DataTree:
        """What a user holds: a tree with a node for each resolution."""
        return xr.DataTree.from_dict({node_name(gsd): array.to_dataset(name="reflectance") for gsd, array in self.arrays.items()})


def band_names(array: xr.DataArray) -> tuple[str, ...]:
    """Names of the bands of one array, in its order."""
    return tuple(str(name) for name in array["band"].values)


def check_bands(bands: str | Iterable[str], available: Iterable[str] = BANDS) -> tuple[str, ...]:
    """ESA's names of the bands asked for, by any of their names, once each and in ESA's order.

    Raises
    ------
    InputError
        Naming every band that is unknown or not available, and those that are.
    """
    available = tuple(available)
    accepted = ", ".join(f"{band} ({BANDS[band].keys[0]})" for band in available)
    given = [bands] if isinstance(bands, str) else list(bands)
    named = {band: BAND_BY_KEY.get(band) for band in given}
    if unknown := [band for band, name in named.items() if name not in available]:
        raise InputError(f"bands {', '.join(map(repr, unknown))} are not available; accepted are {accepted}", argument="bands")
    if not given:
        raise InputError(f"bands is empty; accepted are {accepted}", argument="bands")
    return tuple(band for band in BANDS if band in named.values())


def _check_node(array: xr.DataArray, gsd: int) -> None:
    name = node_name(gsd)
    if array.dims != DIMS:
        raise InputError(f"{name} has dims {array.dims}; expected {DIMS}: use transpose or expand_dims", argument="data")
    if "band" not in array.coords:
        raise InputError(f"{name} has no coordinate 'band' to name its bands", argument="data")
    bands = band_names(array)
    if bands != tuple(band for band in BANDS_BY_GSD[gsd] if band in bands):
        accepted = ", ".join(BANDS_BY_GSD[gsd])
        raise InputError(
            f"{name} has bands {', '.join(bands)}; accepted are {accepted}, once each and in this order", argument="data"
        )
    if not all(array.shape):
        raise InputError(f"{name} is empty: its shape is {array.shape}", argument="data")


def _check_beside(array: xr.DataArray, fine: xr.DataArray, gsd: int, encoding: Encoding) -> None:
    name, ratio = node_name(gsd), gsd // 10
    if array.dtype != fine.dtype:
        raise InputError(f"{name} is {array.dtype} and r10m is {fine.dtype}; give all resolutions one dtype", argument="data")
    _check_same_encoding(array, fine, name, encoding)
    if array.sizes["time"] != fine.sizes["time"] or any(array.sizes[axis] * ratio != fine.sizes[axis] for axis in ("y", "x")):
        raise InputError(
            f"{name} has {array.sizes['time']} dates of {array.sizes['y']} x {array.sizes['x']} px, but r10m has "
            f"{fine.sizes['time']} of {fine.sizes['y']} x {fine.sizes['x']} px; shapes must lie on one lattice, {ratio} to 1: "
            f"crop the 10 m bands to multiples of {STEP} px and the others to match",
            argument="data",
        )
    if not array.get_index("time").equals(fine.get_index("time")):
        raise InputError(f"{name} has other times than r10m", argument="data")
    for axis in ("y", "x"):
        if axis in array.coords and axis in fine.coords:
            centres = fine[axis].values.reshape(-1, ratio).mean(axis=1)
            if not np.allclose(array[axis].values, centres, rtol=0, atol=0.01):
                raise InputError(
                    f"{name} does not cover the same ground as r10m along {axis}: its first centre is "
                    f"{array[axis].values[0]}, expected {centres[0]} m",
                    argument="data",
                )


def _check_grid(fine: xr.DataArray) -> None:
    """Refuse coordinates other than those of a north-up grid of 10 m."""
    for axis, step in (("y", -10), ("x", 10)):
        if axis in fine.coords and not np.allclose(np.diff(fine[axis].values), step, rtol=0, atol=0.01):
            first = ", ".join(f"{value:g}" for value in fine[axis].values[:3])
            raise InputError(
                f"r10m is not on a north-up 10 m grid: {axis} begins with {first}, and must go in steps of {step}; sort it, warp "
                "it to such a grid, or drop its coordinates",
                argument="data",
            )


def _check_same_encoding(array: xr.DataArray, fine: xr.DataArray, name: str, encoding: Encoding) -> None:
    if all(_equal(array.attrs.get(key), fine.attrs.get(key)) for key in ("scale_factor", "add_offset", "_FillValue")):
        return
    # one of them may state what is the default where the other states nothing
    stated, expected = Encoding.from_attrs(array.dtype, array.attrs).attrs(), encoding.attrs()
    if not all(_equal(stated[key], expected[key]) for key in expected):
        raise InputError(
            f"{name} is encoded as {stated} and r10m as {expected}; give all resolutions one encoding", argument="data"
        )


def _equal(stated: object, other: object) -> bool:
    """Whether attributes are equal, NaN to NaN."""
    return stated == other or (stated != stated and other != other)


def check_times(times: AnyArray, *, argument: str) -> None:
    """Refuse times that occur twice."""
    values, counts = np.unique(times, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"time {values[counts > 1][0]} occurs {counts.max()} times; keep one item for each date and tile",
            argument=argument,
        )
