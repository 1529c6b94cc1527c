"""The panchromatic band of a coarse band: what the 10 m bands explain of it, as a mixture of them with an intercept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2pipe.core.bands import bands_at
from s2pipe.core.errors import InputError
from s2pipe.core.types import FloatArray
from s2pipe.fitting.sampling import Window
from s2pipe.methods.base import TensorPixels, TorchSharpener
from s2pipe.physics.misfit import Known
from s2pipe.physics.sensor import Sensor

Pan = Literal["synthesised", "selected"]


def check_pan(pan: object) -> None:
    """Refuse what is no kind of panchromatic band."""
    if pan not in get_args(Pan):
        raise InputError(f"pan={pan!r} must be one of {', '.join(map(repr, get_args(Pan)))}", argument="pan")


def named_after_pan(family: str, pan: Pan) -> str:
    """Name of a method in the table of methods."""
    return family if pan == "synthesised" else f"{family}-sel"


def regress_on_fine(
    band: str,
    gsd: int,
    names: Mapping[int, Sequence[str]],
    windows: Sequence[Window],
    sensor: Sensor,
    *,
    pan: Pan = "synthesised",
) -> npt.NDArray[np.float64]:
    """Intercept, then a slope for each 10 m band: the least-squares fit of a coarse band to the 10 m bands, degraded.

    A selected panchromatic band has one slope only, see `select_fine`.
    """
    degraded, observed = _degraded_and_observed(band, gsd, names, windows, sensor)
    used = list(range(len(degraded))) if pan == "synthesised" else [_most_correlated(degraded, observed)]
    solution = np.zeros(1 + len(degraded))
    solution[[0, *(1 + i for i in used)]] = least_squares(degraded[used], observed)
    return solution


def select_fine(band: str, gsd: int, names: Mapping[int, Sequence[str]], windows: Sequence[Window], sensor: Sensor) -> int:
    """Position of the 10 m band that, degraded, has the largest correlation (signed) with the coarse band."""
    return _most_correlated(*_degraded_and_observed(band, gsd, names, windows, sensor))


def least_squares(rows: FloatArray, observed: FloatArray) -> npt.NDArray[np.float64]:
    """Intercept, then one coefficient for each of `rows` (row, sample), that fit `observed` best."""
    design = np.vstack([np.ones(rows.shape[1]), rows.astype(np.float64)])
    # Rows that are constant, or alike but for float32's noise, and samples fewer than unknowns have many solutions: lstsq
    # gives the smallest, and considers noise what is below rcond.
    solution: npt.NDArray[np.float64] = np.linalg.lstsq(design.T, observed.astype(np.float64), rcond=1e-6)[0]
    return solution


def mixture(coefficients: Tensor, bands: Tensor) -> Tensor:
    """Mixtures (row, y, x) of `bands` (band, y, x), by rows of `coefficients` that begin with the intercept."""
    return torch.einsum("pb,byx->pyx", coefficients[:, 1:], bands) + coefficients[:, :1, None]


@dataclass(frozen=True, kw_only=True, eq=False)
class PanSharpener(TorchSharpener):
    """What the Sharpeners share that make each coarse band of its panchromatic band, one resolution after the other.

    Attributes
    ----------
    fitted : dict of str to Tensor
        By name and resolution, as ``pan.20m``, a row for each band: ``pan`` holds the intercept and the slopes of the mixture of
        the 10 m bands.
    """

    fitted: Mapping[str, Tensor] = field(repr=False)

    def weights(self) -> dict[str, Tensor]:
        """See `TorchSharpener.weights`."""
        return dict(self.fitted)

    def to(self, device: str) -> Self:
        """See `TorchSharpener.to`."""
        return replace(self, device=device, fitted={name: tensor.to(device) for name, tensor in self.fitted.items()})

    def forward(self, pixels: TensorPixels) -> Tensor:
        """See `TorchSharpener.forward`."""
        return torch.cat(
            [
                self.sharpen_resolution(pixels.reflectance[10], coarse, gsd, pixels.known(gsd))
                for gsd, coarse in pixels.reflectance.items()
                if gsd > 10 and bands_at(self.bands_out, gsd)
            ]
        )

    def sharpen_resolution(self, fine: Tensor, coarse: Tensor, gsd: int, known: Known) -> Tensor:
        """The bands of one resolution, `coarse`, at 10 m, beside the `fine` ones; `known` says where both are valid."""
        raise NotImplementedError


def _degraded_and_observed(
    band: str, gsd: int, names: Mapping[int, Sequence[str]], windows: Sequence[Window], sensor: Sensor
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The 10 m bands, degraded to be compared with a coarse band, (band, pixel), and its pixels, where all of them are valid."""
    row = names[gsd].index(band)
    sensor = sensor.matched_to([band])
    degraded, observed = [], []
    for window in windows:
        valid = window.valid_at(gsd, {10: range(len(names[10])), gsd: [row]})
        fine = torch.from_numpy(window.reflectance[10])
        fine_valid = torch.from_numpy(window.fine_valid)
        degraded.append(sensor.degrade(fine, names[10], gsd // 10, fine_valid).numpy()[:, valid])
        observed.append(window.reflectance[gsd][row][valid])
    return np.concatenate(degraded, axis=1), np.concatenate(observed)


def _most_correlated(rows: npt.NDArray[np.float32], observed: npt.NDArray[np.float32]) -> int:
    """Position of the row with the largest correlation; a constant one has none."""
    deviations = rows - rows.mean(axis=1, keepdims=True, dtype=np.float64)
    spread = np.linalg.norm(deviations, axis=1)
    covariance = deviations @ (observed - observed.mean(dtype=np.float64))
    varies = spread > 1e-6 * np.linalg.norm(rows, axis=1)  # beyond float32's noise
    return int(np.argmax(np.divide(covariance, spread, out=np.full(len(rows), -np.inf), where=varies)))
