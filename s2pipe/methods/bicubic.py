"""Bicubic interpolation at the places the sensor's geometry says: no detail is added, nothing is fitted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from s2pipe.bands import bands_at
from s2pipe.methods.base import TorchSharpener, halo_of, upsampling_reach
from s2pipe.progress import Progress
from s2pipe.sampling import Sample
from s2pipe.sensor import Sensor


@dataclass(frozen=True, kw_only=True)
class Bicubic:
    """Phase-aware bicubic interpolation (Keys 1981, a = -0.5) of each band by itself."""

    def halo(self, gsds: Collection[int], sensor: Sensor) -> int:
        """See `Method.halo`."""
        return halo_of(gsds, upsampling_reach)

    def fit(
        self,
        sample: Sample,
        *,
        sensor: Sensor,
        seed: int,
        device: str,
        progress: Progress | None,
        checkpoint: Path | None,
    ) -> BicubicSharpener:
        """Nothing is used of the sample but its bands' names."""
        return BicubicSharpener(
            method="bicubic",
            options={},
            seed=seed,
            sensor=sensor,
            bands_in=sample.targets,
            bands_out=sample.targets,
            halo=self.halo(sample.gsds, sensor),
        )


class BicubicSharpener(TorchSharpener):
    """Interpolates `bands_in`."""

    @classmethod
    def restore(cls, weights: dict[str, Tensor], **fields: Any) -> Self:
        """See `TorchSharpener.restore`."""
        return cls(**fields)

    def forward(self, r10m: Tensor, r20m: Tensor | None, r60m: Tensor | None) -> Tensor:
        """See `TorchSharpener.forward`."""
        return torch.cat(
            [
                self.sensor.upsample(array, gsd // 10)
                for gsd, array in ((20, r20m), (60, r60m))
                if array is not None and bands_at(self.bands_out, gsd)
            ]
        )
