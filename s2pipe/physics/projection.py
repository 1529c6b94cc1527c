"""Back-projection: the least change of an image after which, degraded, it is what the sensor saw."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from s2pipe.physics.sensor import Sensor, pad_symmetric

REACH = {2: 5, 6: 3}
"""Coarse pixels on either side of its own that a fine pixel is corrected from, by ratio: 1 % and 4 % of a misfit are left."""

RIDGE = 1e-3
"""Of the largest gain, added to all, so that noise is not blown up where the sensor sees next to nothing."""

PERIOD = 64
"""Coarse pixels of the circle that the inverse is found on: what wraps around it is nothing."""


def reach(sensor: Sensor, ratio: int) -> int:
    """Fine pixels on either side of its own that a pixel of `project` depends on, at most."""
    return ratio * (REACH[ratio] + 1) - 1 + sensor.reach(ratio)


def project(fine: Tensor, observed: Tensor, sensor: Sensor, bands: Sequence[str], ratio: int) -> Tensor:
    """The image nearest to `fine` (least squares) that the sensor would see as `observed`.

    fine + D' (D D')^-1 (observed - D fine), with D the sensor's degradation. D is separable, and D D' along an axis a
    convolution, so that the correction is one short filter along each axis, which is regularised and cut at `REACH`.

    Parameters
    ----------
    fine : Tensor, (..., band, y, x)
    observed : Tensor, (..., band, y / ratio, x / ratio)
        In the unit of `fine`.
    sensor : Sensor
    bands : sequence of str
        Band whose MTF applies to each channel.
    ratio : int
        2 or 6.

    Returns
    -------
    Tensor, like `fine`
    """
    return fine + lift(observed - sensor.degrade(fine, bands, ratio), sensor, bands, ratio)


def unseen(fine: Tensor, sensor: Sensor, bands: Sequence[str], ratio: int) -> Tensor:
    """The part of an image that the sensor does not see: `project` of it onto an observation of zeros."""
    return fine - lift(sensor.degrade(fine, bands, ratio), sensor, bands, ratio)


def lift(coarse: Tensor, sensor: Sensor, bands: Sequence[str], ratio: int) -> Tensor:
    """D' (D D')^-1 coarse: the smallest image (..., band, y, x) that the sensor would see as `coarse`, mirrored at the edges."""
    height, width = coarse.shape[-2:]
    kernel = torch.as_tensor(np.stack([lifting_taps(sensor, band, ratio) for band in bands])).to(coarse)
    count, around = len(bands), REACH[ratio]
    taps = 2 * around + 1
    x = coarse.reshape(-1, count, height, width)
    x = pad_symmetric(x, around, around, 2)
    x = F.conv2d(x, kernel.reshape(-1, 1, taps, 1), groups=count)  # (image, band and phase, y, x)
    x = x.reshape(-1, count, ratio, height, width).transpose(2, 3).reshape(-1, count, height * ratio, width)
    x = pad_symmetric(x, around, around, 3)
    x = F.conv2d(x, kernel.reshape(-1, 1, 1, taps), groups=count)
    x = x.reshape(-1, count, ratio, height * ratio, width).permute(0, 1, 3, 4, 2)
    return x.reshape(*coarse.shape[:-2], height * ratio, width * ratio)


@lru_cache
def lifting_taps(sensor: Sensor, band: str, ratio: int) -> npt.NDArray[np.float64]:
    """`lift` along one axis: the weights (phase, tap), for each fine pixel of a block, of the coarse pixels around its own."""
    start, weights = sensor.taps(band, ratio)
    seen = np.zeros(PERIOD * ratio)  # what the coarse pixel 0 sees, on a circle of fine pixels
    seen[(start + np.arange(len(weights))) % len(seen)] = weights
    spectrum = np.fft.fft(seen)
    # D D' of coarse pixels is the autocorrelation of what one sees, taken at every ratio-th position
    gains = np.fft.fft(np.fft.ifft(np.abs(spectrum) ** 2).real[::ratio]).real
    spread = np.zeros_like(seen)
    spread[::ratio] = np.fft.ifft(1 / (gains + RIDGE * gains.max())).real
    response = np.fft.ifft(np.fft.fft(spread) * spectrum).real  # of a 1 in the coarse pixel 0, on the fine grid
    phases, coarse = np.arange(ratio)[:, None], np.arange(-REACH[ratio], REACH[ratio] + 1)
    taps: npt.NDArray[np.float64] = response[(phases - ratio * coarse) % len(response)]
    # what ridge and cut cost a constant, so that no band is brightened
    share = np.bincount((start + np.arange(len(weights))) % ratio, weights)
    taps /= share @ taps.sum(axis=1)
    return taps
