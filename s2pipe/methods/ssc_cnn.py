"""SSC-CNN, trained on the scene itself one scale lower (Nguyen et al., IGARSS 2020)."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from typing import Self

import numpy as np
import torch
import xarray as xr
from scipy import ndimage
from torch import Tensor

from s2pipe.bands import bands_at
from s2pipe.checks import check_whole
from s2pipe.cube import bands_by_gsd
from s2pipe.errors import InputError
from s2pipe.lattice import STEP
from s2pipe.methods.base import TorchSharpener, halo_of, upsampling_reach
from s2pipe.networks import ssc_cnn
from s2pipe.progress import Progress
from s2pipe.sensor import Sensor
from s2pipe.training import Window, patch_corners, sample_windows, seeded, train, unseen_bands

log = logging.getLogger(__name__)

PATCH, STRIDE, BATCH = 16, 8, 64

MARGIN = {20: 2, 60: 5}
"""Pixels beside a window's edge, or nodata, whose degraded copies owe more than 1 % of their detail to padding or filling."""


@dataclass(frozen=True, kw_only=True)
class SscCnn:
    """A network for the 20 m bands and one of the same shape for the 60 m bands, trained on the scene one scale lower.

    Where the scene holds fewer 60 m patches than one batch, its 60 m bands are interpolated instead (`bicubic_bands`).
    The paper's schedule is 200 epochs of 1024 patches of 16 x 16, 64 at a time: 3200 steps. Departures from it: the
    learning rate is that of the authors' code (the paper prints 0.005), bands are upsampled bicubically and not by nearest
    neighbour, and the weights are those of the last step and not of the best one seen with the reference.

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
        check_whole("steps", self.steps, least=1)
        check_whole("patches", self.patches, least=1)
        if not (isinstance(self.learning_rate, (int, float)) and self.learning_rate > 0):
            raise InputError(f"learning_rate={self.learning_rate!r} must be a number above 0")

    def halo(self, gsds: Collection[int], sensor: Sensor) -> int:
        """See `Method.halo`."""
        return halo_of(gsds, lambda ratio: upsampling_reach(ratio) + ssc_cnn.RADIUS)

    def fit(self, cube: xr.DataTree, *, sensor: Sensor, seed: int, device: str, progress: Progress | None) -> SscCnnSharpener:
        """Train on sampled windows of the cube.

        Raises
        ------
        InputError
            If the scene is too small, or has too few seen pixels, to cut one 20 m patch from.
        """
        names = bands_by_gsd(cube)
        windows = sample_windows(cube, seed=seed)
        bicubic = unseen_bands(windows, names)
        networks: dict[int, ScaledNetwork] = {}
        for gsd in sorted(set(names) - {10}):
            if set(names[gsd]) <= set(bicubic):
                continue
            # a window is degraded once more by the ratio of `gsd`, which must divide its sides
            cropped = [part for window in windows if (part := window.crop_to_multiple(STEP * gsd // 10)) is not None]
            places = _patch_places(cropped, names, gsd, without=bicubic, margin=MARGIN[gsd])
            if not places:  # a scene of a few patches has none to spare
                places = _patch_places(cropped, names, gsd, without=bicubic, margin=0)
            if gsd == 60 and len(places) < BATCH:
                log.warning("only %d patches to train on at 60 m: %s are interpolated", len(places), ", ".join(names[60]))
                bicubic = tuple(dict.fromkeys((*bicubic, *names[60])))
                continue
            if not places:
                raise InputError(
                    f"the scene has no {PATCH} x {PATCH} px patch of seen {gsd} m pixels to train ssc-cnn on; "
                    "give a larger or clearer scene, or method='glp'"
                )
            chosen = [places[k] for k in np.random.default_rng(seed).permutation(len(places))[: self.patches]]
            pairs = _training_pairs(cropped, chosen, names, gsd, sensor)
            networks[gsd] = self._train(gsd, names, pairs, seed=seed, device=device, progress=progress)
        coarse = tuple(band for gsd in sorted(names) if gsd > 10 for band in names[gsd])
        return SscCnnSharpener(
            method="ssc-cnn",
            options=asdict(self),
            seed=seed,
            sensor=sensor,
            bands_in=names[10] + coarse,
            bands_out=coarse,
            bicubic_bands=bicubic,
            halo=self.halo(names, sensor),
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
            network = ssc_cnn.SscCnnNetwork(targets=len(names[gsd]), companions=inputs.shape[1] - len(names[gsd]))
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

    network: ssc_cnn.SscCnnNetwork
    scale: float

    def to(self, device: str) -> ScaledNetwork:
        """A copy on `device`; this one stays where it is."""
        moved = copy.deepcopy(self.network).to(device)
        return replace(self, network=moved.to(memory_format=torch.channels_last))  # type: ignore[call-overload]  # torch's stubs


@dataclass(frozen=True, kw_only=True, eq=False)
class SscCnnSharpener(TorchSharpener):
    """Fitted `SscCnn`: `networks` by GSD; coarse bands without one are interpolated."""

    networks: dict[int, ScaledNetwork] = field(repr=False)

    def weights(self) -> dict[str, Tensor]:
        """See `TorchSharpener.weights`."""
        return {
            f"{gsd}m.{name}": tensor
            for gsd, scaled in self.networks.items()
            for name, tensor in (*scaled.network.state_dict().items(), ("scale", torch.tensor(scaled.scale)))
        }

    def to(self, device: str) -> Self:
        """See `TorchSharpener.to`."""
        return replace(self, device=device, networks={gsd: scaled.to(device) for gsd, scaled in self.networks.items()})

    def forward(self, r10m: Tensor, r20m: Tensor | None, r60m: Tensor | None) -> Tensor:
        """See `TorchSharpener.forward`."""
        arrays = {gsd: array for gsd, array in ((10, r10m), (20, r20m), (60, r60m)) if array is not None}
        return torch.cat([self._sharpen(arrays, gsd) for gsd in (20, 60) if bands_at(self.bands_out, gsd)])

    def _sharpen(self, arrays: dict[int, Tensor], gsd: int) -> Tensor:
        if gsd not in self.networks:
            return self.sensor.upsample(arrays[gsd], gsd // 10)
        scaled = self.networks[gsd]
        channels = _network_inputs(arrays, gsd, self.sensor)  # the bands of `gsd`, interpolated, come first
        inputs = (channels / scaled.scale)[None].contiguous(memory_format=torch.channels_last)
        sharpened: Tensor = scaled.network(inputs)[0] * scaled.scale
        for row, band in enumerate(bands_at(self.bands_out, gsd)):
            if band in self.bicubic_bands:
                sharpened[row] = channels[row]
        return sharpened


def _network_inputs(arrays: dict[int, Tensor], gsd: int, sensor: Sensor) -> Tensor:
    """Channels of the network that sharpens the bands of `gsd`: these first, then every finer resolution, coarsest first."""
    channels = [
        sensor.upsample(arrays[own], own // 10) if own > 10 else arrays[own] for own in sorted(arrays, reverse=True) if own <= gsd
    ]
    return torch.cat(channels)


def _patch_places(
    windows: list[Window], names: dict[int, tuple[str, ...]], gsd: int, *, without: Collection[str], margin: int
) -> list[tuple[int, int, int]]:
    """Window, row and column of every patch, on the grid of `gsd`, `margin` pixels from nodata and from its window's edge.

    Bands in `without` may be nodata.
    """
    needed = {own: [i for i, band in enumerate(names[own]) if band not in without] for own in names if own <= gsd}
    places = []
    for i, window in enumerate(windows):
        usable = ndimage.minimum_filter(window.seen_at(gsd, needed), 2 * margin + 1, mode="constant", cval=0)
        height, width = usable.shape
        inner = usable[margin : height - margin, margin : width - margin]
        corners = patch_corners(inner, size=PATCH, stride=STRIDE) + margin
        places += [(i, y, x) for y, x in corners.tolist()]
    return places


def _training_pairs(
    windows: list[Window], places: list[tuple[int, int, int]], names: dict[int, tuple[str, ...]], gsd: int, sensor: Sensor
) -> tuple[Tensor, Tensor]:
    """Patches of the scene one scale lower, (patch, channel, y, x), and what the sensor observed there."""
    resolutions = [own for own in sorted(names) if own <= gsd]
    inputs, targets = [], []
    for i in sorted({place[0] for place in places}):
        tensors = {own: torch.from_numpy(np.ascontiguousarray(windows[i].reflectance[own])) for own in resolutions}
        lower = {own: sensor.degrade(tensor, names[own], gsd // 10) for own, tensor in tensors.items()}
        channels, observed = _network_inputs(lower, gsd, sensor), tensors[gsd]
        for y, x in (place[1:] for place in places if place[0] == i):
            inputs.append(channels[:, y : y + PATCH, x : x + PATCH])
            targets.append(observed[:, y : y + PATCH, x : x + PATCH])
    return torch.stack(inputs), torch.stack(targets)
