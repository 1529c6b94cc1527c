"""Fitted Sharpeners as safetensors files, to be used again on other scenes and other machines."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from s2pipe.errors import InputError
from s2pipe.methods import METHODS
from s2pipe.methods.base import Sharpener, TorchSharpener
from s2pipe.sensor import Sensor

FORMAT = "s2pipe sharpener 1"
SUFFIX = ".safetensors"
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
    """
    path = Path(path)
    if not isinstance(sharpener, TorchSharpener) or sharpener.method not in METHODS:
        raise InputError(f"a {type(sharpener).__name__} is no Sharpener of s2pipe's own methods and cannot be saved")
    if path.suffix != SUFFIX:
        raise InputError(f"path={str(path)!r} must end in {SUFFIX}")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sharpener.weights().items()}
    tensors[FINGERPRINT] = torch.from_numpy(sharpener.fingerprint.copy())
    stated = {
        "method": sharpener.method,
        "options": sharpener.options,
        "seed": sharpener.seed,
        "sensor": {"protocol": sharpener.sensor.protocol, "mtf": sharpener.sensor.mtf},
        "bands_in": sharpener.bands_in,
        "bands_out": sharpener.bands_out,
        "halo": sharpener.halo,
        "bicubic_bands": sharpener.bicubic_bands,
        "weights_sha256": sharpener.weights_sha256,
    }
    part = path.with_name(f"{path.name}.part")
    try:
        safetensors.torch.save_file(tensors, part, {"format": FORMAT, "sharpener": json.dumps(stated)})
        os.replace(part, path)
    except (OSError, safetensors.SafetensorError) as error:
        with suppress(OSError):
            part.unlink()
        raise InputError(f"{path} cannot be written: {error}") from None


def load_sharpener(path: str | Path) -> Sharpener:
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
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}; give weights that s2pipe fit, or s2pipe.save_sharpener, wrote")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # safe_open is no mapping
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{path} is no safetensors file ({error}); pickled weights (.pt, .pth, .pkl) are never opened: "
            "fit anew, or convert them where you trust them"
        ) from None
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path} holds weights, but not those of a fitted Sharpener; give what s2pipe.save_sharpener wrote")
    stated = json.loads(metadata["sharpener"])
    if stated["method"] not in METHODS:
        raise InputError(f"{path} is of the method {stated['method']!r}; legal methods are {', '.join(METHODS)}")
    try:
        fingerprint = tensors.pop(FINGERPRINT).numpy()
        sharpener = METHODS[stated["method"]].sharpener.restore(tensors, **_fields(stated), fingerprint=fingerprint)
    except (KeyError, RuntimeError, TypeError) as error:  # load_state_dict names the tensors
        raise InputError(f"the weights in {path} are not those of {stated['method']} with {stated['options']}: {error}") from None
    if sharpener.weights_sha256 != stated["weights_sha256"]:
        raise InputError(f"{path} is damaged: its weights are not those that were written; fit anew, or copy the file again")
    return sharpener


def _fields(stated: Mapping[str, Any]) -> dict[str, Any]:
    sensor = Sensor(protocol=stated["sensor"]["protocol"], mtf=tuple((band, mtf) for band, mtf in stated["sensor"]["mtf"]))
    names = {name: tuple(stated[name]) for name in ("bands_in", "bands_out", "bicubic_bands")}
    return {**{name: stated[name] for name in ("method", "options", "seed", "halo")}, **names, "sensor": sensor}
