"""Pairs to learn from: a piece of the scene one scale lower, and what the sensor saw there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from s2pipe.fitting.sampling import Window
from s2pipe.methods.base import Array
from s2pipe.physics.sensor import Sensor

MARGIN = {20: 2, 60: 5}
"""Pixels beside a window's edge, or nodata, whose degraded copies owe more than 1 % of their detail to padding or filling."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A piece of a scene one scale lower, and what the sensor saw there.

    Attributes
    ----------
    lower : dict of int to ndarray, (band, y, x)
        By GSD of the scene's own bands; float32 reflectance.
    observed : ndarray, (band, y, x)
        The bands to be learned, on the grid of ``lower[10]``.
    usable : ndarray, (y, x)
        Where a patch may lie, on the same grid.
    """

    lower: dict[int, Array]
    observed: Array
    usable: np.ndarray[tuple[int, int], np.dtype[np.bool_]]


def pair_of(
    window: Window, bands: dict[int, tuple[str, ...]], gsd: int, *, without: Collection[str], margin: int, sensor: Sensor
) -> Pair:
    """The window degraded by the ratio of `gsd`; usable is what lies `margin` pixels from nodata and from the window's edge.

    Bands in `without` may be nodata.
    """
    needed = {own: [i for i, band in enumerate(bands[own]) if band not in without] for own in bands if own <= gsd}
    usable = ndimage.minimum_filter(window.valid_at(gsd, needed), 2 * margin + 1, mode="constant", cval=0)
    tensors = {own: torch.from_numpy(np.ascontiguousarray(window.reflectance[own])) for own in needed}
    valid = {own: torch.from_numpy(np.ascontiguousarray(window.valid[own])) for own in needed}
    lower = {own: sensor.degrade(tensor, bands[own], gsd // 10, valid[own]).numpy() for own, tensor in tensors.items()}
    return Pair(lower=lower, observed=window.reflectance[gsd], usable=usable)
