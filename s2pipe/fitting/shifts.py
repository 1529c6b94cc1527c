"""Shifts of coarse bands against the 10 m bands, measured on windows of a scene."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import interpolate, ndimage

from s2pipe.fitting.sampling import Window

log = logging.getLogger(__name__)

REACH = 8
"""Largest shift tried, in 10 m pixels: one more than the largest that is found, whose peak needs neighbours."""

MOST_PIXELS = 16384
"""Pixels at which a band is compared, in all windows together; twice as many change those of real scenes by 0.07 px at most."""

MIN_PIXELS = 100
"""Pixels below which no shift is given: unrelated bands resemble each other by chance there."""

MIN_R2 = 0.2
"""Share of a band's gradients that the 10 m bands must explain for its shift to count."""

PARALLAX = 0.25
"""Shift of B02 against the other 10 m bands, in 10 m pixels, above which a window is considered clouded; clear ones reach 0.2."""

PARALLAX_R2 = 0.5
"""Least R2 at which that shift counts: B08 alone, over land, resembles B02 too little to place it."""

TOLERANCE = 0.5
"""Largest shift that is not warned of, in 10 m pixels."""

SAME_SHIFT = 0.75
"""Largest distance of a band's shift from the whole one its resolution is repaired by; patches of 1.2 km are 0.7 px uncertain."""

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def shifts_of(windows: Sequence[Window], bands: Mapping[int, Sequence[str]]) -> pd.DataFrame:
    """What `measure_registration` returns, of windows read before and the names of their bands by GSD."""
    clear = [window for window in windows if not is_clouded(window)]
    pairs = {gsd: [_observed_pair(window, gsd) for window in clear] for gsd in bands if gsd > 10}
    table = table_of_shifts(pairs, bands)
    whole = table[["dy", "dx"]].round().astype("Int64").add_suffix("_px")
    return pd.concat([table[["gsd"]], whole, table.drop(columns="gsd")], axis=1)


def warn_if_misregistered(windows: Sequence[Window], bands: Mapping[int, Sequence[str]]) -> None:
    """Log a warning if the shift of a coarse band, less twice its standard error, exceeds half a 10 m pixel."""
    table = shifts_of(windows, bands)
    if (table[["dy", "dx"]].abs().sub(2 * table["error"], axis=0) > TOLERANCE).any(axis=None):
        typical = table.groupby("gsd")[["dy", "dx"]].median().dropna()
        log.warning(
            "bands are shifted against the 10 m bands, %s 10 m pixels along y and x: s2pipe.repair_registration(data) repairs "
            "whole pixels that all bands of a resolution share, s2pipe.measure_registration(data) measures each band's shift",
            " and ".join(f"those of {gsd} m by ({dy:.1f}, {dx:.1f})" for gsd, dy, dx in typical.itertuples()),
        )


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Bands on one grid beside the 10 m bands of the same ground.

    Attributes
    ----------
    bands, valid : ndarray, (band, y / ratio, x / ratio)
    fine, fine_valid : ndarray, (10 m band, y, x)
        At each pixel, what a pixel of `bands` that began there would show.
    ratio : int
    """

    bands: Image
    valid: Mask
    fine: Image
    fine_valid: Mask
    ratio: int


def _observed_pair(window: Window, gsd: int) -> Pair:
    return Pair(
        bands=window.reflectance[gsd],
        valid=window.valid[gsd],
        fine=_box_means(window.reflectance[10], gsd // 10),
        fine_valid=window.valid[10],
        ratio=gsd // 10,
    )


def is_clouded(window: Window) -> bool:
    """Whether the first 10 m band, averaged to 20 m, is shifted against the others."""
    even = window.crop_to_multiple(2)
    if even is None or len(even.valid[10]) < 2:
        return False
    fine, valid = even.reflectance[10], even.valid[10]
    first = _box_means(fine[:1], 2)[:, ::2, ::2]
    pair = Pair(
        bands=first, valid=even.valid_at(20, {10: [0]})[None], fine=_box_means(fine[1:], 2), fine_valid=valid[1:], ratio=2
    )
    (shift,) = _shifts([pair], 1, reach=2, most=MOST_PIXELS // 4)
    return shift.r2 >= PARALLAX_R2 and not max(abs(shift.dy), abs(shift.dx)) <= PARALLAX  # NaN: farther than the reach


def _box_means(fine: Image, ratio: int) -> Image:
    """Means of the `ratio` x `ratio` pixels that begin at each pixel."""
    means: Image = ndimage.uniform_filter(fine, size=(1, ratio, ratio), origin=(0, -(ratio // 2), -(ratio // 2)))
    return means


@dataclass(frozen=True, kw_only=True)
class _Shift:
    """A shift in 10 m pixels, NaN where it cannot be measured."""

    dy: float = math.nan
    dx: float = math.nan
    error: float = math.nan
    r2: float = math.nan


def table_of_shifts(
    pairs: Mapping[int, Sequence[Pair]], bands: Mapping[int, Sequence[str]], *, most: int = MOST_PIXELS
) -> pd.DataFrame:
    """One row for each of `bands`, by GSD: those of the pairs of that GSD, in their order."""
    rows = [
        {"band": band, "gsd": gsd, **asdict(shift)}
        for gsd, of_gsd in pairs.items()
        for band, shift in zip(bands[gsd], _shifts(of_gsd, len(bands[gsd]), most=most), strict=True)
    ]
    return pd.DataFrame(rows, columns=["band", "gsd", "dy", "dx", "error", "r2"]).set_index("band")


def _shifts(pairs: Sequence[Pair], count: int, *, reach: int = REACH, most: int = MOST_PIXELS) -> list[_Shift]:
    """The shifts, up to `reach`, of each of `count` bands, compared in all pairs together at `most` pixels."""
    if not pairs or not count:
        return [_Shift()] * count
    parts = [_explained(pair, reach, most // len(pairs)) for pair in pairs]
    explained, total, values = (np.sum(each, axis=0) for each in zip(*parts, strict=True))
    with np.errstate(invalid="ignore"):  # flat, or nothing to compare: NaN
        r2 = explained / total[:, None, None]
    return [_peak(surface, number) for surface, number in zip(r2, values, strict=True)]


def _explained(
    pair: Pair, reach: int, most: int
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


def _differences(image: Image, step: int) -> Image:
    """Differences along y and x to the pixel `step` farther, (y, x, 2, band), of (band, y, x)."""
    image = np.moveaxis(image, 0, -1)
    here = image[:-step, :-step]
    differences = np.empty((*here.shape[:2], 2, here.shape[2]), dtype=image.dtype)  # all of a pixel side by side, for the cache
    np.subtract(image[step:, :-step], here, out=differences[:, :, 0])
    np.subtract(image[:-step, step:], here, out=differences[:, :, 1])
    return differences


def _comparable(pair: Pair, reach: int) -> list[tuple[list[int], npt.NDArray[np.intp]]]:
    """Bands, by their positions, that are valid at the same places, and the places (count, 2) whose differences are known there
    and, in the 10 m bands, at every shift.
    """
    span = 2 * (reach + pair.ratio)
    around = ndimage.minimum_filter(pair.fine_valid.all(axis=0), size=span, origin=-pair.ratio, mode="constant", cval=0)
    around = around[:: pair.ratio, :: pair.ratio][:-1, :-1]
    usable = pair.valid[:, :-1, :-1] & pair.valid[:, 1:, :-1] & pair.valid[:, :-1, 1:] & around
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
