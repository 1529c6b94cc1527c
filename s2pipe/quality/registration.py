"""Registration: how well the bands of a scene, or of a result, fit each other, and its repair by whole pixels."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pandas as pd
import xarray as xr
from scipy import ndimage

from s2pipe.core.bands import bands_at
from s2pipe.core.checks import check_whole
from s2pipe.core.cube import Cube
from s2pipe.core.errors import InputError
from s2pipe.core.lattice import STEP, round_up
from s2pipe.fitting.sampling import Window, sample_windows
from s2pipe.fitting.shifts import MOST_PIXELS, SAME_SHIFT, Pair, is_clouded, shifts_of, table_of_shifts
from s2pipe.inputs.dataarray import as_cube
from s2pipe.quality.consistency import sample_sharpened

log = logging.getLogger(__name__)


def measure_registration(data: xr.DataTree | xr.DataArray, *, seed: int = 0) -> pd.DataFrame:
    """The shift of every coarse band against the 10 m bands.

    Measured on windows sampled from all dates together; nothing else is read. Gradients of a band are regressed on those of
    the 10 m bands, averaged over what would be the band's pixels if it were shifted; the shift that explains most is the
    band's. Clouded windows are left out: bands see clouds from different angles, so that even the 10 m bands differ there.

    Parameters
    ----------
    data : xarray.DataTree or xarray.DataArray
        A cube, or one DataArray on a 10 m grid; see `s2pipe.sharpen`.
    seed : int
        Random seed of the sampling.

    Returns
    -------
    pandas.DataFrame
        One row for each coarse band, indexed by ``band``: ``gsd`` in metres; ``dy`` and ``dx``, the shift in 10 m pixels,
        and ``dy_px`` and ``dx_px``, the nearest whole ones. What the band shows at p, the 10 m bands show at p + shift:
        (-1, -1) means that the band's pixels cover ground 10 m farther up and left than their coordinates say. ``error`` is the
        standard error of dy and dx that noise makes, ``r2`` the share of the band's gradients that the 10 m bands explain.
        The shift is NaN where r2 is below 0.2, where it exceeds 7 px, and where nothing is left to compare.

    Raises
    ------
    InputError
        If the data are not usable, or hold nodata only.

    Examples
    --------
    >>> shifts = s2pipe.measure_registration(cube)  # doctest: +SKIP
    >>> shifts.loc["B05", ["dy_px", "dx_px"]]  # doctest: +SKIP
    """
    return _shifts_in(as_cube(data), seed)


def _shifts_in(cube: Cube, seed: int) -> pd.DataFrame:
    return shifts_of(sample_windows(cube, seed=check_whole("seed", seed, least=0)), cube.bands)


def repair_registration(data: xr.DataTree | xr.DataArray) -> xr.DataTree:
    """The largest part of a shifted cube whose 20 m and 60 m pixels cover exactly their 2 x 2 and 6 x 6 pixels of 10 m.

    Every resolution is cropped by whole pixels, lazily; no number changes. The 10 m bands keep their coordinates, from which the
    others take theirs. What is left of a shift, less than a whole 10 m pixel, stays.

    Parameters
    ----------
    data : xarray.DataTree or xarray.DataArray
        A cube, or one DataArray on a 10 m grid; see `s2pipe.sharpen`.

    Returns
    -------
    xarray.DataTree
        The cube of `data` as it is where it is not shifted.

    Raises
    ------
    InputError
        If a band's shift cannot be measured, or differs from that of the other bands of its resolution; if the pixels of the
        resolutions, shifted so, do not tile each other; or if too little is left.

    Examples
    --------
    >>> repaired = s2pipe.repair_registration(cube)  # doctest: +SKIP
    """
    cube = as_cube(data)
    shifts = _common_shifts(_shifts_in(cube, seed=0))
    if not any(any(shift) for shift in shifts.values()):
        log.info("nothing is cropped: no resolution is shifted by a whole pixel, and a fraction of one stays as it is")
        return data if isinstance(data, xr.DataTree) else cube.to_tree()
    rows, columns = (
        _aligned_spans({gsd: array.sizes[axis] for gsd, array in cube.arrays.items()}, {gsd: shifts[gsd][i] for gsd in shifts})
        for i, axis in enumerate(("y", "x"))
    )
    cropped = {gsd: array.isel(y=rows[gsd], x=columns[gsd]) for gsd, array in cube.arrays.items()}
    placed = {gsd: _place(array, cropped[10], gsd // 10) for gsd, array in cropped.items()}
    return Cube.checked(placed, cube.encoding).to_tree()


def _common_shifts(table: pd.DataFrame) -> dict[int, tuple[int, int]]:
    """The whole shift (dy, dx) that the bands of each resolution share."""
    if unknown := [str(band) for band in table.index[table["dy"].isna()]]:
        raise InputError(
            f"the shift of {', '.join(unknown)} cannot be measured: they are flat, clouded or too small, see "
            "s2pipe.measure_registration; leave these bands out, or give a clearer or larger scene",
            argument="data",
        )
    shared = {}
    for gsd, group in table.groupby("gsd")[["dy", "dx"]]:
        common = group.median().round()
        if (group.sub(common).abs() > SAME_SHIFT).any(axis=None):
            stated = ", ".join(f"{band} by ({dy:.1f}, {dx:.1f})" for band, dy, dx in group.itertuples())
            raise InputError(
                f"the {gsd} m bands are shifted differently, {stated} 10 m pixels, which no crop can repair", argument="data"
            )
        shared[int(gsd)] = (int(common["dy"]), int(common["dx"]))
    return shared


def _aligned_spans(sizes: Mapping[int, int], shifts: Mapping[int, int]) -> dict[int, slice]:
    """Along one axis, the pixels of each resolution that cover the ground which all of them cover.

    `sizes` by GSD in own pixels, `shifts` by GSD of the coarse resolutions in 10 m pixels.
    """
    # Pixel j of a resolution begins at the 10 m pixel ratio * j + shift: they are cut where first one of each begins.
    shifts = {10: 0, **shifts}
    first = max(shifts.values())
    begin = next((at for at in range(first, first + STEP) if all((at - s) % (gsd // 10) == 0 for gsd, s in shifts.items())), None)
    if begin is None:
        stated = " and ".join(f"{shift} at {gsd} m" for gsd, shift in shifts.items() if gsd > 10)
        raise InputError(
            f"pixels shifted by {stated}, in 10 m pixels, do not tile each other, so no crop can repair them", argument="data"
        )
    start = {gsd: (begin - shift) // (gsd // 10) for gsd, shift in shifts.items()}
    coarsest = max(sizes)
    count = min((size - start[gsd]) * gsd // coarsest for gsd, size in sizes.items())
    count -= count % 2  # even, so that each resolution can be degraded by 2 once more, as reduced-resolution tests do
    if count <= 0:
        raise InputError(
            f"a scene of {sizes[10]} px has too little ground that all its resolutions cover; give a larger one", argument="data"
        )
    return {gsd: slice(start[gsd], start[gsd] + count * coarsest // gsd) for gsd in sizes}


def _place(array: xr.DataArray, fine: xr.DataArray, ratio: int) -> xr.DataArray:
    """`array` with the coordinates that the 10 m bands give it, and chunks that can be sharpened."""
    for axis in ("y", "x"):
        if axis in array.coords and axis in fine.coords:
            centres = fine[axis].values.reshape(-1, ratio).mean(axis=1)
            array = array.assign_coords({axis: (axis, centres, array[axis].attrs)})
        if array.chunks is not None:
            array = array.chunk({axis: round_up(max(array.chunksizes[axis]) * ratio) // ratio})
    if "spatial_ref" in array.coords:
        import rioxarray  # noqa: F401  # registers .rio

        array = array.rio.write_transform(array.rio.transform(recalc=True))
    return array


def measure_geometry(sharp: xr.DataArray, data: xr.DataTree | xr.DataArray | None = None, *, seed: int = 0) -> pd.DataFrame:
    """The shift of every sharpened band against the 10 m bands.

    Measured as `measure_registration` does, but on the 10 m grid, on windows of `sharp` only. Band and 10 m bands are blurred
    alike before, by a Gaussian of half the band's GSD: finer than that, a band has what a method copied from the 10 m bands,
    which is not shifted, or the artefacts of interpolation, which are shifted in any case.

    Parameters
    ----------
    sharp : xarray.DataArray, (time, band, y, x)
        What `s2pipe.sharpen` returned.
    data : xarray.DataTree or xarray.DataArray, optional
        The cube, or the 10 m DataArray, that it was made of. It gives the 10 m bands where `sharp` has none.
    seed : int
        Random seed of the sampling.

    Returns
    -------
    pandas.DataFrame
        One row for each sharpened band, indexed by ``band``: ``gsd`` in metres; ``dy``, ``dx`` and ``r2`` as
        `measure_registration` has them. With `data` also ``observed_dy`` and ``observed_dx``, the shift of the band before it was
        sharpened, and ``relative_dy`` and ``relative_dx``, the shift against that.

    Raises
    ------
    InputError
        If `sharp` is no sharpened scene, or not of `data`, or the data hold nodata only.

    Examples
    --------
    >>> sharp = s2pipe.sharpen(cube, "glp")  # doctest: +SKIP
    >>> s2pipe.measure_geometry(sharp, cube)[["relative_dy", "relative_dx"]].abs().max()  # doctest: +SKIP
    """
    sample = sample_sharpened(sharp, data, seed=seed)
    native = {gsd: bands_at(bands, gsd) for gsd, bands in sample.bands.items()}
    sharpened = {gsd: bands_at(sample.bands[10], gsd) for gsd in (20, 60)}
    position = {band: i for i, band in enumerate(sample.bands[10])}
    fine = [position[band] for band in native[10]]
    observed = [_with_10_m_bands(window, fine) for window in sample.windows]
    clear = [window for window, own in zip(sample.windows, observed, strict=True) if not is_clouded(own)]
    pairs = {
        gsd: [_sharpened_pair(window, [position[band] for band in bands], fine, gsd) for window in clear]
        for gsd, bands in sharpened.items()
    }
    # Blurred neighbours are alike: more of them are needed, and their number does not determine the error.
    table = table_of_shifts(pairs, sharpened, most=4 * MOST_PIXELS).drop(columns="error")
    if data is None:
        return table
    own_shift = shifts_of(observed, native)[["dy", "dx"]].reindex(table.index)
    relative = table[["dy", "dx"]] - own_shift
    return pd.concat([table, own_shift.add_prefix("observed_"), relative.add_prefix("relative_")], axis=1)


def _sharpened_pair(window: Window, bands: list[int], fine: list[int], gsd: int) -> Pair:
    """The sharpened `bands` of a window's 10 m node beside its `fine` ones, by their positions, blurred alike."""
    sigma = gsd / 20  # half the GSD in 10 m pixels
    blurred = ndimage.gaussian_filter(window.reflectance[10], (0, sigma, sigma))
    valid = window.valid[10]  # what was filled shows beyond, but as wide in both, and moves nothing
    return Pair(bands=blurred[bands], valid=valid[bands], fine=blurred[fine], fine_valid=valid[fine], ratio=1)


def _with_10_m_bands(window: Window, positions: list[int]) -> Window:
    """The window with only the bands at these positions at 10 m."""
    return Window(
        reflectance={**window.reflectance, 10: window.reflectance[10][positions]},
        valid={**window.valid, 10: window.valid[10][positions]},
    )
