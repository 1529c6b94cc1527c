"""Tensors, and what is stated of them, in the safetensors format, which shows when it is damaged. Pickles are never opened."""

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
from s2pipe.core.types import Json

SUFFIX = ".safetensors"


def tensors_to_bytes(tensors: Mapping[str, Tensor], stated: Json, *, kind: str) -> bytes:
    """The content of a file of this `kind`.

    Parameters
    ----------
    tensors : mapping of str to Tensor
    stated : mapping
        Of what JSON can hold.
    kind : str
        What `tensors_from_bytes` will be asked for.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(stated)
    return safetensors.torch.save(held, {"kind": kind, "stated": text, "sha256": _hash(held, kind, text)})


def tensors_from_bytes(
    content: bytes, *, kind: str, name: str, argument: str = "path"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, and what is stated of them, in the content of a file of this `kind`; errors call it `name`.

    Raises
    ------
    InputError
        About `argument`, if it is not in the safetensors format, of another kind, or damaged.
    """
    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{name} is no safetensors file ({error}); pickled weights (.pt, .pth, .pkl) are never opened: fit anew",
            argument=argument,
        ) from None
    metadata = _metadata(content)
    if metadata.get("kind") != kind:
        raise InputError(f"{name} holds tensors, but is no {kind}", argument=argument)
    text = metadata.get("stated", "")
    if metadata.get("sha256") != _hash(tensors, kind, text):
        raise InputError(
            f"{name} is damaged: it does not hold what was written; fit anew, or copy the file again", argument=argument
        )
    return tensors, json.loads(text)


def _metadata(content: bytes) -> dict[str, str]:
    """What the header of a safetensors file states, which the library reads from files only.

    See https://github.com/safetensors/safetensors/issues/194
    """
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    return header.get("__metadata__") or {}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], stated: Json, *, kind: str, argument: str = "path") -> None:
    """Write `tensors_to_bytes` to a file in one go: if it is interrupted, the file before is left.

    Parameters
    ----------
    path : Path
        Its folder exists; an existing file is replaced.
    tensors, stated, kind
        As for `tensors_to_bytes`.
    argument : str
        By which the caller was given the file.

    Raises
    ------
    InputError
        About `argument`, if the file cannot be written.
    """
    content = tensors_to_bytes(tensors, stated, kind=kind)
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise InputError(f"{path} cannot be written: {error}", argument=argument) from None


def read_tensors(path: Path, *, kind: str, argument: str = "path") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """`tensors_from_bytes` of a file.

    Raises
    ------
    InputError
        About `argument`, if there is no such file, it cannot be read, or as for `tensors_from_bytes`.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}", argument=argument)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}", argument=argument) from None
    return tensors_from_bytes(content, kind=kind, name=str(path), argument=argument)


def tensors_below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _hash(tensors: Mapping[str, Tensor], *facts: object) -> str:
    return sha256_of({name: tensor.numpy() for name, tensor in tensors.items()}, *facts)
