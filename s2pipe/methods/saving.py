"""Fitted Sharpeners in the safetensors format, to be used again on other scenes and other machines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from s2pipe.core.errors import InputError
from s2pipe.core.precision import Precision
from s2pipe.core.tensor_files import SUFFIX, read_tensors, tensors_from_bytes, tensors_to_bytes, write_tensors
from s2pipe.methods import METHODS
from s2pipe.methods.base import Sharpener, TorchSharpener
from s2pipe.physics.sensor import Sensor

KIND = "fitted Sharpener of s2pipe"
FINGERPRINT = "fingerprint"


def save_sharpener(sharpener: Sharpener, path: str | Path) -> None:
    """Write a fitted Sharpener, all that it needs to work elsewhere, to one file.

    Parameters
    ----------
    sharpener : Sharpener
        Of a method of this package.
    path : path
        Ends in ``.safetensors``; an existing file is replaced.

    Raises
    ------
    InputError
        If the Sharpener is from elsewhere, `path` ends otherwise, or the file cannot be written.

    Examples
    --------
    >>> s2pipe.save_sharpener(s2pipe.fit(cube, "glp"), "glp.safetensors")  # doctest: +SKIP
    """
    path = Path(path)
    tensors, stated = _parts(sharpener)
    if path.suffix != SUFFIX:
        raise InputError(f"path={str(path)!r} must end in {SUFFIX}", argument="path")
    write_tensors(path, tensors, stated, kind=KIND)


def sharpener_to_bytes(sharpener: Sharpener) -> bytes:
    """The content of the file that `save_sharpener` writes.

    Raises
    ------
    InputError
        If the Sharpener is from elsewhere.
    """
    return tensors_to_bytes(*_parts(sharpener), kind=KIND)


def _parts(sharpener: Sharpener) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that a Sharpener holds: its tensors, and what is stated of them."""
    if not isinstance(sharpener, TorchSharpener) or sharpener.method not in METHODS:
        raise InputError(
            f"a {type(sharpener).__name__} is no Sharpener of s2pipe's own methods and cannot be saved", argument="sharpener"
        )
    tensors = sharpener.weights() | {FINGERPRINT: torch.from_numpy(sharpener.fingerprint.copy())}
    stated = {
        "method": sharpener.method,
        "options": sharpener.options,
        "seed": sharpener.seed,
        "precision": sharpener.precision,
        "sensor": {"name": sharpener.sensor.name, "mtf": sharpener.sensor.mtf},
        "bands_in": sharpener.bands_in,
        "bands_out": sharpener.bands_out,
        "halo": sharpener.halo,
        "bicubic_bands": sharpener.bicubic_bands,
    }
    return tensors, stated


def load_sharpener(path: str | Path) -> TorchSharpener:
    """The Sharpener that `save_sharpener` wrote.

    Parameters
    ----------
    path : path

    Returns
    -------
    Sharpener

    Raises
    ------
    InputError
        If there is no such file, it is no safetensors file (pickles are never opened), not written by `save_sharpener`,
        damaged, or its weights are those of another architecture than it says.

    Examples
    --------
    >>> sharpener = s2pipe.load_sharpener("glp.safetensors")  # doctest: +SKIP
    >>> sharp = s2pipe.sharpen(cube, sharpener)  # doctest: +SKIP
    """
    return _restored(*read_tensors(Path(path), kind=KIND), name=str(path))


def sharpener_from_bytes(content: bytes, *, name: str) -> TorchSharpener:
    """The Sharpener of which `sharpener_to_bytes` made this content; errors, those of `load_sharpener`, call it `name`."""
    return _restored(*tensors_from_bytes(content, kind=KIND, name=name), name=name)


def _restored(tensors: dict[str, Tensor], stated: Mapping[str, Any], *, name: str) -> TorchSharpener:
    """The Sharpener of these `_parts`."""
    if stated["method"] not in METHODS:
        raise InputError(f"{name} is of the method {stated['method']!r}; there are {', '.join(METHODS)}", argument="path")
    fingerprint = tensors.pop(FINGERPRINT).numpy()
    names = set(tensors)
    try:
        sharpener = METHODS[stated["method"]].sharpener.restore(tensors, **_fields(stated), fingerprint=fingerprint)
        if left := names - set(sharpener.weights()):
            raise KeyError(f"it has no {', '.join(sorted(left))}")
    except (KeyError, RuntimeError, TypeError) as error:  # load_state_dict names the tensors
        raise InputError(
            f"the weights in {name} are not those of {stated['method']} with {stated['options']}: {error}", argument="path"
        ) from None
    return sharpener


def _fields(stated: Mapping[str, Any]) -> dict[str, Any]:
    about = stated["sensor"]
    name = about.get("name") or about["protocol"]  # as earlier versions called it
    sensor = Sensor(name=name, mtf=tuple((band, mtf) for band, mtf in about["mtf"]))
    names = {name: tuple(stated[name]) for name in ("bands_in", "bands_out", "bicubic_bands")}
    stated = {"precision": "float32", **stated}  # what an earlier version wrote states none
    if stated["precision"] not in get_args(Precision):
        raise KeyError(f"its precision is {stated['precision']!r}")
    return {**{name: stated[name] for name in ("method", "options", "seed", "precision", "halo")}, **names, "sensor": sensor}
