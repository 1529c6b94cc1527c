"""Filling invalid pixels, so that a network sees no holes. What is filled is masked again afterwards."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage


def fill_nodata(reflectance: npt.NDArray[np.float32], reach: int) -> npt.NDArray[np.float32]:
    """Fill NaN with the nearest valid pixel of the same band within `reach`, else with the mean of the bands valid there, else 0.

    What a pixel is filled with depends on nothing farther away than `reach`, so a chunk that overlaps its neighbours by a
    halo plus `reach` is filled, throughout the halo, exactly as the whole scene is.

    Parameters
    ----------
    reflectance : ndarray, (band, y, x)
        NaN where invalid.
    reach : int
        Largest distance, in pixels along the longer of the two axes.

    Returns
    -------
    ndarray, (band, y, x), finite. The input itself where it holds no NaN.
    """
    holes = np.isnan(reflectance)
    if not holes.any():
        return reflectance
    filled = np.stack([_fill_band(band, hole, reach) for band, hole in zip(reflectance, holes, strict=True)])
    valid = ~np.isnan(filled)
    mean = np.where(valid, filled, 0).sum(axis=0) / np.maximum(valid.sum(axis=0), 1)
    result: npt.NDArray[np.float32] = np.where(valid, filled, mean.astype(np.float32))
    return result


def _fill_band(band: npt.NDArray[np.float32], hole: npt.NDArray[np.bool_], reach: int) -> npt.NDArray[np.float32]:
    if not hole.any() or hole.all():
        return band
    distance, (rows, columns) = ndimage.distance_transform_cdt(hole, metric="chessboard", return_indices=True)
    return np.where(distance <= reach, band[rows, columns], np.nan).astype(band.dtype)
