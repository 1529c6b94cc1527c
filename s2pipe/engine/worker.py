"""The worker: one process, one device. It places a Sharpener there once and cuts chunks into blocks that fit."""

from __future__ import annotations

import logging
import re
import threading
from collections import OrderedDict
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from dask.tokenize import tokenize

from s2pipe.core import lattice
from s2pipe.core.errors import InputError
from s2pipe.core.threads import single_threads
from s2pipe.engine.clusters import cores
from s2pipe.methods.base import Array, Sharpener

log = logging.getLogger(__name__)

BLOCK = {"cpu": (612, 462), "cuda": (1830, 1830)}
"""Height and width of a block in 10 m pixels: a CPU loses in smaller ones by their halos, in larger ones by its caches, and a
chunk of 1830 px has twelve of these, which 2, 3, 4, 6 or 12 cores share evenly; for CUDA see `benchmarks/gpu_tile.py`."""

SMALLEST_BLOCK = 60
PLACED_AT_MOST = 8

_placed: OrderedDict[tuple[str, str], Sharpener] = OrderedDict()
_placing = threading.Lock()
_largest_block: dict[str, tuple[int, int]] = {}
"""Height and width that memory allowed on each device, where they were less than `BLOCK`."""
_too_small: set[str] = set()
"""Devices whose memory is too small for any block: the CPU does their work."""


def check_device(device: str) -> str:
    """Refuse a name that no torch device has. Whether the device exists is for the process that computes to say."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(device)):
        raise InputError(f"unknown device {device!r}; legal are 'auto', 'cpu', 'cuda', 'cuda:0' and so on, 'mps'")
    return device


def choose_device(device: str) -> str:
    """The torch device to use in this process: "auto" is a GPU where there is one.

    Raises
    ------
    InputError
        If `device` is unknown, or is not there.
    """
    check_device(device)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.device(device)
    there = {"cpu": True, "cuda": torch.cuda.device_count() > (kind.index or 0), "mps": torch.backends.mps.is_available()}
    if not there[kind.type]:
        raise InputError(f"device {device!r} is not available here; use 'cpu', or 'auto' to take a GPU where there is one")
    return device


def finds_gpu(device: str) -> bool:
    """Whether this process would compute on CUDA."""
    return device.startswith(("auto", "cuda")) and torch.cuda.is_available()


def sharpen_padded(sharpener: Sharpener, r10m: Array, r20m: Array | None, r60m: Array | None, *, device: str) -> Array:
    """Sharpen one chunk, one block after another.

    Parameters
    ----------
    sharpener : Sharpener
    r10m, r20m, r60m : ndarray, (band, y, x), or None
        float32 reflectance, finite, padded by the Sharpener's halo on every side.
    device : str
        As `choose_device` takes.

    Returns
    -------
    ndarray, (band, y, x)
        `bands_out` at 10 m, without the padding.
    """
    device = choose_device(device)
    if device not in _too_small:
        try:
            return _sharpen_on(device, sharpener, r10m, r20m, r60m)
        except _OutOfMemory:
            _too_small.add(device)
            log.warning("not even blocks of %d px fit on %s; going on on the CPU, which is slower", SMALLEST_BLOCK, device)
    return _sharpen_on("cpu", sharpener, r10m, r20m, r60m)


class _OutOfMemory(Exception):
    """No block is small enough for a device that is not the CPU."""


def _sharpen_on(device: str, sharpener: Sharpener, r10m: Array, r20m: Array | None, r60m: Array | None) -> Array:
    """Sharpen one chunk on this device, in blocks that are halved until they fit."""
    height, width = (size - 2 * sharpener.halo for size in r10m.shape[1:])
    largest = _block(device)
    edges = min(largest[0], height), min(largest[1], width)
    while True:
        try:
            return _sharpen_blocks(_place(sharpener, device), r10m, r20m, r60m, edges, device)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error) or (max(edges) <= SMALLEST_BLOCK and device == "cpu"):
                raise
        # out here the error and what its frames held are gone
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if max(edges) <= SMALLEST_BLOCK:
            raise _OutOfMemory
        edges = _largest_block[device] = _halved(edges[0]), _halved(edges[1])
        log.warning("out of memory on %s; going on with blocks of %d x %d px", device, *edges)


def _halved(edge: int) -> int:
    return max(edge // 2 // lattice.STEP * lattice.STEP, SMALLEST_BLOCK)


@lru_cache
def _slots(kind: str, owner: str, count: int) -> threading.BoundedSemaphore:
    """Lets so many blocks of an owner, see `clusters.cores`, be computed at once. Other threads read and write meanwhile."""
    return threading.BoundedSemaphore(count)


def _block(device: str) -> tuple[int, int]:
    return _largest_block.get(device, BLOCK.get(torch.device(device).type, BLOCK["cpu"]))


_FAILED_ALLOCATION = r"can't allocate memory|(MPS backend|CUDA error:) out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED"
"""What plain RuntimeErrors say of it: on the CPU, on Apple's GPUs, and in CUDA's libraries."""


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or re.search(_FAILED_ALLOCATION, str(error)) is not None


def _place(sharpener: Sharpener, device: str) -> Sharpener:
    """The Sharpener on `device`, moved there once; one that cannot move computes where it likes."""
    move = getattr(sharpener, "to", None)
    if move is None:
        return sharpener
    key = (tokenize(sharpener), device)
    with _placing:
        if key not in _placed:
            _placed[key] = move(device)
            if len(_placed) > PLACED_AT_MOST:
                _placed.popitem(last=False)
        _placed.move_to_end(key)
        return _placed[key]


def _sharpen_blocks(
    sharpener: Sharpener, r10m: Array, r20m: Array | None, r60m: Array | None, edges: tuple[int, int], device: str
) -> Array:
    """Sharpen one chunk: on the CPU several blocks side by side, each in one thread, as many as there are free cores."""
    halo = sharpener.halo
    height, width = (size - 2 * halo for size in r10m.shape[1:])
    sharpened = np.empty((len(sharpener.bands_out), height, width), dtype=np.float32)
    kind = torch.device(device).type
    owner, count = cores() if kind == "cpu" else ("", 1)  # the memory of a GPU is one
    slots = _slots(kind, owner, count)

    def sharpen_block(block: lattice.Block) -> None:
        with slots:
            result = sharpener(_cut(r10m, block, 1), _cut(r20m, block, 2), _cut(r60m, block, 6))
        kept = result[:, halo : result.shape[1] - halo, halo : result.shape[2] - halo]
        sharpened[:, slice(*block.inner_y), slice(*block.inner_x)] = kept

    blocks = lattice.blocks(height, width, edges=edges, halo=halo)
    if kind == "cpu":
        with single_threads(count) as pool:
            list(pool.map(sharpen_block, blocks))
    else:
        for block in blocks:
            sharpen_block(block)
    return sharpened


def _cut(array: Array | None, block: lattice.Block, ratio: int) -> Any:
    if array is None:
        return None
    rows, columns = (slice(start // ratio, stop // ratio) for start, stop in (block.outer_y, block.outer_x))
    return array[:, rows, columns]
