"""Fakes of what a method is made of, with all that the pipeline may ask of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from s2pipe.core.pixels import Pixels
from s2pipe.core.precision import Precision
from s2pipe.fitting.sampling import Sample
from s2pipe.methods.base import FitContext
from s2pipe.physics.sensor import Sensor


@dataclass
class FakeSharpener:
    """Repeats the 20 m bands; see `s2pipe.methods.base.Sharpener`."""

    method: str = "fake"
    sensor: Sensor = field(default_factory=Sensor)
    bands_in: tuple[str, ...] = ("B02", "B05")
    bands_out: tuple[str, ...] = ("B05",)
    bicubic_bands: tuple[str, ...] = ()
    halo: int = 6
    precision: Precision = "float32"

    def __call__(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        return pixels.reflectance[20].repeat(2, axis=1).repeat(2, axis=2)

    @property
    def fingerprint(self) -> npt.NDArray[np.uint64]:
        return np.empty(0, dtype=np.uint64)

    def to(self, device: str) -> Self:
        return self

    def in_precision(self, precision: Precision) -> Self:
        return replace(self, precision=precision)

    def check_runs_on(self, device: str) -> None:
        pass

    def one_scale_lower(self, ratio: int) -> Self:
        return self

    def provenance(self) -> dict[str, object]:
        return {"method": self.method}


@dataclass
class FakeMethod:
    """Gives the Sharpener that it was made with, whatever the sample; see `s2pipe.methods.base.Method`."""

    sharpener: FakeSharpener = field(default_factory=FakeSharpener)
    name: str = "fake"

    def halo(self, gsds: object, sensor: Sensor) -> int:
        return self.sharpener.halo

    def fit(self, sample: Sample, context: FitContext) -> FakeSharpener:
        return self.sharpener
