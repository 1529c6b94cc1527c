"""MTF-ResNet: what was observed is kept, and a small network fills in what the sensor does not see."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from s2pipe.core.bands import bands_at
from s2pipe.core.checks import check_positive, check_whole
from s2pipe.core.errors import InputError, errors_about
from s2pipe.core.hashing import sha256_of
from s2pipe.core.lattice import STEP
from s2pipe.core.pixels import Pixels
from s2pipe.core.precision import Precision, choose_precision, computing_in
from s2pipe.core.tensor_files import tensors_below
from s2pipe.fitting.sampling import Sample, bands_without_data
from s2pipe.fitting.training import Checkpoint, train
from s2pipe.methods.attributes import Fields
from s2pipe.methods.base import FitContext, TensorPixels, TorchSharpener, fields_of_fit, halo_of, placed
from s2pipe.methods.classical.pan import mixture
from s2pipe.methods.mtf_resnet import inputs as mtf_inputs
from s2pipe.methods.mtf_resnet import shift_repair
from s2pipe.methods.mtf_resnet.examples import Example, lowered
from s2pipe.methods.mtf_resnet.inputs import COARSE, FINE, RATIO, Inputs, Scaling, describe
from s2pipe.methods.mtf_resnet.measured import Measured
from s2pipe.methods.mtf_resnet.pretrained import SHIPPED, Pretrained, load_pretrained, new_network
from s2pipe.methods.mtf_resnet.regression_60m import mixtures_of_60m, models_of_60m
from s2pipe.methods.mtf_resnet.shift_repair import moved, moved_valid, moved_window, shift_to_repair
from s2pipe.networks import mtf_resnet
from s2pipe.networks.mtf_resnet import MtfResNetwork
from s2pipe.physics.misfit import REACH, Known, misfit_of
from s2pipe.physics.projection import lift, reach
from s2pipe.physics.sensor import Sensor
from s2pipe.physics.wiener import MisfitModel, lacking

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MtfResNet:
    """What was observed is kept, and a network trained on other scenes fills in what the sensor does not see.

    The sharpened 20 m bands are P + U d + S D' (D S D' + N)^-1 (y - D (P + U d)): y what was observed, D the sensor, P a
    regression of y on the 10 m bands, anew in the surroundings of each coarse pixel, d what a residual network makes of all of
    them and of D, U a scale, S the covariance of what P lacks and N that of the noise. Told the matched sensor, S, N and what the
    network is worth, by which U is multiplied, are measured on the scene, and what is left of the misfit is noise. Told another,
    S is white and N next to nothing: degraded, the result is what was observed, within some DN, whatever the network does, and it
    only fills in the null space of D (a null-space network, Schwab et al. 2019, doi:10.1088/1361-6420/aaf14a). The 60 m bands
    are regressed on finer ones over the whole scene, and corrected in the same way.

    Attributes
    ----------
    steps : int
        Of a training on the scene itself, one scale lower. 0, the default: the network is used as it comes, and only scales and
        regressions are fitted. Else the lower quarter of each window is held out, and where training does not help there, the
        network stays as it came, and the log says so. A checkpoint serves a training of as many steps.
    learning_rate : float
        Of Adam in that training, to begin with; it falls to zero along half a cosine.
    weights : path, optional
        Of another network than the one that comes with the package, as `workflows/train_weights.py` writes them.

    Raises
    ------
    InputError
        If an option is not accepted, or `weights` cannot be read or are of another network.
    """

    name: ClassVar[str] = "mtf-resnet"

    steps: int = 0
    learning_rate: float = 3e-4
    weights: str | Path | None = None

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, least=0)
        check_positive("learning_rate", self.learning_rate)
        if self.weights is not None and not isinstance(self.weights, (str, Path)):
            raise InputError(
                f"weights={self.weights!r} is a {type(self.weights).__name__}; give the path of a file, or None",
                argument="weights",
            )
        self.pretrained()  # refuse a file that is none before anything is read

    def pretrained(self) -> Pretrained:
        """The network that it starts from."""
        with errors_about("weights"):
            return load_pretrained(SHIPPED if self.weights is None else Path(self.weights))

    def halo(self, gsds: Collection[int], sensor: Sensor) -> int:
        """See `Method.halo`."""
        inputs = shift_repair.reach() + mtf_inputs.reach(sensor) + RATIO * (mtf_resnet.radius() + 1)

        def corrected(ratio: int) -> int:
            return ratio * REACH + reach(sensor, ratio)

        return halo_of(gsds, lambda ratio: inputs + corrected(RATIO) + (corrected(ratio) if ratio > RATIO else 0))

    def fit(self, sample: Sample, context: FitContext) -> MtfResNetSharpener:
        """Scale, regress, and train if asked to, on the sample."""
        sensor, missing = context.sensor, bands_without_data(sample.windows, sample.bands)
        pretrained = self.pretrained()
        stated = fields_of_fit(self, sample, context)
        stated["fingerprint"] = np.union1d(stated["fingerprint"], pretrained.fingerprint)
        used = tuple(band for band in sample.bands.get(20, ()) if band not in missing)
        sharpener = MtfResNetSharpener(
            **stated,
            precision=context.precision,
            bands_in=sample.inputs,
            bicubic_bands=tuple(band for band in sample.targets if band in missing),
            slots=tuple(COARSE.index(band) for band in used),
        )
        if used:
            shift = shift_to_repair(sample, used, sensor)
            fitting = replace(sample, windows=[moved_window(window, shift) for window in sample.windows])
            network: MtfResNetwork | None = pretrained.network
            if sample.bands[10] != FINE:
                log.warning("without all of %s the 20 m bands are regressed only: no network is used or trained", ", ".join(FINE))
                network = None
            elif self.steps:
                network = self._train(pretrained.network, fitting, used, context)
            scaling = Scaling.of(fitting.windows, sample.bands, used, sensor)
            sharpener = replace(sharpener, shift=shift, scaling=scaling, network=network)
            if sensor.name == "matched":
                sharpener = sharpener.measured_on(fitting, context)
        if 60 in sample.gsds:
            placed_sharpener = sharpener.to(context.device)
            finer = [placed_sharpener.finer_bands(window) for window in sample.windows]
            names = (*sample.bands[10], *used)
            mixtures = mixtures_of_60m(sample, finer, names, sensor, without=missing)
            sharpener = replace(sharpener, mixtures=mixtures)
            if sensor.name == "matched":
                sharpener = replace(sharpener, models_60m=models_of_60m(sample, finer, names, mixtures, sensor))
        return sharpener

    def _train(self, pretrained: MtfResNetwork, sample: Sample, used: Sequence[str], context: FitContext) -> MtfResNetwork:
        """A network trained on from `pretrained`, or this where it does better on what is held out."""
        sensor, seed, device, precision = context.sensor, context.seed, context.device, context.precision
        windows = [part for window in sample.windows if (part := window.crop_to_multiple(STEP * RATIO)) is not None]
        rows = [sample.bands[20].index(band) for band in used]
        halves = [
            Example.of(
                lowered(window, sample.bands, used, sensor.matched_to(group)),
                window.reflectance[20][rows],
                sample.bands,
                used,
                sensor,
                scored=group,
            ).split()
            for window in windows
            for group in sensor.groups(used)
        ]
        examples, held_out = ([half[k] for half in halves if len(half[k].corners)] for k in range(2))
        if not examples or not held_out:
            log.warning("the scene is too small to train on: the network stays as it came")
            return pretrained

        def held_out_loss(network: nn.Module) -> Tensor:
            random = np.random.default_rng(seed)
            return torch.stack([example.loss(network, random, device, precision, turned=False) for example in held_out]).mean()

        def loss(network: nn.Module, step: int) -> Tensor:
            random = np.random.default_rng((seed, step))
            return examples[random.integers(len(examples))].loss(network, random, device, precision)

        network = copy.deepcopy(pretrained).requires_grad_(True)
        start = {name: tensor.numpy() for name, tensor in pretrained.state_dict().items()}
        truths = {str(i): example.left.numpy() for i, example in enumerate(examples)}
        identity = sha256_of(truths | start, sensor, self.steps, self.learning_rate, seed, precision)
        train(
            network,
            loss,
            steps=self.steps,
            learning_rate=self.learning_rate,
            decay=True,
            device=device,
            label=f"{self.name} 20 m",
            progress=context.progress,
            checkpoint=Checkpoint.within(context.checkpoint, self.name, identity),
            held_out=held_out_loss,
        )
        with torch.no_grad():
            before, after = (held_out_loss(placed(net, device)).item() for net in (pretrained, network))
        log.info("held out, training on the scene brings the loss from %.4f to %.4f", before, after)
        if before <= after:
            log.warning("training on the scene does not help: the network stays as it came")
            return pretrained
        return network.requires_grad_(False)


@dataclass(frozen=True, kw_only=True, eq=False)
class MtfResNetSharpener(TorchSharpener):
    """Fitted `MtfResNet`.

    Attributes
    ----------
    slots : tuple of int
        Which of all 20 m bands have valid pixels and are used.
    shift : tuple of 2 float
        What the 20 m bands show at p, the 10 m bands show at p + shift, along y and x, in 10 m pixels.
    scaling : Scaling or None
        None without 20 m bands.
    models : tuple of MisfitModel or None
        Of what the guess leaves of the 20 m bands that are used. None where the projection takes all of it for signal.
    worth : Tensor or None, (band, 1, 1)
        What the network's detail of each of these is multiplied by. None: by 1.
    network : MtfResNetwork or None
        None where the scene lacks a 10 m band.
    mixtures : Tensor or None, (band, 1 + finer band)
        Intercept and slopes of the 60 m bands; zeros where a band is interpolated. None where there are none to be sharpened.
    models_60m : tuple of MisfitModel or None
        As `models`, of what the mixtures leave of the 60 m bands.
    """

    slots: tuple[int, ...]
    shift: tuple[float, float] = (0.0, 0.0)
    scaling: Scaling | None = field(default=None, repr=False)
    models: tuple[MisfitModel, ...] | None = field(default=None, repr=False)
    worth: Tensor | None = field(default=None, repr=False)
    network: MtfResNetwork | None = field(default=None, repr=False)
    mixtures: Tensor | None = field(default=None, repr=False)
    models_60m: tuple[MisfitModel, ...] | None = field(default=None, repr=False)

    @property
    def used(self) -> tuple[str, ...]:
        """The 20 m bands that have valid pixels."""
        return tuple(COARSE[slot] for slot in self.slots)

    @classmethod
    def restore(cls, weights: dict[str, Tensor], **fields: Unpack[Fields]) -> Self:
        """See `TorchSharpener.restore`."""
        scaling, state = tensors_below(weights, "scaling."), tensors_below(weights, "network.")
        network = None
        if state:
            network = new_network()
            network.load_state_dict(state)
            network.eval().requires_grad_(False)
        return cls(
            **fields,
            slots=tuple(weights["slots"].tolist()),
            shift=tuple(weights["shift"].tolist()),
            scaling=Scaling(**scaling) if scaling else None,
            models=_models_from(weights.get("models")),
            models_60m=_models_from(weights.get("models_60m")),
            worth=weights.get("worth"),
            network=network,
            mixtures=weights.get("mixtures"),
        )

    def weights(self) -> dict[str, Tensor]:
        """See `TorchSharpener.weights`."""
        found = {"slots": torch.tensor(self.slots, dtype=torch.int64), "shift": torch.tensor(self.shift, dtype=torch.float64)}
        if self.scaling is not None:
            found |= {f"scaling.{name}": tensor for name, tensor in self.scaling.tensors().items()}
        if self.models is not None and self.worth is not None:
            found |= {"models": _tensor_of(self.models), "worth": self.worth}
        if self.models_60m is not None:
            found["models_60m"] = _tensor_of(self.models_60m)
        if self.network is not None:
            found |= {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        return found if self.mixtures is None else found | {"mixtures": self.mixtures}

    def measured_on(self, sample: Sample, context: FitContext) -> Self:
        """The same with what is measured of the scene: noise, what the guess leaves, and what the network is worth."""
        assert self.scaling is not None
        device_sharpener = self.to(context.device)
        with torch.inference_mode():

            def detail(inputs: Inputs) -> Tensor:
                return device_sharpener._detail(inputs.to(context.device)).cpu()

            measured = Measured.of(
                sample.windows, sample.bands, self.used, self.scaling, None if self.network is None else detail, context
            )
        network = self.network if measured.worth.any() else None
        return replace(self, models=measured.models, worth=measured.worth, network=network)

    def provenance(self) -> dict[str, object]:
        """See `TorchSharpener.provenance`."""
        stated = super().provenance() | ({"shift": list(self.shift)} if any(self.shift) else {})
        if self.models is not None and self.worth is not None:
            bands, models = (*self.used, *bands_at(self.bands_in, 60)), (*self.models, *(self.models_60m or ()))
            stated["noise"] = {band: round(model.noise, 6) for band, model in zip(bands, models, strict=True)}
            stated["network_worth"] = {
                band: round(worth, 3) for band, worth in zip(self.used, self.worth.flatten().tolist(), strict=True)
            }
        return stated

    def in_precision(self, precision: Precision) -> Self:
        """See `TorchSharpener.in_precision`."""
        return replace(self, precision=precision)

    def check_runs_on(self, device: str) -> None:
        """See `TorchSharpener.check_runs_on`."""
        choose_precision(self.precision, device)

    def one_scale_lower(self, ratio: int) -> Self:
        """See `TorchSharpener.one_scale_lower`."""
        return replace(self, shift=(self.shift[0] / ratio, self.shift[1] / ratio))

    def to(self, device: str) -> Self:
        """See `TorchSharpener.to`."""
        return replace(
            self,
            device=device,
            scaling=None if self.scaling is None else self.scaling.to(device),
            worth=None if self.worth is None else self.worth.to(device),
            network=None if self.network is None else placed(self.network, device),
            mixtures=None if self.mixtures is None else self.mixtures.to(device),
        )

    def forward(self, pixels: TensorPixels) -> Tensor:
        """See `TorchSharpener.forward`."""
        observed = pixels.reflectance
        finer = self._finer_bands(pixels)
        sharpened = dict(zip((*bands_at(self.bands_in, 10), *self.used), finer, strict=True))
        if self.mixtures is not None:
            names = bands_at(self.bands_in, 60)
            guess = mixture(self.mixtures, finer)
            known = Known.of(self._valid_for_60m(pixels), pixels.valid[60])
            sharpened |= zip(names, self._corrected(guess, observed[60], known, names, self.models_60m), strict=True)
        for gsd in (20, 60):
            for row, band in enumerate(bands_at(self.bands_in, gsd)):
                if band in self.bicubic_bands:
                    sharpened[band] = self.sensor.upsample(observed[gsd][row], gsd // 10)
        return torch.stack([sharpened[band] for band in self.bands_out])

    def finer_bands(self, pixels: Pixels) -> Tensor:
        """The 10 m bands, and the sharpened 20 m bands that are used, in reflectance (band, y, x)."""
        with torch.inference_mode():
            return self._finer_bands(TensorPixels.on(self.device, pixels))

    def _finer_bands(self, pixels: TensorPixels) -> Tensor:
        fine = pixels.reflectance[10]
        if 20 not in pixels.reflectance or self.scaling is None:
            return fine
        names = bands_at(self.bands_in, 20)
        rows = [names.index(band) for band in self.used]
        observed = pixels.reflectance[20][rows]
        known = Known.of(moved_valid(pixels.fine_valid, self.shift), pixels.valid[20][rows])
        fine_names = bands_at(self.bands_in, 10)
        inputs = Inputs.of(moved(fine, self.shift), observed, known, fine_names, self.used, self.sensor, self.scaling)
        guess = inputs.guess
        if self.network is not None:
            detail = self._detail(inputs) * self.scaling.guess_detail[..., None]
            guess = guess + (detail if self.worth is None else detail * self.worth[..., None])
        image = self.scaling.image(guess)
        return torch.cat([fine, self._corrected(image, observed, known, self.used, self.models)])

    def _valid_for_60m(self, pixels: TensorPixels) -> Tensor:
        """(band of 60 m, y, x): where all that a 60 m band is regressed on is valid."""
        assert self.mixtures is not None
        valid = pixels.fine_valid.expand(len(self.mixtures), -1, -1)
        if 20 not in pixels.valid:
            return valid
        names, slopes = bands_at(self.bands_in, 20), self.mixtures[:, 1 + len(pixels.valid[10]) :]
        coarse = pixels.valid[20][[names.index(band) for band in self.used]]
        used = torch.stack([coarse[row != 0].all(0) for row in slopes])
        return valid & used.repeat_interleave(RATIO, 1).repeat_interleave(RATIO, 2)

    def _corrected(
        self, image: Tensor, observed: Tensor, known: Known, bands: Sequence[str], models: Sequence[MisfitModel] | None
    ) -> Tensor:
        """An image, and of its misfit what is signal; all of it where there are no models."""
        ratio = image.shape[-1] // observed.shape[-1]
        misfit = misfit_of(image, observed, self.sensor, bands, ratio, known)
        if models is None:
            return image + lift(misfit, self.sensor, bands, ratio)
        return image + lacking(misfit, models, self.sensor, bands, ratio)

    def _detail(self, inputs: Inputs) -> Tensor:
        """What the network adds to the guess, in its unit."""
        assert self.network is not None
        channels = inputs.channels(self.slots)[None].contiguous(memory_format=torch.channels_last)
        told = describe(self.sensor).to(channels.device)[None]
        with computing_in(self.precision, channels.device):
            output: Tensor = self.network(channels, told)[0].float()
        return output.reshape(len(COARSE), RATIO**2, *output.shape[1:])[list(self.slots)]


def _tensor_of(models: Sequence[MisfitModel]) -> Tensor:
    return torch.tensor([astuple(model) for model in models], dtype=torch.float64)


def _models_from(tensor: Tensor | None) -> tuple[MisfitModel, ...] | None:
    return None if tensor is None else tuple(MisfitModel(*row) for row in tensor.tolist())
