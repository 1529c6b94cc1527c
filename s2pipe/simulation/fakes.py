"""A Sharpener and a Method that do next to nothing, but have all members: for tests, benchmarks, and as templates for others."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from s2pipe.core.bands import GSDS, bands_at
from s2pipe.core.pixels import Pixels
from s2pipe.core.precision import Precision
from s2pipe.fitting.sampling import Sample
from s2pipe.methods.base import FitContext
from s2pipe.physics.sensor import Sensor


@dataclass
class FakeSharpener:
    """Repeats the pixels of the coarse bands; see `s2pipe.methods.base.Sharpener`."""

    method: str = "fake"
    sensor: Sensor = field(default_factory=Sensor)
    bands_in: tuple[str, ...] = ("B02", "B05")
    bands_out: tuple[str, ...] = ("B05",)
    bicubic_bands: tuple[str, ...] = ()
    halo: int = 6
    precision: Precision = "float32"

    def __call__(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """See `Sharpener`."""
        coarse = [(gsd, bands_at(self.bands_in, gsd)) for gsd in GSDS if gsd > 10]
        repeated = {
            band: row.repeat(gsd // 10, axis=0).repeat(gsd // 10, axis=1)
            for gsd, bands in coarse
            for band, row in zip(bands, pixels.reflectance.get(gsd, ()), strict=True)
        }
        return np.stack([repeated[band] for band in self.bands_out])

    @property
    def fingerprint(self) -> npt.NDArray[np.uint64]:
        """Of no scene."""
        return np.empty(0, dtype=np.uint64)

    def to(self, device: str) -> Self:
        """See `Sharpener.to`: it computes on any device."""
        return self

    def in_precision(self, precision: Precision) -> Self:
        """See `Sharpener.in_precision`."""
        return replace(self, precision=precision)

    def check_runs_on(self, device: str) -> None:
        """See `Sharpener.check_runs_on`: it runs everywhere."""

    def one_scale_lower(self, ratio: int) -> Self:
        """See `Sharpener.one_scale_lower`."""
        return self

    def provenance(self) -> dict[str, object]:
        """See `Sharpener.provenance`."""
        return {"method": self.method}


@dataclass
class FakeMethod:
    """Gives the Sharpener that it was made with, whatever the sample; see `s2pipe.methods.base.Method`."""

    sharpener: FakeSharpener = field(default_factory=FakeSharpener)
    name: str = "fake"

    def halo(self, gsds: Collection[int], sensor: Sensor) -> int:
        """See `Method.halo`."""
        return self.sharpener.halo

    def fit(self, sample: Sample, context: FitContext) -> FakeSharpener:
        """See `Method.fit`."""
        return self.sharpener
