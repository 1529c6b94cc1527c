"""What a guess at a fine image leaves of an observation, where holes are no observation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from s2pipe.physics.sensor import Sensor, pad_symmetric

REACH = 1
"""Pixels on either side that a hole in a misfit is filled from."""

PRIOR = 0.05
"""Weight, in a window, of a misfit of 0: holes are filled with the less the fewer pixels around them are known."""


@dataclass(frozen=True)
class Known:
    """Where something was measured.

    Attributes
    ----------
    fine : Tensor of bool, (y, x) or (band, y, x)
        Fine pixels that may be compared with what was observed.
    coarse : Tensor of bool, (band, y / ratio, x / ratio)
        Where this was observed, and all the fine pixels in the coarse one are known: the others are compared with nothing.
    """

    fine: Tensor
    coarse: Tensor

    @classmethod
    def of(cls, fine: Tensor, coarse: Tensor) -> Self:
        """Of where fine (y, x) or (band, y, x) and coarse pixels (band, y, x) are valid."""
        ratio = fine.shape[-1] // coarse.shape[-1]
        height, width = coarse.shape[-2:]
        whole = fine.reshape(*fine.shape[:-2], height, ratio, width, ratio).all(-1).all(-2)
        return cls(fine=fine, coarse=coarse & whole)

    @classmethod
    def everywhere(cls, fine: Tensor, coarse: Tensor) -> Self:
        """All pixels of a fine and a coarse image (band, y, x)."""
        return cls(fine=torch.ones_like(fine[0], dtype=torch.bool), coarse=torch.ones_like(coarse, dtype=torch.bool))


def misfit_of(guess: Tensor, observed: Tensor, sensor: Sensor, bands: Sequence[str], ratio: int, known: Known) -> Tensor:
    """What was observed less what the sensor would see of a guess; where this is not known, what is left around it.

    Parameters
    ----------
    guess : Tensor, (band, y, x)
    observed : Tensor, (band, y / ratio, x / ratio)
    sensor : Sensor
    bands : sequence of str
        Band whose MTF applies to each channel.
    ratio : int
        2 or 6.
    known : Known

    Returns
    -------
    Tensor, like `observed`
    """
    return fill_smoothly(observed - sensor.degrade(guess, bands, ratio, known.fine), known.coarse)


def fill_smoothly(misfit: Tensor, known: Tensor) -> Tensor:
    """A misfit (band, y, x), where it is not known the mean of what is around it, drawn to 0."""
    if bool(known.all()):
        return misfit
    weights = known.to(misfit)
    around = _mean_around(misfit * weights) / (_mean_around(weights) + PRIOR)
    return torch.where(known, misfit, around)


def _mean_around(images: Tensor) -> Tensor:
    """Means of images (image, y, x) over each pixel and its neighbours, mirrored at the edges."""
    padded = pad_symmetric(pad_symmetric(images, REACH, REACH, 1), REACH, REACH, 2)
    return F.avg_pool2d(padded, 2 * REACH + 1, stride=1)
