"""What every Sharpener of this package states, but for what its fit found."""

from __future__ import annotations

from typing import Any, NotRequired, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from s2pipe.core.precision import Precision
from s2pipe.physics.sensor import Sensor

MethodOptions: TypeAlias = dict[str, Any]
"""A method's options by name, of what JSON can hold."""


class Fields(TypedDict):
    """Attributes of a `TorchSharpener`, but for its device."""

    method: str
    options: MethodOptions
    seed: int
    sensor: Sensor
    bands_in: tuple[str, ...]
    bands_out: tuple[str, ...]
    halo: int
    precision: NotRequired[Precision]
    bicubic_bands: NotRequired[tuple[str, ...]]
    fingerprint: NotRequired[npt.NDArray[np.uint64]]
