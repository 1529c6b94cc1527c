"""What a guess at a fine image lacks, estimated from its misfit: as much of it as is signal and not noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import optimize
from torch import Tensor

from s2pipe.physics.projection import PERIOD, REACH, RIDGE
from s2pipe.physics.sensor import Sensor, pad_symmetric
from s2pipe.physics.window import window_mean

LENGTHS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Fine pixels over which what is lacking may be correlated."""
STRENGTHS = (1 / 512, 1 / 64, 1 / 8, 1.0, 8.0)
"""Times the variance of the model: how strong what is lacking may be in a part of the scene. Each is a step of one ratio."""
LOCAL = 0.7
"""Power of the strength around a pixel that counts there, for it is measured on few pixels."""
DECAY = 1.5
"""Power of the spectrum 1 / (1 + (2 pi f length)^2): in two dimensions that of an exponential correlation."""
SMALLEST = 1e-12
"""Reflectance squared: variances below this one are nought."""
VALID_SHARE = 0.25
"""Of a tile, at least, that serves to measure a spectrum."""

FloatArray = npt.NDArray[np.float64]
Means = Mapping[tuple[int, int], tuple[int, FloatArray]]
"""By shape, how many periodograms there are, and their mean."""


@dataclass(frozen=True)
class MisfitModel:
    """What the misfit of a guess, observed minus degraded, consists of in one band.

    Attributes
    ----------
    variance : float
        Of a fine pixel of what the guess lacks, in reflectance squared.
    length : float
        Fine pixels over which this is correlated.
    noise : float
        Standard deviation of the noise of a coarse pixel, in reflectance.
    """

    variance: float
    length: float
    noise: float


def fit_model(
    misfits: Iterable[tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]], sensor: Sensor, band: str, ratio: int, noise: float
) -> MisfitModel:
    """The model under which the spectrum of misfits is most likely (Whittle's approximation), the noise being known.

    Parameters
    ----------
    misfits : iterable of (ndarray (y, x), ndarray of bool (y, x))
        In reflectance, and where they are valid.
    sensor : Sensor
    band : str
    ratio : int
        2 or 6.
    noise : float
        Standard deviation of a coarse pixel's.
    """
    periodograms: dict[tuple[int, int], list[FloatArray]] = {}
    for misfit, valid in misfits:
        for found in _periodograms(misfit, valid):
            periodograms.setdefault((found.shape[0], found.shape[1]), []).append(found)
    best = (np.inf, MisfitModel(variance=0.0, length=0.0, noise=noise))
    if not periodograms:
        return best[1]
    means = {shape: (len(found), np.mean(found, axis=0)) for shape, found in periodograms.items()}
    floor = max(noise**2, SMALLEST)
    for length in LENGTHS:
        powers = {shape: seen_power(sensor, band, ratio, length, shape) for shape in means}
        unlikeliness = partial(_unlikeliness, means=means, powers=powers, floor=floor)
        result = optimize.minimize_scalar(unlikeliness, bounds=(np.log(SMALLEST), 0.0), method="bounded")
        if result.fun < best[0]:
            best = result.fun, MisfitModel(variance=float(np.exp(result.x)), length=length, noise=noise)
    return best[1]


def _unlikeliness(log_variance: float, *, means: Means, powers: Mapping[tuple[int, int], FloatArray], floor: float) -> float:
    """Minus the logarithm of the likelihood of mean periodograms, but for frequency 0, where the mean is known."""
    total = 0.0
    for shape, (count, mean) in means.items():
        expected = np.exp(log_variance) * powers[shape] + floor
        total += count * float((np.log(expected) + mean / expected).ravel()[1:].sum())
    return total


def _periodograms(misfit: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]) -> Iterable[FloatArray]:
    """Of the tiles of a misfit of which enough is valid, tapered; each divided so that white noise has its variance."""
    height, width = (min(PERIOD, size) for size in misfit.shape)
    taper = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1])
    for top in range(0, misfit.shape[0] - height + 1, height):
        for left in range(0, misfit.shape[1] - width + 1, width):
            part = slice(top, top + height), slice(left, left + width)
            weights = taper * valid[part]
            if valid[part].mean() >= VALID_SHARE:
                centred = misfit[part] - np.average(misfit[part], weights=weights)
                yield np.abs(np.fft.fft2(weights * centred)) ** 2 / (weights**2).sum()


@lru_cache
def seen_power(sensor: Sensor, band: str, ratio: int, length: float, shape: tuple[int, int]) -> FloatArray:
    """Spectrum, on a circle of `shape` coarse pixels, of what the sensor sees of a fine image of variance 1: D S D'."""
    gain = np.abs(_transfer(sensor, band, ratio, shape)) ** 2 * _fine_power(length, (shape[0] * ratio, shape[1] * ratio))
    folded: FloatArray = gain.reshape(ratio, shape[0], ratio, shape[1]).sum(axis=(0, 2)) / ratio**2
    return folded


def _fine_power(length: float, shape: tuple[int, int]) -> FloatArray:
    """Spectrum of a fine image of variance 1."""
    down, across = (2 * np.pi * np.fft.fftfreq(size) for size in shape)
    power: FloatArray = (1 + length**2 * (down[:, None] ** 2 + across[None] ** 2)) ** -DECAY
    result: FloatArray = power / power.mean()
    return result


def _transfer(sensor: Sensor, band: str, ratio: int, shape: tuple[int, int]) -> npt.NDArray[np.complex128]:
    """Of the sensor on a circle of `shape` coarse pixels, at the frequencies of the fine ones."""
    start, weights = sensor.taps(band, ratio)
    along = []
    for size in shape:
        seen = np.zeros(size * ratio)
        np.add.at(seen, (start + np.arange(len(weights))) % len(seen), weights)
        along.append(np.conj(np.fft.fft(seen)))
    return np.outer(*along)


def lacking(
    misfit: Tensor,
    models: Sequence[MisfitModel],
    sensor: Sensor,
    bands: Sequence[str],
    ratio: int,
    shares: Tensor | None = None,
) -> Tensor:
    """S D' (D S D' + N)^-1 misfit: the likeliest fine image (band, y, x) behind a misfit, mirrored at the edges.

    S is that of the model times one of `STRENGTHS`, or a mixture of the results of two of them.

    Parameters
    ----------
    misfit : Tensor, (band, y, x)
        In reflectance.
    models : sequence of MisfitModel
        Of each band.
    sensor : Sensor
    bands : sequence of str
        Band whose MTF applies to each channel.
    ratio : int
        2 or 6.
    shares : Tensor, (band, strength, y, x), optional
        Of the results; default: `shares_of` the misfit.

    Returns
    -------
    Tensor, (band, y * ratio, x * ratio)
    """
    count, height, width = misfit.shape
    if shares is None:
        shares = shares_of(misfit, models, sensor, bands, ratio)
    kernels = [
        _kernel(sensor, band, ratio, replace(model, variance=model.variance * strength))
        for band, model in zip(bands, models, strict=True)
        for strength in STRENGTHS
    ]
    weights = torch.as_tensor(np.concatenate(kernels)).to(misfit)[:, None]
    around = REACH[ratio]
    x = pad_symmetric(pad_symmetric(misfit[None], around, around, 2), around, around, 3)
    x = F.conv2d(x, weights, groups=count).reshape(count, len(STRENGTHS), ratio**2, height, width)
    return F.pixel_shuffle((x * shares[:, :, None]).sum(dim=1), ratio).reshape(count, height * ratio, width * ratio)


def shares_of(misfit: Tensor, models: Sequence[MisfitModel], sensor: Sensor, bands: Sequence[str], ratio: int) -> Tensor:
    """How near what is lacking around each coarse pixel comes to each of `STRENGTHS`, (band, strength, y, x); they sum to 1.

    It is as strong there as the misfit around the pixel is more than noise (the adaptive filter of Lee 1980,
    doi:10.1109/TPAMI.1980.4766994), drawn to 1, the mean of the scene.
    """
    seen = [
        model.variance * seen_power(sensor, band, ratio, model.length, (PERIOD, PERIOD)).mean()
        for band, model in zip(bands, models, strict=True)
    ]
    signal = misfit.new_tensor(seen)[:, None, None].clamp_min(SMALLEST)
    noise = misfit.new_tensor([model.noise for model in models])[:, None, None]
    strength = (window_mean(misfit.square()) - noise.square()) / signal
    step = math.log(STRENGTHS[1] / STRENGTHS[0])
    mean, last = STRENGTHS.index(1.0), len(STRENGTHS) - 1
    places = (mean + LOCAL * strength.clamp_min(STRENGTHS[0]).log() / step).clamp(0, last)
    steps = torch.arange(len(STRENGTHS), dtype=misfit.dtype, device=misfit.device)
    return (1 - (places[:, None] - steps[:, None, None]).abs()).clamp_min(0)


@lru_cache
def _kernel(sensor: Sensor, band: str, ratio: int, model: MisfitModel) -> FloatArray:
    """`lacking` of one band: for each fine pixel of a block, (ratio^2, tap, tap), the weights of the coarse pixels around it."""
    shape = (PERIOD, PERIOD)
    signal = seen_power(sensor, band, ratio, model.length, shape)
    noise = max(model.noise**2 / max(model.variance, SMALLEST), RIDGE * signal.max())
    share = 1 / (signal + noise)
    power = _fine_power(model.length, (PERIOD * ratio, PERIOD * ratio))
    # the image behind a 1 in the coarse pixel 0
    response = np.fft.ifft2(np.tile(share, (ratio, ratio)) * power * np.conj(_transfer(sensor, band, ratio, shape))).real
    phases, coarse = np.arange(ratio)[:, None], np.arange(-REACH[ratio], REACH[ratio] + 1)
    places = (phases - ratio * coarse) % len(response)
    taps: FloatArray = response[places[:, None, :, None], places[None, :, None, :]].reshape(ratio**2, len(coarse), len(coarse))
    # a constant is restored as the whole filter would restore it, not as what is cut off leaves
    taps *= ratio**2 * signal[0, 0] / (signal[0, 0] + noise) / taps.sum()
    return taps
