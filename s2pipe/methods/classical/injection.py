"""Injection: the detail of a panchromatic band, made of the 10 m bands, is added to each coarse band or multiplied into it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Self, Unpack

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from s2pipe.core.bands import bands_at
from s2pipe.fitting.sampling import Sample
from s2pipe.methods.attributes import Fields
from s2pipe.methods.base import FitContext, count_by_gsd, fields_of_fit, halo_of, upsampling_reach
from s2pipe.methods.classical.pan import (
    Pan,
    PanSharpener,
    check_pan,
    least_squares,
    mixture,
    named_after_pan,
    regress_on_fine,
    select_fine,
)
from s2pipe.physics.misfit import REACH, Known, fill_smoothly
from s2pipe.physics.sensor import Sensor

LEAST_EXPLAINED = 0.5
"""Share of a panchromatic band's variance, below which the coarse bands are no low-pass of it: GSA's gain grows as it shrinks."""

LARGEST_RATIO = 10.0
"""Of a panchromatic band to what is low in it, where detail is multiplied: more is noise over a dark ground."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Moments over the sample of images at 10 m: a coarse band upsampled, its panchromatic band, this degraded and upsampled,
    and, where there is one, the mixture of coarse bands that is like the latter.

    Attributes
    ----------
    products : ndarray, (1 + image, 1 + image)
        Means of the products of 1 and these, in this order.
    """

    products: npt.NDArray[np.float64]

    UPSAMPLED: ClassVar[int] = 1
    PAN: ClassVar[int] = 2
    LOW: ClassVar[int] = 3
    MIXED: ClassVar[int] = 4

    def mean(self, image: int) -> float:
        """Of an image."""
        return float(self.products[0, image])

    def covariance(self, first: int, second: int) -> float:
        """Of two images; the variance of one."""
        return float(self.products[first, second] - self.products[0, first] * self.products[0, second])

    def slope(self, image: int, on: int, by: int | None = None) -> float:
        """covariance(image, by) / covariance(on, by), by default the slope of `image` regressed on `on`; 1 where it has none."""
        by = on if by is None else by
        variance = self.covariance(on, by)
        # what float32 pixels leave of the variance of a constant band is no variance
        return self.covariance(image, by) / variance if abs(variance) > 1e-10 * self.products[on, by] else 1.0


@dataclass(frozen=True, kw_only=True)
class Injection:
    """What the recipes of this family share.

    Each coarse band gets a panchromatic band P, a mixture of the 10 m bands. ``pan="synthesised"`` takes the
    least-squares fit of the coarse band to the 10 m bands degraded to its resolution, with an intercept (Wang et al. 2016,
    doi:10.1016/j.rse.2016.10.030). ``pan="selected"`` takes the one 10 m band whose correlation with it is largest, brought to
    its mean and, after degrading, its standard deviation. M is the coarse band upsampled (bicubic), L what is low in P.
    All that is fitted, is fitted once on the sample.

    Attributes
    ----------
    pan : {"synthesised", "selected"}
        Kind of panchromatic band.

    Raises
    ------
    InputError
        If `pan` is neither.
    """

    family: ClassVar[str]
    multiplies: ClassVar[bool] = False
    mixes_low: ClassVar[bool] = False

    pan: Pan = "synthesised"

    def __post_init__(self) -> None:
        check_pan(self.pan)

    @property
    def name(self) -> str:
        """In the table of methods."""
        return named_after_pan(self.family, self.pan)

    def halo(self, gsds: Collection[int], sensor: Sensor) -> int:
        """See `Method.halo`."""
        return halo_of(gsds, lambda ratio: upsampling_reach(ratio) + ratio * REACH + sensor.reach(ratio))

    def fit(self, sample: Sample, context: FitContext) -> InjectionSharpener:
        """Fit the mixtures and the gains of all bands on the sample."""
        missing = sample.targets_without_data()
        weights: dict[str, Tensor] = {}
        for gsd in sample.gsds:
            for name, rows in self._fit_resolution(gsd, missing, sample, context.sensor).items():
                weights[f"{name}.{gsd}m"] = torch.from_numpy(rows.astype(np.float32))
        return InjectionSharpener(
            **fields_of_fit(self, sample, context),
            bands_in=sample.bands[10] + sample.targets,
            bicubic_bands=missing,
            fitted=weights,
            multiplies=self.multiplies,
        )

    def _fit_resolution(
        self, gsd: int, missing: Collection[str], sample: Sample, sensor: Sensor
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Rows of `_fit_bands` for all bands of a resolution; those of `missing` leave them interpolated."""
        names = sample.bands[gsd]
        used = [i for i, band in enumerate(names) if band not in missing]
        # a panchromatic band, and what is low in it, that are 1 everywhere
        widths = self.widths(fine=len(sample.bands[10]), coarse=len(names))
        result = {name: np.eye(1, width).repeat(len(names), axis=0) for name, width in widths.items()}
        if used:
            for name, rows in self._fit_bands(gsd, [names[i] for i in used], sample, sensor).items():
                result[name][used] = rows
        return result

    @classmethod
    def widths(cls, *, fine: int, coarse: int) -> dict[str, int]:
        """Numbers of a band in each of the arrays that are fitted, for so many 10 m bands and bands of its resolution."""
        return {"pan": 1 + fine, "gain": 1} | ({"low": 1 + coarse} if cls.mixes_low else {})

    def _fit_bands(self, gsd: int, bands: list[str], sample: Sample, sensor: Sensor) -> dict[str, npt.NDArray[np.float64]]:
        """Rows for `bands` of ``pan`` (intercept and slopes), ``gain`` and, where there is one, ``low``."""
        names, windows = sample.bands, sample.windows
        if self.pan == "synthesised":
            pans = np.stack([regress_on_fine(band, gsd, names, windows, sensor) for band in bands])
        else:
            pans = np.zeros((len(bands), 1 + len(names[10])))
            for row, band in zip(pans, bands, strict=True):
                row[1 + select_fine(band, gsd, names, windows, sensor)] = 1
            pans = np.stack(
                [_matched(row, m) for row, m in zip(pans, _moments(gsd, bands, pans, None, sample, sensor), strict=True)]
            )
        low = self._fit_low(gsd, bands, pans, sample, sensor)
        moments = _moments(gsd, bands, pans, low, sample, sensor)
        gains = np.empty((len(bands), 1))
        for row, band_moments in enumerate(moments):
            pans[row], gains[row] = self._injected(pans[row], band_moments)
        return {"pan": pans, "gain": gains} | ({} if low is None else {"low": low})

    def _fit_low(
        self, gsd: int, bands: list[str], pans: npt.NDArray[np.float64], sample: Sample, sensor: Sensor
    ) -> npt.NDArray[np.float64] | None:
        """Mixtures of the upsampled coarse bands that are what is low in each P; None: P degraded and upsampled."""
        return None

    def _injected(self, pan: npt.NDArray[np.float64], moments: Moments) -> tuple[npt.NDArray[np.float64], float]:
        """The panchromatic band (intercept and slopes) whose detail is injected, and the gain of that detail."""
        return pan, 1.0


@dataclass(frozen=True, kw_only=True)
class Glp(Injection):
    """Generalised Laplacian pyramid (Aiazzi et al. 2002, doi:10.1109/TGRS.2002.803623): M + P - L.

    L is P degraded as the sensor degrades the band, and upsampled. See `Injection` for P; ``pan="synthesised"`` by default.
    """

    family: ClassVar[str] = "glp"


@dataclass(frozen=True, kw_only=True)
class GlpFs(Injection):
    """GLP with the full-scale regression gain (Vivone et al. 2018, doi:10.1109/TIP.2018.2819501): M + g (P - L).

    g = cov(M, P) / cov(L, P). See `Glp` for L, and `Injection` for P; ``pan="synthesised"`` by default.
    """

    family: ClassVar[str] = "glp-fs"

    def _injected(self, pan: npt.NDArray[np.float64], moments: Moments) -> tuple[npt.NDArray[np.float64], float]:
        return pan, moments.slope(Moments.UPSAMPLED, on=Moments.LOW, by=Moments.PAN)


@dataclass(frozen=True, kw_only=True)
class GlpHpm(Injection):
    """GLP with high-pass modulation (Aiazzi et al. 2006, doi:10.14358/PERS.72.5.591): M P / L.

    P / L is kept between 0 and 10, and is 1 where L is not positive. See `Glp` for L, and `Injection` for P;
    ``pan="synthesised"`` by default.
    """

    family: ClassVar[str] = "glp-hpm"
    multiplies: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class HpmR(Injection):
    """High-pass modulation after a regression: M (P + c) / (L + c).

    Of Vivone et al. 2018, IEEE Trans. Geosci. Remote Sens. 56(2), 984-996.

    g = cov(M, L) / var(L) and c = mean(M) / g - mean(P), so that M and g (L + c) agree in the mean. Both parts of the ratio are
    taken g times, which holds for a g of 0 too. It is limited as in `GlpHpm`. See `Glp` for L, and `Injection` for P;
    ``pan="synthesised"`` by default.
    """

    family: ClassVar[str] = "hpm-r"
    multiplies: ClassVar[bool] = True

    def _injected(self, pan: npt.NDArray[np.float64], moments: Moments) -> tuple[npt.NDArray[np.float64], float]:
        gain = moments.slope(Moments.UPSAMPLED, on=Moments.LOW)
        scaled = gain * pan
        scaled[0] += moments.mean(Moments.UPSAMPLED) - gain * moments.mean(Moments.PAN)
        return scaled, 1.0


@dataclass(frozen=True, kw_only=True)
class Gsa(Injection):
    """Adaptive Gram-Schmidt (Aiazzi et al. 2007, doi:10.1109/TGRS.2007.901007): M + g (P - I), means taken out of both.

    I is the mixture of all upsampled coarse bands of the resolution whose coefficients fit P, degraded as the sensor
    degrades the band, to these coarse bands; g = cov(M, I) / var(I). Where I has less than half of the variance of P,
    degraded, and so is no low-pass of it, g is less by as much. See `Injection` for P; ``pan="synthesised"`` by default.
    """

    family: ClassVar[str] = "gsa"
    mixes_low: ClassVar[bool] = True

    def _fit_low(
        self, gsd: int, bands: list[str], pans: npt.NDArray[np.float64], sample: Sample, sensor: Sensor
    ) -> npt.NDArray[np.float64]:
        positions = [sample.bands[gsd].index(band) for band in bands]
        low = np.zeros((len(bands), 1 + len(sample.bands[gsd])))
        needed = {10: range(len(sample.bands[10])), gsd: positions}
        for row, (band, coefficients) in enumerate(zip(bands, pans, strict=True)):
            degraded, coarse = [], []
            for window in sample.windows:
                valid = window.valid_at(gsd, needed)
                pan = mixture(_tensor(coefficients[None]), torch.from_numpy(window.reflectance[10]))
                fine_valid = torch.from_numpy(window.fine_valid)
                degraded.append(sensor.degrade(pan, [band], gsd // 10, fine_valid).numpy()[0, valid])
                coarse.append(window.reflectance[gsd][positions][:, valid])
            low[row, [0, *(1 + np.array(positions))]] = least_squares(np.concatenate(coarse, axis=1), np.concatenate(degraded))
        # the means of P and of I over the scene are the same then
        for coefficients, moments in zip(low, _moments(gsd, bands, pans, low, sample, sensor), strict=True):
            coefficients[0] += moments.mean(Moments.PAN) - moments.mean(Moments.MIXED)
        return low

    def _injected(self, pan: npt.NDArray[np.float64], moments: Moments) -> tuple[npt.NDArray[np.float64], float]:
        explained = moments.covariance(Moments.MIXED, Moments.MIXED) / (moments.covariance(Moments.LOW, Moments.LOW) or 1.0)
        return pan, moments.slope(Moments.UPSAMPLED, on=Moments.MIXED) * min(explained / LEAST_EXPLAINED, 1.0)


def _matched(pan: npt.NDArray[np.float64], moments: Moments) -> npt.NDArray[np.float64]:
    """`pan` (intercept and slopes) with the mean of the coarse band, and after degrading with its standard deviation."""
    spread, wanted = (moments.covariance(image, image) for image in (Moments.LOW, Moments.UPSAMPLED))
    scale = float(np.sqrt(max(wanted, 0) / spread)) if spread > 0 else 0.0
    matched = scale * pan
    matched[0] += moments.mean(Moments.UPSAMPLED) - scale * moments.mean(Moments.PAN)
    return matched


def _moments(
    gsd: int,
    bands: list[str],
    pans: npt.NDArray[np.float64],
    mixed: npt.NDArray[np.float64] | None,
    sample: Sample,
    sensor: Sensor,
) -> list[Moments]:
    """Of each of `bands`, over all 10 m pixels where it and the 10 m bands are valid."""
    ratio = gsd // 10
    positions = [sample.bands[gsd].index(band) for band in bands]
    size = 4 if mixed is None else 5
    sums = np.zeros((len(bands), size, size))
    for window in sample.windows:
        smooth = sensor.upsample(torch.from_numpy(window.reflectance[gsd]), ratio)
        pan = mixture(_tensor(pans), torch.from_numpy(window.reflectance[10]))
        fine_valid = torch.from_numpy(window.fine_valid)
        images = [smooth[positions], pan, sensor.upsample(sensor.degrade(pan, bands, ratio, fine_valid), ratio)]
        if mixed is not None:
            images.append(mixture(_tensor(mixed), smooth))
        for row, position in enumerate(positions):
            valid = window.valid_at(10, {10: range(len(sample.bands[10])), gsd: [position]})
            rows = np.stack([image[row].numpy()[valid] for image in images]).astype(np.float64)
            design = np.vstack([np.ones(rows.shape[1]), rows])
            sums[row] += design @ design.T
    return [Moments(products=total / total[0, 0]) for total in sums]


def _tensor(array: npt.NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


@dataclass(frozen=True, kw_only=True, eq=False)
class InjectionSharpener(PanSharpener):
    """A fitted `Injection`.

    Attributes
    ----------
    fitted : dict of str to Tensor
        Beside ``pan``: ``gain``, one number, and of GSA ``low``, the intercept and the slopes of a mixture of the coarse bands.
    multiplies : bool
        Whether detail is multiplied into the band.
    """

    multiplies: bool

    @classmethod
    def restore(cls, weights: dict[str, Tensor], **fields: Unpack[Fields]) -> Self:
        """See `TorchSharpener.restore`."""
        recipe = next(kind for kind in FAMILY if kind(pan=fields["options"]["pan"]).name == fields["method"])
        fine = len(bands_at(fields["bands_in"], 10))
        fitted = {
            f"{name}.{gsd}m": weights[f"{name}.{gsd}m"].reshape(count, width)
            for gsd, count in count_by_gsd(fields["bands_out"]).items()
            for name, width in recipe.widths(fine=fine, coarse=count).items()
        }
        return cls(**fields, fitted=fitted, multiplies=recipe.multiplies)

    def sharpen_resolution(self, fine: Tensor, coarse: Tensor, gsd: int, known: Known) -> Tensor:
        ratio = gsd // 10
        pan = mixture(self.fitted[f"pan.{gsd}m"], fine)
        if f"low.{gsd}m" in self.fitted:
            low = mixture(self.fitted[f"low.{gsd}m"], coarse)
        else:
            low = self.sensor.degrade(pan, bands_at(self.bands_out, gsd), ratio, known.fine)
        if self.multiplies:
            below = self.sensor.upsample(low, ratio)
            modulation = torch.where(below > 0, pan / below, 1).clamp(0, LARGEST_RATIO)
            return self.sensor.upsample(coarse, ratio) * modulation
        gain = self.fitted[f"gain.{gsd}m"][:, :, None]
        return self.sensor.upsample(fill_smoothly(coarse - gain * low, known.coarse), ratio) + gain * pan


FAMILY: tuple[type[Injection], ...] = (Gsa, Glp, GlpFs, GlpHpm, HpmR)
