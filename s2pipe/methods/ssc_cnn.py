"""SSC-CNN, trained on the scene itself one scale lower (Nguyen et al., IGARSS 2020)."""

from __future__ import annotations

import copy
import logging
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from s2pipe.cube import band_names, nodes
from s2pipe.errors import InputError
from s2pipe.lattice import STEP
from s2pipe.methods.base import TorchSharpener, coarse_bands, halo_of, upsampling_reach
from s2pipe.networks import ssc_cnn
from s2pipe.sensor import Sensor
from s2pipe.training import Progress, Window, patch_corners, sample_windows, seeded, train

log = logging.getLogger(__name__)

PATCH, STRIDE, BATCH = 16, 8, 64


@dataclass(frozen=True, kw_only=True)
class SscCnn:
    """A network for the 20 m bands and one of the same shape for the 60 m bands, trained on the scene one scale lower.

    Where the scene holds fewer 60 m patches than one batch, its 60 m bands are interpolated instead (`bicubic_bands`).
    The paper's schedule is 200 epochs of 1024 patches of 16 x 16, 64 at a time: 3200 steps. Learning rate as in the
    authors' code (the paper prints 0.005). The weights are those of the last step.

    Attributes
    ----------
    steps : int
        Optimiser steps of each network.
    patches : int
        Patches sampled for each network, at most.
    learning_rate : float
        Of Adam.
    """

    steps: int = 3200
    patches: int = 1024
    learning_rate: float = 5e-4

    def __post_init__(self) -> None:
        for name in ("steps", "patches"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r} must be a whole number of at least 1")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate={self.learning_rate!r} must be above 0")

    def fit(self, cube: xr.DataTree, *, sensor: Sensor, seed: int, device: str, progress: Progress | None) -> SscCnnSharpener:
        """Train on sampled windows of the cube.

        Raises
        ------
        InputError
            If the scene is too small, or has too few seen pixels, to cut one 20 m patch from.
        """
        names = {gsd: band_names(array) for gsd, array in nodes(cube).items()}
        windows = sample_windows(cube, seed=seed)
        networks: dict[int, ScaledNetwork] = {}
        for gsd in sorted(set(names) - {10}):
            pairs = _training_pairs(windows, names, gsd, sensor, patches=self.patches, seed=seed)
            if gsd == 60 and (pairs is None or len(pairs[0]) < BATCH):
                log.warning("too few 60 m pixels to train on: %s are interpolated", ", ".join(names[60]))
                continue
            if pairs is None:
                raise InputError(
                    f"the scene has no {PATCH} x {PATCH} px patch of seen {gsd} m pixels to train ssc-cnn on; "
                    "give a larger or clearer scene, or method='glp'"
                )
            networks[gsd] = self._train(gsd, names, pairs, seed=seed, device=device, progress=progress)
        coarse = tuple(band for gsd in sorted(names) if gsd > 10 for band in names[gsd])
        reaches = [upsampling_reach(gsd // 10) + (ssc_cnn.RADIUS if gsd in networks else 0) for gsd in names if gsd > 10]
        return SscCnnSharpener(
            method="ssc-cnn",
            options=asdict(self),
            seed=seed,
            sensor=sensor,
            bands_in=names[10] + coarse,
            bands_out=coarse,
            halo=halo_of(max(reaches)),
            networks=networks,
        )

    def _train(
        self,
        gsd: int,
        names: dict[int, tuple[str, ...]],
        pairs: tuple[Tensor, Tensor],
        *,
        seed: int,
        device: str,
        progress: Progress | None,
    ) -> ScaledNetwork:
        inputs, targets = pairs
        scale = float(targets.abs().max()) or 1.0
        with seeded(seed):
            network = ssc_cnn.SscCnn(targets=len(names[gsd]), companions=inputs.shape[1] - len(names[gsd]))
            train(
                network,
                inputs / scale,
                targets / scale,
                steps=self.steps,
                batch=BATCH,
                learning_rate=self.learning_rate,
                seed=seed,
                device=device,
                label=f"ssc-cnn {gsd} m",
                progress=progress,
            )
        return ScaledNetwork(network=network.requires_grad_(False), scale=scale)


@dataclass(frozen=True, kw_only=True)
class ScaledNetwork:
    """A network and the reflectance its inputs are divided by."""

    network: ssc_cnn.SscCnn
    scale: float

    def to(self, device: str) -> ScaledNetwork:
        """A copy on `device`; this one stays where it is."""
        moved = copy.deepcopy(self.network).to(device)
        return replace(self, network=moved.to(memory_format=torch.channels_last))  # type: ignore[call-overload]  # torch's stubs


@dataclass(frozen=True, kw_only=True, eq=False)
class SscCnnSharpener(TorchSharpener):
    """Fitted `SscCnn`: `networks` by GSD; coarse bands without one are interpolated."""

    networks: dict[int, ScaledNetwork] = field(repr=False)

    @property
    def bicubic_bands(self) -> tuple[str, ...]:
        """Bands that are interpolated because the scene was too small to train their network."""
        return tuple(band for gsd in (20, 60) if gsd not in self.networks for band in coarse_bands(self.bands_out, gsd))

    def weights(self) -> dict[str, Tensor]:
        """See `TorchSharpener.weights`."""
        return {
            f"{gsd}m.{name}": tensor
            for gsd, scaled in self.networks.items()
            for name, tensor in (*scaled.network.state_dict().items(), ("scale", torch.tensor(scaled.scale)))
        }

    def provenance(self) -> dict[str, Any]:
        """See `TorchSharpener.provenance`."""
        return super().provenance() | {"bicubic_bands": list(self.bicubic_bands)}

    def to(self, device: str) -> Self:
        """See `TorchSharpener.to`."""
        return replace(self, device=device, networks={gsd: scaled.to(device) for gsd, scaled in self.networks.items()})

    def forward(self, r10m: Tensor, r20m: Tensor | None, r60m: Tensor | None) -> Tensor:
        """See `TorchSharpener.forward`."""
        arrays = {gsd: array for gsd, array in ((10, r10m), (20, r20m), (60, r60m)) if array is not None}
        sharpened = []
        for gsd in sorted(set(arrays) - {10}):
            if not coarse_bands(self.bands_out, gsd):
                continue
            if gsd in self.networks:
                scaled = self.networks[gsd]
                inputs = (_network_inputs(arrays, gsd, self.sensor) / scaled.scale)[None]
                inputs = inputs.contiguous(memory_format=torch.channels_last)
                sharpened.append(scaled.network(inputs)[0] * scaled.scale)
            else:
                sharpened.append(self.sensor.upsample(arrays[gsd], gsd // 10))
        return torch.cat(sharpened)


def _network_inputs(arrays: dict[int, Tensor], gsd: int, sensor: Sensor) -> Tensor:
    """Channels of the network that sharpens the bands of `gsd`: these first, then every finer resolution, coarsest first."""
    channels = [
        sensor.upsample(arrays[own], own // 10) if own > 10 else arrays[own] for own in sorted(arrays, reverse=True) if own <= gsd
    ]
    return torch.cat(channels)


def _training_pairs(
    windows: list[Window], names: dict[int, tuple[str, ...]], gsd: int, sensor: Sensor, *, patches: int, seed: int
) -> tuple[Tensor, Tensor] | None:
    """Patches of the scene one scale lower, and what the sensor observed there; None where the scene has no room for one."""
    ratio = gsd // 10
    resolutions = [own for own in sorted(names) if own <= gsd]
    crops = []
    for window in windows:
        # the grid of `gsd` itself is degraded by `ratio`, so `ratio` must divide its sides
        if cropped := window.crop_to_multiple(STEP * ratio):
            corners = patch_corners(cropped.seen_at(gsd), size=PATCH, stride=STRIDE)
            if len(corners):
                crops.append((cropped, corners))
    if not crops:
        return None
    places = [(i, y, x) for i, (_, corners) in enumerate(crops) for y, x in corners]
    order = np.random.default_rng(seed).permutation(len(places))[:patches]
    chosen: dict[int, list[tuple[int, int]]] = {}
    for i, y, x in (places[k] for k in order):
        chosen.setdefault(i, []).append((y, x))
    inputs, targets = [], []
    for i, places_in_window in chosen.items():
        cropped, _ = crops[i]
        tensors = {own: torch.from_numpy(np.ascontiguousarray(cropped.reflectance[own])) for own in resolutions}
        lower = {own: sensor.degrade(tensor, names[own], ratio) for own, tensor in tensors.items()}
        channels, observed = _network_inputs(lower, gsd, sensor), tensors[gsd]
        for y, x in places_in_window:
            inputs.append(channels[:, y : y + PATCH, x : x + PATCH])
            targets.append(observed[:, y : y + PATCH, x : x + PATCH])
    return torch.stack(inputs), torch.stack(targets)
