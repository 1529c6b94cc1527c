"""Bicubic interpolation at the places the sensor's geometry says: no detail is added, nothing is fitted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
import xarray as xr
from torch import Tensor

from s2pipe.bands import bands_at
from s2pipe.cube import bands_by_gsd
from s2pipe.methods.base import TorchSharpener, halo_of, upsampling_reach
from s2pipe.progress import Progress
from s2pipe.sensor import Sensor


@dataclass(frozen=True, kw_only=True)
class Bicubic:
    """Phase-aware bicubic interpolation (Keys 1981, a = -0.5) of each band by itself."""

    def halo(self, gsds: Collection[int], sensor: Sensor) -> int:
        """See `Method.halo`."""
        return halo_of(gsds, upsampling_reach)

    def fit(self, cube: xr.DataTree, *, sensor: Sensor, seed: int, device: str, progress: Progress | None) -> BicubicSharpener:
        """Nothing is read of the cube but its bands' names."""
        names = bands_by_gsd(cube)
        coarse = tuple(band for gsd in names if gsd > 10 for band in names[gsd])
        return BicubicSharpener(
            method="bicubic",
            options={},
            seed=seed,
            sensor=sensor,
            bands_in=coarse,
            bands_out=coarse,
            halo=self.halo(names, sensor),
        )


class BicubicSharpener(TorchSharpener):
    """Interpolates `bands_in`."""

    def forward(self, r10m: Tensor, r20m: Tensor | None, r60m: Tensor | None) -> Tensor:
        """See `TorchSharpener.forward`."""
        return torch.cat(
            [
                self.sensor.upsample(array, gsd // 10)
                for gsd, array in ((20, r20m), (60, r60m))
                if array is not None and bands_at(self.bands_out, gsd)
            ]
        )
