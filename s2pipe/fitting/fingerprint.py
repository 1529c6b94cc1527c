"""Whether two pieces show the same ground at the same date: hashes of some of their pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FINGERPRINT_EDGE = 4
FINGERPRINT_SHARE = 64
"""One in this many 4 x 4 pixel squares of a coarse band goes into a fingerprint."""
FINGERPRINT_NUMBERS = 8
"""Different numbers that such a square must have: water clipped to a few DN looks alike in all scenes."""


def fingerprint(reflectance: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Hashes of some 4 x 4 pixel squares, chosen by their content: two cuts of one scene share those of the ground they share.

    Parameters
    ----------
    reflectance, valid : ndarray, (band, y, x)
        To 1e-4 in reflectance; squares with invalid pixels, and nearly flat ones, are left out.

    Returns
    -------
    ndarray of uint64, sorted
    """
    if min(reflectance.shape[1:]) < FINGERPRINT_EDGE:
        return np.empty(0, dtype=np.uint64)
    return np.unique(np.concatenate([_hashed_squares(*band) for band in zip(reflectance, valid, strict=True)]))


def _hashed_squares(reflectance: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """The hashes of one band (y, x)."""
    edge = FINGERPRINT_EDGE
    numbers = np.round(reflectance * 1e4).astype(np.int64)
    rows, columns = (size - edge + 1 for size in numbers.shape)
    parts = [numbers[y : y + rows, x : x + columns] for y in range(edge) for x in range(edge)]
    hashed = np.zeros((rows, columns), dtype=np.uint64)
    for part in parts:
        # The mixing step of splitmix64 (Steele et al. 2014, doi:10.1145/2660193.2660195), once for each pixel; of differences,
        # so that a mistaken offset hides nothing.
        hashed = (hashed ^ (part - parts[0]).astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        hashed ^= hashed >> np.uint64(27)
    whole = np.lib.stride_tricks.sliding_window_view(valid, (edge, edge)).all(axis=(2, 3))
    chosen = whole & (hashed % np.uint64(FINGERPRINT_SHARE) == 0)
    squares = np.sort([part[chosen] for part in parts], axis=0)
    different = 1 + (np.diff(squares, axis=0) > 0).sum(axis=0)
    result: npt.NDArray[np.uint64] = hashed[chosen][different >= FINGERPRINT_NUMBERS]
    return result
