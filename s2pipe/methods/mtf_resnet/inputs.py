"""What mtf-resnet makes of the bands before its network: a guess at the 20 m bands, and the channels that the network is shown.

All of it lies on the grid of the 20 m bands, where the four 10 m pixels in one of 20 m are stacked as channels: nothing is
interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s2pipe.core.bands import BANDS_BY_GSD
from s2pipe.fitting.sampling import Window
from s2pipe.methods.classical.pan import least_squares
from s2pipe.methods.mtf_resnet.local_regression import regress_locally
from s2pipe.physics import misfit as misfits
from s2pipe.physics import window
from s2pipe.physics.misfit import Known, fill_smoothly
from s2pipe.physics.sensor import LIKE_MTF, Sensor

RATIO = 2
FINE, COARSE = BANDS_BY_GSD[10], BANDS_BY_GSD[20]
MOST_LIKE_FINE = LIKE_MTF[0]
"""The 20 m bands that are most like the 10 m bands: what the network is shown of these is degraded to be compared with them."""

IN_SQUARES = 2 * len(FINE) + len(COARSE)
"""Images of 10 m that the network is shown; they come first, each as four channels."""
CHANNELS = RATIO**2 * IN_SQUARES + 3 * len(COARSE)
TOLD = len(FINE) + len(COARSE) + 1

SMALLEST = 1e-4
"""Reflectance, at least, that bands are scaled by: a constant one stays near 0, and next to nothing is added to it."""
SMALLEST_DETAIL = 0.01
"""The same for the detail of scaled bands."""


def reach(sensor: Sensor) -> int:
    """10 m pixels on either side of a square that its guess and its channels depend on."""
    return RATIO * (window.REACH + misfits.REACH) + sensor.reach(RATIO)


def _shown_by(sensor: Sensor) -> Sensor:
    """What degrades the 10 m bands that the network is shown, whatever 20 m bands there are; an MTF not given is the default."""
    return replace(sensor, mtf=tuple((dict(Sensor().mtf) | dict(sensor.mtf)).items())).matched_to(MOST_LIKE_FINE)


def squares_of(image: Tensor) -> Tensor:
    """(band, 4, y / 2, x / 2) of an image (band, y, x): the pixels of each square of 2 x 2 stacked."""
    result: Tensor = F.pixel_unshuffle(image[:, None], RATIO)
    return result


def image_of(squares: Tensor) -> Tensor:
    """The image (band, y, x) whose `squares_of` these are."""
    return F.pixel_shuffle(squares.flatten(0, 1), RATIO)


def describe(sensor: Sensor) -> Tensor:
    """The sensor's parameters for the network, (TOLD,): widths and centres of its point spread functions."""
    complete = _shown_by(sensor)
    spreads = []
    for band in (*FINE, *COARSE):
        start, weights = complete.taps(band, RATIO)
        places = start + np.arange(len(weights))
        spreads.append(math.sqrt(weights @ (places - weights @ places) ** 2))
    # brought to about -1 to 1: the Gaussians of Sentinel-2 have a sigma of 0.9 to 1.1 pixels, and centres at 0.5 or 0
    return torch.tensor([*(3 * (spread - 1) for spread in spreads), 2 * (sensor.phase(RATIO) - 0.5)], dtype=torch.float32)


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What brings the bands of a scene to a mean of 0 and a standard deviation of 1, and how they are related over all of it.

    Attributes
    ----------
    fine_mean, fine_scale : Tensor, (band, 1, 1)
        Of the 10 m bands, degraded, in reflectance.
    coarse_mean, coarse_scale : Tensor, (band, 1, 1)
        Of the 20 m bands.
    mixtures : Tensor, (band, 1 + band of 10 m)
        Intercept and slopes that fit the scaled 20 m bands best to the scaled 10 m bands, degraded.
    fine_detail, guess_detail : Tensor, (band, 1, 1)
        Standard deviation of the scaled 10 m bands, and of the guesses, around the coarse pixels that they lie in.
    """

    fine_mean: Tensor
    fine_scale: Tensor
    coarse_mean: Tensor
    coarse_scale: Tensor
    mixtures: Tensor
    fine_detail: Tensor
    guess_detail: Tensor

    @classmethod
    def of(cls, windows: Sequence[Window], bands: Mapping[int, Sequence[str]], used: Sequence[str], sensor: Sensor) -> Self:
        """Of windows, which hold `bands`: each band of 20 m in `used` from where it and all 10 m bands are valid."""
        rows = [bands[20].index(band) for band in used]
        fine = [torch.from_numpy(window.reflectance[10]) for window in windows]
        known = [known_in(window, rows) for window in windows]

        def degraded(operator: Sensor) -> list[Tensor]:
            pairs = zip(fine, known, strict=True)
            return [operator.degrade(image, bands[10], RATIO, where.fine) for image, where in pairs]

        valid = _where_valid(windows, {10: range(len(bands[10]))})
        fine_mean, fine_scale = _moments(degraded(_shown_by(sensor)), valid, SMALLEST)
        coarse = [torch.from_numpy(window.reflectance[20][rows]) for window in windows]
        own = [_where_valid(windows, {10: range(len(bands[10])), 20: [row]}) for row in rows]
        moments = [_moments([image[[i]] for image in coarse], mask, SMALLEST) for i, mask in enumerate(own)]
        coarse_mean, coarse_scale = (torch.cat(parts) for parts in zip(*moments, strict=True))
        scaled = [(image - coarse_mean) / coarse_scale for image in coarse]
        mixtures = []
        for group in sensor.groups(used):
            low = [(image - fine_mean) / fine_scale for image in degraded(sensor.matched_to(group))]
            for i in map(used.index, group):
                observed = _pixels([image[[i]] for image in scaled], own[i])[0]
                mixtures.append(least_squares(_pixels(low, own[i]).numpy(), observed.numpy()))
        scaling = cls(
            fine_mean=fine_mean,
            fine_scale=fine_scale,
            coarse_mean=coarse_mean,
            coarse_scale=coarse_scale,
            mixtures=torch.from_numpy(np.stack(mixtures).astype(np.float32)),
            fine_detail=torch.ones_like(fine_mean),
            guess_detail=torch.ones_like(coarse_mean),
        )
        inputs = [Inputs.of(*of_window, bands[10], used, sensor, scaling) for of_window in zip(fine, coarse, known, strict=True)]
        _, fine_detail = _moments([part.fine_detail for part in inputs], valid, SMALLEST_DETAIL)
        details = [_moments([part.guess_detail[[i]] for part in inputs], mask, SMALLEST_DETAIL)[1] for i, mask in enumerate(own)]
        return replace(scaling, fine_detail=fine_detail, guess_detail=torch.cat(details))

    def to(self, device: str) -> Self:
        """A copy on `device`."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def image(self, guess: Tensor) -> Tensor:
        """The image (band, y, x) in reflectance of scaled 20 m bands, as squares (band, 4, y, x)."""
        return image_of(guess) * self.coarse_scale + self.coarse_mean

    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def known_in(window: Window, rows: Sequence[int]) -> Known:
    """Where all 10 m bands of a window, and its 20 m bands at `rows`, are valid."""
    return Known.of(torch.from_numpy(window.fine_valid), torch.from_numpy(window.valid[20][rows]))


def _where_valid(windows: Sequence[Window], needed: Mapping[int, Sequence[int]]) -> list[Tensor]:
    """Where, on the grid of the 20 m bands, the bands `needed` are valid in each window; everywhere if they are nowhere."""
    valid = [torch.from_numpy(window.valid_at(20, needed)) for window in windows]
    return valid if any(mask.any() for mask in valid) else [torch.ones_like(mask) for mask in valid]


def _pixels(images: Sequence[Tensor], valid: Sequence[Tensor]) -> Tensor:
    """Numbers of images (band, ..., y, x) where they are valid (y, x), as (band, number)."""
    return torch.cat([image[..., mask].flatten(1) for image, mask in zip(images, valid, strict=True)], dim=1)


def _moments(images: Sequence[Tensor], valid: Sequence[Tensor], smallest: float) -> tuple[Tensor, Tensor]:
    """Mean, and standard deviation of at least `smallest`, (band, 1, 1) of images (band, ..., y, x) where they are valid."""
    pixels = _pixels(images, valid).double()
    mean, deviation = pixels.mean(dim=1).float(), pixels.std(dim=1, correction=0).float().clamp_min(smallest)
    return mean[:, None, None], deviation[:, None, None]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The bands of a piece of a scene, scaled, and what a regression makes of them.

    Attributes
    ----------
    fine, fine_detail : Tensor, (band of 10 m, 4, y, x)
        Squares of the 10 m bands, and of these less the degraded bands.
    coarse : Tensor, (band of 20 m, y, x)
    guess, guess_detail : Tensor, (band of 20 m, 4, y, x)
        The 10 m bands mixed anew for each coarse pixel, by a regression in its surroundings, and this less `coarse`.
    misfit, local_misfit : Tensor, (band of 20 m, y, x)
        What the mixtures of the scene, and those of the surroundings, leave of `coarse`.
    """

    fine: Tensor
    fine_detail: Tensor
    coarse: Tensor
    guess: Tensor
    guess_detail: Tensor
    misfit: Tensor
    local_misfit: Tensor

    @classmethod
    def of(
        cls,
        fine: Tensor,
        coarse: Tensor,
        known: Known,
        names: Sequence[str],
        used: Sequence[str],
        sensor: Sensor,
        scaling: Scaling,
    ) -> Self:
        """Of reflectance (band, y, x): 10 m bands with their `names`, and the 20 m bands `used`, which the scaling is of."""

        @cache  # what the network is shown is degraded as one of the groups is
        def degraded(operator: Sensor) -> Tensor:
            return (operator.degrade(fine, names, RATIO, known.fine) - scaling.fine_mean) / scaling.fine_scale

        squares = squares_of((fine - scaling.fine_mean) / scaling.fine_scale)
        coarse = (coarse - scaling.coarse_mean) / scaling.coarse_scale
        parts = []
        for group in sensor.groups(used):
            low = degraded(sensor.matched_to(group))
            rows = [used.index(band) for band in group]
            mixtures = scaling.mixtures[rows, :, None, None]
            where = known.coarse[rows]
            misfit = fill_smoothly(coarse[rows] - _mixed(mixtures, low[:, None])[:, 0], where)
            local = regress_locally(low, misfit, where)
            left = fill_smoothly(misfit - _mixed(local, low[:, None])[:, 0], where)
            parts.append((_mixed(mixtures + local, squares), misfit, left))
        guess, misfit, local_misfit = (torch.cat(images) for images in zip(*parts, strict=True))
        return cls(
            fine=squares,
            fine_detail=(squares - degraded(_shown_by(sensor))[:, None]) / scaling.fine_detail[..., None],
            coarse=coarse,
            guess=guess,
            guess_detail=(guess - coarse[:, None]) / scaling.guess_detail[..., None],
            misfit=misfit / scaling.guess_detail,
            local_misfit=local_misfit / scaling.guess_detail,
        )

    def to(self, device: str) -> Self:
        """A copy on `device`."""
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def channels(self, slots: Sequence[int]) -> Tensor:
        """(CHANNELS, y, x): what the network is shown, its 20 m bands at `slots` of all there are; others are 0."""
        own = self.coarse.new_zeros(len(COARSE), RATIO**2 + 3, *self.coarse.shape[1:])
        own[list(slots)] = torch.cat(
            [self.guess_detail, torch.stack([self.coarse, self.misfit, self.local_misfit], dim=1)], dim=1
        )
        squares, rest = own[:, : RATIO**2], own[:, RATIO**2 :]
        return torch.cat([part.flatten(0, 1) for part in (self.fine, self.fine_detail, squares, rest)])


Detail = Callable[[Inputs], Tensor]
"""What a network adds to a guess, (band of 20 m, 4, y, x), in the unit of `Scaling.guess_detail`."""


def _mixed(mixtures: Tensor, squares: Tensor) -> Tensor:
    """Squares (row, 4, y, x) mixed of those of bands (band, 4, y, x), by mixtures (row, 1 + band, y, x), intercept first."""
    result = mixtures[:, :1].expand(-1, squares.shape[1], *squares.shape[2:]).clone()
    for slope, band in zip(mixtures[:, 1:].unbind(1), squares, strict=True):
        result.addcmul_(slope[:, None], band)
    return result
