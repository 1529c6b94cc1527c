"""Pixels of one area at every resolution: reflectance, and where it is valid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Arrays (band, y, x) by GSD in metres, finest first.

    Attributes
    ----------
    reflectance : mapping of int to ndarray
        float32, finite: what is not valid is filled.
    valid : mapping of int to ndarray
        bool: where each band was measured, neither nodata nor saturated.
    """

    reflectance: Mapping[int, npt.NDArray[np.float32]]
    valid: Mapping[int, npt.NDArray[np.bool_]]

    @property
    def fine_valid(self) -> npt.NDArray[np.bool_]:
        """Where all 10 m bands are valid, (y, x)."""
        result: npt.NDArray[np.bool_] = np.logical_and.reduce(self.valid[10])
        return result

    def cut(self, rows: slice, columns: slice) -> Self:
        """These rows and columns, in 10 m pixels, which begin and end on the lattice of all resolutions."""

        def part(gsd: int) -> tuple[slice, slice, slice]:
            down, across = (slice((axis.start or 0) * 10 // gsd, axis.stop * 10 // gsd) for axis in (rows, columns))
            return slice(None), down, across

        reflectance = {gsd: array[part(gsd)] for gsd, array in self.reflectance.items()}
        return replace(self, reflectance=reflectance, valid={gsd: array[part(gsd)] for gsd, array in self.valid.items()})
