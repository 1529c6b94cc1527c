"""Regression of images on others, anew in the surroundings of each pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from s2pipe.physics.window import window_mean

RIDGE = 0.01
"""Added to the variance of each image that is regressed on (1 over the whole scene), so that no slope is made of noise."""


def regress_locally(images: Tensor, observed: Tensor, known: Tensor) -> Tensor:
    """Intercept and slopes, at each pixel, that fit the observed best in a Gaussian window around it.

    The window of the guided filter (He et al. 2013, doi:10.1109/TPAMI.2012.213), with several guides and Gaussian weights.

    Parameters
    ----------
    images : Tensor, (image, y, x)
        With a variance of about 1.
    observed : Tensor, (band, y, x)
        With a mean of about 0: the slopes, and next to nothing of the intercept, are drawn to 0.
    known : Tensor of bool, (band, y, x)
        Pixels that are regressed on; where there are few, slopes and intercept are drawn to 0 the more.

    Returns
    -------
    Tensor, (band, 1 + image, y, x)
    """
    if not bool((known == known[0]).all()):
        parts = zip(observed.split(1), known.split(1), strict=True)
        return torch.cat([regress_locally(images, band, where) for band, where in parts])
    regressors = torch.cat([torch.ones_like(images[:1]), images])
    count, bands = len(regressors), len(observed)
    first, second = torch.triu_indices(count, count, device=images.device)
    products = torch.cat([regressors[first] * regressors[second], (observed[:, None] * regressors).flatten(0, 1)])
    means = window_mean(products * known[0]).permute(1, 2, 0)
    square = means.new_empty(*means.shape[:2], count, count)
    square[..., first, second] = square[..., second, first] = means[..., : len(first)]
    square.diagonal(dim1=-2, dim2=-1).add_(RIDGE * torch.tensor([1e-3, *[1.0] * (count - 1)], device=images.device))
    right = means[..., len(first) :].unflatten(-1, (bands, count)).transpose(-1, -2)
    solution: Tensor = torch.linalg.solve(square, right)
    return solution.permute(3, 2, 0, 1)
