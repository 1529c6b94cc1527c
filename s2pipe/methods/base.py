"""The two kinds of object every sharpening method is made of: a Method is a recipe, a Sharpener has its weights fixed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, Unpack, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from s2pipe.core.bands import GSDS, bands_at
from s2pipe.core.hashing import sha256_of
from s2pipe.core.lattice import round_up
from s2pipe.core.pixels import Pixels
from s2pipe.core.precision import Precision
from s2pipe.core.progress import Progress
from s2pipe.fitting.sampling import Sample
from s2pipe.methods.attributes import Fields, MethodOptions
from s2pipe.physics.misfit import Known
from s2pipe.physics.sensor import BICUBIC_REACH, Sensor

Array = npt.NDArray[np.float32]
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class FitContext:
    """What a fit gets beside the sample.

    Attributes
    ----------
    sensor : Sensor
        What made the sample.
    seed : int
        Random seed of the fit.
    device : str
        A torch device of this process.
    precision : {"float32", "bfloat16"}
        What networks compute in.
    progress : callable or None
        See `Progress`.
    checkpoint : Path or None
        Folder in which a training saves its state, and from whose state it resumes.
    """

    sensor: Sensor
    seed: int = 0
    device: str = "cpu"
    precision: Precision = "float32"
    progress: Progress | None = None
    checkpoint: Path | None = None


@runtime_checkable
class Method(Protocol):
    """A recipe: knows how to make a Sharpener for a scene.

    Attributes
    ----------
    name : str
        What tables and errors call it.
    """

    @property
    def name(self) -> str: ...

    def halo(self, gsds: Collection[int], sensor: Sensor) -> int:
        """Halo of the Sharpener it will make for bands of these resolutions, in 10 m pixels."""
        ...

    def fit(self, sample: Sample, context: FitContext) -> Sharpener:
        """Fit on windows of a scene."""
        ...


@runtime_checkable
class Sharpener(Protocol):
    """Weights fixed: called many times, on any worker, to which it travels by pickle.

    A worker takes two of one dask token (`dask.tokenize.tokenize`) for the same, and keeps the first.

    Attributes
    ----------
    method : str
        Name of the method that made it.
    sensor : Sensor
        What it was fitted for.
    bands_in, bands_out : tuple of str
        Bands it needs, and those it sharpens, in the order of its output.
    bicubic_bands : tuple of str
        Those of `bands_out` that are interpolated because nothing could be fitted for them.
    halo : int
        10 m pixels, a multiple of 6, that an output pixel depends on in each direction.
    fingerprint : ndarray of uint64
        Of the scene it was fitted on, `s2pipe.fitting.fingerprint`; empty where nothing of it was used.
    """

    @property
    def method(self) -> str: ...
    @property
    def sensor(self) -> Sensor: ...
    @property
    def bands_in(self) -> tuple[str, ...]: ...
    @property
    def bands_out(self) -> tuple[str, ...]: ...
    @property
    def bicubic_bands(self) -> tuple[str, ...]: ...
    @property
    def halo(self) -> int: ...
    @property
    def fingerprint(self) -> npt.NDArray[np.uint64]: ...

    def __call__(self, pixels: Pixels) -> Array:
        """Sharpened `bands_out`, (band, y, x) at 10 m.

        `pixels` hold the `bands_in` of each resolution, and none at a resolution of which there is no band in `bands_in`; but the
        10 m bands are always there.
        """
        ...

    def to(self, device: str) -> Sharpener:
        """The same Sharpener, computing on a torch device of this process."""
        ...

    def in_precision(self, precision: Precision) -> Sharpener:
        """The same with networks that compute in `precision`, if it has any that can compute in another than float32."""
        ...

    def check_runs_on(self, device: str) -> None:
        """Raise InputError if it cannot compute on a device of this process."""
        ...

    def one_scale_lower(self, ratio: int) -> Sharpener:
        """The same for the scene degraded by `ratio`: what it holds in pixels of 10 m is converted to larger ones."""
        ...

    def provenance(self) -> dict[str, object]:
        """What a result states of how it was made: by name, strings, numbers, and lists and dicts of these."""
        ...


@dataclass(frozen=True, kw_only=True)
class TensorPixels:
    """`Pixels` as tensors of one device."""

    reflectance: Mapping[int, Tensor]
    valid: Mapping[int, Tensor]

    @property
    def fine_valid(self) -> Tensor:
        """Where all 10 m bands are valid, (y, x)."""
        return self.valid[10].all(0)

    def known(self, gsd: int) -> Known:
        """Where all 10 m bands, and the bands of a coarser resolution, are valid."""
        return Known.of(self.fine_valid, self.valid[gsd])

    @classmethod
    def on(cls, device: str, pixels: Pixels) -> TensorPixels:
        """These pixels on a device."""

        def moved(arrays: Mapping[int, npt.NDArray[np.generic]]) -> dict[int, Tensor]:
            return {gsd: torch.from_numpy(np.ascontiguousarray(array)).to(device) for gsd, array in arrays.items()}

        return cls(reflectance=moved(pixels.reflectance), valid=moved(pixels.valid))


@dataclass(frozen=True, kw_only=True, eq=False)
class TorchSharpener:
    """What the Sharpeners of this package share: numpy in and out, torch between, on one device.

    Attributes
    ----------
    method : str
        Name of the method that made it.
    options : dict
        The method's options.
    seed : int
    precision : {"float32", "bfloat16"}
        What its networks were fitted in, and compute in; float32 where there are none.
    bicubic_bands : tuple of str
        Those of `bands_out` that are interpolated because nothing could be fitted for them.
    fingerprint : ndarray of uint64
        Of the scene it was fitted on, `s2pipe.fitting.fingerprint`; empty where nothing of it was used.
    device : str
        Where `__call__` computes.
    """

    method: str
    options: MethodOptions
    seed: int
    sensor: Sensor
    bands_in: tuple[str, ...]
    bands_out: tuple[str, ...]
    halo: int
    precision: Precision = "float32"
    bicubic_bands: tuple[str, ...] = ()
    fingerprint: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, dtype=np.uint64), repr=False)
    device: str = "cpu"

    def forward(self, pixels: TensorPixels) -> Tensor:
        """`__call__` on tensors of `device`."""
        raise NotImplementedError

    def weights(self) -> dict[str, Tensor]:
        """Everything that fitting found, by name."""
        return {}

    @classmethod
    def restore(cls, weights: dict[str, Tensor], **fields: Unpack[Fields]) -> Self:
        """The Sharpener that had these `weights`; `fields` are its other attributes.

        Raises KeyError or RuntimeError where the weights are those of something else.
        """
        raise NotImplementedError

    def __call__(self, pixels: Pixels) -> Array:
        """See `Sharpener`."""
        with torch.inference_mode():
            sharpened: Array = self.forward(TensorPixels.on(self.device, pixels)).cpu().numpy()
        return sharpened

    def to(self, device: str) -> Self:
        """The same Sharpener, computing on `device`."""
        return replace(self, device=device)

    def in_precision(self, precision: Precision) -> Self:
        """The same Sharpener with networks that compute in `precision`, if they can compute in another than float32."""
        return self

    def check_runs_on(self, device: str) -> None:
        """Raise InputError if it cannot compute on a device of this process."""

    def one_scale_lower(self, ratio: int) -> Self:
        """The same Sharpener for the scene degraded by `ratio`: what it holds in pixels of 10 m is converted to larger ones."""
        return self

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of `weights`, the same wherever it is computed."""
        return sha256_of({name: tensor.detach().cpu().numpy() for name, tensor in self.weights().items()})

    def provenance(self) -> dict[str, object]:
        """What a store states of how its pixels were made."""
        stated: dict[str, object] = {
            "method": self.method,
            "options": self.options,
            "sensor": self.sensor.name,
            "seed": self.seed,
            "precision": self.precision,
            "weights_sha256": self.weights_sha256,
        }
        if self.sensor.mtf != Sensor().mtf:
            stated["mtf"] = dict(self.sensor.mtf)
        if self.bicubic_bands:
            stated["bicubic_bands"] = list(self.bicubic_bands)
        return stated

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (
            type(self).__name__,
            self.method,
            self.options,
            self.sensor,
            self.precision,
            self.bands_in,
            self.bands_out,
            self.bicubic_bands,
            self.halo,
            self.weights_sha256,
        )


def fields_of_fit(recipe: Any, sample: Sample, context: FitContext) -> dict[str, Any]:
    """What the Sharpener that a recipe of this package makes of a sample states, but for its bands and its weights."""
    return {
        "method": recipe.name,
        "options": stated_options(recipe),
        "seed": context.seed,
        "sensor": context.sensor,
        "bands_out": sample.targets,
        "halo": recipe.halo(sample.gsds, context.sensor),
        "fingerprint": sample.fingerprint(),
    }


def stated_options(recipe: Any) -> dict[str, Any]:
    """A recipe's options as its Sharpener states them: as JSON holds them, files by their names, as folders are the user's."""

    def stated(name: str, value: Any) -> Any:
        if name.startswith("weights") and value is not None:
            return Path(value).name
        return value.item() if isinstance(value, np.generic) else value

    return {name: stated(name, value) for name, value in asdict(recipe).items()}


def placed(network: Network, device: str) -> Network:
    """A copy of `network` on `device`, in the memory format that convolutions are fastest in; `network` stays where it is."""
    moved: Any = copy.deepcopy(network).to(device)
    result: Network = moved.to(memory_format=torch.channels_last)  # an overload that torch's stubs lack
    return result


def upsampling_reach(ratio: int) -> int:
    """10 m pixels on either side that the upsampling of a coarse band by `ratio` depends on."""
    return ratio * (BICUBIC_REACH + 1) - 1


def halo_of(gsds: Collection[int], reach: Callable[[int], int]) -> int:
    """Halo of a method that depends on ``reach(ratio)`` 10 m pixels on either side for bands `ratio` times coarser."""
    return round_up(max((reach(gsd // 10) for gsd in gsds if gsd > 10), default=0))


def count_by_gsd(bands: Sequence[str]) -> dict[int, int]:
    """How many of `bands` there are at each resolution that has any."""
    return {gsd: count for gsd in GSDS if (count := len(bands_at(bands, gsd)))}
