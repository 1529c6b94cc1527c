"""How good an estimate of a reduced scene is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from s2pipe.core import metrics
from s2pipe.core.errors import InputError
from s2pipe.quality.reduced import Reduced


def compare(reduced: Reduced, estimate: npt.NDArray[np.float32], *, crop: int) -> pd.DataFrame:
    """The metrics of an estimate (band, y, x) in reflectance: a row for each band, and one for all."""
    inner = (slice(None), *(slice(crop, size - crop) for size in estimate.shape[1:]))
    reference, estimate = reduced.reference[inner], estimate[inner]
    valid = np.isfinite(reference) & np.isfinite(estimate)
    names = reduced.cube.bands[reduced.gsd]
    if not valid.all(axis=0).any():
        dead = ", ".join(name for name, pixels in zip(names, valid, strict=True) if not pixels.any())
        raise InputError(
            f"no pixel is valid in {f'the bands {dead}' if dead else 'all bands at once'} of both reference and estimate; "
            "choose another date or a clearer part, or leave such bands out",
            argument="data",
        )
    rows = [_figures(*parts) for parts in zip(reference, estimate, valid, strict=True)]
    everywhere = valid.all(axis=0)
    spectra = reference[:, everywhere], estimate[:, everywhere]
    together = {"band": "all"} | {name: float(np.mean([row[name] for row in rows])) for name in ("sre_db", "ssim", "uiqi")}
    together |= {
        "rmse": metrics.rmse(*spectra),
        "sam_deg": metrics.sam(*spectra),
        "ergas": metrics.ergas(*spectra, reduced.gsd // 10),
    }
    labelled = [{"band": name, **row} for name, row in zip(names, rows, strict=True)]
    return pd.DataFrame([*labelled, together]).assign(sensor=reduced.sensor, gsd=reduced.gsd)


def _figures(
    reference: npt.NDArray[np.float32], estimate: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]
) -> dict[str, float]:
    pair = np.where(valid, reference, 0), np.where(valid, estimate, 0)
    return {
        "sre_db": metrics.sre(reference[valid], estimate[valid]),
        "rmse": metrics.rmse(reference[valid], estimate[valid]),
        "ssim": metrics.ssim(*pair, valid=valid),
        "uiqi": metrics.uiqi(*pair, valid=valid),
        "sam_deg": np.nan,
        "ergas": np.nan,
    }
