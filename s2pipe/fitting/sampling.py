"""Windows of a scene, on which methods are fitted."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import xarray as xr

from s2pipe.core import lattice
from s2pipe.core.cube import Cube
from s2pipe.core.errors import InputError
from s2pipe.core.fill import fill_nodata
from s2pipe.core.pixels import Pixels
from s2pipe.fitting.fingerprint import fingerprint

log = logging.getLogger(__name__)

WINDOW = 756
"""Edge of a window in 10 m pixels: 126 pixels at 60 m, so that it can be degraded by 6 once more."""

MAX_WINDOWS = 8

MIN_VALID = 0.25
"""Windows with a smaller share of valid pixels are used only where there are no better ones."""

BRIGHTEST = 2.0
"""Median reflectance above which the numbers cannot be reflectance: fresh snow and clouds stay below 1.5."""


class Window(Pixels):
    """A piece of the scene in memory."""

    def valid_at(self, gsd: int, needed: Mapping[int, Sequence[int]]) -> npt.NDArray[np.bool_]:
        """Where, on the grid of `gsd`, the bands `needed` (positions by their GSD) are valid all over the pixel, (y, x)."""
        height, width = self.valid[10].shape[1:]
        everywhere = np.ones((height, width), dtype=bool)
        for own, positions in needed.items():
            valid = np.logical_and.reduce(self.valid[own][list(positions)])
            np.logical_and(everywhere, valid.repeat(own // 10, axis=0).repeat(own // 10, axis=1), out=everywhere)
        ratio = gsd // 10
        result: npt.NDArray[np.bool_] = np.logical_and.reduce(
            everywhere.reshape(height // ratio, ratio, width // ratio, ratio), axis=(1, 3)
        )
        return result

    def crop_to_multiple(self, step: int) -> Window | None:
        """The largest upper-left part whose sides are multiples of `step` 10 m pixels; None where there is none."""
        height, width = (size // step * step for size in self.valid[10].shape[1:])
        if not height or not width:
            return None
        return self.cut(slice(height), slice(width))

    def clearest_part(self, edge: int, needed: Mapping[int, Sequence[int]]) -> Window:
        """The part, at most `edge` 10 m pixels a side, in which the bands `needed` (see `valid_at`) are valid in most pixels."""
        valid = self.valid_at(10, needed)
        height, width = (min(edge, size) for size in valid.shape)
        sums = np.pad(valid.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        down = sums[height:] - sums[:-height]
        counts = (down[:, width:] - down[:, :-width])[:: lattice.STEP, :: lattice.STEP]
        top, left = (int(place) * lattice.STEP for place in np.unravel_index(counts.argmax(), counts.shape))
        return self.cut(slice(top, top + height), slice(left, left + width))


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a method is fitted on.

    Attributes
    ----------
    bands : dict of int to tuple of str
        Names of the scene's bands by GSD.
    windows : list of Window
        Pieces of the scene, each with all of these bands.
    gsds : tuple of int
        Resolutions whose bands are to be sharpened, finest first.
    """

    bands: dict[int, tuple[str, ...]]
    windows: list[Window]
    gsds: tuple[int, ...]

    @classmethod
    def of(cls, cube: Cube, *, seed: int) -> Sample:
        """Of a scene of which all coarse bands are to be sharpened, see `sample_windows`."""
        return cls(bands=cube.bands, windows=sample_windows(cube, seed=seed), gsds=tuple(gsd for gsd in cube.bands if gsd > 10))

    @property
    def targets(self) -> tuple[str, ...]:
        """The bands to be sharpened, those at 20 m first."""
        return tuple(band for gsd in self.gsds for band in self.bands[gsd])

    @property
    def inputs(self) -> tuple[str, ...]:
        """All bands at the resolutions of `targets` and finer."""
        return tuple(band for gsd in self.bands if gsd <= max(self.gsds) for band in self.bands[gsd])

    def targets_without_data(self) -> tuple[str, ...]:
        """Those of `targets` for which nothing can be fitted, see `bands_without_data`."""
        missing = bands_without_data(self.windows, self.bands)
        return tuple(band for band in self.targets if band in missing)

    def fingerprint(self) -> npt.NDArray[np.uint64]:
        """What identifies the scene, see `fingerprint`."""
        parts = [
            fingerprint(window.reflectance[gsd], window.valid[gsd]) for window in self.windows for gsd in self.bands if gsd > 10
        ]
        return np.unique(np.concatenate(parts))


def sample_windows(cube: Cube, *, seed: int) -> list[Window]:
    """Read up to `MAX_WINDOWS` windows, spread at random over the ground and the dates of a cube.

    Of candidates only the coarsest bands are read, until enough with imagery are found; nothing else is read, unless the
    coarsest bands hold nodata only.

    Parameters
    ----------
    cube : Cube
    seed : int
        The same seed reads the same windows, however the cube is chunked.

    Returns
    -------
    list of Window

    Raises
    ------
    InputError
        If all bands hold nodata only.
    """
    places = list(_window_places(cube.fine))
    np.random.default_rng(seed).shuffle(places)
    # a finer resolution is read where nothing is valid in a coarser one
    chosen = next((chosen for gsd in sorted(cube.arrays, reverse=True) if (chosen := _choose_places(cube, gsd, places))), [])
    if not chosen:
        raise InputError("the data hold nodata only; choose another date, or a bbox with imagery", argument="data")
    windows = _read_windows(cube, chosen)
    brightness = float(np.median([np.median(window.reflectance[10]) for window in windows]))
    if brightness > BRIGHTEST:
        log.warning(
            "the median reflectance is %.4g, far above 1: DN seem to have been given as reflectance; give integers or scale=1e-4",
            brightness,
        )
    return windows


def _choose_places(cube: Cube, gsd: int, places: Sequence[Place]) -> list[Place]:
    """The first places of which enough is valid at one resolution; where there are none, those of which most is."""
    found: list[tuple[float, Place]] = []
    for start in range(0, len(places), MAX_WINDOWS):
        batch = places[start : start + MAX_WINDOWS]
        found += zip(_valid_shares(cube, gsd, batch), batch, strict=True)
        if sum(share >= MIN_VALID for share, _ in found) >= MAX_WINDOWS:
            break
    full = [place for share, place in found if share >= MIN_VALID]
    partial = [place for share, place in sorted(found, key=lambda pair: -pair[0]) if 0 < share < MIN_VALID]
    return (full or partial)[:MAX_WINDOWS]


Place = tuple[int, slice, slice]
"""Date, rows and columns, in 10 m pixels."""


def _window_places(fine: xr.DataArray) -> Iterator[Place]:
    """The windows a cube can be cut into.

    They lie on a lattice of their own, so that a fit does not depend on the chunks it is read in, and within the default
    chunks, so that a window costs one chunk.
    """
    spans = [list(_spans(lattice.regular_chunks(fine.sizes[axis], lattice.DEFAULT_CHUNK))) for axis in ("y", "x")]
    for date in range(fine.sizes["time"]):
        for rows in spans[0]:
            for columns in spans[1]:
                yield date, rows, columns


def _spans(chunks: Sequence[int]) -> Iterator[slice]:
    """Windows along an axis: one after another in each chunk, the last flush with the chunk's end."""
    start = 0
    for chunk in chunks:
        edge = min(WINDOW, chunk)
        for offset in sorted({*range(0, chunk - edge + 1, edge), chunk - edge}):
            yield slice(start + offset, start + offset + edge)
        start += chunk


def _valid_shares(cube: Cube, gsd: int, places: Sequence[Place]) -> list[float]:
    """Share of pixels of each place of which some band of one resolution is not nodata."""
    parts = [_cut(cube.arrays[gsd], place, gsd) for place in places]
    return [float((~cube.encoding.is_nodata(np.asarray(numbers))).any(axis=0).mean()) for numbers in _read(parts)]


def _read_windows(cube: Cube, places: Sequence[Place]) -> list[Window]:
    parts = [{gsd: _cut(array, place, gsd) for gsd, array in cube.arrays.items()} for place in places]
    decoded = [{gsd: cube.encoding.decode(np.asarray(numbers)) for gsd, numbers in part.items()} for part in _read(parts)]
    return [
        Window(
            reflectance={gsd: fill_nodata(array, reach=WINDOW) for gsd, array in part.items()},
            valid={gsd: np.isfinite(array) for gsd, array in part.items()},
        )
        for part in decoded
    ]


def _read(parts: Sequence[object]) -> tuple[Any, ...]:
    """The numbers of lazy parts; on a cluster ahead of what is sharpened there meanwhile."""
    numbers: tuple[Any, ...] = dask.compute(*parts, priority=1)
    return numbers


def _cut(array: xr.DataArray, place: Place, gsd: int) -> object:
    """The numbers (band, y, x) of a place, of the node of one resolution."""
    date, *spans = place
    rows, columns = (slice(span.start * 10 // gsd, span.stop * 10 // gsd) for span in spans)
    return array.data[date, :, rows, columns]


def bands_without_data(windows: Sequence[Window], names: Mapping[int, Sequence[str]]) -> tuple[str, ...]:
    """Coarse bands that are valid in no window where all 10 m bands are: nothing can be fitted for them.

    Raises
    ------
    InputError
        If a 10 m band is nowhere valid, without which no result is; or none of the coarse bands is.
    """
    fine = range(len(names[10]))
    if not any(window.valid_at(10, {10: fine}).any() for window in windows):
        dead = [band for i, band in enumerate(names[10]) if not any(window.valid[10][i].any() for window in windows)]
        reason = f"10 m bands {', '.join(dead)} hold nodata only" if dead else "no pixel is valid in all 10 m bands"
        raise InputError(
            f"{reason}, and a result is valid only where all of them are; leave bands out, or choose another date or bbox",
            argument="data",
        )
    missing = tuple(
        band
        for gsd, bands in names.items()
        for i, band in enumerate(bands)
        if gsd > 10 and not any(window.valid_at(gsd, {10: fine, gsd: [i]}).any() for window in windows)
    )
    if len(missing) == sum(len(bands) for gsd, bands in names.items() if gsd > 10):
        raise InputError(
            f"bands {', '.join(missing)} hold nodata only; choose another date, or a bbox with imagery", argument="data"
        )
    if missing:
        log.warning("bands %s hold nodata only in what was sampled: they are interpolated", ", ".join(missing))
    return missing


def patch_corners(usable: npt.NDArray[np.bool_], *, size: int, stride: int) -> npt.NDArray[np.intp]:
    """Upper-left corners, (count, 2), of the `size` x `size` patches, `stride` apart, all of whose pixels are usable."""
    if min(usable.shape) < size:
        return np.empty((0, 2), dtype=np.intp)
    patches = np.lib.stride_tricks.sliding_window_view(usable, (size, size))[::stride, ::stride]
    return np.argwhere(patches.all(axis=(2, 3))) * stride
