"""Interpolation at the positions that the sensor's geometry gives: no detail is added, nothing is fitted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Self, Unpack

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from s2pipe.core.bands import bands_at
from s2pipe.fitting.sampling import Sample
from s2pipe.methods.attributes import Fields
from s2pipe.methods.base import FitContext, TensorPixels, TorchSharpener, halo_of, upsampling_reach
from s2pipe.physics.sensor import Sensor

SPLINE_REACH = 10
"""Coarse pixels on either side that a cubic spline is taken to depend on: the weight of others is below 2e-6."""


@dataclass(frozen=True, kw_only=True)
class Bicubic:
    """Phase-aware bicubic interpolation of each band by itself: the local cubic of Keys 1981, a = -0.5."""

    name: ClassVar[str] = "bicubic"

    def halo(self, gsds: Collection[int], sensor: Sensor) -> int:
        """See `Method.halo`."""
        return halo_of(gsds, upsampling_reach)

    def fit(self, sample: Sample, context: FitContext) -> BicubicSharpener:
        """Nothing is used of the sample but its bands' names."""
        return BicubicSharpener(**_fields(self, sample, context))


@dataclass(frozen=True, kw_only=True)
class Spline:
    """Phase-aware interpolation of each band by the cubic spline through its pixels (Hou and Andrews 1978)."""

    name: ClassVar[str] = "spline"

    def halo(self, gsds: Collection[int], sensor: Sensor) -> int:
        """See `Method.halo`."""
        return halo_of(gsds, lambda ratio: ratio * SPLINE_REACH)

    def fit(self, sample: Sample, context: FitContext) -> SplineSharpener:
        """Nothing is used of the sample but its bands' names."""
        return SplineSharpener(**_fields(self, sample, context))


def _fields(recipe: Bicubic | Spline, sample: Sample, context: FitContext) -> Fields:
    return {
        "method": recipe.name,
        "options": {},
        "seed": context.seed,
        "sensor": context.sensor,
        "bands_in": sample.targets,
        "bands_out": sample.targets,
        "halo": recipe.halo(sample.gsds, context.sensor),
    }


class Interpolator(TorchSharpener):
    """Interpolates each of `bands_in` by itself."""

    @classmethod
    def restore(cls, weights: dict[str, Tensor], **fields: Unpack[Fields]) -> Self:
        """See `TorchSharpener.restore`."""
        return cls(**fields)

    def forward(self, pixels: TensorPixels) -> Tensor:
        """See `TorchSharpener.forward`."""
        return torch.cat(
            [
                self.interpolate(array, gsd // 10)
                for gsd, array in pixels.reflectance.items()
                if gsd > 10 and bands_at(self.bands_out, gsd)
            ]
        )

    def interpolate(self, coarse: Tensor, ratio: int) -> Tensor:
        """Bands (band, y, x) on a grid `ratio` times finer."""
        raise NotImplementedError


class BicubicSharpener(Interpolator):
    """Interpolates by a local cubic."""

    def interpolate(self, coarse: Tensor, ratio: int) -> Tensor:
        """See `Interpolator.interpolate`."""
        return self.sensor.upsample(coarse, ratio)


class SplineSharpener(Interpolator):
    """Interpolates by a spline, on the CPU."""

    def interpolate(self, coarse: Tensor, ratio: int) -> Tensor:
        """See `Interpolator.interpolate`."""
        bands = [
            ndimage.affine_transform(
                band,
                np.full(2, 1 / ratio),
                offset=-self.sensor.phase(ratio) / ratio,
                output_shape=tuple(size * ratio for size in band.shape),
                order=3,
                mode="reflect",
            )
            for band in coarse.cpu().numpy()
        ]
        return torch.from_numpy(np.stack(bands)).to(coarse)
