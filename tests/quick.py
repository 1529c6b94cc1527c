"""Options that make every method quick to fit, for the tests of what all methods share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from keras_files import kernel_shapes, random_weights, write_keras_weights

from s2pipe.core.errors import InputError
from s2pipe.core.precision import Precision, choose_precision
from s2pipe.methods import METHODS
from s2pipe.methods.learned.lower_scale import SscCnn

SAME_CODE = ("glp-fs", "hpm-r")
"""Injections that differ from others by the numbers their fit finds only, as those with a selected panchromatic band do."""

DISTINCT = tuple(name for name in METHODS if name not in SAME_CODE and not name.endswith("-sel"))
"""The methods that run code of their own, for tests that take long."""

SCENE_SOLVERS = ("supreme", "s2sharp", "ssss")
"""The methods that solve for a whole block: what lies beyond their halo matters a little."""

QUICK: dict[str, dict[str, Any]] = {
    "ssc-cnn": {"steps": 3, "patches": 64},
    "resnet": {"steps": 2, "patches": 48, "blocks": 2},
    "supreme": {"iterations": 3},
    "s2sharp": {"smoothness": 0.01, "iterations": 1},
    "ssss": {"iterations": 3},
    "s2sucnn": {"steps": 2, "patch": 48, "batch": 1},
}


def quick_options(method: str) -> dict[str, Any]:
    """Options of the method called `method`; weights are random."""
    assert method in METHODS
    return _dsen2_weights() if method == "dsen2" else QUICK.get(method, {})


@contextmanager
def quick_training() -> Iterator[None]:
    """Let ssc-cnn train on a quarter of the patches at each step, from which it learns nearly as much."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SscCnn, "batch", 16)
        yield


WITHOUT_BFLOAT16 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
"""What makes torch's library of convolutions believe that the processor has no instructions it could compute bfloat16 by."""


def available_precisions() -> list[str]:
    """Those that this machine can compute in."""
    found = []
    for precision in get_args(Precision):
        with suppress(InputError):
            found.append(choose_precision(precision, "cpu"))
    return found


def skip_without(precision: str) -> None:
    """Skip the test where this machine cannot compute in it."""
    if precision not in available_precisions():
        pytest.skip(f"this machine cannot compute in {precision}")


@cache
def _dsen2_weights() -> dict[str, str]:
    folder = Path(tempfile.mkdtemp())
    shapes = {20: kernel_shapes(10, 6), 60: kernel_shapes(12, 2)}
    return {
        f"weights_{gsd}m": write_keras_weights(folder / f"{gsd}m.hdf5", random_weights(shape)) for gsd, shape in shapes.items()
    }
