"""The worker: one process and its devices. It places a Sharpener there once and cuts chunks into blocks that fit."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from dask.tokenize import tokenize

from s2pipe.core import lattice
from s2pipe.core.errors import InputError
from s2pipe.core.options import Options
from s2pipe.core.pixels import Pixels
from s2pipe.core.threads import single_threads
from s2pipe.engine.clusters import cores
from s2pipe.methods.base import Array, Sharpener

log = logging.getLogger(__name__)

SMALLEST_BLOCK = 60
"""Edge in 10 m pixels of the blocks that a device must have memory for: smaller ones would be mostly halo."""

Edges = tuple[int, int]
"""Height and width of a block in 10 m pixels."""


def check_device(device: str) -> str:
    """Refuse a name that no torch device has. Whether the device exists is checked by the process that computes."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(device)):
        raise InputError(
            f"unknown device {device!r}; accepted are 'auto', 'cpu', 'cuda', 'cuda:0' and so on, 'mps'", argument="device"
        )
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
        raise InputError(
            f"device {device!r} is not available here; use 'cpu', or 'auto' to take a GPU where there is one", argument="device"
        )
    return device


def finds_gpu(device: str) -> bool:
    """Whether this process would compute on CUDA."""
    return device.startswith(("auto", "cuda")) and torch.cuda.is_available()


@dataclass(frozen=True)
class _Shortage:
    """When a device was short of memory, and the blocks that it has memory for; None where the CPU does its work."""

    at: float
    edges: Edges | None


class _OutOfMemory(Exception):
    """No block is small enough for a device that is not the CPU."""


class Worker:
    """What a process remembers from one chunk to the next.

    That is, the Sharpeners on its devices, which of these are short of memory, and how many blocks are being computed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._placed: OrderedDict[tuple[str, str], Sharpener] = OrderedDict()
        self._shortages: dict[str, _Shortage] = {}
        self._slots: dict[tuple[str, int], threading.BoundedSemaphore] = {}

    def sharpen(self, sharpener: Sharpener, pixels: Pixels, *, device: str, options: Options) -> Array:
        """Sharpen one chunk, one block after another.

        Parameters
        ----------
        sharpener : Sharpener
        pixels : Pixels
            Padded by the Sharpener's halo on every side.
        device : str
            As `choose_device` takes.
        options : Options

        Returns
        -------
        ndarray, (band, y, x)
            `bands_out` at 10 m, without the padding.
        """
        device = choose_device(device)
        shortage = self._shortage(device, options)
        if shortage is None or shortage.edges is not None:
            try:
                return self._sharpen_on(device, sharpener, pixels, options)
            except _OutOfMemory:
                self._shortages[device] = _Shortage(time.monotonic(), None)
                log.warning("not even blocks of %d px fit on %s; the CPU computes instead, more slowly", SMALLEST_BLOCK, device)
        return self._sharpen_on("cpu", sharpener, pixels, options)

    def _shortage(self, device: str, options: Options) -> _Shortage | None:
        """The last shortage of memory of a device; forgotten after `memory_retry_s`, because others use the device too."""
        shortage = self._shortages.get(device)
        if shortage is not None and time.monotonic() - shortage.at > options.memory_retry_s:
            self._shortages.pop(device, None)
            return None
        return shortage

    def _sharpen_on(self, device: str, sharpener: Sharpener, pixels: Pixels, options: Options) -> Array:
        """Sharpen one chunk on this device, in blocks that are halved until they fit."""
        height, width = (size - 2 * sharpener.halo for size in pixels.reflectance[10].shape[1:])
        shortage = self._shortage(device, options)
        largest = (shortage and shortage.edges) or (options.cuda_block if _kind(device) == "cuda" else options.cpu_block)
        edges = min(largest[0], height), min(largest[1], width)
        while True:
            try:
                return self._sharpen_blocks(self._place(sharpener, device, options), pixels, edges, device)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error) or (max(edges) <= SMALLEST_BLOCK and device == "cpu"):
                    raise
            # out here the error and what its frames held are gone
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if max(edges) <= SMALLEST_BLOCK:
                raise _OutOfMemory
            edges = _halved(edges[0]), _halved(edges[1])
            self._shortages[device] = _Shortage(time.monotonic(), edges)
            log.warning("out of memory on %s; retrying with blocks of %d x %d px", device, *edges)

    def _place(self, sharpener: Sharpener, device: str, options: Options) -> Sharpener:
        """The Sharpener on `device`, moved there once."""
        key = (tokenize(sharpener), device)
        with self._lock:
            if key not in self._placed:
                self._placed[key] = sharpener.to(device)
            self._placed.move_to_end(key)
            while len(self._placed) > options.cached_sharpeners:
                self._placed.popitem(last=False)
            return self._placed[key]

    def _sharpen_blocks(self, sharpener: Sharpener, pixels: Pixels, edges: Edges, device: str) -> Array:
        """Sharpen one chunk: on the CPU several blocks side by side, each in one thread, as many as there are free cores."""
        halo = sharpener.halo
        height, width = (size - 2 * halo for size in pixels.reflectance[10].shape[1:])
        sharpened = np.empty((len(sharpener.bands_out), height, width), dtype=np.float32)
        owner, count = cores() if _kind(device) == "cpu" else (device, 1)  # the memory of a GPU is one
        slots = self._slots_of(owner, count)

        def sharpen_block(block: lattice.Block) -> None:
            with slots:
                result = sharpener(pixels.cut(slice(*block.outer_y), slice(*block.outer_x)))
            kept = result[:, halo : result.shape[1] - halo, halo : result.shape[2] - halo]
            sharpened[:, slice(*block.inner_y), slice(*block.inner_x)] = kept

        blocks = lattice.blocks(height, width, edges=edges, halo=halo)
        if _kind(device) == "cpu":
            with single_threads(count) as pool:
                list(pool.map(sharpen_block, blocks))
        else:
            for block in blocks:
                sharpen_block(block)
        return sharpened

    def _slots_of(self, owner: str, count: int) -> threading.BoundedSemaphore:
        """Lets so many blocks of an owner, see `clusters.cores`, be computed at once. Other threads read and write meanwhile."""
        with self._lock:
            return self._slots.setdefault((owner, count), threading.BoundedSemaphore(count))


THIS_WORKER = Worker()
"""That of this process."""


def _kind(device: str) -> str:
    """Its kind, ``"cuda"`` of ``"cuda:1"``."""
    return torch.device(device).type


def _halved(edge: int) -> int:
    return max(edge // 2 // lattice.STEP * lattice.STEP, SMALLEST_BLOCK)


_FAILED_ALLOCATION = r"can't allocate memory|(MPS backend|CUDA error:) out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED"
"""Texts of plain RuntimeErrors about it: on the CPU, on Apple's GPUs, and in CUDA's libraries."""


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or re.search(_FAILED_ALLOCATION, str(error)) is not None
