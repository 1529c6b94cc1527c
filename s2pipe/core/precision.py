"""The precision that networks compute in: float32, or bfloat16 where the processor has instructions for it."""

from __future__ import annotations

import os
import platform
from typing import Literal, get_args

import torch

from s2pipe.core.errors import InputError

Precision = Literal["float32", "bfloat16"]

VARIABLE = "S2PIPE_PRECISION"
"""The environment variable that replaces "auto"."""

ACCEPTED = ("auto", *get_args(Precision))


def check_precision(precision: object) -> str:
    """`precision` itself if it is "auto" or a precision; else InputError."""
    if not isinstance(precision, str) or precision not in ACCEPTED:
        raise InputError(f"precision={precision!r} must be one of {', '.join(map(repr, ACCEPTED))}", argument="precision")
    return precision


def choose_precision(precision: str, device: str) -> Precision:
    """The precision in which a device of this process is to compute.

    What decides is which instructions the processor has, and never how fast they were in some trial: so that two runs on machines
    of one kind decide alike.

    Parameters
    ----------
    precision : str
        "float32", "bfloat16", or "auto": what the environment variable ``S2PIPE_PRECISION`` says, without it bfloat16 where the
        device has instructions for it, else float32.
    device : str
        A torch device.

    Raises
    ------
    InputError
        If it is none of these, or bfloat16 and the device cannot compute in it.
    """
    check_precision(precision)
    kind = torch.device(device).type
    if precision == "auto":
        precision = os.environ.get(VARIABLE) or "auto"
        if precision not in ACCEPTED:
            raise InputError(f"the environment variable {VARIABLE} is {precision!r}; set it to one of {', '.join(ACCEPTED)}")
    if precision == "auto":
        precision = "bfloat16" if _has_instructions(kind) else "float32"
    if precision == "bfloat16":
        _refuse_bfloat16_unless_it_works(kind)
        return "bfloat16"
    return "float32"


def computing_in(precision: Precision, device: torch.device) -> torch.autocast:
    """Context in which a network, and nothing that is measured by it, computes in this precision.

    Raises
    ------
    InputError
        If it is bfloat16, and the device cannot compute in it.
    """
    if precision == "bfloat16":
        _refuse_bfloat16_unless_it_works(device.type)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def _has_instructions(kind: str) -> bool:
    """Whether the processors of this kind here have instructions for bfloat16."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind == "cpu" and _works(kind) and (platform.machine() == "aarch64" or torch.cpu._is_avx512_bf16_supported())


def _works(kind: str) -> bool:
    """Whether torch computes in bfloat16 there, if need be by instructions for float32."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return kind == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _refuse_bfloat16_unless_it_works(kind: str) -> None:
    if not _works(kind):
        raise InputError(
            f"the {kind} of {platform.node()} cannot compute in bfloat16; give precision='float32', and for a store that was "
            "begun in bfloat16 also refit=True or overwrite=True",
            argument="precision",
        )
