"""The sensor: how a fine image becomes a coarse one, and the upsampling that undoes its geometry. In torch, differentiable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from s2pipe.core.bands import BANDS
from s2pipe.core.errors import InputError

NAMES = ("matched", "centre", "corner", "box")

LIKE_MTF = (("B05", "B06", "B07", "B8A"), ("B11", "B12"), ("B01", "B09"))
"""Groups of coarse bands whose MTF is about the same."""

LEAST_SEEN = 0.01
"""Share of a coarse pixel, seen of valid fine pixels, from which on the others do not count."""

BICUBIC_REACH = 2
"""Coarse pixels that bicubic upsampling reads on either side of a fine pixel."""


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """A degradation operator: a separable point spread function for each band, and where it puts coarse pixels.

    Attributes
    ----------
    name : {"matched", "centre", "corner", "box"}
        ``"centre"``, or ``"center"``: Gaussian matched to the band's MTF, centred on the block a coarse pixel covers, as a
        real sensor sees. ``"matched"``: the same, but finer bands that are guides to a coarse one, or are degraded to judge it,
        are degraded by the MTF of that band, see `matched_to`. ``"corner"``: the Gaussian of the band's MTF cut to 7 taps,
        centred on the block's upper-left pixel, zero beyond the edges; it exists to reproduce published tables. ``"box"``: a
        Gaussian of sigma 1/ratio, then the block mean, as DSen2 (Lanaras et al. 2018) trains on.
    mtf : tuple of (str, float), or mapping of str to float
        Modulation transfer at Nyquist of each band, for the Gaussian kinds.

    Raises
    ------
    InputError
        If the name or a band is unknown, or an MTF is not between 0 and 1.
    """

    name: str = "matched"
    mtf: tuple[tuple[str, float], ...] = tuple((band.name, band.mtf_nyquist) for band in BANDS.values())

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", _known_name(self.name, argument="name"))
        try:
            mtf = {band: float(value) for band, value in dict(self.mtf).items()}
        except (TypeError, ValueError):
            raise InputError(f"mtf={self.mtf!r} does not give bands a number, such as {{'B05': 0.37}}", argument="mtf") from None
        if len(mtf) < len(self.mtf):
            raise InputError(f"mtf={self.mtf!r} has a band twice", argument="mtf")
        object.__setattr__(self, "mtf", tuple(mtf.items()))
        for band, value in mtf.items():
            if band not in BANDS:
                raise InputError(f"unknown band {band!r} in the sensor's mtf; accepted are {', '.join(BANDS)}", argument="mtf")
            if not 0 < value < 1:
                raise InputError(f"the sensor's mtf of {band} is {value}; it must lie between 0 and 1", argument="mtf")

    @classmethod
    def named(cls, name: str) -> Sensor:
        """The sensor called ``"matched"``, ``"centre"`` (or ``"center"``), ``"corner"`` or ``"box"``, with the default MTF.

        Raises
        ------
        InputError
            If `name` is none of these.
        """
        return cls(name=name)

    def matched_to(self, wanted: Sequence[str]) -> Sensor:
        """The sensor by which bands finer than `wanted` are degraded to be compared with them.

        A coarse band is the wanted fine image, which shares its point spread function with the 10 m bands, degraded by the
        coarse band's MTF relative to theirs. So what is known from finer bands about it is to be degraded in the same way, and
        not by the MTF of the finer bands themselves (the principle of MTF-GLP, Aiazzi et al. 2006, doi:10.14358/PERS.72.5.591).

        Parameters
        ----------
        wanted : sequence of str
            Bands of one resolution.

        Returns
        -------
        Sensor
            Where this one is called ``"matched"``, a block-centred one in which finer bands have the MTF of the wanted ones, the
            geometric mean of several. Else this one.

        Raises
        ------
        InputError
            If a band that is wanted is unknown to the sensor.

        Examples
        --------
        >>> dict(Sensor.named("matched").matched_to(["B11"]).mtf)["B02"] == dict(Sensor().mtf)["B11"]
        True
        """
        if self.name != "matched":
            return self
        mtf = dict(self.mtf)
        mean = math.exp(sum(map(math.log, self._mtf_of(wanted))) / len(wanted))
        finer = [band for band in mtf if BANDS[band].gsd < BANDS[wanted[0]].gsd]
        return Sensor(name="centre", mtf=tuple((mtf | dict.fromkeys(finer, mean)).items()))

    def groups(self, bands: Sequence[str]) -> list[tuple[str, ...]]:
        """`bands` of one resolution, in parts whose finer bands are degraded alike: one, unless the sensor is ``"matched"``."""
        if self.name != "matched":
            return [tuple(bands)]
        parts = (tuple(band for band in bands if band in group) for group in LIKE_MTF)
        return [part for part in parts if part]

    def phase(self, ratio: int) -> float:
        """Where the middle of a coarse pixel lies, in fine pixels from the middle of its block's first."""
        return 0.0 if self.name == "corner" else (ratio - 1) / 2

    def reach(self, ratio: int) -> int:
        """Fine pixels on either side of a coarse pixel's block that `degrade` reads for it, at most."""
        start, kernel = self._support(0.3, ratio)  # the kernels of all bands have the same taps, whatever their MTF
        return max(-start, start + len(kernel) - ratio)

    def degrade(self, fine: Tensor, bands: Sequence[str], ratio: int, valid: Tensor | None = None) -> Tensor:
        """What the sensor sees of a finer image at `ratio` times its GSD.

        Parameters
        ----------
        fine : Tensor, (..., band, y, x)
            Any unit; y and x are multiples of `ratio`.
        bands : sequence of str
            Band whose MTF is applied to each channel.
        ratio : int
            2 or 6.
        valid : Tensor of bool, (y, x) or (..., band, y, x), optional
            The fine pixels that count: a coarse pixel is the weighted mean of those that it sees (Knutsson & Westin 1993,
            normalised convolution, doi:10.1109/CVPR.1993.341081). Where it sees none, all count. Default: all.

        Returns
        -------
        Tensor, (..., band, y / ratio, x / ratio)

        Raises
        ------
        InputError
            If y or x is no multiple of `ratio`, or a band is unknown to the sensor.
        """
        height, width = fine.shape[-2:]
        if height % ratio or width % ratio:
            raise InputError(
                f"an image of {height} x {width} px cannot be degraded by {ratio}; crop it to a multiple of {ratio}",
                argument="fine",
            )
        supports = [self._support(mtf, ratio) for mtf in self._mtf_of(bands)]
        start = supports[0][0]
        weights = torch.as_tensor(np.stack([kernel for _, kernel in supports]), dtype=fine.dtype, device=fine.device)
        x = fine.reshape(-1, len(bands), height, width)
        for axis in (2, 3):
            x = self._degrade_axis(x, start, weights, ratio, axis)
        seen = x.reshape(*fine.shape[:-2], height // ratio, width // ratio)
        if valid is None or bool(valid.all()):
            return seen
        invalid = (~valid).to(fine).expand(fine.shape)
        missing = self.degrade(invalid, bands, ratio)
        rest = self.degrade(fine * (1 - invalid), bands, ratio) / (1 - missing).clamp_min(LEAST_SEEN)
        # beside no hole a pixel is what it would be without any, bit by bit
        return torch.where((missing > 0) & (missing < 1 - LEAST_SEEN), rest, seen)

    def seen_of(self, reflectance: npt.NDArray[np.float32], bands: Sequence[str], ratio: int) -> npt.NDArray[np.float32]:
        """`degrade` of an array (band, y, x) with NaN where it is invalid: NaN where any fine pixel in the coarse one is."""
        valid = np.isfinite(reflectance)
        filled, where = torch.from_numpy(np.where(valid, reflectance, 0)), torch.from_numpy(valid)
        degraded: npt.NDArray[np.float32] = self.degrade(filled, bands, ratio, where).numpy()
        count, height, width = degraded.shape
        degraded[~valid.reshape(count, height, ratio, width, ratio).all(axis=(2, 4))] = np.nan
        return degraded

    def matrix(self, band: str, ratio: int, size: int) -> Tensor:
        """`degrade` along one axis of `size` fine pixels, as a matrix: degraded = matrix(rows) @ fine @ matrix(columns).T.

        Parameters
        ----------
        band : str
        ratio : int
            2 or 6.
        size : int
            A multiple of `ratio`.

        Returns
        -------
        Tensor, (size / ratio, size)
        """
        start, weights = self.taps(band, ratio)
        columns = torch.eye(size).reshape(1, 1, size, size)
        return self._degrade_axis(columns, start, torch.from_numpy(weights).float()[None], ratio, 2)[0, 0]

    def noise_left(self, band: str, ratio: int) -> float:
        """Standard deviation that `degrade` leaves of white noise whose own is 1."""
        _, weights = self.taps(band, ratio)
        return float(weights @ weights)

    def taps(self, band: str, ratio: int) -> tuple[int, npt.NDArray[np.float64]]:
        """The point spread function of a band along one axis.

        Parameters
        ----------
        band : str
        ratio : int
            2 or 6.

        Returns
        -------
        start : int
            The first fine pixel that a coarse pixel reads, relative to the first of the block it covers.
        weights : ndarray
            Of the fine pixels from there on; their sum is 1.
        """
        start, weights = self._support(dict(self.mtf)[band], ratio)
        return start, weights

    def _degrade_axis(self, x: Tensor, start: int, weights: Tensor, ratio: int, axis: int) -> Tensor:
        """One axis of (image, band, y, x); `weights` (band, tap) begin `start` pixels from a block's first."""
        count, length = weights.shape
        x = self._pad(x, -start, start + length - ratio, axis)
        shape, stride = ((count, 1, length, 1), (ratio, 1)) if axis == 2 else ((count, 1, 1, length), (1, ratio))
        return F.conv2d(x, weights.reshape(shape), stride=stride, groups=count)

    def upsample(self, coarse: Tensor, ratio: int) -> Tensor:
        """Bicubic (Keys, a = -0.5) upsampling that puts every fine pixel where this sensor has it, mirrored at the edges.

        Parameters
        ----------
        coarse : Tensor, (..., y, x)
        ratio : int
            2 or 6.

        Returns
        -------
        Tensor, (..., y * ratio, x * ratio)
        """
        height, width = coarse.shape[-2:]
        start, weights = _bicubic_phases(ratio, self.phase(ratio))
        kernel = torch.as_tensor(weights, dtype=coarse.dtype, device=coarse.device)
        x = coarse.reshape(-1, 1, height, width)
        x = pad_symmetric(x, -start, start + kernel.shape[1] - 1, 2)
        x = F.conv2d(x, kernel.reshape(ratio, 1, -1, 1))
        x = x.transpose(1, 2).reshape(-1, 1, height * ratio, width)
        x = pad_symmetric(x, -start, start + kernel.shape[1] - 1, 3)
        x = F.conv2d(x, kernel.reshape(ratio, 1, 1, -1))
        x = x.permute(0, 2, 3, 1)
        return x.reshape(*coarse.shape[:-2], height * ratio, width * ratio)

    def _pad(self, x: Tensor, before: int, after: int, axis: int) -> Tensor:
        if self.name != "corner":
            return pad_symmetric(x, before, after, axis)
        return F.pad(x, (0, 0, before, after) if axis == 2 else (before, after, 0, 0))

    def _mtf_of(self, bands: Sequence[str]) -> list[float]:
        mtf = dict(self.mtf)
        if missing := [band for band in bands if band not in mtf]:
            raise InputError(f"the sensor has no mtf for {', '.join(missing)}, only for {', '.join(mtf)}", argument="sensor")
        return [mtf[band] for band in bands]

    def _support(self, mtf: float, ratio: int) -> tuple[int, npt.NDArray[np.float64]]:
        """First fine pixel relative to the block's first, and the taps from there on, for one axis."""
        if self.name == "box":
            return _box_taps(ratio)
        return _gaussian_taps(mtf, ratio, centred=self.name != "corner")


def as_sensor(sensor: Sensor | str | None, default: Sensor | None = None, *, argument: str = "sensor") -> Sensor:
    """`sensor`, or the one of this name; where it is None, `default`, or the matched one.

    Parameters
    ----------
    sensor : Sensor, str or None
    default : Sensor, optional
    argument : str
        What the caller's user calls it.

    Raises
    ------
    InputError
        If it is something else, or no sensor has this name.
    """
    if sensor is None:
        return default or Sensor()
    if isinstance(sensor, str):
        return Sensor(name=_known_name(sensor, argument=argument))
    if not isinstance(sensor, Sensor):
        raise InputError(
            f"{argument}={sensor!r} is a {type(sensor).__name__}; give a Sensor, or a name: {_accepted_names()}",
            argument=argument,
        )
    return sensor


def _known_name(name: str, *, argument: str) -> str:
    """A sensor's name as `Sensor` states it."""
    known = "centre" if name == "center" else name
    if known not in NAMES:
        raise InputError(f"{argument}={name!r} is no sensor; accepted are {_accepted_names()}", argument=argument)
    return known


def _accepted_names() -> str:
    return f"{', '.join(map(repr, NAMES))} ('center' too)"


def gaussian_sigma(mtf: float, ratio: int) -> float:
    """Sigma in fine pixels of the Gaussian whose transfer at the Nyquist frequency of a grid `ratio` times coarser is `mtf`."""
    return ratio * math.sqrt(-2 * math.log(mtf)) / math.pi


@lru_cache
def _gaussian_taps(mtf: float, ratio: int, *, centred: bool) -> tuple[int, npt.NDArray[np.float64]]:
    # Centred: an even count of taps, 8 at ratio 2 and 24 at ratio 6, at half-integer places around the block's middle, which
    # keeps the MTF of every band to 1e-4. Corner: the seven taps of the published code, around the block's first pixel.
    length = 4 * ratio if centred else 7
    centre = (ratio - 1) / 2 if centred else 0.0
    start = round(centre - (length - 1) / 2)
    places = np.arange(start, start + length) - centre
    taps = np.exp(-0.5 * (places / gaussian_sigma(mtf, ratio)) ** 2)
    return start, taps / taps.sum()


@lru_cache
def _box_taps(ratio: int) -> tuple[int, npt.NDArray[np.float64]]:
    sigma = 1 / ratio
    radius = int(4 * sigma + 0.5)  # as scipy.ndimage.gaussian_filter truncates, which DSen2 calls
    gaussian = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return -radius, np.convolve(gaussian / gaussian.sum(), np.full(ratio, 1 / ratio))


@lru_cache
def _bicubic_phases(ratio: int, phase: float) -> tuple[int, npt.NDArray[np.float64]]:
    """First coarse pixel relative to a fine pixel's own, and the (ratio, taps) weights of the fine pixels in a coarse one."""
    start, stop = -BICUBIC_REACH, BICUBIC_REACH
    places = (np.arange(ratio) - phase) / ratio
    distance = np.abs(places[:, None] - np.arange(start, stop + 1)[None, :])
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return start, np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def pad_symmetric(x: Tensor, before: int, after: int, axis: int) -> Tensor:
    # torch pads by reflection about the edge pixel's centre only; a pixel grid is symmetric about the pixel's edge.
    size = x.shape[axis]
    if max(before, after) > size:
        index = np.pad(np.arange(size), (before, after), mode="symmetric")
        return x.index_select(axis, torch.as_tensor(index, device=x.device))
    start, end = x.narrow(axis, 0, before).flip(axis), x.narrow(axis, size - after, after).flip(axis)
    return torch.cat([start, x, end], axis)
