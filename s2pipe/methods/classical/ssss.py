"""SSSS: the scene at 10 m in a spectral subspace, in which patches alike in the 10 m bands stay alike, by ADMM."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self, Unpack

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import optimize
from torch import Tensor

from s2pipe.core.bands import BANDS
from s2pipe.core.checks import check_positive, check_whole
from s2pipe.fitting.sampling import Sample, bands_without_data
from s2pipe.methods.attributes import Fields
from s2pipe.methods.base import FitContext, fields_of_fit
from s2pipe.methods.classical.subspace import HALO, Observation, SceneSharpener, all_bands, clearest_parts, sample_pixels, spectra
from s2pipe.physics.sensor import Sensor

DIMENSIONS = 5
PATCH = 6
"""Edge of a patch in 10 m pixels."""
SEARCH = 24
"""10 m pixels up to which a patch's like is sought in each direction: all edges that touch a pixel are found within the halo."""
PENALTY = 0.1
"""mu of the ADMM."""
COPIES = 144
"""Of the scene, that the ADMM makes agree: one for each edge of the 84 x 84 pixel blocks, overlapping by 12, that Armannsson et
al. 2021 (doi:10.3390/rs13112192) cut scenes into. They set how far the 100 iterations come, and belong to the method."""
SUBSPACE_ITERATIONS = 30
"""After which the subspace is estimated anew."""
SMALLEST_MOMENT = 1e-10
"""Of z, relative to the largest, below which there is nothing but rounding to regress on."""
ONE_DN = 1e-4
"""Reflectance. Distances of patches are in DN, and at least one: below that they cannot be told apart."""


@dataclass(frozen=True, kw_only=True)
class Ssss:
    """Sentinel-2 super-resolution via scene-adapted self-similarity.

    Of Lin and Bioucas-Dias 2020, IEEE Trans. Geosci. Remote Sens. 58(5), 3352-3365.

    All bands are B U z: z an image of 5 dimensions at 10 m, U a subspace, B the sensor. z minimises
    1/2 |y - B U z|^2 + lambda/2 sum_ij a_ij |z_i - z_j|^2, a sum over the edges of a graph: each patch i of the 6 x 6 pixel
    patches a block is cut into is joined to the patch j nearest to it in the mean of the 10 m bands, within 24 pixels;
    a_ij = 1 / d_ij, where d_ij is their Euclidean distance in DN, at least 1. ADMM with mu = 0.1 starts from the 10 m bands,
    of which each coarse band is a mixture without negative parts, and ends after `iterations`, before it converges.

    The mixtures and U are found once on the sample: U holds the leading singular vectors of the mixtures; these are of as many
    dimensions as there are 10 m bands, so that the fifth is the leading one of what they, degraded, leave of the coarse bands,
    upsampled. 30 iterations from there, each band is regressed on z as the sensor sees it, which gives the final U.

    lambda = 0.1, mu = 0.1 and 100 iterations are those of the authors' code. The search for the nearest patch ends 24 pixels away
    instead of at the scene's edge, so that a block can be sharpened by itself, and the copies that the ADMM makes agree are 144
    whatever the block, see `COPIES`.

    With these numbers the graph weighs little: the result is that of the subspace, and of the early end.

    Attributes
    ----------
    similarity : float
        lambda.
    iterations : int

    Raises
    ------
    InputError
        If an option is not above 0, or `iterations` is no whole number.
    """

    name: ClassVar[str] = "ssss"

    similarity: float = 0.1
    iterations: int = 100

    def __post_init__(self) -> None:
        check_positive("similarity", self.similarity)
        check_whole("iterations", self.iterations, least=1)

    def halo(self, gsds: Collection[int], sensor: Sensor) -> int:
        """See `Method.halo`."""
        return HALO

    def fit(self, sample: Sample, context: FitContext) -> SsssSharpener:
        """Find the mixtures and the subspace on the sample."""
        sensor, device = context.sensor, context.device
        bands, missing = all_bands(sample), bands_without_data(sample.windows, sample.bands)
        part = clearest_parts(sample, without=missing)
        mixture = mixtures(part, sensor, without=missing)
        subspace = torch.from_numpy(mixed_subspace(part, sensor, mixture, without=missing)).float()
        start = subspace.T @ torch.from_numpy(mixture).float()
        estimated = []
        for window in part.windows:
            images = [torch.from_numpy(image).to(device) for gsd in sample.bands for image in window.reflectance[gsd]]
            found = super_resolved(
                images,
                bands,
                sensor,
                subspace=subspace.to(device),
                start=start.to(device),
                similarity=self.similarity,
                iterations=SUBSPACE_ITERATIONS,
            )
            estimated.append(found.cpu())
        regressed = regressed_subspace(part, sensor, estimated, without=missing)
        return SsssSharpener(
            **fields_of_fit(self, sample, context),
            bands_in=bands,
            bicubic_bands=tuple(band for band in sample.targets if band in missing),
            subspace=torch.from_numpy(regressed).float(),
            start=start,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SsssSharpener(SceneSharpener):
    """A fitted `Ssss`.

    Attributes
    ----------
    subspace : Tensor, (band, dimension)
        U, of `bands_in`; rows of bands that are nowhere valid are zero.
    start : Tensor, (dimension, band)
        What makes the first z out of the 10 m bands.
    """

    subspace: Tensor = field(repr=False)
    start: Tensor = field(repr=False)

    @classmethod
    def restore(cls, weights: dict[str, Tensor], **fields: Unpack[Fields]) -> Self:
        """See `TorchSharpener.restore`."""
        subspace = weights["subspace"].reshape(len(fields["bands_in"]), -1)
        return cls(**fields, subspace=subspace, start=weights["start"].reshape(subspace.shape[1], -1))

    def weights(self) -> dict[str, Tensor]:
        """See `TorchSharpener.weights`."""
        return {"subspace": self.subspace, "start": self.start}

    def scene(self, images: Sequence[Tensor]) -> Tensor:
        """See `SceneSharpener.scene`."""
        z = super_resolved(
            images,
            self.bands_in,
            self.sensor,
            subspace=self.subspace,
            start=self.start,
            similarity=self.options["similarity"],
            iterations=self.options["iterations"],
        )
        return spectra(self.subspace, z)


def mixtures(sample: Sample, sensor: Sensor, *, without: Collection[str]) -> npt.NDArray[np.float64]:
    """What makes each band out of those at 10 m, without negative parts.

    Returns
    -------
    ndarray, (band, 10 m band)
        Least squares of the band on the 10 m bands as its detector would see them; zeros for bands in `without`.
    """
    bands, count = all_bands(sample), len(sample.bands[10])
    fine = [torch.from_numpy(window.reflectance[10]) for window in sample.windows]
    result = np.eye(len(bands), count)
    for row, band in enumerate(bands[count:], count):
        if band not in without:
            seen, observed = zip(*as_observed(sample, sensor, fine, band), strict=True)
            result[row] = optimize.nnls(np.concatenate(seen, axis=1).T, np.concatenate(observed))[0]
    return result


def as_observed(
    sample: Sample, sensor: Sensor, images: Sequence[Tensor], band: str
) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """For each window, its `images` (image, y, x) at 10 m as the detector of a band would see them, and what it saw.

    Yields
    ------
    (image, pixel), (pixel,)
        Where the band and the 10 m bands are valid.
    """
    gsd = BANDS[band].gsd
    row = sample.bands[gsd].index(band)
    for window, fine in zip(sample.windows, images, strict=True):
        valid = window.valid_at(gsd, {gsd: [row], 10: range(len(sample.bands[10]))})
        degraded = fine if gsd == 10 else sensor.degrade(fine, [band] * len(fine), gsd // 10)
        yield degraded.numpy()[:, valid].astype(np.float64), window.reflectance[gsd][row][valid].astype(np.float64)


def mixed_subspace(
    sample: Sample, sensor: Sensor, mixture: npt.NDArray[np.float64], *, without: Collection[str]
) -> npt.NDArray[np.float64]:
    """The leading left singular vectors of the mixtures of the 10 m bands, then those of what these leave of the scene.

    Returns
    -------
    ndarray, (band, dimension)
        Orthonormal columns; the rows of bands in `without` are zero.
    """
    bands, count = all_bands(sample), len(sample.bands[10])
    used = [i for i, band in enumerate(bands) if band not in without]
    mixed = mixture[used] @ sample_pixels(sample, sensor, without=without)[:count]
    left = sample_pixels(remainders(sample, sensor, mixture), sensor, without=without)
    vectors = np.linalg.eigh(mixed @ mixed.T)[1][:, ::-1]
    further = vectors[:, count:]
    vectors[:, count:] = further @ np.linalg.eigh(further.T @ left @ left.T @ further)[1][:, ::-1]
    subspace = np.zeros((len(bands), min(DIMENSIONS, len(used))))
    subspace[used] = vectors[:, :DIMENSIONS]
    return subspace


def remainders(sample: Sample, sensor: Sensor, mixture: npt.NDArray[np.float64]) -> Sample:
    """The sample, of each band what its mixture, degraded, leaves of it; zeros at 10 m."""
    rows = torch.from_numpy(mixture).float()
    windows = []
    for window in sample.windows:
        fine = torch.from_numpy(window.reflectance[10])
        left = {10: np.zeros_like(window.reflectance[10])}
        for gsd, bands in sample.bands.items():
            if gsd > 10:
                mixed = spectra(rows[[all_bands(sample).index(band) for band in bands]], fine)
                left[gsd] = window.reflectance[gsd] - sensor.degrade(mixed, bands, gsd // 10).numpy()
        windows.append(replace(window, reflectance=left))
    return replace(sample, windows=windows)


def regressed_subspace(
    sample: Sample, sensor: Sensor, estimated: Sequence[Tensor], *, without: Collection[str]
) -> npt.NDArray[np.float64]:
    """U of which U z, degraded, is nearest to the scene; zeros for bands in `without`.

    Parameters
    ----------
    estimated : sequence of Tensor, (dimension, y, x)
        z of each window.

    Returns
    -------
    ndarray, (band, dimension)
    """
    bands, count = all_bands(sample), len(estimated[0])
    subspace = np.zeros((len(bands), count))
    for row, band in enumerate(bands):
        if band in without:
            continue
        moments, products = np.zeros((count, count)), np.zeros(count)
        for seen, observed in as_observed(sample, sensor, estimated, band):
            moments += seen @ seen.T
            products += seen @ observed
        subspace[row] = np.linalg.lstsq(moments, products, rcond=SMALLEST_MOMENT)[0]
    return subspace


def super_resolved(
    images: Sequence[Tensor],
    bands: Sequence[str],
    sensor: Sensor,
    *,
    subspace: Tensor,
    start: Tensor,
    similarity: float,
    iterations: int,
) -> Tensor:
    """Z (dimension, y, x) of a block after some iterations.

    The names are those of ADMM: splits v = U z, and v_ij = z for each edge, their scaled duals d, d_ij. The v_ij are not held:
    with E the difference of the edge's two patches and s = lambda a_ij / mu, v_ij + d_ij = z - s E' t, where
    t = (1 + s E E')^-1 E (z - d_ij), which is all that is held.

    Parameters
    ----------
    images : sequence of Tensor, (y, x)
        What was observed of `bands`, those at 10 m first.
    subspace : Tensor, (band, dimension)
    start : Tensor, (dimension, 10 m band)
    """
    fine = torch.stack([image for band, image in zip(bands, images, strict=True) if BANDS[band].gsd == 10])
    observation = Observation.of(bands, images, sensor, str(fine.device))
    edges = Edges.of(fine.mean(dim=0), similarity / PENALTY)
    inverse = torch.linalg.inv(subspace.T @ subspace + COPIES * torch.eye(len(start), device=fine.device))
    back = observation.back_projected()
    d = torch.zeros_like(back)
    z = before = spectra(start, fine)
    t = torch.zeros_like(edges.differences(z))
    for _ in range(iterations):
        v = observation.resolve(back + PENALTY * (spectra(subspace, z) - d), PENALTY)
        t = edges.relaxed(t, 2 * z - before)
        before, z = z, spectra(inverse, spectra(subspace.T, v + d) + COPIES * z - edges.pull(t, z.shape))
        d = d + v - spectra(subspace, z)
    return z


@dataclass(frozen=True, kw_only=True)
class Edges:
    """The graph of a block: pairs of patches that should be alike.

    Attributes
    ----------
    first, second : Tensor of int, (edge, pixel)
        Positions of the two patches' pixels in the block, counted row by row.
    stiffness : Tensor, (edge, 1)
        lambda a_ij / mu.
    relaxation : Tensor, (edge, pixel, pixel)
        (1 + stiffness E E')^-1, where E is the difference of the two patches, which may overlap.
    """

    first: Tensor
    second: Tensor
    stiffness: Tensor
    relaxation: Tensor

    @classmethod
    def of(cls, image: Tensor, strength: float) -> Edges:
        """Of the patches that an image (y, x) in reflectance is cut into, each with its nearest; `strength` is lambda / mu."""
        distance, offset = nearest_patches(image)
        rows, columns = (torch.arange(size, device=image.device) for size in distance.shape)
        corners = PATCH * (rows[:, None] * image.shape[1] + columns)
        inside = torch.arange(PATCH, device=image.device)
        pixels = (inside[:, None] * image.shape[1] + inside).flatten()
        first = corners.reshape(-1, 1) + pixels
        second = first + (offset[0] * image.shape[1] + offset[1]).reshape(-1, 1)
        stiffness = strength / (distance / ONE_DN).clamp_min(1).reshape(-1, 1)
        shared = (first[:, :, None] == second[:, None, :]).float()
        one = torch.eye(len(pixels), device=image.device)
        system = one + stiffness[:, :, None] * (2 * one - shared - shared.transpose(1, 2))
        return cls(first=first, second=second, stiffness=stiffness, relaxation=torch.linalg.inv(system))

    def differences(self, images: Tensor) -> Tensor:
        """E of images (image, y, x): first patch less second, (image, edge, pixel)."""
        flat = images.flatten(1)
        return flat[:, self.first] - flat[:, self.second]

    def relaxed(self, t: Tensor, images: Tensor) -> Tensor:
        """The next t."""
        return t + torch.einsum("epq,ieq->iep", self.relaxation, self.differences(images) - t)

    def pull(self, t: Tensor, shape: Sequence[int]) -> Tensor:
        """E' (stiffness t), summed over the edges, as images (image, y, x) of this shape."""
        forces = (self.stiffness * t).flatten(1)
        result = torch.zeros(*shape, device=t.device).flatten(1)
        result.index_add_(1, self.first.flatten(), forces)
        result.index_add_(1, self.second.flatten(), -forces)
        return result.reshape(*shape)


def nearest_patches(image: Tensor) -> tuple[Tensor, Tensor]:
    """For each patch an image (y, x) is cut into, the nearest of all others whose corners are up to `SEARCH` pixels away.

    Returns
    -------
    distance : Tensor, (row, column)
        Euclidean, of the two patches' pixels; infinite where there is no other patch.
    offset : Tensor of int, (2, row, column)
        From a patch to the other along y and x, in pixels.
    """
    height, width = (size // PATCH * PATCH for size in image.shape)
    patches = image[:height, :width]
    surrounded = F.pad(patches, (SEARCH,) * 4, value=torch.inf)
    nearest = torch.full((height // PATCH, width // PATCH), torch.inf, device=image.device)
    offset = torch.zeros(2, *nearest.shape, dtype=torch.long, device=image.device)
    for y in range(-SEARCH, SEARCH + 1):
        others = surrounded[SEARCH + y : SEARCH + y + height].unfold(1, width, 1)  # (y, step along x, x)
        squares = (others - patches[:, None]).square_().reshape(height // PATCH, PATCH, -1, width // PATCH, PATCH).sum(dim=(1, 4))
        if y == 0:
            squares[:, SEARCH] = torch.inf
        least, step = squares.min(dim=1)
        nearer = least < nearest
        nearest = torch.where(nearer, least, nearest)
        offset[0].masked_fill_(nearer, y)
        offset[1] = torch.where(nearer, step - SEARCH, offset[1])
    return nearest.sqrt(), offset
