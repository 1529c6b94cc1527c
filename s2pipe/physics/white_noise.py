"""White noise of the bands, and what degrading a scene leaves of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from s2pipe.physics.sensor import LIKE_MTF, Sensor


def with_fine_bands(noise: Mapping[str, float], fine: Sequence[str]) -> dict[str, float]:
    """Noise by band, and of the `fine` ones the median of the 20 m bands that are most like them; 0 without any of these.

    In what one 10 m band leaves of another there is too much texture to measure it.
    """
    like = [noise[band] for band in LIKE_MTF[0] if band in noise]
    return dict.fromkeys(fine, float(np.median(like)) if like else 0.0) | dict(noise)


def noise_returned(
    degraded: npt.NDArray[np.float32],
    bands: Sequence[str],
    noise: Mapping[str, float],
    sensor: Sensor,
    ratio: int,
    random: np.random.Generator,
) -> npt.NDArray[np.float32]:
    """Degraded bands with as much white noise as they had before, of which degrading left a part.

    Parameters
    ----------
    degraded : ndarray, (band, y, x)
    bands : sequence of str
        Band of each channel.
    noise : mapping of str to float
        Standard deviation before degrading, by band; of others it is 0.
    sensor : Sensor
        What degraded them, by `ratio`.
    ratio : int
    random : numpy.random.Generator
    """
    lost = {band: noise.get(band, 0.0) * math.sqrt(max(1 - sensor.noise_left(band, ratio) ** 2, 0.0)) for band in bands}
    return noise_added(degraded, bands, lost, random)


def noise_added(
    image: npt.NDArray[np.float32], bands: Sequence[str], noise: Mapping[str, float], random: np.random.Generator
) -> npt.NDArray[np.float32]:
    """An image (band, y, x) and white noise of these standard deviations by band, of others 0."""
    levels = np.array([noise.get(band, 0.0) for band in bands])
    return (image + levels[:, None, None] * random.standard_normal(image.shape)).astype(np.float32)
