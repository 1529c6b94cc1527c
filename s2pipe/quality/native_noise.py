"""The noise of every band of a scene, as observed."""

from __future__ import annotations

import numpy as np
import torch

from s2pipe.fitting.noise import noise_level
from s2pipe.fitting.sampling import Sample, bands_without_data
from s2pipe.methods.classical.atprk import residuals
from s2pipe.methods.classical.pan import regress_on_fine
from s2pipe.physics.sensor import Sensor
from s2pipe.physics.white_noise import with_fine_bands


def native_noise(sample: Sample) -> dict[str, float]:
    """Standard deviation in reflectance of the white noise of each band; 0 where too little is valid to measure any.

    Of a coarse band it is what a regression on the 10 m bands leaves where the scene is calm, see `noise_level`; of the 10 m
    bands see `with_fine_bands`.
    """
    sensor, fine = Sensor(), sample.bands[10]
    missing = bands_without_data(sample.windows, sample.bands)
    found = {}
    for gsd, bands in sample.bands.items():
        for band in bands if gsd > 10 else ():
            if band in missing:
                continue
            pan, matched = regress_on_fine(band, gsd, sample.bands, sample.windows, sensor), sensor.matched_to([band])
            parts = []
            for window, left in zip(sample.windows, residuals(band, gsd, pan, sample, sensor), strict=True):
                guides = torch.from_numpy(window.reflectance[10])
                degraded = matched.degrade(guides, fine, gsd // 10, torch.from_numpy(window.fine_valid))
                parts.append((np.nan_to_num(left), degraded.numpy(), np.isfinite(left)))
            found[band] = noise_level(parts)
    return with_fine_bands(found, fine)
