"""What the network of mtf-resnet learns from: scenes one scale lower, where what the sensor saw at 20 m is the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2pipe.core.precision import Precision, computing_in
from s2pipe.fitting.sampling import Window, patch_corners
from s2pipe.methods.base import Array
from s2pipe.methods.learned.pairs import MARGIN, pair_of
from s2pipe.methods.mtf_resnet.inputs import COARSE, IN_SQUARES, RATIO, Inputs, Scaling, describe, known_in
from s2pipe.physics.misfit import misfit_of
from s2pipe.physics.projection import lift, unseen
from s2pipe.physics.sensor import Sensor

Turn = Callable[[Tensor], Tensor]
"""A symmetry of images."""

PATCHES = (32, 20, 12)
"""Edges of a patch on the grid of the degraded 20 m bands: the largest is taken of which there is one without nodata."""
STRIDE = 4
BATCH = 4
RIM = 8
"""Pixels along a patch's edge that count for nothing, because what the sensor sees of them lies outside too."""
ROBUST = 2.0
"""Errors below this many times the mean error of the guess count by their square, as in the SRE, larger ones by their size."""


def lowered(window: Window, bands: Mapping[int, tuple[str, ...]], used: Sequence[str], sensor: Sensor) -> Window:
    """A window of the 10 and 20 m bands as the sensor would see it from twice as far; `used` are those of 20 m that matter."""
    bands = {gsd: bands[gsd] for gsd in (10, 20)}
    without = [band for band in bands[20] if band not in used]
    pair = pair_of(window, bands, 20, without=without, margin=MARGIN[20], sensor=sensor)
    height, width = pair.usable.shape
    usable = {10: pair.usable, 20: pair.usable.reshape(height // RATIO, RATIO, width // RATIO, RATIO).all(axis=(1, 3))}
    valid = {gsd: np.broadcast_to(mask, (len(bands[gsd]), *mask.shape)) for gsd, mask in usable.items()}
    return Window(reflectance=pair.lower, valid=valid)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A piece of a scene one scale lower, and what is to be made of it.

    Attributes
    ----------
    channels : Tensor, (CHANNELS, y, x)
        What the network is shown, see `Inputs.channels`.
    slots : tuple of int
        Which of all 20 m bands it has.
    unit : Tensor, (band, 1, 1)
        Reflectance that 1 in the network's output stands for.
    left : Tensor, (band, 2 y, 2 x)
        What the guess, once projected onto the observation, lacks of the truth; reflectance.
    error : Tensor, (band, 1, 1)
        The mean of its size.
    usable : ndarray, (y, x)
        Where all bands are valid, on the grid of the channels.
    edge : int
        Of a patch, on the same grid.
    corners : ndarray, (patch, 2)
        Row and column of every patch without an unusable pixel.
    sensor : Sensor
        What the network is told of.
    scored : tuple of int
        Rows of the bands that count.
    """

    channels: Tensor
    slots: tuple[int, ...]
    unit: Tensor
    left: Tensor
    error: Tensor
    usable: npt.NDArray[np.bool_]
    edge: int
    corners: npt.NDArray[np.intp]
    sensor: Sensor
    scored: tuple[int, ...]

    @classmethod
    def of(
        cls,
        lower: Window,
        truth: Array,
        bands: Mapping[int, Sequence[str]],
        used: Sequence[str],
        sensor: Sensor,
        *,
        scored: Sequence[str] | None = None,
    ) -> Self:
        """Of a window one scale lower, which holds `bands`, and the truth (band, y, x) for those of 20 m that are used.

        `scored` are those that count, by default all of these.
        """
        scaling = Scaling.of([lower], bands, used, sensor)
        rows = [bands[20].index(band) for band in used]
        fine, coarse = torch.from_numpy(lower.reflectance[10]), torch.from_numpy(lower.reflectance[20][rows])
        known = known_in(lower, rows)
        inputs = Inputs.of(fine, coarse, known, bands[10], used, sensor, scaling)
        guess = scaling.image(inputs.guess)
        misfit = misfit_of(guess, coarse, sensor, used, RATIO, known)
        left = torch.from_numpy(truth) - guess - lift(misfit, sensor, used, RATIO)
        needed = {10: range(len(bands[10])), 20: rows}
        usable = lower.valid_at(20, needed)
        edge, corners = next(
            ((edge, corners) for edge, corners in _patches(usable) if len(corners)), (0, np.empty((0, 2), np.intp))
        )
        valid = torch.from_numpy(lower.valid_at(10, needed))
        size = left[:, valid].abs().mean(dim=1)[:, None, None] if valid.any() else torch.ones(len(used), 1, 1)
        slots = tuple(COARSE.index(band) for band in used)
        return cls(
            channels=inputs.channels(slots),
            slots=slots,
            unit=scaling.guess_detail * scaling.coarse_scale,
            left=left,
            error=size.clamp_min(1e-5),  # a tenth of a DN: less cannot be distinguished from rounding
            usable=usable,
            edge=edge,
            corners=corners,
            sensor=sensor,
            scored=tuple(used.index(band) for band in scored or used),
        )

    def split(self) -> tuple[Self, Self]:
        """Two examples of the same piece, whose patches share no pixel: the second has those of the lower quarter.

        Both are without patches where the piece is too small.
        """
        height = len(self.usable)
        for edge, corners in _patches(self.usable):
            border = min(height * 3 // 4, height - edge) // STRIDE * STRIDE
            above, below = corners[corners[:, 0] + edge <= border], corners[corners[:, 0] >= border]
            if len(above) and len(below):
                return replace(self, edge=edge, corners=above), replace(self, edge=edge, corners=below)
        return (replace(self, corners=corners[:0]),) * 2

    def loss(
        self,
        network: nn.Module,
        random: np.random.Generator,
        device: str,
        precision: Precision,
        *,
        hiding: float = 0.0,
        turned: bool = True,
    ) -> Tensor:
        """Robust squared error, in mean errors of the guess, in `BATCH` random patches.

        Parameters
        ----------
        network, random, device, precision
        hiding : float
            Share of calls in which all but a random number of the bands are hidden from the network and from the loss.
        turned : bool
            Whether patches are turned at random.
        """
        chosen = self.corners[random.integers(len(self.corners), size=BATCH)]
        rows = list(range(len(self.slots)))
        if random.random() < hiding:
            rows = sorted(random.choice(rows, size=random.integers(1, len(rows) + 1), replace=False).tolist())
        judged = [row for row in rows if row in self.scored] or list(self.scored)
        turn = self._turn(random) if turned else _as_it_is
        shown = torch.stack([self._channels(y, x, turn) for y, x in chosen])
        for row in set(range(len(self.slots))) - {*rows, *judged}:
            shown[:, _channels_of(self.slots[row])] = 0
        left = torch.stack(
            [turn(self.left[judged, RATIO * y : RATIO * (y + self.edge), RATIO * x : RATIO * (x + self.edge)]) for y, x in chosen]
        )
        shown, left, unit, error = (tensor.to(device) for tensor in (shown, left, self.unit[judged], self.error[judged]))
        told = describe(self.sensor).to(device).expand(len(shown), -1)
        with computing_in(precision, shown.device):
            output = network(shown.contiguous(memory_format=torch.channels_last), told).float()
        slots = [self.slots[row] for row in judged]
        detail = F.pixel_shuffle(output, RATIO)[:, slots] * unit
        added = unseen(detail, self.sensor, [COARSE[slot] for slot in slots], RATIO)
        inner = (..., slice(RIM, -RIM), slice(RIM, -RIM))
        return F.huber_loss((added / error)[inner], (left / error)[inner], delta=ROBUST)

    def _channels(self, y: int, x: int, turn: Turn) -> Tensor:
        patch = self.channels[:, y : y + self.edge, x : x + self.edge]
        squares = RATIO**2 * IN_SQUARES
        images = turn(F.pixel_shuffle(patch[:squares], RATIO))
        return torch.cat([F.pixel_unshuffle(images, RATIO), turn(patch[squares:])])

    def _turn(self, random: np.random.Generator) -> Turn:
        """A random symmetry of the sensor: the transposition alone, where coarse pixels lie in the corner of their block."""
        down, across, transposed = random.integers(2, size=3)
        flipped = [axis for axis, wanted in ((1, down), (2, across)) if wanted and self.sensor.name != "corner"]

        def turn(image: Tensor) -> Tensor:
            return (image.transpose(1, 2) if transposed else image).flip(flipped)

        return turn


def _as_it_is(image: Tensor) -> Tensor:
    return image


def _channels_of(slot: int) -> list[int]:
    """Positions of the channels that show one of the 20 m bands."""
    squares, rest = RATIO**2 * (IN_SQUARES - len(COARSE) + slot), RATIO**2 * IN_SQUARES + 3 * slot
    return [*range(squares, squares + RATIO**2), *range(rest, rest + 3)]


def _patches(usable: npt.NDArray[np.bool_]) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """For each edge, the largest first, the corners of the patches all of whose pixels are usable."""
    for edge in PATCHES:
        yield edge, patch_corners(usable, size=edge, stride=STRIDE)
