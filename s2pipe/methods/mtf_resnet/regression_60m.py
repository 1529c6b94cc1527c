"""Regression of the 60 m bands on finer ones, over the whole scene."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2pipe.core.bands import BANDS, bands_at
from s2pipe.fitting.noise import noise_level
from s2pipe.fitting.sampling import Sample, Window
from s2pipe.methods.classical.pan import mixture
from s2pipe.physics.misfit import Known, misfit_of
from s2pipe.physics.sensor import Sensor
from s2pipe.physics.wiener import MisfitModel, fit_model

RATIO = 6
RIDGE = 1e-3
"""Added to the variance of each regressor, which is 1."""
VALID_SHARE = 0.75
"""Share of a 60 m band's pixels in which a finer band must be valid to serve for it."""
SAMPLES = 3
"""60 m pixels for each regressor, at least; with fewer, a band is brought to 10 m without any."""
REGRESSORS = {"B01": (10,), "B09": (10, 20)}
"""Resolutions that a 60 m band is regressed on: B09 lies between B8A and B11, B01 beyond B02, far from all 20 m bands."""
SMALLEST = 1e-6
"""Reflectance, at least, that a finer band is scaled by: the slope of a constant one is 0."""


def mixtures_of_60m(
    sample: Sample, finer: Sequence[Tensor], names: Sequence[str], sensor: Sensor, *, without: Collection[str]
) -> Tensor:
    """Intercept and slopes that fit the 60 m bands best to finer ones, degraded.

    Parameters
    ----------
    sample : Sample
    finer : sequence of Tensor, (finer band, y, x)
        Of each window, at 10 m, in reflectance.
    names : sequence of str
        Of the finer bands: all 10 m bands, and sharpened 20 m bands.
    sensor : Sensor
    without : collection of str
        60 m bands whose row is left zero.

    Returns
    -------
    Tensor, (band of 60 m, 1 + finer band)
    """
    mixtures = torch.zeros(len(sample.bands[60]), 1 + len(names))
    for row, band in enumerate(sample.bands[60]):
        if band not in without:
            columns, valid = _regressors(sample, names, band)
            used, matched = [names[column] for column in columns], sensor.matched_to([band])
            low = [
                matched.degrade(image.cpu(), names, RATIO, _valid_for(window, sample, used))[columns]
                for window, image in zip(sample.windows, finer, strict=True)
            ]
            regressors = torch.cat([image[:, mask] for image, mask in zip(low, valid, strict=True)], dim=1)
            observed = np.concatenate(
                [window.reflectance[60][row][mask] for window, mask in zip(sample.windows, valid, strict=True)]
            )
            mixtures[row, [0, *(1 + column for column in columns)]] = _ridge(regressors, torch.from_numpy(observed))
    return mixtures


def models_of_60m(
    sample: Sample, finer: Sequence[Tensor], names: Sequence[str], mixtures: Tensor, sensor: Sensor
) -> tuple[MisfitModel, ...]:
    """Of what the mixtures leave of the 60 m bands, noise included.

    Parameters
    ----------
    sample : Sample
    finer : sequence of Tensor, (finer band, y, x)
        Of each window, at 10 m, in reflectance.
    names : sequence of str
        Of the finer bands.
    mixtures : Tensor, (band of 60 m, 1 + finer band)
    sensor : Sensor
    """
    regressors = [[name for name, slope in zip(names, row[1:].tolist(), strict=True) if slope] for row in mixtures]
    fine, bands = sample.bands[10], sample.bands[60]
    parts = []
    for window, image in zip(sample.windows, finer, strict=True):
        valid = torch.stack([_valid_for(window, sample, used) for used in regressors])
        known = Known.of(valid, torch.from_numpy(window.valid[60]))
        observed = torch.from_numpy(window.reflectance[60])
        misfit = misfit_of(mixture(mixtures, image.cpu()), observed, sensor, bands, RATIO, known)
        guides = sensor.matched_to(bands).degrade(image[: len(fine)].cpu(), fine, RATIO, _valid_for(window, sample, fine))
        parts.append((misfit.numpy(), guides.numpy(), known.coarse.numpy()))
    models = []
    for row, band in enumerate(bands):
        noise = noise_level((misfit[row], guides, valid[row]) for misfit, guides, valid in parts)
        misfits = ((misfit[row], valid[row]) for misfit, _, valid in parts)
        models.append(fit_model(misfits, sensor, band, RATIO, noise))
    return tuple(models)


def _valid_for(window: Window, sample: Sample, names: Sequence[str]) -> Tensor:
    """Where all 10 m bands and `names` are valid, on the grid of the 10 m bands."""
    needed = {gsd: [sample.bands[gsd].index(band) for band in bands_at(names, gsd)] for gsd in sample.bands}
    return torch.from_numpy(window.valid_at(10, needed) & window.fine_valid)


def _regressors(sample: Sample, names: Sequence[str], band: str) -> tuple[list[int], list[npt.NDArray[np.bool_]]]:
    """Which of `names` a 60 m band is regressed on, and where it and they are valid in each window."""

    def valid_with(finer: Sequence[str]) -> list[npt.NDArray[np.bool_]]:
        needed = {gsd: [sample.bands[gsd].index(one) for one in bands_at((*finer, band), gsd)] for gsd in sample.bands}
        return [window.valid_at(60, {gsd: rows for gsd, rows in needed.items() if rows}) for window in sample.windows]

    def count(masks: list[npt.NDArray[np.bool_]]) -> int:
        return int(sum(mask.sum() for mask in masks))

    fine = [name for name in names if BANDS[name].gsd == 10]
    masks = valid_with(fine)
    # a band with few valid pixels is not worth the pixels of the others
    wanted = [
        name
        for name in names
        if BANDS[name].gsd in REGRESSORS[band] and count(valid_with([*fine, name])) >= VALID_SHARE * count(masks)
    ]
    for finer in (wanted, fine):
        where = valid_with(finer)
        if count(where) >= SAMPLES * len(finer) and count(where) >= VALID_SHARE / 2 * count(masks):
            return [names.index(name) for name in finer], where
    return [], masks


def _ridge(regressors: Tensor, observed: Tensor) -> Tensor:
    """Intercept and slopes that fit `observed` (sample,) to regressors (row, sample); slopes of scaled rows are drawn to 0."""
    regressors, observed = regressors.double(), observed.double()
    means, mean = regressors.mean(dim=1), observed.mean()
    deviations = regressors - means[:, None]
    scales = deviations.square().mean(dim=1).sqrt().clamp_min(SMALLEST)
    scaled = deviations / scales[:, None]
    square = scaled @ scaled.T / len(observed) + RIDGE * torch.eye(len(scaled), dtype=torch.float64)
    slopes = torch.linalg.solve(square, scaled @ (observed - mean) / len(observed)) / scales
    return torch.cat([(mean - slopes @ means)[None], slopes]).float()
