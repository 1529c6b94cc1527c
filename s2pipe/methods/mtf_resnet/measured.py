"""What a fit of mtf-resnet measures of a scene: its noise, what regressions leave of the bands, and what the network is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from s2pipe.core.lattice import STEP
from s2pipe.fitting.noise import noise_level
from s2pipe.fitting.sampling import Window
from s2pipe.methods.base import FitContext
from s2pipe.methods.learned.pairs import MARGIN, pair_of
from s2pipe.methods.mtf_resnet.inputs import RATIO, Detail, Inputs, Scaling, image_of, known_in
from s2pipe.physics.misfit import Known, misfit_of
from s2pipe.physics.sensor import Sensor
from s2pipe.physics.white_noise import noise_returned, with_fine_bands
from s2pipe.physics.wiener import MisfitModel, fit_model, lacking, shares_of

SMALLEST_WORTH = 0.05
"""Below it the network's part of a band is left out."""

Bands = Mapping[int, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of the 20 m bands that are used.

    Attributes
    ----------
    models : tuple of MisfitModel
        Of what the guess leaves of each band.
    worth : Tensor, (band, 1, 1)
        What the detail of the network is multiplied by.
    """

    models: tuple[MisfitModel, ...]
    worth: Tensor

    @classmethod
    def of(
        cls,
        windows: Sequence[Window],
        bands: Bands,
        used: Sequence[str],
        scaling: Scaling,
        detail: Detail | None,
        context: FitContext,
    ) -> Self:
        """Measured on windows of a scene; `detail` is what the network makes of inputs, None where there is none."""
        pieces = [_Piece.of(window, bands, used, context.sensor, scaling) for window in windows]
        noise = [_noise(pieces, row, band, bands, context.sensor) for row, band in enumerate(used)]
        models = _models(pieces, used, noise, context.sensor)
        worth = torch.zeros(len(used))
        if detail is not None:
            levels = dict(zip(used, noise, strict=True))
            for group in context.sensor.groups(used):
                rows = [used.index(band) for band in group]
                worth[rows] = _worth(windows, bands, used, rows, levels, detail, context)
        return cls(models=models, worth=torch.where(worth < SMALLEST_WORTH, 0.0, worth)[:, None, None])


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A window, and what the regressions make of it.

    Attributes
    ----------
    window : Window
    rows : list of int
        Of the bands that are used among all 20 m bands.
    inputs : Inputs
    known : Known
    guess, misfit, left : Tensor, (band, y, x)
        At 10 m; what is observed less the degraded guess; what the regression over the whole scene leaves. In reflectance.
    """

    window: Window
    rows: list[int]
    inputs: Inputs
    known: Known
    guess: Tensor
    misfit: Tensor
    left: Tensor

    @classmethod
    def of(cls, window: Window, bands: Bands, used: Sequence[str], sensor: Sensor, scaling: Scaling) -> Self:
        rows = [bands[20].index(band) for band in used]
        fine, observed = torch.from_numpy(window.reflectance[10]), torch.from_numpy(window.reflectance[20][rows])
        known = known_in(window, rows)
        inputs = Inputs.of(fine, observed, known, bands[10], used, sensor, scaling)
        guess = scaling.image(inputs.guess)
        return cls(
            window=window,
            rows=rows,
            inputs=inputs,
            guess=guess,
            known=known,
            misfit=misfit_of(guess, observed, sensor, used, RATIO, known),
            left=inputs.misfit * scaling.guess_detail * scaling.coarse_scale,
        )

    def valid(self, row: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """Where a band and all 10 m bands are valid, on the grid of the 20 m bands."""
        return self.known.coarse[row].numpy()


def _noise(pieces: Sequence[_Piece], row: int, band: str, bands: Bands, sensor: Sensor) -> float:
    matched = sensor.matched_to([band])
    return noise_level(
        (
            piece.left[row].numpy(),
            matched.degrade(torch.from_numpy(piece.window.reflectance[10]), bands[10], RATIO, piece.known.fine).numpy(),
            piece.valid(row),
        )
        for piece in pieces
    )


def _models(pieces: Sequence[_Piece], used: Sequence[str], noise: Sequence[float], sensor: Sensor) -> tuple[MisfitModel, ...]:
    return tuple(
        fit_model(((piece.misfit[row].numpy(), piece.valid(row)) for piece in pieces), sensor, band, RATIO, noise[row])
        for row, band in enumerate(used)
    )


def _worth(
    windows: Sequence[Window],
    bands: Bands,
    used: Sequence[str],
    rows: Sequence[int],
    noise: Mapping[str, float],
    detail: Detail,
    context: FitContext,
) -> Tensor:
    """What multiplies the network's detail of some bands best one scale lower, where what was observed is the answer."""
    sensor = context.sensor
    matched, random = sensor.matched_to([used[row] for row in rows]), np.random.default_rng(0)
    above = [part for window in windows if (part := window.crop_to_multiple(STEP * RATIO)) is not None]
    below = [with_noise(_lowered(part, bands, matched), bands, noise, matched, random) for part in above]
    if not below:
        return torch.zeros(len(rows))
    scaling = Scaling.of(below, bands, used, sensor)
    pieces = [_Piece.of(window, bands, used, sensor, scaling) for window in below]
    models = _models(pieces, used, [noise[band] for band in used], sensor)
    product, square = torch.zeros(len(used), dtype=torch.float64), torch.zeros(len(used), dtype=torch.float64)
    for piece, part in zip(pieces, above, strict=True):
        added = image_of(detail(piece.inputs) * scaling.guess_detail[..., None]) * scaling.coarse_scale
        shares = shares_of(piece.misfit, models, sensor, used, RATIO)
        added = added - lacking(sensor.degrade(added, used, RATIO), models, sensor, used, RATIO, shares)
        corrected = piece.guess + lacking(piece.misfit, models, sensor, used, RATIO, shares)
        lacked = torch.from_numpy(part.reflectance[20][piece.rows]) - corrected
        usable = np.stack([piece.window.valid_at(10, {10: [0], 20: [row]}) for row in piece.rows])
        weight = torch.from_numpy(usable)
        product += (added * lacked * weight).sum(dim=(1, 2))
        square += (added.square() * weight).sum(dim=(1, 2))
    return (product / square.clamp_min(1e-12)).clamp(0, 1).float()[list(rows)]


def _lowered(window: Window, bands: Bands, sensor: Sensor) -> Window:
    """The window as the sensor would see it from twice as far; a 20 m band is valid wherever it was, away from its own nodata."""
    margin = MARGIN[20]
    pair = pair_of(window, {gsd: bands[gsd] for gsd in (10, 20)}, 20, without=bands[20], margin=margin, sensor=sensor)
    own = ndimage.minimum_filter(window.valid[20], (1, 2 * margin + 1, 2 * margin + 1), mode="constant", cval=0)
    count, height, width = own.shape
    blocks = (own & pair.usable).reshape(count, height // RATIO, RATIO, width // RATIO, RATIO)
    valid = {10: np.broadcast_to(pair.usable, pair.lower[10].shape), 20: blocks.all(axis=(2, 4))}
    return Window(reflectance=pair.lower, valid=valid)


def with_noise(window: Window, bands: Bands, noise: Mapping[str, float], sensor: Sensor, random: np.random.Generator) -> Window:
    """A degraded window of the 10 and 20 m bands with as much noise as these had, of which degrading left a part."""
    levels = with_fine_bands(noise, bands[10])
    reflectance = {}
    for gsd, array in window.reflectance.items():
        reflectance[gsd] = noise_returned(array, bands[gsd], levels, sensor, RATIO, random)
    return Window(reflectance=reflectance, valid=window.valid)
