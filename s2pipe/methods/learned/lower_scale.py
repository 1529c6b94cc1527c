"""Networks trained on the scene itself one scale lower: SSC-CNN and ResNet."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar, Self, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from s2pipe.core.bands import bands_at
from s2pipe.core.checks import check_positive, check_whole
from s2pipe.core.errors import InputError
from s2pipe.core.hashing import sha256_of
from s2pipe.core.lattice import STEP
from s2pipe.core.precision import computing_in
from s2pipe.core.tensor_files import tensors_below
from s2pipe.fitting.sampling import Sample, patch_corners
from s2pipe.fitting.training import Checkpoint, batch_of_step, seeded, train
from s2pipe.methods.attributes import Fields
from s2pipe.methods.base import (
    FitContext,
    TensorPixels,
    TorchSharpener,
    count_by_gsd,
    fields_of_fit,
    halo_of,
    placed,
    upsampling_reach,
)
from s2pipe.methods.learned.pairs import MARGIN, Pair, pair_of
from s2pipe.networks import resnet, ssc_cnn
from s2pipe.physics.sensor import Sensor

log = logging.getLogger(__name__)

PATCH, STRIDE = 16, 8


@dataclass(frozen=True, kw_only=True)
class LowerScaleCnn:
    """A network for the 20 m bands and one of the same shape for the 60 m bands, trained on the scene one scale lower.

    Where the scene holds fewer 60 m patches than one batch, its 60 m bands are interpolated instead (`bicubic_bands`).
    """

    name: ClassVar[str]
    batch: ClassVar[int]

    steps: int
    patches: int
    learning_rate: float

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, least=1)
        check_whole("patches", self.patches, least=1)
        check_positive("learning_rate", self.learning_rate)

    def network(self, *, targets: int, companions: int) -> nn.Module:
        """An untrained network: of `targets` interpolated bands and `companions` finer ones it makes `targets`."""
        raise NotImplementedError

    @property
    def radius(self) -> int:
        """Pixels on either side that the network depends on."""
        raise NotImplementedError

    def halo(self, gsds: Collection[int], sensor: Sensor) -> int:
        """See `Method.halo`."""
        return halo_of(gsds, lambda ratio: upsampling_reach(ratio) + self.radius)

    def fit(self, sample: Sample, context: FitContext) -> LowerScaleSharpener:
        """Train on the sample.

        Raises
        ------
        InputError
            If the scene is too small, or has too few valid pixels, to cut one 20 m patch from.
        """
        names = sample.bands
        bicubic = sample.targets_without_data()
        networks: dict[int, ScaledNetwork] = {}
        for gsd in sample.gsds:
            if set(names[gsd]) <= set(bicubic):
                continue
            pairs, places = self._pairs(sample, gsd, without=bicubic, sensor=context.sensor)
            if gsd == 60 and len(places) < self.batch:
                log.warning("only %d patches to train on at 60 m: %s are interpolated", len(places), ", ".join(names[60]))
                bicubic = tuple(dict.fromkeys((*bicubic, *names[60])))
                continue
            if not places:
                raise InputError(
                    f"the scene has no {PATCH} x {PATCH} px patch of valid {gsd} m pixels to train {self.name} on; "
                    "give a larger or clearer scene, or method='glp'",
                    argument="data",
                )
            networks[gsd] = self.train_on_pairs(pairs, places, gsd, context)
        return LowerScaleSharpener(
            **fields_of_fit(self, sample, context),
            bands_in=sample.inputs,
            precision=context.precision,
            bicubic_bands=bicubic,
            networks=networks,
        )

    def _pairs(
        self, sample: Sample, gsd: int, *, without: Collection[str], sensor: Sensor
    ) -> tuple[list[Pair], list[tuple[int, int, int]]]:
        # a window is degraded once more by the ratio of `gsd`, which must divide its sides
        windows = [part for window in sample.windows if (part := window.crop_to_multiple(STEP * gsd // 10)) is not None]
        for margin in (MARGIN[gsd], 0):  # a scene of a few patches has none to spare
            pairs = [pair_of(window, sample.bands, gsd, without=without, margin=margin, sensor=sensor) for window in windows]
            if places := patch_places(pairs):
                break
        return pairs, places

    def train_on_pairs(
        self, pairs: Sequence[Pair], places: Sequence[tuple[int, int, int]], gsd: int, context: FitContext
    ) -> ScaledNetwork:
        """Train the network of the bands of `gsd` on patches drawn from `places`, as `patch_places` gives them."""
        seed, device = context.seed, context.device
        chosen = [places[k] for k in np.random.default_rng(seed).permutation(len(places))[: self.patches]]
        inputs, targets = _cut_patches(pairs, chosen, gsd, context.sensor)
        scale = float(targets.abs().max()) or 1.0
        inputs = (inputs / scale).to(device).contiguous(memory_format=torch.channels_last)
        targets = (targets / scale).to(device)

        def loss(network: nn.Module, step: int) -> Tensor:
            batch = batch_of_step(len(inputs), self.batch, seed=seed, step=step).to(device)
            with computing_in(context.precision, inputs.device):
                predicted = network(inputs[batch])
            return nn.functional.mse_loss(predicted.float(), targets[batch])

        identity = sha256_of(
            {"inputs": inputs.cpu().numpy(), "targets": targets.cpu().numpy()},
            asdict(self) | {"steps": None},
            scale,
            seed,
            context.precision,
        )
        with seeded(seed):
            network = self.network(targets=targets.shape[1], companions=inputs.shape[1] - targets.shape[1])
        train(
            network,
            loss,
            steps=self.steps,
            learning_rate=self.learning_rate,
            device=device,
            label=f"{self.name} {gsd} m",
            progress=context.progress,
            checkpoint=Checkpoint.within(context.checkpoint, f"{self.name}-{gsd}m", identity),
        )
        return ScaledNetwork(network=network.requires_grad_(False), scale=scale)


@dataclass(frozen=True, kw_only=True)
class SscCnn(LowerScaleCnn):
    """Symmetric skip connections (Nguyen et al., IGARSS 2020, doi:10.1109/IGARSS39084.2020.9323614).

    The paper's schedule is 200 epochs of 1024 patches of 16 x 16, 64 at a time: 3200 steps. Departures from it: the
    learning rate is that of the authors' code (the paper prints 0.005), bands are upsampled bicubically and not by nearest
    neighbour, and the weights are those of the last step and not of the best one by the reference.

    Attributes
    ----------
    steps : int
        Optimiser steps of each network.
    patches : int
        Patches sampled for each network, at most.
    learning_rate : float
        Of Adam.

    Raises
    ------
    InputError
        If an option is not above 0, or one that counts is no whole number.
    """

    name: ClassVar[str] = "ssc-cnn"
    batch: ClassVar[int] = 64

    steps: int = 3200
    patches: int = 1024
    learning_rate: float = 5e-4

    def network(self, *, targets: int, companions: int) -> nn.Module:
        """See `LowerScaleCnn.network`."""
        return ssc_cnn.SscCnnNetwork(targets=targets, companions=companions)

    @property
    def radius(self) -> int:
        """See `LowerScaleCnn.radius`."""
        return ssc_cnn.RADIUS


@dataclass(frozen=True, kw_only=True)
class ResNet(LowerScaleCnn):
    """Residual network (Palsson et al. 2018, doi:10.3390/rs10081290).

    The schedule is 200 epochs of patches of 16 x 16, 48 at a time: 4267 steps for 1024 patches.

    Attributes
    ----------
    steps : int
        Optimiser steps of each network.
    patches : int
        Patches sampled for each network, at most.
    learning_rate : float
        Of Adam.
    blocks : int
        Residual blocks.

    Raises
    ------
    InputError
        If an option is not above 0, or one that counts is no whole number.
    """

    name: ClassVar[str] = "resnet"
    batch: ClassVar[int] = 48

    steps: int = 4267
    patches: int = 1024
    learning_rate: float = 4e-4
    blocks: int = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("blocks", self.blocks, least=1)

    def network(self, *, targets: int, companions: int) -> nn.Module:
        """See `LowerScaleCnn.network`."""
        return resnet.ResNet(targets=targets, companions=companions, blocks=self.blocks)

    @property
    def radius(self) -> int:
        """See `LowerScaleCnn.radius`."""
        return resnet.radius(self.blocks)


RECIPES: dict[str, type[LowerScaleCnn]] = {recipe.name: recipe for recipe in (SscCnn, ResNet)}


@dataclass(frozen=True, kw_only=True)
class ScaledNetwork:
    """A network and the reflectance its inputs are divided by."""

    network: nn.Module
    scale: float

    def to(self, device: str) -> ScaledNetwork:
        """A copy on `device`; this one stays where it is."""
        return replace(self, network=placed(self.network, device))


@dataclass(frozen=True, kw_only=True, eq=False)
class LowerScaleSharpener(TorchSharpener):
    """Fitted `LowerScaleCnn`: `networks` by GSD; coarse bands without one are interpolated."""

    networks: dict[int, ScaledNetwork] = field(repr=False)

    @classmethod
    def restore(cls, weights: dict[str, Tensor], **fields: Unpack[Fields]) -> Self:
        """See `TorchSharpener.restore`."""
        recipe = RECIPES[fields["method"]](**fields["options"])
        counts = count_by_gsd(fields["bands_in"])
        networks = {}
        for gsd in counts:
            if state := tensors_below(weights, f"{gsd}m."):
                scale = float(state.pop("scale"))
                finer = sum(count for own, count in counts.items() if own < gsd)
                network = recipe.network(targets=counts[gsd], companions=finer)
                network.load_state_dict(state)
                networks[gsd] = ScaledNetwork(network=network.eval().requires_grad_(False), scale=scale)
        return cls(**fields, networks=networks)

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

    def forward(self, pixels: TensorPixels) -> Tensor:
        """See `TorchSharpener.forward`."""
        return torch.cat([self._sharpen(pixels.reflectance, gsd) for gsd in (20, 60) if bands_at(self.bands_out, gsd)])

    def _sharpen(self, arrays: Mapping[int, Tensor], gsd: int) -> Tensor:
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


def _network_inputs(arrays: Mapping[int, Tensor], gsd: int, sensor: Sensor) -> Tensor:
    """Channels of the network that sharpens the bands of `gsd`: these first, then every finer resolution, coarsest first."""
    channels = [
        sensor.upsample(arrays[own], own // 10) if own > 10 else arrays[own] for own in sorted(arrays, reverse=True) if own <= gsd
    ]
    return torch.cat(channels)


def patch_places(pairs: Sequence[Pair]) -> list[tuple[int, int, int]]:
    """Pair, row and column of every patch that can be cut from usable pixels."""
    places = []
    for i, pair in enumerate(pairs):
        rows, columns = (np.flatnonzero(pair.usable.any(axis=axis)) for axis in (1, 0))
        if len(rows):  # the raster of patches begins where the usable pixels do
            top, left = rows[0], columns[0]
            corners = patch_corners(pair.usable[top:, left:], size=PATCH, stride=STRIDE)
            places += [(i, int(top + y), int(left + x)) for y, x in corners]
    return places


def _cut_patches(
    pairs: Sequence[Pair], places: Sequence[tuple[int, int, int]], gsd: int, sensor: Sensor
) -> tuple[Tensor, Tensor]:
    """What the network sees, (patch, channel, y, x), and what it is to make of it, patch by patch."""
    inputs, targets = [], []
    for i in sorted({place[0] for place in places}):
        lower = {own: torch.from_numpy(array) for own, array in pairs[i].lower.items()}
        channels, observed = _network_inputs(lower, gsd, sensor), torch.from_numpy(pairs[i].observed)
        for y, x in (place[1:] for place in places if place[0] == i):
            inputs.append(channels[:, y : y + PATCH, x : x + PATCH])
            targets.append(observed[:, y : y + PATCH, x : x + PATCH])
    return torch.stack(inputs), torch.stack(targets)
