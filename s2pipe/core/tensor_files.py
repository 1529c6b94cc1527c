"""Tensors and what is stated of them in one safetensors file, which tells when it is damaged. Pickles are never opened."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from s2pipe.core.errors import InputError
from s2pipe.core.hashing import sha256_of

SUFFIX = ".safetensors"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], stated: Mapping[str, Any], *, kind: str) -> None:
    """Write a file of this `kind` in one go: whoever is killed meanwhile leaves the one before.

    Parameters
    ----------
    path : Path
        Its folder exists; an existing file is replaced.
    tensors : mapping of str to Tensor
    stated : mapping
        Of what JSON can hold.
    kind : str
        What `read_tensors` will be asked for.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(stated)
    metadata = {"kind": kind, "stated": text, "sha256": _hash(held, kind, text)}
    part = path.with_name(f"{path.name}.part")
    try:
        safetensors.torch.save_file(held, part, metadata)
        os.replace(part, path)
    except (OSError, safetensors.SafetensorError) as error:
        with suppress(OSError):
            part.unlink()
        raise InputError(f"{path} cannot be written: {error}") from None


def read_tensors(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, and what is stated of them, in a file of this `kind`.

    Raises
    ------
    InputError
        If there is no such file, it is no safetensors file, of another kind, or damaged.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # safe_open is no mapping
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{path} is no safetensors file ({error}); pickled weights (.pt, .pth, .pkl) are never opened: fit anew"
        ) from None
    if metadata.get("kind") != kind:
        raise InputError(f"{path} holds tensors, but is no {kind}")
    text = metadata.get("stated", "")
    if metadata.get("sha256") != _hash(tensors, kind, text):
        raise InputError(f"{path} is damaged: it does not hold what was written; fit anew, or copy the file again")
    return tensors, json.loads(text)


def tensors_below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _hash(tensors: Mapping[str, Tensor], *facts: object) -> str:
    return sha256_of({name: tensor.numpy() for name, tensor in tensors.items()}, *facts)
