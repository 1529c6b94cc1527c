"""GLP: the detail of a panchromatic band synthesised from the 10 m bands, as the sensor would lose it, is given back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from s2pipe.bands import BANDS, bands_at
from s2pipe.methods.base import TorchSharpener, halo_of, upsampling_reach
from s2pipe.progress import Progress
from s2pipe.sampling import Sample, Window
from s2pipe.sensor import Sensor


@dataclass(frozen=True, kw_only=True)
class Glp:
    """Generalised Laplacian pyramid with a synthesised panchromatic band for each coarse band.

    Each coarse band is regressed (least squares, with intercept) on the 10 m bands degraded to its own resolution; the fit,
    applied at 10 m, is its panchromatic band P. Sharpened = upsampled + P - upsample(degrade(P)), the degradation matched
    to the band's MTF. The pyramid is that of Aiazzi et al. 2002 (doi:10.1109/TGRS.2002.803623), the synthesised band that
    of Wang et al. 2016 (doi:10.1016/j.rse.2016.10.030).
    """

    def halo(self, gsds: Collection[int], sensor: Sensor) -> int:
        """See `Method.halo`."""
        return halo_of(gsds, lambda ratio: upsampling_reach(ratio) + sensor.reach(ratio))

    def fit(
        self,
        sample: Sample,
        *,
        sensor: Sensor,
        seed: int,
        device: str,
        progress: Progress | None,
        checkpoint: Path | None,
    ) -> GlpSharpener:
        """Regress each band on the sample."""
        names = sample.bands
        unseen = sample.unseen_targets()
        return GlpSharpener(
            method="glp",
            options={},
            seed=seed,
            sensor=sensor,
            bands_in=names[10] + sample.targets,
            bands_out=sample.targets,
            bicubic_bands=unseen,
            halo=self.halo(sample.gsds, sensor),
            fingerprint=sample.fingerprint(),
            coefficients={
                band: torch.zeros(1 + len(names[10])) if band in unseen else _regress(band, names, sample.windows, sensor)
                for band in sample.targets
            },
        )


def _regress(band: str, names: dict[int, tuple[str, ...]], windows: list[Window], sensor: Sensor) -> Tensor:
    """Intercept, then one slope for each 10 m band."""
    gsd = BANDS[band].gsd
    row = names[gsd].index(band)
    rows, observed = [], []
    for window in windows:
        seen = window.seen_at(gsd, {10: range(len(names[10])), gsd: [row]})
        degraded = sensor.degrade(torch.from_numpy(window.reflectance[10]), names[10], gsd // 10).numpy()
        rows.append(degraded[:, seen])
        observed.append(window.reflectance[gsd][row][seen])
    design = np.concatenate(rows, axis=1).astype(np.float64)
    design = np.vstack([np.ones(design.shape[1]), design])
    # Bands that are constant, or alike but for float32's noise, and pixels fewer than unknowns have many solutions: lstsq
    # gives the smallest, and takes for noise what is below rcond.
    solution = np.linalg.lstsq(design.T, np.concatenate(observed).astype(np.float64), rcond=1e-6)[0]
    return torch.from_numpy(solution.astype(np.float32))


@dataclass(frozen=True, kw_only=True, eq=False)
class GlpSharpener(TorchSharpener):
    """Fitted `Glp`: `coefficients` of each band, the intercept first."""

    coefficients: dict[str, Tensor] = field(repr=False)

    @classmethod
    def restore(cls, weights: dict[str, Tensor], **fields: Any) -> Self:
        """See `TorchSharpener.restore`."""
        unknowns = 1 + len(bands_at(fields["bands_in"], 10))
        return cls(**fields, coefficients={band: weights[band].reshape(unknowns) for band in fields["bands_out"]})

    def weights(self) -> dict[str, Tensor]:
        """See `TorchSharpener.weights`."""
        return self.coefficients

    def forward(self, r10m: Tensor, r20m: Tensor | None, r60m: Tensor | None) -> Tensor:
        """See `TorchSharpener.forward`."""
        sharpened = []
        for gsd, coarse in ((20, r20m), (60, r60m)):
            bands = bands_at(self.bands_out, gsd)
            if coarse is None or not bands:
                continue
            ratio = gsd // 10
            coefficients = torch.stack([self.coefficients[band] for band in bands]).to(r10m)
            pan = torch.einsum("bf,fyx->byx", coefficients[:, 1:], r10m) + coefficients[:, :1, None]
            smooth = self.sensor.upsample(coarse - self.sensor.degrade(pan, bands, ratio), ratio)
            sharpened.append(smooth + pan)
        return torch.cat(sharpened)
