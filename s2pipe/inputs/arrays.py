"""A cube from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import pyproj
import xarray as xr
from affine import Affine

from s2pipe.core.bands import BANDS_BY_GSD, GSDS, node_name
from s2pipe.core.checks import check_positive
from s2pipe.core.cube import Cube, check_times, make_node
from s2pipe.core.encoding import Encoding
from s2pipe.core.errors import InputError, errors_about
from s2pipe.core.types import ArrayLike

if TYPE_CHECKING:
    import dask.array as da


def from_arrays(
    r10m: npt.ArrayLike | da.Array,
    r20m: npt.ArrayLike | da.Array | None,
    r60m: npt.ArrayLike | da.Array | None = None,
    *,
    scale: float | None = None,
    offset: float = 0.0,
    crs: object = None,
    transform: Sequence[float] | None = None,
    time: object = None,
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
        Number of an invalid pixel; default 0 for integers and NaN for floats.

    Returns
    -------
    xarray.DataTree
        Nodes ``r10m``, ``r20m``, ``r60m``, each with ``reflectance`` (time, band, y, x) as given, pixel-centre coordinates.

    Raises
    ------
    InputError
        If shapes are off the 10/20/60 m lattice, band counts or dtypes differ from the above, times do not match or repeat,
        or arrays in memory hold infinities, or NaN although nodata is a number.

    Examples
    --------
    >>> import numpy as np
    >>> import s2pipe
    >>> cube = s2pipe.from_arrays(np.full((4, 12, 12), 0.1), np.full((6, 6, 6), 0.2), np.full((2, 2, 2), 0.3))
    >>> cube["r20m"]["reflectance"].shape
    (1, 6, 6, 6)
    """
    given = {gsd: array for gsd, array in zip(GSDS, (r10m, r20m, r60m), strict=True) if array is not None}
    if 10 not in given:
        raise InputError("r10m is missing; the 10 m bands are needed to sharpen the others", argument="r10m")
    arrays = {gsd: _with_time(array, gsd) for gsd, array in given.items()}
    dates = arrays[10].shape[0]
    for gsd, array in arrays.items():
        if array.shape[0] != dates or array.shape[1] != len(BANDS_BY_GSD[gsd]):
            raise InputError(
                f"{node_name(gsd)} has {array.shape[0]} dates and {array.shape[1]} bands; expected {dates} dates and the "
                f"{len(BANDS_BY_GSD[gsd])} bands {' '.join(BANDS_BY_GSD[gsd])}",
                argument=node_name(gsd),
            )
    dtypes = {node_name(gsd): str(array.dtype) for gsd, array in arrays.items()}
    if len(set(dtypes.values())) > 1:
        raise InputError(f"the arrays are of several dtypes, {dtypes}; give all resolutions one", argument=tuple(dtypes))
    names = tuple(dtypes)
    with errors_about(*names):
        Encoding.default(arrays[10].dtype)
    if scale is not None:
        check_positive("scale", scale)
    encoding = Encoding.default(arrays[10].dtype, scale=scale, offset=offset, nodata=nodata)
    if abs(encoding.offset) >= 1:
        raise InputError(f"offset={offset} is not one of reflectance; DN -1000 is reflectance -0.1", argument="offset")
    times = _times(time, dates)
    _check_crs(crs)
    corner = grid_transform(transform)
    nodes = {
        gsd: make_node(
            array, BANDS_BY_GSD[gsd], encoding=encoding, transform=corner @ Affine.scale(gsd // 10), crs=crs, time=times
        )
        for gsd, array in arrays.items()
    }
    with errors_about(*names):
        return Cube.checked(nodes, encoding).to_tree()


def _with_time(array: npt.ArrayLike | da.Array, gsd: int) -> ArrayLike:
    if isinstance(array, (xr.DataArray, xr.Dataset)):
        order = " ".join(BANDS_BY_GSD[gsd])
        message = f"{node_name(gsd)} is a {type(array).__name__}; give its .data, bands in the order {order}"
        raise InputError(message, argument=node_name(gsd))
    try:
        numbers = cast("da.Array", array) if hasattr(array, "dask") else np.asarray(array)
    except ValueError:
        raise InputError(f"{node_name(gsd)} is no array: its rows differ in length", argument=node_name(gsd)) from None
    if numbers.ndim not in (3, 4):
        message = f"{node_name(gsd)} has {numbers.ndim} dimensions; expected (band, y, x) or (time, band, y, x)"
        raise InputError(message, argument=node_name(gsd))
    return numbers[None] if numbers.ndim == 3 else numbers


def _times(time: object, dates: int) -> npt.NDArray[np.datetime64] | None:
    if time is None:
        return None
    try:
        times = np.atleast_1d(np.asarray(time, dtype="datetime64[ns]"))
    except (TypeError, ValueError):
        raise InputError(f"time={time!r} is not a date or a sequence of dates", argument="time") from None
    if np.asarray(time).dtype.kind in "biuf":
        raise InputError(f"time={time!r} is a number; give dates, such as '2026-06-21'", argument="time")
    if np.isnat(times).any():
        raise InputError(f"time={time!r} holds NaT; give a time for each date, or none at all", argument="time")
    if times.shape != (dates,):
        raise InputError(f"time has {times.size} dates, the arrays have {dates}", argument="time")
    check_times(times, argument="time")
    return times


def _check_crs(crs: object) -> None:
    if crs is not None:
        try:
            found = pyproj.CRS.from_user_input(crs)
        except pyproj.exceptions.CRSError:
            message = f"crs={crs!r} is no CRS that pyproj knows; give an EPSG code, such as 'EPSG:32633'"
            raise InputError(message, argument="crs") from None
        if found.is_geographic:
            raise InputError(f"crs={crs!r} is in degrees; the grid is in metres: give a projected one", argument="crs")


def grid_transform(transform: Sequence[float] | None) -> Affine:
    try:
        affine = Affine(10, 0, 0, 0, -10, 0) if transform is None else Affine(*tuple(transform)[:6])
    except TypeError:
        message = f"transform={transform!r} is no affine transform; give (10, 0, left, 0, -10, top)"
        raise InputError(message, argument="transform") from None
    if (affine.a, affine.b, affine.d, affine.e) != (10, 0, 0, -10):
        message = f"transform={tuple(affine)[:6]} is not that of a north-up 10 m grid, (10, 0, left, 0, -10, top)"
        raise InputError(message, argument="transform")
    return affine
