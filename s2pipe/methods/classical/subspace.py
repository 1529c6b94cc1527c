"""What the methods share that seek the scene at 10 m in a spectral subspace: min |y - degrade(U z)|^2 + a prior of z."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from s2pipe.core.bands import BANDS
from s2pipe.core.errors import InputError
from s2pipe.core.lattice import STEP
from s2pipe.fitting.sampling import Sample
from s2pipe.methods.base import TensorPixels, TorchSharpener
from s2pipe.physics.sensor import Sensor, gaussian_sigma

HALO = 60
"""10 m pixels around a block, beyond which its result hardly depends on anything; measured in docs/methods.md."""

PIXELS = 432**2
"""10 m pixels, all windows together, that a fit solves for: as many as the published scenes have."""

BLUR_RADIUS = 6
"""Of the 13 taps that bring all bands to one sharpness, where the subspace is found."""

EDGE_QUANTILE = 0.95
"""Of the gradients, that counts as a full edge."""
SMALLEST_EDGE_WEIGHT = 0.5


def all_bands(sample: Sample) -> tuple[str, ...]:
    """Names of the scene's bands, finest first."""
    return tuple(band for bands in sample.bands.values() for band in bands)


def clearest_parts(sample: Sample, *, without: Collection[str]) -> Sample:
    """The sample with each window cut to a square, the clearest it has, so that all have no more than `PIXELS` together."""
    edge = int((PIXELS / len(sample.windows)) ** 0.5) // STEP * STEP
    needed = positions(sample, without)
    return replace(sample, windows=[window.clearest_part(edge, needed) for window in sample.windows])


def positions(sample: Sample, without: Collection[str]) -> dict[int, list[int]]:
    """Positions of the bands in the sample by GSD, but of those in `without`."""
    return {gsd: [i for i, band in enumerate(bands) if band not in without] for gsd, bands in sample.bands.items()}


def sample_pixels(
    sample: Sample,
    sensor: Sensor,
    *,
    without: Collection[str],
    every: int = 1,
    blur: Callable[[str, npt.NDArray[np.float32]], npt.NDArray[np.float32]] = lambda _, image: image,
) -> npt.NDArray[np.float64]:
    """Pixels of the sample's windows at 10 m, coarse bands upsampled.

    Parameters
    ----------
    sample : Sample
    sensor : Sensor
    without : collection of str
        Bands to leave out, which may be nodata.
    every : int
        Pixels from one to the next along both axes.
    blur : callable
        What is done to an image (y, x) of a band at 10 m before.

    Returns
    -------
    ndarray, (band, pixel)
        Where all bands are valid.

    Raises
    ------
    InputError
        If there is no such pixel.
    """
    needed = positions(sample, without)
    parts = []
    for window in sample.windows:
        valid = window.valid_at(10, needed)[::every, ::every]
        rows = []
        for gsd, rows_of_gsd in needed.items():
            for i in rows_of_gsd:
                image = torch.from_numpy(window.reflectance[gsd][i])
                fine = image.numpy() if gsd == 10 else sensor.upsample(image, gsd // 10).numpy()
                rows.append(blur(sample.bands[gsd][i], fine)[::every, ::every][valid])
        parts.append(np.stack(rows))
    pixels = np.concatenate(parts, axis=1).astype(np.float64)
    if not pixels.shape[1]:
        raise InputError(
            "no pixel is valid in all bands at once; leave bands out, or choose another date or bbox", argument="data"
        )
    return pixels


def rms_of_bands(sample: Sample, bands: Sequence[str]) -> npt.NDArray[np.float64]:
    """Root mean square of each band over the sample; 1 of a band that is zero, or nowhere valid."""
    result = []
    for band in bands:
        gsd = BANDS[band].gsd
        row = sample.bands[gsd].index(band)
        squares = [window.reflectance[gsd][row][window.valid[gsd][row]].astype(np.float64) ** 2 for window in sample.windows]
        mean = np.concatenate(squares).mean() if any(map(len, squares)) else 0.0
        result.append(np.sqrt(mean) if mean > 0 else 1.0)
    return np.array(result)


def blurred_subspace(
    sample: Sample, sensor: Sensor, *, rms: npt.NDArray[np.float64], without: Collection[str], dimensions: int
) -> npt.NDArray[np.float64]:
    """The leading left singular vectors of the scene's pixels, divided by `rms`, once all bands are as blurred as the worst.

    Returns
    -------
    ndarray, (band, dimension)
        Orthonormal columns; the rows of bands in `without` are zero.
    """
    bands = all_bands(sample)
    used = [i for i, band in enumerate(bands) if band not in without]
    sigma = {band: sigma_at_10_m(band, sensor) for band in bands}
    worst = max(sigma[bands[i]] for i in used)

    def blur(band: str, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        wanted = np.sqrt(worst**2 - sigma[band] ** 2)
        blurred: npt.NDArray[np.float32] = ndimage.gaussian_filter(image, wanted, radius=BLUR_RADIUS, mode="reflect")
        return blurred

    pixels = sample_pixels(sample, sensor, without=without, blur=blur) / rms[used, None]
    vectors = np.linalg.eigh(pixels @ pixels.T)[1][:, ::-1][:, :dimensions]
    subspace = np.zeros((len(bands), vectors.shape[1]))
    subspace[used] = vectors
    return subspace


def sigma_at_10_m(band: str, sensor: Sensor) -> float:
    """Of the Gaussian by which the sensor blurs a band against the 10 m bands, in 10 m pixels."""
    ratio = BANDS[band].gsd // 10
    return 0.0 if ratio == 1 else gaussian_sigma(dict(sensor.mtf)[band], ratio)


def gradient_magnitude(fine: Tensor) -> Tensor:
    """The largest gradient magnitude of the 10 m bands (band, y, x), by forward differences, (y, x)."""
    return torch.hypot(*differences(fine)).amax(dim=0)


def scale_of_edges(sample: Sample, rms: npt.NDArray[np.float64]) -> float:
    """The gradient of the 10 m bands, divided by `rms`, that counts as a full edge; 1 in a flat scene."""
    gradients = []
    for window in sample.windows:
        fine = torch.from_numpy((window.reflectance[10] / rms[:, None, None]).astype(np.float32))
        gradients.append(gradient_magnitude(fine).numpy()[window.valid[10].all(axis=0)])
    scale = float(np.quantile(np.concatenate(gradients), EDGE_QUANTILE))
    return scale if scale > 0 else 1.0


def edge_weights(fine: Tensor, scale: Tensor) -> Tensor:
    """How much a step of the result costs, (y, x): 1 in flat ground, half beside edges of the 10 m bands (band, y, x)."""
    return torch.exp(-((gradient_magnitude(fine) / scale) ** 2) / 2).clamp_min(SMALLEST_EDGE_WEIGHT)


@dataclass(frozen=True, kw_only=True)
class Decimation:
    """The sensor along one axis in its own basis: degrade = basis.T @ project, where basis is orthonormal.

    Attributes
    ----------
    project : Tensor, (coarse, fine)
        Fine pixels to coordinates; its rows are orthogonal, of the squared lengths `gains`.
    basis : Tensor, (coarse, coarse)
        Coarse pixels to coordinates.
    gains : Tensor, (coarse,)
    """

    project: Tensor
    basis: Tensor
    gains: Tensor


@lru_cache(maxsize=256)
def decimation(sensor: Sensor, band: str, size: int, device: str) -> Decimation:
    """Of a coarse band, along an axis of `size` 10 m pixels."""
    matrix = sensor.matrix(band, BANDS[band].gsd // 10, size).double()
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    parts = (values[:, None] * right, left.T, values**2)
    project, basis, gains = (part.float().contiguous().to(device) for part in parts)
    return Decimation(project=project, basis=basis, gains=gains)


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A block as the sensor sees it: every band's own pixels, and the way to them from 10 m.

    Attributes
    ----------
    bands : tuple of str
    coordinates : list of Tensor
        The observed pixels of each band, in the sensor's basis; of a 10 m band the pixels themselves.
    shape : tuple of int
        Of the block at 10 m.
    """

    bands: tuple[str, ...]
    coordinates: list[Tensor]
    shape: tuple[int, int]
    sensor: Sensor
    device: str

    @classmethod
    def of(cls, bands: Sequence[str], images: Sequence[Tensor], sensor: Sensor, device: str) -> Observation:
        """Of the images (y, x) of `bands`, at their own resolutions; there is a 10 m band."""
        shape = next(image.shape for band, image in zip(bands, images, strict=True) if BANDS[band].gsd == 10)
        seen = cls(bands=tuple(bands), coordinates=[], shape=(shape[0], shape[1]), sensor=sensor, device=device)
        for band, image in zip(bands, images, strict=True):
            rows, columns = seen.axes(band)
            seen.coordinates.append(image if rows is None or columns is None else rows.basis @ image @ columns.basis.T)
        return seen

    def axes(self, band: str) -> tuple[Decimation, Decimation] | tuple[None, None]:
        """The sensor along y and x; None of a 10 m band, which is seen as it is."""
        if BANDS[band].gsd == 10:
            return None, None
        return (
            decimation(self.sensor, band, self.shape[0], self.device),
            decimation(self.sensor, band, self.shape[1], self.device),
        )

    def back_projected(self, images: Sequence[Tensor] | None = None) -> Tensor:
        """B' y of the observation, or B' B x of `images` (y, x) at 10 m, (band, y, x)."""
        result = []
        for i, (band, observed) in enumerate(zip(self.bands, self.coordinates, strict=True)):
            rows, columns = self.axes(band)
            if rows is None or columns is None:
                result.append(observed if images is None else images[i])
                continue
            seen = observed if images is None else rows.project @ images[i] @ columns.project.T
            result.append(rows.project.T @ seen @ columns.project)
        return torch.stack(result)

    def resolve(self, images: Tensor, weight: float) -> Tensor:
        """(B' B + weight)^-1 of images (band, y, x) at 10 m, exactly."""
        result = torch.empty_like(images)
        for i, band in enumerate(self.bands):
            rows, columns = self.axes(band)
            if rows is None or columns is None:
                result[i] = images[i] / (1 + weight)
                continue
            seen = rows.project @ images[i] @ columns.project.T
            seen /= weight + rows.gains[:, None] * columns.gains
            result[i] = (images[i] - rows.project.T @ seen @ columns.project) / weight
        return result


@dataclass(frozen=True, kw_only=True)
class Transform:
    """The cosine transform of images of one shape, in which forward differences, mirrored at the edges, are gains."""

    rows: Tensor
    columns: Tensor
    gains: Tensor

    @classmethod
    def of(cls, shape: tuple[int, int], device: str) -> Transform:
        """For images of this shape."""
        (rows, down), (columns, across) = (_cosines(size, device) for size in shape)
        return cls(rows=rows, columns=columns, gains=down[:, None] + across)

    def solve(self, images: Tensor) -> Tensor:
        """(1 + D' D)^-1 of images (image, y, x)."""
        coordinates = self.rows @ images @ self.columns.T / (1 + self.gains)
        return self.rows.T @ coordinates @ self.columns


@lru_cache(maxsize=32)
def _cosines(size: int, device: str) -> tuple[Tensor, Tensor]:
    """Orthonormal basis (frequency, pixel) of the cosine transform, and the squared gains of forward differences in it."""
    frequency = torch.arange(size, dtype=torch.float64)[:, None]
    basis = torch.cos(torch.pi * frequency * (torch.arange(size) + 0.5) / size) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    gains = 2 - 2 * torch.cos(torch.pi * frequency[:, 0] / size)
    return basis.float().to(device), gains.float().to(device)


def differences(images: Tensor) -> tuple[Tensor, Tensor]:
    """Forward differences down and across of images (image, y, x), zero at the far edges."""
    return torch.diff(images, dim=1, append=images[:, -1:]), torch.diff(images, dim=2, append=images[:, :, -1:])


def adjoint_of_differences(down: Tensor, across: Tensor) -> Tensor:
    """The transpose of `differences`."""
    result = torch.zeros_like(down)
    result[:, 1:] += down[:, :-1]
    result[:, :-1] -= down[:, :-1]
    result[:, :, 1:] += across[:, :, :-1]
    result[:, :, :-1] -= across[:, :, :-1]
    return result


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneSharpener(TorchSharpener):
    """What the Sharpeners share that find a block's bands all at once; their `weights` are attributes."""

    def to(self, device: str) -> Self:
        """See `TorchSharpener.to`."""
        moved: Any = {name: tensor.to(device) for name, tensor in self.weights().items()}
        return replace(self, device=device, **moved)

    def forward(self, pixels: TensorPixels) -> Tensor:
        """See `TorchSharpener.forward`."""
        images = [image for array in pixels.reflectance.values() for image in array]
        found = self.scene(images)
        rows = [self.bands_in.index(band) for band in self.bands_out]
        return torch.stack(
            [
                self.sensor.upsample(images[row], BANDS[band].gsd // 10) if band in self.bicubic_bands else found[row]
                for row, band in zip(rows, self.bands_out, strict=True)
            ]
        )

    def scene(self, images: Sequence[Tensor]) -> Tensor:
        """`bands_in` of a block at 10 m, (band, y, x), from those observed, (y, x); `bicubic_bands` are not used."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False)
class SubspaceSharpener(SceneSharpener):
    """What the Sharpeners share that divide the bands by their root mean squares and keep edges where the 10 m bands have them.

    Attributes
    ----------
    subspace : Tensor, (band, dimension)
        Orthonormal columns, of `bands_in`; rows of bands that are nowhere valid are zero.
    rms : Tensor, (band,)
        What `bands_in` are divided by.
    edge_scale : Tensor, scalar
        See `edge_weights`.
    """

    subspace: Tensor = field(repr=False)
    rms: Tensor = field(repr=False)
    edge_scale: Tensor = field(repr=False)

    @classmethod
    def restore(cls, weights: dict[str, Tensor], **fields: Any) -> Self:
        """See `TorchSharpener.restore`."""
        count = len(fields["bands_in"])
        return cls(
            **fields,
            subspace=weights["subspace"].reshape(count, -1),
            rms=weights["rms"].reshape(count),
            edge_scale=weights["edge_scale"].reshape(()),
        )

    def weights(self) -> dict[str, Tensor]:
        """See `TorchSharpener.weights`."""
        return {"subspace": self.subspace, "rms": self.rms, "edge_scale": self.edge_scale}

    def scene(self, images: Sequence[Tensor]) -> Tensor:
        """See `SceneSharpener.scene`."""
        relative = [image / scale for image, scale in zip(images, self.rms, strict=True)]
        observation = Observation.of(self.bands_in, relative, self.sensor, self.device)
        fine = torch.stack([image for band, image in zip(self.bands_in, relative, strict=True) if BANDS[band].gsd == 10])
        found = self.solve(observation, edge_weights(fine, self.edge_scale))
        return spectra(self.subspace, found) * self.rms[:, None, None]

    def solve(self, observation: Observation, weights: Tensor) -> Tensor:
        """Z (dimension, y, x) of a block, of which `weights` (y, x) show where the ground is smooth."""
        raise NotImplementedError


def spectra(subspace: Tensor, images: Tensor) -> Tensor:
    """U z (band, y, x), or with the subspace transposed U' x."""
    return torch.einsum("bd,dyx->byx", subspace, images)
