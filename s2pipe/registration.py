"""Registration: whether the coarse bands show the ground that the lattice says they do, and whether sharpened bands do.

Shifts are along y, then x, in 10 m pixels, and say where the ground lies that a band shows: what the band shows at p, the 10 m
bands show at p + shift. So (-1, -1) for the 20 m bands means that their pixel j covers the 10 m pixels 2j - 1 and 2j along each
axis instead of 2j and 2j + 1, and (-5, -5) for the 60 m bands that theirs covers 6j - 5 to 6j instead of 6j to 6j + 5.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from scipy import interpolate, ndimage

from s2pipe.bands import bands_at, node_name
from s2pipe.checks import check_whole
from s2pipe.consistency import sample_sharpened
from s2pipe.cube import as_cube, bands_by_gsd, check_cube, nodes
from s2pipe.errors import InputError
from s2pipe.lattice import STEP, round_up
from s2pipe.sampling import Window, sample_windows

log = logging.getLogger(__name__)

REACH = 8
"""Largest shift looked at, in 10 m pixels: one more than the largest that is found, whose peak needs neighbours."""

MOST_PIXELS = 16384
"""Pixels at which a band is compared, in all windows together; twice as many change those of real scenes by 0.07 px at most."""

MIN_PIXELS = 100
"""Pixels below which nothing is said: unrelated bands resemble each other by chance there."""

MIN_R2 = 0.2
"""Share of a band's gradients that the 10 m bands must explain for its shift to count."""

PARALLAX = 0.25
"""Shift of B02 against the other 10 m bands, in 10 m pixels, above which a window is taken for clouded; clear ones reach 0.2."""

PARALLAX_R2 = 0.5
"""Least R2 at which that shift is looked at: B08 alone, over land, resembles B02 too little to place it."""

TOLERANCE = 0.5
"""Largest shift that is not warned of, in 10 m pixels."""

SAME_SHIFT = 0.75
"""Largest distance of a band's shift from the whole one its resolution is repaired by; patches of 1.2 km are 0.7 px uncertain."""

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def check_registration(data: xr.DataTree | xr.DataArray, *, seed: int = 0) -> pd.DataFrame:
    """The shift of every coarse band against the 10 m bands.

    Measured on windows sampled from all dates together; nothing else is read. Gradients of a band are regressed on those of
    the 10 m bands, averaged over what would be the band's pixels if it were shifted; the shift that explains most is the
    band's. Clouded windows are left out: bands see clouds from different angles, so that even the 10 m bands differ there.

    Parameters
    ----------
    data : xarray.DataTree or xarray.DataArray
        A cube, or one DataArray on a 10 m grid; see `s2pipe.sharpen`.
    seed : int
        Of the sampling.

    Returns
    -------
    pandas.DataFrame
        One row for each coarse band, indexed by ``band``: ``gsd`` in metres; ``dy`` and ``dx``, the shift in 10 m pixels,
        and ``dy_px`` and ``dx_px``, the nearest whole ones. What the band shows at p, the 10 m bands show at p + shift:
        (-1, -1) means that the band's pixels cover ground 10 m farther up and left than their place says. ``error`` is the
        standard error of dy and dx that noise makes, ``r2`` the share of the band's gradients that the 10 m bands explain.
        The shift is NaN where r2 is below 0.2, where it exceeds 7 px, and where nothing is left to compare.

    Raises
    ------
    InputError
        If the data are not usable, or hold nodata only.
    """
    cube = as_cube(data)
    return shifts_of(sample_windows(cube, seed=check_whole("seed", seed, least=0)), bands_by_gsd(cube))


def shifts_of(windows: Sequence[Window], bands: Mapping[int, Sequence[str]]) -> pd.DataFrame:
    """What `check_registration` returns, of windows read before and the names of their bands by GSD."""
    clear = [window for window in windows if not _is_clouded(window)]
    pairs = {gsd: [_observed_pair(window, gsd) for window in clear] for gsd in bands if gsd > 10}
    table = _table(pairs, bands)
    whole = table[["dy", "dx"]].round().astype("Int64").add_suffix("_px")
    return pd.concat([table[["gsd"]], whole, table.drop(columns="gsd")], axis=1)


def warn_if_misregistered(windows: Sequence[Window], bands: Mapping[int, Sequence[str]]) -> None:
    """Log a warning if the shift of a coarse band, less twice its standard error, exceeds half a 10 m pixel."""
    table = shifts_of(windows, bands)
    if (table[["dy", "dx"]].abs().sub(2 * table["error"], axis=0) > TOLERANCE).any(axis=None):
        typical = table.groupby("gsd")[["dy", "dx"]].median().dropna()
        log.warning(
            "bands are shifted against the 10 m bands, %s 10 m pixels along y and x: s2pipe.repair_registration(data) repairs "
            "whole pixels that all bands of a resolution share, s2pipe.check_registration(data) tells each band's shift",
            " and ".join(f"those of {gsd} m by ({dy:.1f}, {dx:.1f})" for gsd, dy, dx in typical.itertuples()),
        )


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
    """
    cube = as_cube(data)
    shifts = _common_shifts(check_registration(cube))
    if not any(any(shift) for shift in shifts.values()):
        log.info("nothing is cropped: no resolution is shifted by a whole pixel, and a fraction of one stays as it is")
        return cube
    arrays = nodes(cube)
    rows, columns = (
        _aligned_spans({gsd: array.sizes[axis] for gsd, array in arrays.items()}, {gsd: shifts[gsd][i] for gsd in shifts})
        for i, axis in enumerate(("y", "x"))
    )
    cropped = {gsd: array.isel(y=rows[gsd], x=columns[gsd]) for gsd, array in arrays.items()}
    placed = {node_name(gsd): _place(array, cropped[10], gsd // 10).to_dataset() for gsd, array in cropped.items()}
    return check_cube(xr.DataTree.from_dict(placed))


def _common_shifts(table: pd.DataFrame) -> dict[int, tuple[int, int]]:
    """The whole shift (dy, dx) that the bands of each resolution share."""
    if unknown := [str(band) for band in table.index[table["dy"].isna()]]:
        raise InputError(
            f"the shift of {', '.join(unknown)} cannot be measured (flat, clouded or too small, see s2pipe.check_registration); "
            "leave these bands out, or give a clearer or larger scene"
        )
    shared = {}
    for gsd, group in table.groupby("gsd")[["dy", "dx"]]:
        common = group.median().round()
        if (group.sub(common).abs() > SAME_SHIFT).any(axis=None):
            told = ", ".join(f"{band} by ({dy:.1f}, {dx:.1f})" for band, dy, dx in group.itertuples())
            raise InputError(f"the {gsd} m bands are shifted differently, {told} 10 m pixels, which no crop can repair")
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
        told = " and ".join(f"{shift} at {gsd} m" for gsd, shift in shifts.items() if gsd > 10)
        raise InputError(f"pixels shifted by {told}, in 10 m pixels, do not tile each other, so no crop can repair them")
    start = {gsd: (begin - shift) // (gsd // 10) for gsd, shift in shifts.items()}
    coarsest = max(sizes)
    count = min((size - start[gsd]) * gsd // coarsest for gsd, size in sizes.items())
    count -= count % 2  # even, so that each resolution can be degraded by 2 once more, as reduced-resolution tests do
    if count <= 0:
        raise InputError(f"a scene of {sizes[10]} px has too little ground that all its resolutions cover; give a larger one")
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


def check_geometry(sharp: xr.DataArray, data: xr.DataTree | xr.DataArray | None = None, *, seed: int = 0) -> pd.DataFrame:
    """The shift of every sharpened band against the 10 m bands.

    Measured as `check_registration` does, but on the 10 m grid, on windows of `sharp` only. Band and 10 m bands are blurred
    alike before, by a Gaussian of half the band's GSD: finer than that, a band has what a method copied from the 10 m bands,
    which is not shifted, or the artefacts of interpolation, which are shifted anyhow.

    Parameters
    ----------
    sharp : xarray.DataArray, (time, band, y, x)
        What `s2pipe.sharpen` returned.
    data : xarray.DataTree or xarray.DataArray, optional
        The cube, or the 10 m DataArray, that it was made of. It gives the 10 m bands where `sharp` has none.
    seed : int
        Of the sampling.

    Returns
    -------
    pandas.DataFrame
        One row for each sharpened band, indexed by ``band``: ``gsd`` in metres; ``dy``, ``dx`` and ``r2`` as
        `check_registration` has them. With `data` also ``observed_dy`` and ``observed_dx``, the shift of the band before it was
        sharpened, and ``relative_dy`` and ``relative_dx``, the shift against that.

    Raises
    ------
    InputError
        If `sharp` is no sharpened scene, or not of `data`, or the data hold nodata only.
    """
    sample = sample_sharpened(sharp, data, seed=seed)
    native = {gsd: bands_at(bands, gsd) for gsd, bands in sample.bands.items()}
    sharpened = {gsd: bands_at(sample.bands[10], gsd) for gsd in (20, 60)}
    position = {band: i for i, band in enumerate(sample.bands[10])}
    fine = [position[band] for band in native[10]]
    observed = [_with_10_m_bands(window, fine) for window in sample.windows]
    clear = [window for window, own in zip(sample.windows, observed, strict=True) if not _is_clouded(own)]
    pairs = {
        gsd: [_sharpened_pair(window, [position[band] for band in bands], fine, gsd) for window in clear]
        for gsd, bands in sharpened.items()
    }
    # Blurred neighbours are alike: more of them are needed, and their number does not tell the error.
    table = _table(pairs, sharpened, most=4 * MOST_PIXELS).drop(columns="error")
    if data is None:
        return table
    own_shift = shifts_of(observed, native)[["dy", "dx"]].reindex(table.index)
    relative = table[["dy", "dx"]] - own_shift
    return pd.concat([table, own_shift.add_prefix("observed_"), relative.add_prefix("relative_")], axis=1)


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """Bands on one grid beside the 10 m bands of the same ground.

    Attributes
    ----------
    bands, seen : ndarray, (band, y / ratio, x / ratio)
    fine, fine_seen : ndarray, (10 m band, y, x)
        At each pixel, what a pixel of `bands` that began there would show.
    ratio : int
    """

    bands: Image
    seen: Mask
    fine: Image
    fine_seen: Mask
    ratio: int


def _observed_pair(window: Window, gsd: int) -> _Pair:
    return _Pair(
        bands=window.reflectance[gsd],
        seen=window.seen[gsd],
        fine=_box_means(window.reflectance[10], gsd // 10),
        fine_seen=window.seen[10],
        ratio=gsd // 10,
    )


def _sharpened_pair(window: Window, bands: list[int], fine: list[int], gsd: int) -> _Pair:
    """The sharpened `bands` of a window's 10 m node beside its `fine` ones, by their positions, blurred alike."""
    sigma = gsd / 20  # half the GSD in 10 m pixels
    blurred = ndimage.gaussian_filter(window.reflectance[10], (0, sigma, sigma))
    seen = window.seen[10]  # what was filled shows beyond, but as wide in both, and moves nothing
    return _Pair(bands=blurred[bands], seen=seen[bands], fine=blurred[fine], fine_seen=seen[fine], ratio=1)


def _with_10_m_bands(window: Window, positions: list[int]) -> Window:
    """The window with only the bands at these positions at 10 m."""
    return Window(
        reflectance={**window.reflectance, 10: window.reflectance[10][positions]},
        seen={**window.seen, 10: window.seen[10][positions]},
    )


def _is_clouded(window: Window) -> bool:
    """Whether the first 10 m band, averaged to 20 m, is shifted against the others."""
    even = window.crop_to_multiple(2)
    if even is None or len(even.seen[10]) < 2:
        return False
    fine, seen = even.reflectance[10], even.seen[10]
    first = _box_means(fine[:1], 2)[:, ::2, ::2]
    pair = _Pair(bands=first, seen=even.seen_at(20, {10: [0]})[None], fine=_box_means(fine[1:], 2), fine_seen=seen[1:], ratio=2)
    (shift,) = _shifts([pair], 1, reach=2, most=MOST_PIXELS // 4)
    return shift.r2 >= PARALLAX_R2 and not max(abs(shift.dy), abs(shift.dx)) <= PARALLAX  # NaN: farther than the reach


def _box_means(fine: Image, ratio: int) -> Image:
    """Means of the `ratio` x `ratio` pixels that begin at each pixel."""
    means: Image = ndimage.uniform_filter(fine, size=(1, ratio, ratio), origin=(0, -(ratio // 2), -(ratio // 2)))
    return means


@dataclass(frozen=True, kw_only=True)
class _Shift:
    """A shift in 10 m pixels, NaN where it cannot be told."""

    dy: float = math.nan
    dx: float = math.nan
    error: float = math.nan
    r2: float = math.nan


def _table(pairs: Mapping[int, Sequence[_Pair]], bands: Mapping[int, Sequence[str]], *, most: int = MOST_PIXELS) -> pd.DataFrame:
    """One row for each of `bands`, by GSD: those of the pairs of that GSD, in their order."""
    rows = [
        {"band": band, "gsd": gsd, **asdict(shift)}
        for gsd, of_gsd in pairs.items()
        for band, shift in zip(bands[gsd], _shifts(of_gsd, len(bands[gsd]), most=most), strict=True)
    ]
    return pd.DataFrame(rows, columns=["band", "gsd", "dy", "dx", "error", "r2"]).set_index("band")


def _shifts(pairs: Sequence[_Pair], count: int, *, reach: int = REACH, most: int = MOST_PIXELS) -> list[_Shift]:
    """The shifts, up to `reach`, of each of `count` bands, compared in all pairs together at `most` pixels."""
    if not pairs or not count:
        return [_Shift()] * count
    parts = [_explained(pair, reach, most // len(pairs)) for pair in pairs]
    explained, total, values = (np.sum(each, axis=0) for each in zip(*parts, strict=True))
    with np.errstate(invalid="ignore"):  # flat, or nothing to compare: NaN
        r2 = explained / total[:, None, None]
    return [_peak(surface, number) for surface, number in zip(r2, values, strict=True)]


def _explained(
    pair: _Pair, reach: int, most: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """What the 10 m bands explain of each band's differences at each whole shift, (band, dy, dx), and all there is to explain,
    both as sums of squares; and how many differences that are.
    """
    bands, fine = _differences(pair.bands, 1), _differences(pair.fine, pair.ratio)
    width, pixels = fine.shape[1], fine.reshape(-1, 2 * len(pair.fine))
    shifts = np.arange(-reach, reach + 1)
    explained = np.zeros((bands.shape[-1], len(shifts), len(shifts)))
    total, values = np.zeros(len(explained)), np.zeros(len(explained), dtype=np.intp)
    for members, places in _comparable(pair, reach):
        places = places[:: math.ceil(len(places) / max(most, 1)) or 1]
        observed = bands[places[:, 0], places[:, 1]][..., members].reshape(-1, len(members))
        at = places @ (pair.ratio * np.array([width, 1]))
        gram = np.empty((len(shifts), len(shifts), len(pair.fine), len(pair.fine)))
        cross = np.empty((*gram.shape[:3], len(members)))
        for i, dy in enumerate(shifts):
            for j, dx in enumerate(shifts):
                candidate = pixels[at + (dy * width + dx)].reshape(-1, len(pair.fine))
                gram[i, j], cross[i, j] = candidate.T @ candidate, candidate.T @ observed
        # 10 m bands that are constant, or alike but for float32's noise, add nothing; rcond leaves them out
        slopes = np.linalg.pinv(gram, rcond=1e-5, hermitian=True) @ cross
        explained[members] = (cross * slopes).sum(axis=2).transpose(2, 0, 1)
        total[members] = (observed.astype(np.float64) ** 2).sum(axis=0)
        values[members] = len(observed)
    return explained, total, values


def _differences(image: npt.NDArray[Any], step: int) -> npt.NDArray[Any]:
    """Differences along y and x to the pixel `step` farther, (y, x, 2, band), of (band, y, x)."""
    image = np.moveaxis(image, 0, -1)
    here = image[:-step, :-step]
    differences = np.empty((*here.shape[:2], 2, here.shape[2]), dtype=image.dtype)  # all of a pixel side by side, for the cache
    np.subtract(image[step:, :-step], here, out=differences[:, :, 0])
    np.subtract(image[:-step, step:], here, out=differences[:, :, 1])
    return differences


def _comparable(pair: _Pair, reach: int) -> list[tuple[list[int], npt.NDArray[np.intp]]]:
    """Bands, by their positions, that were seen at the same places, and the places (count, 2) whose differences can be told there
    and, in the 10 m bands, at every shift.
    """
    span = 2 * (reach + pair.ratio)
    around = ndimage.minimum_filter(pair.fine_seen.all(axis=0), size=span, origin=-pair.ratio, mode="constant", cval=0)
    around = around[:: pair.ratio, :: pair.ratio][:-1, :-1]
    usable = pair.seen[:, :-1, :-1] & pair.seen[:, 1:, :-1] & pair.seen[:, :-1, 1:] & around
    alike: dict[bytes, list[int]] = {}
    for position, mask in enumerate(usable):
        alike.setdefault(mask.tobytes(), []).append(position)
    return [(members, np.argwhere(usable[members[0]])) for members in alike.values()]


def _peak(r2: npt.NDArray[np.float64], values: int) -> _Shift:
    """The place of the maximum of a band's `r2` over (dy, dx), interpolated by a cubic spline to 0.01 px."""
    if values < 2 * MIN_PIXELS or not np.isfinite(r2).all():  # differences along y and along x
        return _Shift()
    reach = len(r2) // 2
    row, column = np.unravel_index(r2.argmax(), r2.shape)
    highest = float(r2[row, column])
    if highest < MIN_R2 or {row, column} & {0, 2 * reach}:
        return _Shift(r2=highest)
    whole = np.arange(-reach, reach + 1)
    surface = interpolate.RectBivariateSpline(whole, whole, r2)
    rows, columns = (whole[at] + np.linspace(-1, 1, 201) for at in (row, column))
    near = surface(rows, columns)
    i, j = np.unravel_index(near.argmax(), near.shape)
    highest = min(float(near[i, j]), 1.0)
    # Of least squares: the variance of a shift is twice that of the residuals over the curvature of their sum of squares.
    curvature = min(-float(surface.ev(rows[i], columns[j], *order)) for order in ((2, 0), (0, 2)))
    error = math.sqrt(2 * (1 - highest) / (values * curvature)) if curvature > 0 else math.inf
    return _Shift(dy=float(rows[i]), dx=float(columns[j]), error=error, r2=highest)
