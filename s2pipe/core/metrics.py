"""The quality of a sharpened image against a reference on the same pixels: SRE, RMSE, SAM, ERGAS, SSIM and UIQI.

Give reflectance, or DN without an offset. Every metric but the RMSE sets errors against the level of the image, and a storage
offset lifts that level, not the errors: the same result then seems to have a higher SRE and a lower SAM and ERGAS.

SRE, RMSE, SAM and ERGAS know no neighbours: leave pixels out by selecting the others, ``reference[:, valid]``. SSIM and UIQI
look at windows and take a mask. A NaN among the pixels compared makes the result nan. All is computed in float64.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.metrics import structural_similarity

from s2pipe.core.errors import InputError
from s2pipe.core.types import AnyArray as Array

SSIM_SIGMA = 1.5
SSIM_WINDOW = 11
"""Edge in pixels of scikit-image's Gaussian window of that sigma, which is cut off at 3.5 sigma."""

PAIR = ("reference", "estimate")
"""The arguments that an error about both images names."""

UIQI_BLOCK = 8
"""Edge in pixels of the blocks of Wang & Bovik (2002)."""

FLAT = 1e-6
"""Standard deviation relative to the mean below which a block is flat: what float32 leaves of a constant after some arithmetic.
One step of a uint16 DN in one pixel of a block is more."""

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def sre(reference: Array, estimate: Array) -> float:
    """Signal to reconstruction error, 10 log10(sum x^2 / sum (x - xh)^2).

    Parameters
    ----------
    reference, estimate : ndarray, any shape
        One band as a rule, in any unit.

    Returns
    -------
    float
        In dB. inf if the estimate equals the reference; nan if the reference is zero everywhere, for there is no signal.

    Raises
    ------
    InputError
        If the shapes differ, or the arrays are empty.
    """
    x, xh = _pair(reference, estimate)
    signal, error = np.sum(x**2), np.sum((x - xh) ** 2)
    if signal == 0:
        return math.nan
    if error == 0:
        return math.inf
    return float(10 * (np.log10(signal) - np.log10(error)))


def rmse(reference: Array, estimate: Array) -> float:
    """Root mean square error.

    Parameters
    ----------
    reference, estimate : ndarray, any shape

    Returns
    -------
    float
        In the unit of the arrays.

    Raises
    ------
    InputError
        If the shapes differ, or the arrays are empty.
    """
    x, xh = _pair(reference, estimate)
    return float(np.sqrt(np.mean((x - xh) ** 2)))


def sam(reference: Array, estimate: Array) -> float:
    """Spectral angle mapper: the mean over all pixels of the angle between both spectra, acos(<x, xh> / |x| |xh|).

    Parameters
    ----------
    reference, estimate : ndarray, (band, ...)
        Any unit.

    Returns
    -------
    float
        In degrees. Pixels whose spectrum is zero in either have no angle and are left out; nan if there are no others.

    Raises
    ------
    InputError
        If the shapes differ, the arrays are empty, or have fewer than two axes.
    """
    x, xh = _spectra(reference, estimate)
    norm, norm_h = np.linalg.norm(x, axis=0), np.linalg.norm(xh, axis=0)
    kept = (norm != 0) & (norm_h != 0)
    if not kept.any():
        return math.nan
    u, v = x[:, kept] / norm[kept], xh[:, kept] / norm_h[kept]
    # the same angle as by acos, which rounds all angles below 1e-6 degrees
    angles = 2 * np.arctan2(np.linalg.norm(u - v, axis=0), np.linalg.norm(u + v, axis=0))
    return float(np.degrees(angles.mean()))


def ergas(reference: Array, estimate: Array, ratio: int) -> float:
    """Relative dimensionless global error in synthesis (ERGAS), (100 / ratio) sqrt(mean_b MSE_b / mean_b^2).

    Divided by the ratio as in Wald (2000), and as the papers on Sentinel-2 have it.

    Parameters
    ----------
    reference, estimate : ndarray, (band, ...)
        Any unit.
    ratio : int
        2 or 6: how many times coarser the bands were before sharpening.

    Returns
    -------
    float
        nan if the mean of a reference band is zero.

    Raises
    ------
    InputError
        If the shapes differ, the arrays are empty or have fewer than two axes, or `ratio` is neither 2 nor 6.
    """
    if ratio not in (2, 6):
        raise InputError(f"ratio={ratio!r} must be 2 (from 20 m to 10 m) or 6 (from 60 m to 10 m)", argument="ratio")
    x, xh = _spectra(reference, estimate)
    mse, mean = np.mean((x - xh) ** 2, axis=1), x.mean(axis=1)
    if not mean.all():
        return math.nan
    return float(100 / ratio * np.sqrt(np.mean(mse / mean**2)))


def ssim(reference: Array, estimate: Array, valid: Mask | None = None) -> float:
    """Structural similarity (Wang et al. 2004) in the Gaussian form of scikit-image.

    The mean over all pixels whose whole window, 11 x 11 px with a sigma of 1.5 px, is valid and lies within the image.

    Parameters
    ----------
    reference, estimate : ndarray, (y, x)
        One band, in any unit. The data range is that of the valid pixels of the reference.
    valid : ndarray of bool, (y, x), optional
        The pixels to compare, default all; the others may hold anything, NaN too.

    Returns
    -------
    float
        At most 1. nan if no whole window is valid, as in an image smaller than a window, or if the reference is constant: its
        data range is zero, to which the index is relative.

    Raises
    ------
    InputError
        If the shapes differ, the arrays are empty or no images, or `valid` is no boolean array of their shape.
    """
    x, xh, valid = _images(reference, estimate, valid)
    whole = _whole_windows(valid, SSIM_WINDOW)
    data_range = np.ptp(x[valid]) if whole.any() else 0.0
    if data_range == 0:
        return math.nan
    _, similarity = structural_similarity(  # type: ignore[no-untyped-call]  # scikit-image declares no types
        x, xh, data_range=data_range, gaussian_weights=True, sigma=SSIM_SIGMA, use_sample_covariance=False, full=True
    )
    return float(similarity[whole].mean())


def uiqi(reference: Array, estimate: Array, valid: Mask | None = None) -> float:
    """Universal image quality index (Wang & Bovik 2002), 4 cov(x, y) mx my / ((var x + var y) (mx^2 + my^2)).

    The mean over all 8 x 8 px blocks, one at every pixel, that are valid and lie within the image. The index of a block is a
    product of two factors. 2 cov / (var x + var y) is 1 where the block is flat in both images, for nothing is lost there;
    2 mx my / (mx^2 + my^2) is 1 where both means are zero. A block that is flat in one image only has index 0.

    Parameters
    ----------
    reference, estimate : ndarray, (y, x)
        One band, in any unit.
    valid : ndarray of bool, (y, x), optional
        The pixels to compare, default all; the others may hold anything, NaN too.

    Returns
    -------
    float
        Between -1 and 1. nan if no whole block is valid, as in an image smaller than a block.

    Raises
    ------
    InputError
        If the shapes differ, the arrays are empty or no images, or `valid` is no boolean array of their shape.
    """
    x, y, valid = _images(reference, estimate, valid)
    whole = _whole_windows(valid, UIQI_BLOCK)
    if not whole.any():
        return math.nan
    mx, my = _block_means(x), _block_means(y)
    power = mx**2 + my**2
    variance = _block_means(x**2) + _block_means(y**2) - power
    covariance = _block_means(x * y) - mx * my
    structure = np.divide(2 * covariance, variance, out=np.ones_like(x), where=variance > FLAT**2 * power)
    luminance = np.divide(2 * mx * my, power, out=np.ones_like(x), where=power != 0)
    return float((structure * luminance)[whole].mean())


def _pair(reference: Array, estimate: Array) -> tuple[Floats, Floats]:
    x, xh = np.asarray(reference, dtype=np.float64), np.asarray(estimate, dtype=np.float64)
    if x.shape != xh.shape:
        message = f"reference has shape {x.shape}, estimate {xh.shape}; give both on the same bands and pixels"
        raise InputError(message, argument=PAIR)
    if not x.size:
        raise InputError(f"reference and estimate are empty, of shape {x.shape}; give at least one pixel", argument=PAIR)
    return x, xh


def _spectra(reference: Array, estimate: Array) -> tuple[Floats, Floats]:
    """Both as (band, pixel)."""
    x, xh = _pair(reference, estimate)
    if x.ndim < 2:
        message = f"reference and estimate have shape {x.shape}; give arrays (band, ...) with one or more pixel axes"
        raise InputError(message, argument=PAIR)
    return x.reshape(len(x), -1), xh.reshape(len(x), -1)


def _images(reference: Array, estimate: Array, valid: Mask | None) -> tuple[Floats, Floats, Mask]:
    x, xh = _pair(reference, estimate)
    if x.ndim != 2:
        raise InputError(f"reference and estimate have shape {x.shape}; give one band at a time, (y, x)", argument=PAIR)
    valid = np.ones(x.shape, dtype=bool) if valid is None else np.asarray(valid)
    if valid.shape != x.shape or valid.dtype != bool:
        message = f"valid has shape {valid.shape} and dtype {valid.dtype}; give a boolean array of shape {x.shape}"
        raise InputError(message, argument="valid")
    return x, xh, valid


def _whole_windows(valid: Mask, size: int) -> Mask:
    """Pixels around which all of a `size` x `size` window is valid and within the image, (y, x)."""
    whole: Mask = ndimage.minimum_filter(valid, size=size, mode="constant", cval=0)
    return whole


def _block_means(image: Floats) -> Floats:
    """Mean of the block around each pixel, (y, x); the blocks lie as the windows of `_whole_windows` do."""
    # not uniform_filter: it carries the rounding errors and the NaN of a line's first pixels to its last
    taps = np.full(UIQI_BLOCK, 1 / UIQI_BLOCK)
    means: Floats = ndimage.correlate1d(ndimage.correlate1d(image, taps, axis=0), taps, axis=1)
    return means
