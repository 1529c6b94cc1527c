"""ATPRK: a regression on the 10 m bands, and kriging of what it leaves from the areas of coarse pixels to points."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Self, Unpack

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import optimize, signal
from torch import Tensor

from s2pipe.core.bands import bands_at
from s2pipe.fitting.sampling import Sample
from s2pipe.methods.attributes import Fields
from s2pipe.methods.base import FitContext, fields_of_fit, halo_of
from s2pipe.methods.classical.pan import Pan, PanSharpener, check_pan, mixture, named_after_pan, regress_on_fine
from s2pipe.physics.misfit import REACH, Known, misfit_of
from s2pipe.physics.sensor import Sensor, pad_symmetric

LAGS = 20
"""Largest lag of the semivariogram, in coarse pixels."""

SILLS = 1 + 0.1 * np.arange(1, 21)
RANGES = 0.5 + 0.1 * np.arange(1, 21)
"""What the sill and the range of the areal semivariogram are multiplied by, in search of those of points."""

NEIGHBOURS = 1
"""Coarse pixels on either side of its own that a fine pixel is kriged from."""


@dataclass(frozen=True, kw_only=True)
class Atprk:
    """Area-to-point regression kriging (Wang et al. 2016, doi:10.1016/j.rse.2016.10.030).

    The panchromatic band P of a coarse band is the least-squares fit, with an intercept, of the coarse band to the degraded 10 m
    bands, ``pan="synthesised"`` (default), or to the one of them with the largest correlation, ``pan="selected"``. What
    P, degraded, leaves of the coarse band is kriged to 10 m from 3 x 3 coarse pixels, with the sensor's point spread function
    as the support of a coarse pixel, and added to P. The exponential semivariogram of points is the one, of 20 sills (1.1 to 3
    times) and 20 ranges (0.6 to 2.5 times those of the areal one), whose regularisation fits the areal one best at 20 lags.
    Where no areal semivariogram can be fitted, as in a flat band, the points' range is two coarse pixels. The regression and the
    semivariogram are fitted once on the sample.

    Attributes
    ----------
    pan : {"synthesised", "selected"}
        Kind of panchromatic band.

    Raises
    ------
    InputError
        If `pan` is neither.
    """

    pan: Pan = "synthesised"

    def __post_init__(self) -> None:
        check_pan(self.pan)

    @property
    def name(self) -> str:
        """In the table of methods."""
        return named_after_pan("atprk", self.pan)

    def halo(self, gsds: Collection[int], sensor: Sensor) -> int:
        """See `Method.halo`."""
        return halo_of(gsds, lambda ratio: ratio * (NEIGHBOURS + REACH + 1) - 1 + sensor.reach(ratio))

    def fit(self, sample: Sample, context: FitContext) -> AtprkSharpener:
        """Fit regressions and semivariograms on the sample."""
        sensor, missing = context.sensor, sample.targets_without_data()
        fine = len(sample.bands[10])
        fitted: dict[str, Tensor] = {}
        for gsd in sample.gsds:
            ratio, bands = gsd // 10, sample.bands[gsd]
            pans, weights = np.zeros((len(bands), 1 + fine)), np.zeros((len(bands), ratio**2, (2 * NEIGHBOURS + 1) ** 2))
            for row, band in enumerate(bands):
                span = AREAL_RANGE * ratio
                if band not in missing:
                    pans[row] = regress_on_fine(band, gsd, sample.bands, sample.windows, sensor, pan=self.pan)
                    span = point_range(*areal_semivariogram(residuals(band, gsd, pans[row], sample, sensor)), ratio)
                weights[row] = kriging_weights(span, *sensor.taps(band, ratio), ratio)
            fitted[f"pan.{gsd}m"] = torch.from_numpy(pans.astype(np.float32))
            fitted[f"kriging.{gsd}m"] = torch.from_numpy(weights.astype(np.float32))
        return AtprkSharpener(
            **fields_of_fit(self, sample, context),
            bands_in=sample.bands[10] + sample.targets,
            bicubic_bands=missing,
            fitted=fitted,
        )


def residuals(
    band: str, gsd: int, pan: npt.NDArray[np.float64], sample: Sample, sensor: Sensor
) -> Iterator[npt.NDArray[np.float32]]:
    """What is left of the coarse band once its panchromatic band is degraded and taken away, (y, x) of each window, with NaN."""
    row = sample.bands[gsd].index(band)
    for window in sample.windows:
        image = mixture(torch.from_numpy(pan[None].astype(np.float32)), torch.from_numpy(window.reflectance[10]))
        fine_valid = torch.from_numpy(window.fine_valid)
        left = window.reflectance[gsd][row] - sensor.degrade(image, [band], gsd // 10, fine_valid).numpy()[0]
        left[~window.valid_at(gsd, {10: range(len(sample.bands[10])), gsd: [row]})] = np.nan
        yield left


def areal_semivariogram(
    images: Iterable[npt.NDArray[np.float32]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Lags in pixels, and the semivariance at each, along rows and columns of all images (y, x)."""
    squares, counts = np.zeros(LAGS), np.zeros(LAGS)
    for image in images:
        for turned in (image, image.T):
            for lag in range(1, min(LAGS, len(turned) - 1) + 1):
                differences = (turned[lag:] - turned[:-lag]).astype(np.float64)
                squares[lag - 1] += np.nansum(differences**2)
                counts[lag - 1] += np.isfinite(differences).sum()
    counted = counts > 0
    lags = np.flatnonzero(counted).astype(np.float64) + 1
    return lags, squares[counted] / (2 * counts[counted])


AREAL_RANGE = 2.0
"""Of the exponential semivariogram where none can be fitted, in coarse pixels."""


def point_range(lags: npt.NDArray[np.float64], semivariance: npt.NDArray[np.float64], ratio: int) -> float:
    """Range, in fine pixels, of the exponential semivariogram of points whose areal one is given; weights need no sill.

    Parameters
    ----------
    lags, semivariance : ndarray
        Of coarse pixels.
    ratio : int
        Fine pixels along the edge of one.
    """
    largest = semivariance.max(initial=0)
    if len(lags) < 3 or largest <= 0:
        return AREAL_RANGE * ratio
    distance, relative = ratio * lags, semivariance / largest  # so that the fit does not depend on the unit
    try:
        (sill, reach), _ = optimize.curve_fit(
            exponential, distance, relative, p0=(1.0, AREAL_RANGE * ratio), bounds=((0, 1e-3), (np.inf, 1e3 * ratio))
        )
    except RuntimeError:  # no fit found
        return AREAL_RANGE * ratio
    areal = exponential(distance, sill, reach)
    candidates = reach * RANGES
    regularised = np.stack([regularise(candidate, lags, ratio) for candidate in candidates])
    misfits = np.linalg.norm(sill * SILLS[:, None, None] * regularised - areal, axis=2)
    return float(candidates[np.argmin(misfits.min(axis=0))])


def exponential(distance: npt.NDArray[np.float64], sill: float, reach: float) -> npt.NDArray[np.float64]:
    """Exponential semivariogram: sill (1 - exp(-distance / reach))."""
    return sill * (1 - np.exp(-distance / reach))


def regularise(reach: float, lags: npt.NDArray[np.float64], ratio: int) -> npt.NDArray[np.float64]:
    """Semivariance, for a sill of 1, between two blocks of `ratio` x `ratio` points, `lags` blocks apart along one axis."""
    block = np.ones((ratio, ratio)) / ratio**2
    return np.array([_between(reach, block, lag * ratio, 0) for lag in lags]) - _between(reach, block, 0, 0)


def _between(reach: float, support: npt.NDArray[np.float64], down: float, across: float) -> float:
    """Mean semivariance of points between two areas of one support (weights that sum to 1), so far apart."""
    pairs = signal.correlate(support, support)  # weight of each difference of places
    half = (np.array(pairs.shape) - 1) // 2
    y, x = np.ogrid[-half[0] : half[0] + 1, -half[1] : half[1] + 1]
    return float((pairs * exponential(np.hypot(y + down, x + across), 1.0, reach)).sum())


def kriging_weights(reach: float, start: int, taps: npt.NDArray[np.float64], ratio: int) -> npt.NDArray[np.float64]:
    """Ordinary kriging weights of the 3 x 3 coarse pixels around that of a fine one.

    Parameters
    ----------
    reach : float
        Range of the exponential semivariogram of points, in fine pixels.
    start, taps
        Point spread function of a coarse pixel along one axis, see `Sensor.taps`.
    ratio : int

    Returns
    -------
    ndarray, (ratio * ratio, 9)
        For the fine pixels of a block, row by row, the weights of the coarse ones, row by row.
    """
    support = np.outer(taps, taps)
    steps = ratio * np.arange(-NEIGHBOURS, NEIGHBOURS + 1)
    places = [(y, x) for y in steps for x in steps]
    system = np.ones((len(places) + 1, len(places) + 1))  # its last row and column make the weights sum to 1
    system[-1, -1] = 0
    system[:-1, :-1] = [[_between(reach, support, *np.subtract(one, other)) for other in places] for one in places]
    offsets = start + np.arange(len(taps))
    right = np.ones((len(places) + 1, ratio**2))
    for v, (fine_y, fine_x) in enumerate(np.ndindex(ratio, ratio)):
        for i, (y, x) in enumerate(places):
            distances = np.hypot((y + offsets - fine_y)[:, None], x + offsets - fine_x)
            right[i, v] = (support * exponential(distances, 1.0, reach)).sum()
    weights: npt.NDArray[np.float64] = np.linalg.solve(system, right)[:-1].T.astype(np.float64)
    return weights


@dataclass(frozen=True, kw_only=True, eq=False)
class AtprkSharpener(PanSharpener):
    """A fitted `Atprk`: ``kriging`` of `fitted` holds the weights, (band, fine pixel, coarse pixel)."""

    @classmethod
    def restore(cls, weights: dict[str, Tensor], **fields: Unpack[Fields]) -> Self:
        """See `TorchSharpener.restore`."""
        fine = len(bands_at(fields["bands_in"], 10))
        fitted = {}
        for gsd in (20, 60):
            if count := len(bands_at(fields["bands_out"], gsd)):
                fitted[f"pan.{gsd}m"] = weights[f"pan.{gsd}m"].reshape(count, 1 + fine)
                fitted[f"kriging.{gsd}m"] = weights[f"kriging.{gsd}m"].reshape(count, (gsd // 10) ** 2, (2 * NEIGHBOURS + 1) ** 2)
        return cls(**fields, fitted=fitted)

    def sharpen_resolution(self, fine: Tensor, coarse: Tensor, gsd: int, known: Known) -> Tensor:
        ratio, bands = gsd // 10, bands_at(self.bands_out, gsd)
        pan = mixture(self.fitted[f"pan.{gsd}m"], fine)
        left = misfit_of(pan, coarse, self.sensor, bands, ratio, known)
        return pan + krige(left, self.fitted[f"kriging.{gsd}m"], ratio)


def krige(coarse: Tensor, weights: Tensor, ratio: int) -> Tensor:
    """Fine pixels (band, y, x) as mixtures of the 3 x 3 coarse ones around theirs, by `weights` of `kriging_weights`."""
    edge = 2 * NEIGHBOURS + 1
    for axis in (1, 2):
        coarse = pad_symmetric(coarse, NEIGHBOURS, NEIGHBOURS, axis)
    kernels = weights.reshape(-1, 1, edge, edge)
    return F.pixel_shuffle(F.conv2d(coarse[None], kernels, groups=len(weights)), ratio)[0]
