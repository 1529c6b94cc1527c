"""20 m bands that are shifted against the 10 m bands: by how much, and the 10 m bands moved to fit."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from s2pipe.fitting.sampling import Sample, Window
from s2pipe.fitting.shifts import shifts_of
from s2pipe.physics.sensor import Sensor, pad_symmetric

log = logging.getLogger(__name__)

SMALL_SHIFT = 0.3
"""10 m pixels: shifts up to this one stay as they are, for bands that fit seem to be shifted by a fraction of it."""
CERTAIN = 0.1
"""Standard error, in 10 m pixels, below which the shift of a band counts."""

LARGEST_SHIFT = 2
"""10 m pixels along each axis that 10 m bands are moved by, at most."""
LOBES = 3
"""Of the Lanczos kernel that moves them, on either side."""


def reach() -> int:
    """10 m pixels on either side that a moved pixel depends on."""
    return LARGEST_SHIFT + LOBES


def shift_to_repair(sample: Sample, used: Sequence[str], sensor: Sensor) -> tuple[float, float]:
    """The shift that the 20 m bands have in common, along y and x, in 10 m pixels; (0, 0) where it is small or unknown."""
    table = shifts_of(sample.windows, {gsd: sample.bands[gsd] for gsd in (10, 20)}).loc[list(used)]
    certain = table[table["error"] < CERTAIN]
    dy, dx = (float(certain[name].median()) - expected_shift(sensor) for name in ("dy", "dx"))
    largest, size = LARGEST_SHIFT, max(abs(dy), abs(dx))  # NaN where nothing is certain
    if not SMALL_SHIFT < size <= largest + SMALL_SHIFT:
        return 0.0, 0.0
    dy, dx = (min(max(shift, -largest), largest) for shift in (dy, dx))
    log.warning("to sharpen the 20 m bands, the 10 m bands are moved by (%.2f, %.2f) pixels along y and x", dy, dx)
    return dy, dx


def expected_shift(sensor: Sensor) -> float:
    """That of the 20 m bands of a scene whose bands fit, in 10 m pixels.

    The corner sensor serves to degrade real scenes only. One scale lower its 10 m pixels lie up and left of the ground they
    cover, by a quarter of their edge, and so do the 20 m bands that are to be made.
    """
    return -0.25 if sensor.name == "corner" else 0.0


def moved_window(window: Window, shift: tuple[float, float]) -> Window:
    """The window with its 10 m bands `moved`."""
    fine = moved(torch.from_numpy(window.reflectance[10]), shift).numpy()
    valid = window.valid[10] & moved_valid(torch.from_numpy(window.fine_valid), shift).numpy()
    return Window(reflectance=dict(window.reflectance) | {10: fine}, valid=dict(window.valid) | {10: valid})


def moved(image: Tensor, shift: Sequence[float]) -> Tensor:
    """What an image (band, y, x) shows at p + `shift`, along y and x, as an image of p; by a Lanczos kernel (Duchon 1979)."""
    if not any(shift):
        return image
    edge = reach()
    places = torch.arange(-edge, edge + 1, dtype=image.dtype, device=image.device)
    for axis, distance in enumerate(shift, start=1):
        away = places - distance
        weights = torch.where(away.abs() < LOBES, torch.sinc(away) * torch.sinc(away / LOBES), 0.0)
        weights = (weights / weights.sum()).reshape((1, 1, -1, 1) if axis == 1 else (1, 1, 1, -1))
        image = F.conv2d(pad_symmetric(image, edge, edge, axis)[:, None], weights)[:, 0]
    return image


def moved_valid(valid: Tensor, shift: Sequence[float]) -> Tensor:
    """Where a `moved` image is made of valid pixels (y, x), but for what little the farther ones add."""
    edge = math.ceil(max(map(abs, shift)))
    return F.max_pool2d((~valid)[None].float(), 2 * edge + 1, stride=1, padding=edge)[0] == 0
