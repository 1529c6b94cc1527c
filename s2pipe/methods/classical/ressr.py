"""ResSR: each pixel's spectrum in a subspace, solved in closed form, then corrected by what the coarse bands still miss."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self, Unpack, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2pipe.core.bands import BANDS, GSDS, bands_at
from s2pipe.core.errors import InputError
from s2pipe.fitting.sampling import Sample, bands_without_data
from s2pipe.methods.attributes import Fields
from s2pipe.methods.base import FitContext, TensorPixels, TorchSharpener, fields_of_fit, halo_of, upsampling_reach
from s2pipe.methods.classical.pan import mixture
from s2pipe.methods.classical.subspace import all_bands, sample_pixels
from s2pipe.physics.sensor import Sensor

Operator = Literal["sensor", "block"]

COMPONENTS = 2
"""K, of the subspace."""
NOISE = 0.02
"""Sigma, of the bands once their 2nd and 98th percentiles are brought to 0 and 1."""
PRIOR = 0.5
"""Lambda, of the spectra's prior in the subspace."""
FINE_WEIGHT = 0.99
"""Gamma of the 10 m bands; the others share the rest in inverse proportion to their GSD."""
PERCENTILES = (2, 98)
EVERY = 4
"""10 m pixels between those that percentiles and subspace are found from."""


@dataclass(frozen=True, kw_only=True)
class ResSr:
    """Residual-based super-resolution (Duba-Sullivan et al. 2024, arXiv:2408.13225).

    The bands, brought to 0 and 1 at their 2nd and 98th percentiles, are pixels in a subspace of K = 2 components. A pixel's
    components z solve (lambda sigma^2 / K diag(1 / s^2) + sum_b gamma_b v_b v_b') z = sum_b gamma_b v_b y_b, in which coarse
    bands are repeated to 10 m; sigma = 0.02, lambda = 0.5, gamma = 0.99 for the 10 m bands and 0.0075 and 0.0025 for those at 20
    and 60 m, all as in the paper. What the result, degraded, leaves of a coarse band is upsampled and added. Everything but
    this last step is one mixture of all bands, whose coefficients are fitted once, on every fourth 10 m pixel of the sample
    along both axes.

    Attributes
    ----------
    operator : {"sensor", "block"}
        What degrades the result: the sensor, or as in the paper the mean of a block.

    Raises
    ------
    InputError
        If `operator` is neither.
    """

    name: ClassVar[str] = "ressr"

    operator: Operator = "sensor"

    def __post_init__(self) -> None:
        if self.operator not in get_args(Operator):
            raise InputError(
                f"operator={self.operator!r} must be one of {', '.join(map(repr, get_args(Operator)))}", argument="operator"
            )

    def halo(self, gsds: Collection[int], sensor: Sensor) -> int:
        """See `Method.halo`."""
        return halo_of(gsds, lambda ratio: upsampling_reach(ratio) + sensor.reach(ratio))

    def fit(self, sample: Sample, context: FitContext) -> ResSrSharpener:
        """Find percentiles and subspace on the sample."""
        bands, missing = all_bands(sample), bands_without_data(sample.windows, sample.bands)
        used = [i for i, band in enumerate(bands) if band not in missing]
        pixels = sample_pixels(sample, context.sensor, without=missing, every=EVERY)
        coefficients = np.zeros((len(sample.targets), 1 + len(bands)))
        rows = spectral_mixture(pixels, [BANDS[bands[i]].gsd for i in used])
        for row, band in enumerate(sample.targets):
            if band not in missing:
                coefficients[row, [0, *(1 + i for i in used)]] = rows[used.index(bands.index(band))]
        return ResSrSharpener(
            **fields_of_fit(self, sample, context),
            bands_in=bands,
            bicubic_bands=tuple(band for band in sample.targets if band in missing),
            coefficients=torch.from_numpy(coefficients.astype(np.float32)),
        )


def spectral_mixture(pixels: npt.NDArray[np.float64], gsds: list[int]) -> npt.NDArray[np.float64]:
    """What makes a pixel of each band out of those of all: intercept, then a coefficient for each, (band, 1 + band).

    Parameters
    ----------
    pixels : ndarray, (band, pixel)
        Of the whole scene.
    gsds : list of int
        Of the bands.
    """
    low, high = np.percentile(pixels, PERCENTILES, axis=1)
    spread = np.where(high > low, high - low, 1.0)
    normalised = (pixels - low[:, None]) / spread[:, None]
    mean = normalised.mean(axis=1)
    variances, vectors = np.linalg.eigh(np.cov(normalised, bias=True).reshape(len(pixels), -1))
    subspace = vectors[:, ::-1][:, :COMPONENTS]
    variances = np.maximum(variances[::-1][:COMPONENTS], 1e-6)  # a flat scene has none
    weights = data_weights(gsds)
    system = PRIOR * NOISE**2 / COMPONENTS * np.diag(1 / variances) + (subspace.T * weights) @ subspace
    project = subspace @ np.linalg.solve(system, subspace.T * weights)
    slopes = spread[:, None] * project / spread
    return np.column_stack([low + spread * mean - slopes @ (low + spread * mean), slopes])


def data_weights(gsds: list[int]) -> npt.NDArray[np.float64]:
    """Gamma of each band."""
    coarse = {gsd: 10 / gsd for gsd in set(gsds) if gsd > 10}
    shares = {gsd: (1 - FINE_WEIGHT) * share / sum(coarse.values()) for gsd, share in coarse.items()} | {10: FINE_WEIGHT}
    return np.array([shares[gsd] for gsd in gsds])


@dataclass(frozen=True, kw_only=True, eq=False)
class ResSrSharpener(TorchSharpener):
    """A fitted `ResSr`.

    Attributes
    ----------
    coefficients : Tensor, (band, 1 + band)
        Intercept and slopes that make each of `bands_out` out of `bands_in`.
    """

    coefficients: Tensor = field(repr=False)

    @classmethod
    def restore(cls, weights: dict[str, Tensor], **fields: Unpack[Fields]) -> Self:
        """See `TorchSharpener.restore`."""
        shape = len(fields["bands_out"]), 1 + len(fields["bands_in"])
        return cls(**fields, coefficients=weights["coefficients"].reshape(shape))

    def weights(self) -> dict[str, Tensor]:
        """See `TorchSharpener.weights`."""
        return {"coefficients": self.coefficients}

    def to(self, device: str) -> Self:
        """See `TorchSharpener.to`."""
        return replace(self, device=device, coefficients=self.coefficients.to(device))

    def forward(self, pixels: TensorPixels) -> Tensor:
        """See `TorchSharpener.forward`."""
        arrays = pixels.reflectance
        spectra = torch.cat([_repeated(array, gsd // 10) for gsd, array in arrays.items()])
        mixed = mixture(self.coefficients, spectra)
        sharpened, done = [], 0
        for gsd in GSDS[1:]:
            if bands := bands_at(self.bands_out, gsd):
                sharpened.append(self._corrected(mixed[done : done + len(bands)], arrays[gsd], bands, gsd // 10))
                done += len(bands)
        return torch.cat(sharpened)

    def _corrected(self, mixed: Tensor, coarse: Tensor, bands: tuple[str, ...], ratio: int) -> Tensor:
        if self.options["operator"] == "block":
            degraded = torch.nn.functional.avg_pool2d(mixed, ratio)
        else:
            degraded = self.sensor.degrade(mixed, bands, ratio)
        return mixed + self.sensor.upsample(coarse - degraded, ratio)


def _repeated(coarse: Tensor, ratio: int) -> Tensor:
    return coarse.repeat_interleave(ratio, dim=1).repeat_interleave(ratio, dim=2)
