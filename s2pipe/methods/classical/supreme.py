"""SupReME: the scene at 10 m in a spectral subspace, smooth but for the edges of the 10 m bands, by ADMM."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from s2pipe.core.checks import check_positive, check_whole
from s2pipe.fitting.sampling import Sample, bands_without_data
from s2pipe.methods.base import FitContext, fields_of_fit
from s2pipe.methods.classical.subspace import (
    HALO,
    Observation,
    SubspaceSharpener,
    Transform,
    adjoint_of_differences,
    all_bands,
    blurred_subspace,
    differences,
    rms_of_bands,
    scale_of_edges,
    spectra,
)
from s2pipe.physics.sensor import Sensor

DIMENSIONS = 7
ROUGHNESS_COSTS = (1.0, 1.5, 4.0, 8.0, 15.0, 15.0, 20.0)
"""q: how much more the later dimensions are smoothed."""
PENALTY = 0.2
"""mu of the ADMM."""
RESIDUAL = 1e-3
"""Of the ADMM, at which it ends."""


@dataclass(frozen=True, kw_only=True)
class Supreme:
    """SupReME (Lanaras et al. 2017, doi:10.1109/CVPRW.2017.194).

    All bands, divided by their root mean squares, are B U z: z an image of 7 dimensions at 10 m, U a subspace, B the sensor.
    z minimises 1/2 |y - B U z|^2 + tau/2 sum_i q_i w |D z_i|^2, with D the forward differences, q = 1, 1.5, 4, 8, 15, 15, 20 and
    w = exp(-g^2 / 2), at least 0.5, where g is the largest gradient of the 10 m bands in units of its 95 % quantile. U, the
    root mean squares and that quantile are found once on the sample: U holds the leading singular vectors of the scene
    with all bands blurred alike, by Gaussians of 13 taps. ADMM with mu = 0.2 ends after `iterations` or at a residual of 1e-3.
    tau = 0.005, mu and 100 iterations are those of the authors' code. Every linear step is exact, at the edges too, where the
    block is mirrored.

    Attributes
    ----------
    smoothness : float
        tau.
    iterations : int

    Raises
    ------
    InputError
        If an option is not above 0, or `iterations` is no whole number.
    """

    name: ClassVar[str] = "supreme"

    smoothness: float = 0.005
    iterations: int = 100

    def __post_init__(self) -> None:
        check_positive("smoothness", self.smoothness)
        check_whole("iterations", self.iterations, least=1)

    def halo(self, gsds: Collection[int], sensor: Sensor) -> int:
        """See `Method.halo`."""
        return HALO

    def fit(self, sample: Sample, context: FitContext) -> SupremeSharpener:
        """Find the subspace, the bands' root mean squares and the scale of edges on the sample."""
        bands, missing = all_bands(sample), bands_without_data(sample.windows, sample.bands)
        rms = rms_of_bands(sample, bands)
        subspace = blurred_subspace(sample, context.sensor, rms=rms, without=missing, dimensions=DIMENSIONS)
        return SupremeSharpener(
            **fields_of_fit(self, sample, context),
            bands_in=bands,
            bicubic_bands=tuple(band for band in sample.targets if band in missing),
            subspace=torch.from_numpy(subspace).float(),
            rms=torch.from_numpy(rms).float(),
            edge_scale=torch.tensor(scale_of_edges(sample, rms[: len(sample.bands[10])])),
        )


class SupremeSharpener(SubspaceSharpener):
    """A fitted `Supreme`."""

    def solve(self, observation: Observation, weights: Tensor) -> Tensor:
        """See `SubspaceSharpener.solve`; the names are those of ADMM: splits v1 = U z, v2 = D z, their scaled duals d1, d2."""
        count = self.subspace.shape[1]
        costs = torch.tensor(ROUGHNESS_COSTS[:count], device=self.device)
        shrink = PENALTY / (PENALTY + self.options["smoothness"] * costs[:, None, None] * weights)
        transform = Transform.of(observation.shape, self.device)
        back = observation.back_projected()
        v1, d1 = torch.zeros_like(back), torch.zeros_like(back)
        v2 = torch.zeros(2, count, *observation.shape, device=self.device)
        d2 = torch.zeros_like(v2)
        for _ in range(self.options["iterations"]):
            z = transform.solve(spectra(self.subspace.T, v1 + d1) + adjoint_of_differences(*(v2 + d2)))
            x, steps = spectra(self.subspace, z), torch.stack(differences(z))
            v1 = observation.resolve(back + PENALTY * (x - d1), PENALTY)
            v2 = shrink * (steps - d2)
            d1, d2 = d1 + v1 - x, d2 + v2 - steps
            if torch.linalg.norm(v1 - x) + torch.linalg.norm(steps[0] - v2[0]) + torch.linalg.norm(steps[1] - v2[1]) < RESIDUAL:
                break
        return z
