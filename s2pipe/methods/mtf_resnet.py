"""MTF-ResNet: what was observed is kept, and a small network fills in what the sensor does not see."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from s2pipe.bands import bands_at
from s2pipe.checks import check_positive, check_whole
from s2pipe.hashing import sha256_of
from s2pipe.lattice import STEP
from s2pipe.methods.base import Array, TorchSharpener, count_by_gsd, fields_of_fit, halo_of, placed, upsampling_reach
from s2pipe.methods.pairs import MARGIN, Pair, pair_of
from s2pipe.methods.pan import mixture, regress_on_fine
from s2pipe.networks import mtf_resnet
from s2pipe.progress import Progress
from s2pipe.projection import project, reach, unseen
from s2pipe.sampling import Sample, patch_corners
from s2pipe.sensor import Sensor
from s2pipe.tensor_files import tensors_below
from s2pipe.training import Checkpoint, faster_precision, seeded, train

log = logging.getLogger(__name__)

Place = tuple[int, int, int]
"""Image, row and column."""
Turn = Callable[[Tensor], Tensor]
"""A symmetry of images."""

PATCHES = (60, 36, 24)
"""Edges of a patch in pixels: the largest is taken of which the scene has one without nodata."""
STRIDE = 12
HELD_OUT_PATCHES = 8
BATCH = 4
DETAIL = 0.1
"""Standard deviations of a band that 1 in the network's output stands for."""
RIM = {20: 8, 60: 6}
"""Pixels along a patch's edge that count for nothing, because what the sensor sees of them lies outside too."""


@dataclass(frozen=True, kw_only=True)
class MtfResNet:
    """A network that is trained on the scene in seconds, and cannot contradict what was observed.

    The sharpened bands are P + D' (D D')^-1 (y - D P) + N r: y what was observed, D the sensor, P the least-squares fit of y to
    the degraded 10 m bands, N what is left of an image once the part that the sensor sees is taken out, and r what a small
    residual network makes of the coarse bands, of all finer ones, and of N of the 10 m bands (a null-space network, Schwab et
    al. 2019, doi:10.1088/1361-6420/aaf14a). Degraded, the result is what was observed, whatever the network does.

    One network for the 20 m bands, and one for the 60 m bands, which is shown the 20 m bands too, are trained one scale lower on
    patches of the sample, turned and mirrored: mean absolute error in standard deviations of each band, Adam, and a learning
    rate that falls to zero along half a cosine. The lower quarter of each window is held out, and the weights that meet it best
    are kept; where none do better than no network, or the scene is too small for one, r is zero.

    Attributes
    ----------
    steps : int
        Optimiser steps of each network; a checkpoint serves a training of as many.
    learning_rate : float
        Of Adam, to begin with.
    """

    name: ClassVar[str] = "mtf-resnet"

    steps: int = 600
    learning_rate: float = 1.5e-3

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, least=1)
        check_positive("learning_rate", self.learning_rate)

    def halo(self, gsds: Collection[int], sensor: Sensor) -> int:
        """See `Method.halo`."""

        def of(ratio: int) -> int:
            channels = max(upsampling_reach(ratio), reach(sensor, 2))
            return channels + mtf_resnet.radius() + reach(sensor, ratio)

        return halo_of(gsds, of)

    def fit(
        self,
        sample: Sample,
        *,
        sensor: Sensor,
        seed: int,
        device: str,
        progress: Progress | None,
        checkpoint: Path | None,
    ) -> MtfResNetSharpener:
        """Regress and train on the sample."""
        interpolated = sample.unseen_targets()
        stages: dict[int, Stage] = {}
        for gsd in sample.gsds:
            if not set(sample.bands[gsd]) <= set(interpolated):
                mixtures = regressed(sample, gsd, without=interpolated, sensor=sensor)
                scaling = _scaling(sample, gsd, without=interpolated, sensor=sensor)
                examples = Examples.of(sample, gsd, mixtures, without=interpolated, sensor=sensor)
                network = self._train(examples, len(scaling.shift), seed, device, progress, checkpoint)
                stages[gsd] = Stage(network=network, scaling=scaling, mixtures=mixtures)
        return MtfResNetSharpener(
            **fields_of_fit(self, sample, sensor=sensor, seed=seed),
            bands_in=sample.inputs,
            bicubic_bands=interpolated,
            stages=stages,
        )

    def _train(
        self,
        examples: Examples,
        channels: int,
        seed: int,
        device: str,
        progress: Progress | None,
        checkpoint: Path | None,
    ) -> nn.Module:
        """A network that adds nothing, trained for as long as it helps with patches it is not trained on."""
        label = f"{self.name} {examples.gsd} m"
        with seeded(seed):
            untrained = mtf_resnet.MtfResNetwork(inputs=channels, outputs=len(examples.bands)).requires_grad_(False)
        if not examples.places:
            log.warning("the scene is too small to train on at %d m: its bands are regressed on those at 10 m only", examples.gsd)
            return untrained

        def held_out(network: nn.Module) -> Tensor:
            return examples.held_out_loss(network, device)

        network = copy.deepcopy(untrained).requires_grad_(True)
        train(
            network,
            lambda network, step: examples.loss(network, np.random.default_rng((seed, step)), device),
            steps=self.steps,
            learning_rate=self.learning_rate,
            decay=True,
            device=device,
            label=label,
            progress=progress,
            checkpoint=Checkpoint.within(checkpoint, label.replace(" ", "-"), examples.identity(asdict(self), seed)),
            held_out=held_out,
        )
        with torch.no_grad():
            before, after = (held_out(copy.deepcopy(net).to(device)).item() for net in (untrained, network))
        if before <= after:
            log.warning("training does not help at %d m: its bands are regressed on those at 10 m only", examples.gsd)
            return untrained
        return network.requires_grad_(False)


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What brings channels to a mean of 0 and a standard deviation of 1: `shift` and `scale`, (channel, 1, 1)."""

    shift: Tensor
    scale: Tensor

    @classmethod
    def of(cls, channels: Sequence[Tensor], seen: Sequence[Any]) -> Scaling:
        """Of images (channel, y, x), where `seen` (y, x)."""
        pixels = torch.cat([image[:, torch.from_numpy(mask)] for image, mask in zip(channels, seen, strict=True)], dim=1).double()
        if not pixels.shape[1]:  # no pixel was seen in all bands: they are taken as they are
            pixels = torch.zeros(len(pixels), 1, dtype=torch.float64)
        spread = pixels.std(dim=1, correction=0)
        spread[spread < 1e-6] = 1.0  # a constant band has no detail to bring to anything
        return cls(shift=pixels.mean(dim=1).float()[:, None, None], scale=spread.float()[:, None, None])

    def __call__(self, channels: Tensor) -> Tensor:
        """The channels (..., channel, y, x), scaled."""
        return (channels - self.shift) / self.scale


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What sharpens the bands of one resolution: the mixtures of finer bands, the network, and the scaling of its channels."""

    network: nn.Module
    scaling: Scaling
    mixtures: Tensor

    def to(self, device: str) -> Stage:
        """A copy on `device`; this one stays where it is."""
        scaling = Scaling(shift=self.scaling.shift.to(device), scale=self.scaling.scale.to(device))
        return Stage(network=placed(self.network, device), scaling=scaling, mixtures=self.mixtures.to(device))


def base_of(
    arrays: Mapping[int, Tensor], bands: Mapping[int, Sequence[str]], gsd: int, sensor: Sensor, mixtures: Tensor
) -> Tensor:
    """The mixtures of the 10 m bands projected onto the bands of `gsd`, (band, y, x) at 10 m, of arrays (band, y, x) by GSD."""
    return project(mixture(mixtures, arrays[10]), arrays[gsd], sensor, bands[gsd], gsd // 10)


def channels_of(arrays: Mapping[int, Tensor], bands: Mapping[int, Sequence[str]], gsd: int, sensor: Sensor) -> Tensor:
    """Channels of the network for the bands of `gsd`, (channel, y, x) at 10 m, of arrays (band, y, x) by GSD.

    First these, then all finer bands, interpolated; last what the sensor would not see of the 10 m bands at 20 m.
    """
    used = sorted((own for own in arrays if own <= gsd), reverse=True)
    images = [arrays[own] if own == 10 else sensor.upsample(arrays[own], own // 10) for own in used]
    return torch.cat([*images, unseen(arrays[10], sensor, bands[10], 2)])


def regressed(sample: Sample, gsd: int, *, without: Collection[str], sensor: Sensor) -> Tensor:
    """Mixtures of the 10 m bands, see `pan.mixture`, that fit the bands of `gsd` best once degraded; zeros where in `without`."""
    result = np.zeros((len(sample.bands[gsd]), 1 + len(sample.bands[10])))
    for row, band in enumerate(sample.bands[gsd]):
        if band not in without:
            result[row] = regress_on_fine(band, gsd, sample.bands, sample.windows, sensor)
    return torch.from_numpy(result.astype(np.float32))


def _tensors(arrays: Mapping[int, Array]) -> dict[int, Tensor]:
    return {gsd: torch.from_numpy(np.ascontiguousarray(array)) for gsd, array in arrays.items()}


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What a network for the bands of `gsd` learns from.

    Attributes
    ----------
    bands : tuple of str
        Of `gsd`.
    rows : tuple of int
        Those of `bands` to learn.
    images : list of dict of str to Tensor
        ``channels``, ``base``, and ``observed`` on their grid, one scale lower.
    scaling : list of Scaling
        Of each of `images`.
    edge : int
        Of a patch.
    places, held_out : list of tuple of int
        Image, row and column of every patch to train on, and of some to stop by, which share no pixel with these.
    """

    gsd: int
    bands: tuple[str, ...]
    rows: tuple[int, ...]
    sensor: Sensor
    images: list[dict[str, Tensor]]
    scaling: list[Scaling]
    edge: int
    places: list[Place]
    held_out: list[Place]

    @classmethod
    def of(cls, sample: Sample, gsd: int, mixtures: Tensor, *, without: Collection[str], sensor: Sensor) -> Examples:
        """Of the windows of a sample; bands in `without` may be nodata."""
        bands = sample.bands[gsd]
        windows = [part for window in sample.windows if (part := window.crop_to_multiple(STEP * gsd // 10)) is not None]
        pairs = [
            pair_of(window, sample.bands, gsd, without=without, margin=MARGIN[gsd], sensor=sensor) for window in windows
        ]  # fmt: skip
        edge, places, held_out = _places(pairs)
        images = []
        for pair in pairs:
            lower = _tensors(pair.lower)
            images.append(
                {
                    "channels": channels_of(lower, sample.bands, gsd, sensor),
                    "base": base_of(lower, sample.bands, gsd, sensor, mixtures),
                    "observed": torch.from_numpy(pair.observed),
                }
            )
        scaling = [Scaling.of([image["channels"]], [pair.usable]) for image, pair in zip(images, pairs, strict=True)]
        rows = tuple(row for row, band in enumerate(bands) if band not in without)
        return cls(
            gsd=gsd, bands=bands, rows=rows, sensor=sensor, images=images, scaling=scaling, edge=edge, places=places,
            held_out=held_out,
        )  # fmt: skip

    def identity(self, *settings: object) -> str:
        """What a training on these is of: pixels, places and settings."""
        arrays = {f"{i} {name}": tensor.numpy() for i, image in enumerate(self.images) for name, tensor in image.items()}
        return sha256_of(arrays, self.bands, self.rows, self.sensor, self.edge, self.places, self.held_out, *settings)

    def loss(self, network: nn.Module, random: np.random.Generator, device: str) -> Tensor:
        """Mean absolute error, in standard deviations of each band, in random patches, turned at random."""
        chosen = random.integers(len(self.places), size=BATCH)
        return self._error(network, [(self.places[k], self._turn(random)) for k in chosen], device)

    def held_out_loss(self, network: nn.Module, device: str) -> Tensor:
        """The same in the patches that are held out."""
        return torch.stack([self._error(network, [(place, lambda image: image)], device) for place in self.held_out]).mean()

    def _error(self, network: nn.Module, patches: Sequence[tuple[Place, Turn]], device: str) -> Tensor:
        count = len(self.bands)
        inputs, bases, observed, scales = [], [], [], []
        for (image, y, x), turn in patches:
            rows, columns = slice(y, y + self.edge), slice(x, x + self.edge)
            channels, base, wanted = (
                turn(self.images[image][name][:, rows, columns]) for name in ("channels", "base", "observed")
            )
            inputs.append(self.scaling[image](channels))
            bases.append(base)
            observed.append(wanted)
            scales.append(self.scaling[image].scale[:count])
        batch, known, target, scale = (torch.stack(tensors).to(device) for tensors in (inputs, bases, observed, scales))
        with faster_precision(batch.device):
            output = network(batch.contiguous(memory_format=torch.channels_last)).float()
        made = known + unseen(output * DETAIL * scale, self.sensor, self.bands, self.gsd // 10)
        inner = slice(RIM[self.gsd], -RIM[self.gsd])
        return ((made - target) / scale)[:, self.rows, inner, inner].abs().mean()

    def _turn(self, random: np.random.Generator) -> Turn:
        """A random symmetry of the sensor: the transposition alone, where coarse pixels lie in the corner of their block."""
        down, across, transposed = random.integers(2, size=3)
        flipped = [axis for axis, wanted in ((1, down), (2, across)) if wanted and self.sensor.protocol != "corner"]

        def turn(image: Tensor) -> Tensor:
            return (image.transpose(1, 2) if transposed else image).flip(flipped)

        return turn


def _places(pairs: Sequence[Pair]) -> tuple[int, list[Place], list[Place]]:
    """The edge of a patch; the patches without an unusable pixel, those to train on and some of the others.

    Held out is the lower quarter of each pair, or what one patch takes.
    """
    for edge in PATCHES:
        places, held_out = [], []
        for i, pair in enumerate(pairs):
            height = len(pair.usable)
            split = min(height * 3 // 4, height - edge) // STRIDE * STRIDE
            for y, x in patch_corners(pair.usable, size=edge, stride=STRIDE).tolist():
                if y + edge <= split:
                    places.append((i, y, x))
                elif y >= split:
                    held_out.append((i, y, x))
        if places and held_out:
            return edge, places, held_out[:: -(-len(held_out) // HELD_OUT_PATCHES)]
    return PATCHES[-1], [], []


def _scaling(sample: Sample, gsd: int, *, without: Collection[str], sensor: Sensor) -> Scaling:
    """Of the channels at the scene's own scale."""
    needed = {
        own: [i for i, band in enumerate(names) if band not in without] for own, names in sample.bands.items() if own <= gsd
    }  # fmt: skip
    channels = [channels_of(_tensors(window.reflectance), sample.bands, gsd, sensor) for window in sample.windows]
    return Scaling.of(channels, [window.seen_at(10, needed) for window in sample.windows])


@dataclass(frozen=True, kw_only=True, eq=False)
class MtfResNetSharpener(TorchSharpener):
    """Fitted `MtfResNet`: `stages` by GSD; coarse bands without one are interpolated."""

    stages: dict[int, Stage] = field(repr=False)

    @classmethod
    def restore(cls, weights: dict[str, Tensor], **fields: Any) -> Self:
        """See `TorchSharpener.restore`."""
        counts = count_by_gsd(fields["bands_in"])
        stages = {}
        for gsd in counts:
            if state := tensors_below(weights, f"{gsd}m."):
                scaling, mixtures = Scaling(shift=state.pop("shift"), scale=state.pop("scale")), state.pop("mixtures")
                finer = sum(count for own, count in counts.items() if own < gsd)
                network = mtf_resnet.MtfResNetwork(inputs=counts[gsd] + finer + counts[10], outputs=counts[gsd])
                network.load_state_dict(state)
                stages[gsd] = Stage(network=network.eval().requires_grad_(False), scaling=scaling, mixtures=mixtures)
        return cls(**fields, stages=stages)

    def weights(self) -> dict[str, Tensor]:
        """See `TorchSharpener.weights`."""
        found: dict[str, Tensor] = {}
        for gsd, stage in self.stages.items():
            parts = {"shift": stage.scaling.shift, "scale": stage.scaling.scale, "mixtures": stage.mixtures}
            found |= {f"{gsd}m.{name}": tensor for name, tensor in (stage.network.state_dict() | parts).items()}
        return found

    def to(self, device: str) -> Self:
        """See `TorchSharpener.to`."""
        return replace(self, device=device, stages={gsd: stage.to(device) for gsd, stage in self.stages.items()})

    def forward(self, r10m: Tensor, r20m: Tensor | None, r60m: Tensor | None) -> Tensor:
        """See `TorchSharpener.forward`."""
        arrays = {gsd: array for gsd, array in ((10, r10m), (20, r20m), (60, r60m)) if array is not None}
        return torch.cat([self._sharpen(arrays, gsd) for gsd in (20, 60) if bands_at(self.bands_out, gsd)])

    def _sharpen(self, arrays: dict[int, Tensor], gsd: int) -> Tensor:
        if gsd not in self.stages:
            return self.sensor.upsample(arrays[gsd], gsd // 10)
        stage, names = self.stages[gsd], {own: bands_at(self.bands_in, own) for own in arrays}
        inputs = stage.scaling(channels_of(arrays, names, gsd, self.sensor))[None].contiguous(memory_format=torch.channels_last)
        detail = stage.network(inputs)[0] * DETAIL * stage.scaling.scale[: len(names[gsd])]
        sharpened = base_of(arrays, names, gsd, self.sensor, stage.mixtures) + unseen(detail, self.sensor, names[gsd], gsd // 10)
        for row, band in enumerate(names[gsd]):
            if band in self.bicubic_bands:
                sharpened[row] = self.sensor.upsample(arrays[gsd][row], gsd // 10)
        return sharpened
