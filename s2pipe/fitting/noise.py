"""The noise of a band, measured on the scene itself."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from scipy import ndimage

SECOND_DIFFERENCE = np.outer([1, -2, 1], [1, -2, 1]) / 6
"""A high-pass filter that leaves the variance of white noise as it is (Immerkaer 1996, doi:10.1006/cviu.1996.0060)."""
BLOCKS = (8, 4)
"""Edges in pixels of the blocks that variances are measured in: the first of which there are enough."""
FEWEST = 12
"""Blocks that a line is fitted to."""
CALM_SHARE = 0.3
"""Of the blocks, those in which the guides vary least."""
ROUNDS = 10
"""In which outliers lose their weight."""

FloatArray = npt.NDArray[np.float64]


def noise_level(parts: Iterable[tuple[npt.NDArray[np.floating], npt.NDArray[np.floating], npt.NDArray[np.bool_]]]) -> float:
    """Standard deviation of the noise in what guides leave unexplained of a band.

    The fine detail of each block has a variance that grows with that of the guides there, for what they leave unexplained is
    texture, too. Where they have none, it is noise: what a line through the calmest blocks shows there.

    Parameters
    ----------
    parts : iterable of (ndarray (y, x), ndarray (guide, y, x), ndarray of bool (y, x))
        Of pieces of the scene: what is left of the band, the guides on the same grid, and where all of them are valid.

    Returns
    -------
    float
        In the unit of what is left; 0 where too little is valid to measure any.
    """
    parts = list(parts)
    for edge in BLOCKS:
        left, texture = (np.concatenate(found) for found in zip(*(_variances(*part, edge) for part in parts), strict=True))
        if left.size * CALM_SHARE >= FEWEST:
            calmest = np.argsort(texture)[: int(left.size * CALM_SHARE)]
            return float(np.sqrt(_at_nought(texture[calmest], left[calmest])))
    return 0.0


def _variances(
    left: npt.NDArray[np.floating], guides: npt.NDArray[np.floating], valid: npt.NDArray[np.bool_], edge: int
) -> tuple[FloatArray, FloatArray]:
    """Of the fine detail in each valid block: of what is left, and of the guides, summed."""
    usable = _blocks(ndimage.binary_erosion(valid, np.ones((3, 3)), border_value=1), edge).all(axis=(1, 2))
    details = [ndimage.convolve(image.astype(np.float64), SECOND_DIFFERENCE, mode="mirror") for image in (left, *guides)]
    own, *others = ((_blocks(detail, edge)[usable] ** 2).mean(axis=(1, 2)) for detail in details)
    return own, np.sum([other / max(image.var(), 1e-12) for other, image in zip(others, guides, strict=True)], axis=0)


def _blocks(image: npt.NDArray[np.generic], edge: int) -> npt.NDArray[np.generic]:
    """(block, edge, edge) of an image; what is left over at its lower and right edges is left out."""
    rows, columns = (size // edge for size in image.shape)
    cut = image[: rows * edge, : columns * edge].reshape(rows, edge, columns, edge)
    return cut.swapaxes(1, 2).reshape(-1, edge, edge)


def _at_nought(texture: FloatArray, left: FloatArray) -> float:
    """Where a rising line through variances, which scatter in proportion to themselves, meets a texture of 0."""
    design, weights = np.stack([np.ones_like(texture), texture], axis=1), np.ones_like(left)
    level, slope = 0.0, 0.0
    for _ in range(ROUNDS):
        root = np.sqrt(weights)
        level, slope = np.linalg.lstsq(design * root[:, None], left * root, rcond=None)[0]
        if slope < 0:
            level, slope = np.average(left, weights=weights), 0.0
        if level < 0:
            level, slope = 0.0, np.average(left, weights=weights) / max(np.average(texture, weights=weights), 1e-12)
        expected = np.maximum(level + slope * texture, 1e-14)
        weights = np.where(np.abs(left - expected) > 1.5 * expected, 0.1, 1.0) / expected**2
        weights /= weights.max()
    return float(level)
