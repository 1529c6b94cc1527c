"""GLP: the detail of a panchromatic band synthesised from the 10 m bands, as the sensor would lose it, is given back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from s2pipe.bands import BANDS
from s2pipe.cube import band_names, nodes
from s2pipe.methods.base import TorchSharpener, coarse_bands, halo_of, upsampling_reach
from s2pipe.sensor import Sensor
from s2pipe.training import Progress, Window, sample_windows


@dataclass(frozen=True, kw_only=True)
class Glp:
    """Generalised Laplacian pyramid with a synthesised panchromatic band for each coarse band.

    Each coarse band is regressed (least squares, with intercept) on the 10 m bands degraded to its own resolution; the fit,
    applied at 10 m, is its panchromatic band P. Sharpened = upsampled + P - upsample(degrade(P)), the degradation matched
    to the band's MTF. The pyramid is that of Aiazzi et al. 2002 (doi:10.1109/TGRS.2002.803623), the synthesised band that
    of Wang et al. 2016 (doi:10.1016/j.rse.2016.10.030).
    """

    def fit(self, cube: xr.DataTree, *, sensor: Sensor, seed: int, device: str, progress: Progress | None) -> GlpSharpener:
        """Regress on sampled windows of the cube."""
        arrays = nodes(cube)
        fine = band_names(arrays[10])
        coarse = tuple(band for gsd, array in arrays.items() if gsd > 10 for band in band_names(array))
        windows = sample_windows(cube, seed=seed)
        coefficients = {band: _regress(band, fine, band_names(arrays[BANDS[band].gsd]), windows, sensor) for band in coarse}
        ratios = {BANDS[band].gsd // 10 for band in coarse}
        return GlpSharpener(
            method="glp",
            options={},
            seed=seed,
            sensor=sensor,
            bands_in=fine + coarse,
            bands_out=coarse,
            halo=halo_of(max(upsampling_reach(ratio) + sensor.reach(ratio) for ratio in ratios)),
            coefficients=coefficients,
        )


def _regress(band: str, fine: tuple[str, ...], siblings: tuple[str, ...], windows: list[Window], sensor: Sensor) -> Tensor:
    """Intercept, then one slope for each fine band."""
    gsd = BANDS[band].gsd
    rows, observed = [], []
    for window in windows:
        seen = window.seen_at(gsd)
        degraded = sensor.degrade(torch.from_numpy(window.reflectance[10]), fine, gsd // 10).numpy()
        rows.append(degraded[:, seen])
        observed.append(window.reflectance[gsd][siblings.index(band)][seen])
    design = np.concatenate(rows, axis=1).astype(np.float64)
    design = np.vstack([np.ones(design.shape[1]), design])
    # lstsq gives the smallest solution where bands are constant, or pixels fewer than unknowns
    solution = np.linalg.lstsq(design.T, np.concatenate(observed).astype(np.float64), rcond=None)[0]
    return torch.from_numpy(solution.astype(np.float32))


@dataclass(frozen=True, kw_only=True, eq=False)
class GlpSharpener(TorchSharpener):
    """Fitted `Glp`: `coefficients` of each band, the intercept first."""

    coefficients: dict[str, Tensor] = field(repr=False)

    def weights(self) -> dict[str, Tensor]:
        """See `TorchSharpener.weights`."""
        return self.coefficients

    def forward(self, r10m: Tensor, r20m: Tensor | None, r60m: Tensor | None) -> Tensor:
        """See `TorchSharpener.forward`."""
        sharpened = []
        for gsd, coarse in ((20, r20m), (60, r60m)):
            bands = coarse_bands(self.bands_out, gsd)
            if coarse is None or not bands:
                continue
            ratio = gsd // 10
            coefficients = torch.stack([self.coefficients[band] for band in bands]).to(r10m)
            pan = torch.einsum("bf,fyx->byx", coefficients[:, 1:], r10m) + coefficients[:, :1, None]
            smooth = self.sensor.upsample(coarse - self.sensor.degrade(pan, bands, ratio), ratio)
            sharpened.append(smooth + pan)
        return torch.cat(sharpened)
