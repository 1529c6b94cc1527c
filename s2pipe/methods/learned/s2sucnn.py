"""S2SUCNN, trained without any reference: what it gives, degraded as the sensor does, must be what was observed."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar, Self, Unpack, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s2pipe.core.bands import bands_at
from s2pipe.core.checks import check_positive, check_whole
from s2pipe.core.errors import InputError
from s2pipe.core.hashing import sha256_of
from s2pipe.core.lattice import STEP, round_up
from s2pipe.core.precision import computing_in
from s2pipe.fitting.sampling import Sample, Window, patch_corners
from s2pipe.fitting.training import Checkpoint, seeded, train
from s2pipe.methods.attributes import Fields
from s2pipe.methods.base import FitContext, TensorPixels, TorchSharpener, count_by_gsd, fields_of_fit, placed
from s2pipe.networks import s2sucnn
from s2pipe.physics.sensor import Sensor

log = logging.getLogger(__name__)

SMALLEST_PATCH = 30
"""Edge in 10 m pixels below which nothing of a patch is left once the degradation by 6 has no neighbours to read."""

STRIDE = 12
"""10 m pixels between the positions that a patch may have."""

HELD_OUT_PATCHES = 8
"""Patches in which the held-out pixels are evaluated."""


@dataclass(frozen=True, kw_only=True)
class S2sucnn:
    """One network for all bands (Nguyen et al. 2021, doi:10.1109/JSTARS.2021.3092286), trained on the scene as it is.

    The loss is the mean absolute error of each resolution between the network's output, degraded as the sensor does, and
    the observed bands. The paper optimises on the whole image at once (``patch=None``), for 10 010 steps of the network with
    ``variant="reduced"`` in its reduced-resolution tables and 1510 steps of ``variant="full"`` at full resolution. By default
    steps see random patches instead, so that one network, fitted in minutes, serves all of a scene. Some coarse pixels
    are kept out of the loss, though not out of the input; the weights that meet these best are kept.

    The output lies between 0 and the brightest reflectance of the sample, whatever is brighter elsewhere.

    Attributes
    ----------
    steps : int
        Optimiser steps.
    patch : int or None
        Edge of a patch in 10 m pixels, a multiple of 6; None takes whole windows (up to 756 px), one for each step.
    batch : int
        Patches of each step.
    learning_rate : float
        Of Adam.
    variant : {"full", "reduced"}
        The paper's network for full resolution, or its longer one for reduced resolution.
    held_out : float
        Share of the coarse pixels that is kept out of the loss; 0 keeps the weights of the last step.

    Raises
    ------
    InputError
        If an option is not accepted.
    """

    name: ClassVar[str] = "s2sucnn"

    steps: int = 2500
    patch: int | None = 48
    batch: int = 1
    learning_rate: float = 1e-3
    variant: s2sucnn.Variant = "full"
    held_out: float = 0.05

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, least=1)
        check_whole("batch", self.batch, least=1)
        check_positive("learning_rate", self.learning_rate)
        if self.patch is not None and check_whole("patch", self.patch, least=SMALLEST_PATCH) % STEP:
            raise InputError(f"patch={self.patch} must be a multiple of {STEP}, or None for whole windows", argument="patch")
        if self.variant not in get_args(s2sucnn.Variant):
            raise InputError(
                f"variant={self.variant!r} must be one of {', '.join(map(repr, get_args(s2sucnn.Variant)))}", argument="variant"
            )
        if not (isinstance(self.held_out, (int, float)) and 0 <= self.held_out < 1):
            raise InputError(f"held_out={self.held_out!r} must be a share, from 0 to below 1", argument="held_out")

    def halo(self, gsds: Collection[int], sensor: Sensor) -> int:
        """See `Method.halo`."""
        return round_up(s2sucnn.radius(self.variant))

    def fit(self, sample: Sample, context: FitContext) -> S2sucnnSharpener:
        """Train on the sample.

        Raises
        ------
        InputError
            If the scene is smaller than a patch can be, or has no pixel that is valid in all 10 m bands.
        """
        bands = sample.bands
        bicubic = sample.targets_without_data()
        scale = max(float(array.max()) for window in sample.windows for array in window.reflectance.values()) or 1.0
        scene = _Scene(sample, self, scale=scale, context=context)
        if self.held_out and not scene.held_out_places:
            log.warning("no pixel of so small a scene is held out: the weights of the last step are kept")
        with seeded(context.seed):
            network = s2sucnn.S2sucnnNetwork(_network_bands({gsd: len(names) for gsd, names in bands.items()}), self.variant)
        identity = _identity(sample, asdict(self) | {"steps": None}, context.sensor, context.seed, context.precision)
        kept = train(
            network,
            scene.loss,
            steps=self.steps,
            learning_rate=self.learning_rate,
            device=context.device,
            label="s2sucnn",
            progress=context.progress,
            checkpoint=Checkpoint.within(context.checkpoint, "s2sucnn", identity),
            held_out=scene.held_out_loss if scene.held_out_places else None,
        )
        return S2sucnnSharpener(
            **fields_of_fit(self, sample, context),
            bands_in=tuple(band for names in bands.values() for band in names),
            precision=context.precision,
            bicubic_bands=bicubic,
            network=network.requires_grad_(False),
            scale=scale,
            kept_step=kept,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class S2sucnnSharpener(TorchSharpener):
    """Fitted `S2sucnn`: its network, the reflectance that is 1 to it, and the step whose weights were kept."""

    network: nn.Module = field(repr=False)
    scale: float
    kept_step: int

    @classmethod
    def restore(cls, weights: dict[str, Tensor], **fields: Unpack[Fields]) -> Self:
        """See `TorchSharpener.restore`."""
        scale, kept_step = float(weights.pop("scale")), int(weights.pop("kept_step"))
        network = s2sucnn.S2sucnnNetwork(_network_bands(count_by_gsd(fields["bands_in"])), fields["options"]["variant"])
        network.load_state_dict(weights)
        return cls(**fields, network=network.eval().requires_grad_(False), scale=scale, kept_step=kept_step)

    def weights(self) -> dict[str, Tensor]:
        """See `TorchSharpener.weights`."""
        return self.network.state_dict() | {"scale": torch.tensor(self.scale), "kept_step": torch.tensor(self.kept_step)}

    def provenance(self) -> dict[str, object]:
        """See `TorchSharpener.provenance`."""
        return super().provenance() | {"kept_step": self.kept_step}

    def to(self, device: str) -> Self:
        """See `TorchSharpener.to`."""
        return replace(self, device=device, network=placed(self.network, device))

    def forward(self, pixels: TensorPixels) -> Tensor:
        """See `TorchSharpener.forward`."""
        arrays = {gsd: array[None] for gsd, array in pixels.reflectance.items()}
        output = _run(self.network, {gsd: array / self.scale for gsd, array in arrays.items()})
        sharpened = []
        for gsd in (20, 60):
            for row, band in enumerate(bands_at(self.bands_out, gsd)):
                interpolated = band in self.bicubic_bands
                sharpened.append(
                    self.sensor.upsample(arrays[gsd][0, row], gsd // 10) if interpolated else output[gsd][0, row] * self.scale
                )
        return torch.stack(sharpened)


def _identity(sample: Sample, *settings: object) -> str:
    """What a training is of: pixels, which of them are valid, and settings."""
    arrays = {
        f"{kind} {i} {gsd}": array
        for i, window in enumerate(sample.windows)
        for kind, by_gsd in (("reflectance", window.reflectance), ("seen", window.valid))
        for gsd, array in by_gsd.items()
    }
    return sha256_of(arrays, sample.bands, *settings)


def _network_bands(counts: dict[int, int]) -> dict[int, int]:
    """Bands of the network by GSD: those of the scene, or as many as at 10 m where it has none at 20 m."""
    return {20: counts[10]} | counts


def _run(network: nn.Module, numbers: dict[int, Tensor]) -> dict[int, Tensor]:
    """The network's output (batch, band, y, x) at 10 m for the bands of each resolution of `numbers` (batch, band, y, x).

    Where there are no 20 m bands, the 10 m bands averaged to 20 m take their place in the input.
    """
    inputs = {gsd: array.contiguous(memory_format=torch.channels_last) for gsd, array in numbers.items()}
    r20m = inputs[20] if 20 in inputs else F.avg_pool2d(inputs[10], 2)
    output = network(inputs[10], r20m, inputs.get(60)).float()
    coarsest_first = sorted({20: r20m, **inputs}.items(), reverse=True)
    parts = output.split([array.shape[1] for _, array in coarsest_first], dim=1)
    return {gsd: part for (gsd, _), part in zip(coarsest_first, parts, strict=True)}


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A window on the device, (band, y, x) by GSD: its bands over the scale, and where errors are trained on, or held out."""

    numbers: dict[int, Tensor]
    trained: dict[int, Tensor]
    held_out: dict[int, Tensor]


class _Scene:
    """The sample on the device, the patches of each step, and their loss."""

    def __init__(self, sample: Sample, recipe: S2sucnn, *, scale: float, context: FitContext) -> None:
        windows = [part for window in sample.windows if (part := window.crop_to_multiple(STEP)) is not None]
        smallest = min((min(window.valid[10].shape[1:]) for window in windows), default=0)
        if smallest < SMALLEST_PATCH:
            raise InputError(
                f"the scene is {smallest} px of 10 m wide; s2sucnn needs at least {SMALLEST_PATCH} px", argument="data"
            )
        self.bands, self.sensor, self.seed, self.precision = sample.bands, context.sensor, context.seed, context.precision
        self.edge = min(recipe.patch, smallest) if recipe.patch else None
        self.batch = recipe.batch if recipe.patch else 1
        self.places = _places(windows, self.edge)
        random = np.random.default_rng(context.seed)
        self.pieces = [_piece(window, recipe.held_out, scale, random, context.device) for window in windows]
        self.held_out_places = self._places_with_held_out() if recipe.held_out else []

    def loss(self, network: nn.Module, step: int) -> Tensor:
        """Sum over the resolutions of the mean absolute error in what is not held out."""
        chosen = np.random.default_rng((self.seed, step)).integers(len(self.places), size=self.batch)
        errors = self._errors(network, chosen, held_out=False)
        return torch.stack([error / count.clamp(min=1) for error, count in errors.values()]).sum()

    def held_out_loss(self, network: nn.Module) -> Tensor:
        """The same of what is held out, at positions that are the same at every call."""
        looks = [self._errors(network, [k], held_out=True) for k in self.held_out_places]
        means = []
        for gsd in looks[0]:
            errors, counts = (torch.stack([look[gsd][part] for look in looks]).sum() for part in (0, 1))
            means.append(errors / counts.clamp(min=1))
        return torch.stack(means).sum()

    def _places_with_held_out(self) -> list[int]:
        chosen = []
        for k in np.random.default_rng(self.seed).permutation(len(self.places)):
            masks = self._patches([piece.held_out for piece in self.pieces], [self.places[k]])
            if any(self._inner(mask, gsd).any() for gsd, mask in masks.items()):
                chosen.append(int(k))
            if len(chosen) == HELD_OUT_PATCHES:
                break
        return chosen

    def _errors(self, network: nn.Module, chosen: Iterable[int], *, held_out: bool) -> dict[int, tuple[Tensor, Tensor]]:
        """Sum of the absolute errors at some places, and the number of pixels in it, by GSD."""
        places = [self.places[k] for k in chosen]
        numbers = self._patches([piece.numbers for piece in self.pieces], places)
        counted = self._patches([piece.held_out if held_out else piece.trained for piece in self.pieces], places)
        with computing_in(self.precision, numbers[10].device):
            output = _run(network, numbers)
        errors = {}
        for gsd, mask in counted.items():
            seen_by_sensor = self.sensor.degrade(output[gsd], self.bands[gsd], gsd // 10) if gsd > 10 else output[gsd]
            error = (seen_by_sensor - numbers[gsd]).abs() * mask
            errors[gsd] = self._inner(error, gsd).sum(), self._inner(mask, gsd).sum()
        return errors

    def _inner(self, array: Tensor, gsd: int) -> Tensor:
        """Without what the degradation reads beyond a patch's edge."""
        margin = -(-self.sensor.reach(gsd // 10) // (gsd // 10)) if self.edge and gsd > 10 else 0
        rows, columns = (slice(margin, size - margin) for size in array.shape[-2:])
        return array[..., rows, columns]

    def _patches(self, arrays: Sequence[dict[int, Tensor]], places: Sequence[tuple[int, int, int]]) -> dict[int, Tensor]:
        """Patches (patch, band, y, x) at these places of what the pieces hold, by GSD."""
        return {gsd: torch.stack([self._patch(arrays[i][gsd], gsd // 10, y, x) for i, y, x in places]) for gsd in arrays[0]}

    def _patch(self, array: Tensor, ratio: int, y: int, x: int) -> Tensor:
        if self.edge is None:
            return array
        top, left, edge = y // ratio, x // ratio, self.edge // ratio
        return array[..., top : top + edge, left : left + edge]


def _piece(window: Window, share: float, scale: float, random: np.random.Generator, device: str) -> _Piece:
    numbers, trained, held_out = {}, {}, {}
    for gsd, reflectance in window.reflectance.items():
        numbers[gsd] = torch.from_numpy(np.ascontiguousarray(reflectance / np.float32(scale))).to(device)
        valid = window.valid[gsd]
        held = (random.random(valid.shape[1:]) < share) if gsd > 10 else np.zeros(valid.shape[1:], dtype=bool)
        trained[gsd] = torch.from_numpy(valid & ~held).to(device)
        if gsd > 10:
            held_out[gsd] = torch.from_numpy(valid & held).to(device)
    return _Piece(numbers=numbers, trained=trained, held_out=held_out)


def _places(windows: Sequence[Window], edge: int | None) -> list[tuple[int, int, int]]:
    """Window, row and column of every patch, those without invalid 10 m pixels where there are any."""
    if edge is None:
        return [(i, 0, 0) for i in range(len(windows))]
    for usable in (lambda window: window.valid[10].all(axis=0), lambda window: np.ones(window.valid[10].shape[1:], bool)):
        places = [
            (i, y, x)
            for i, window in enumerate(windows)
            for y, x in patch_corners(usable(window), size=edge, stride=STRIDE).tolist()
        ]
        if places:
            break
    return places
