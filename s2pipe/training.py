"""Training on the scene itself: windows read from a lazy cube, patches cut from them, and the loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch import Tensor, nn

from s2pipe.cube import encoding_of, nodes
from s2pipe.errors import InputError
from s2pipe.fill import fill_nodata

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int, float], None]
"""Called with what is trained, the step, the number of steps and the loss."""

WINDOW = 756
"""Edge of a window in 10 m pixels: 126 pixels at 60 m, so that it can be degraded by 6 once more."""

MAX_WINDOWS = 8
MAX_TRIES = 32
MIN_VALID = 0.25
"""A window with a smaller share of seen pixels is passed over."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A piece of the scene in memory, at every resolution it has.

    Attributes
    ----------
    reflectance : dict of int to ndarray, (band, y, x)
        By GSD; float32, finite: what was not seen is filled.
    seen : dict of int to ndarray, (y, x)
        By GSD; where every band of this resolution was seen.
    """

    reflectance: dict[int, npt.NDArray[np.float32]]
    seen: dict[int, Any]

    def seen_at(self, gsd: int) -> npt.NDArray[np.bool_]:
        """Where, on the grid of `gsd`, every band of every resolution was seen all over the pixel."""
        height, width = self.seen[10].shape
        everything: Any = np.ones((height, width), dtype=bool)
        for own, seen in self.seen.items():
            everything &= seen.repeat(own // 10, axis=0).repeat(own // 10, axis=1)
        ratio = gsd // 10
        result: npt.NDArray[np.bool_] = everything.reshape(height // ratio, ratio, width // ratio, ratio).all(axis=(1, 3))
        return result

    def crop_to_multiple(self, step: int) -> Window | None:
        """The largest upper-left part whose sides are multiples of `step` 10 m pixels; None where there is none."""
        height, width = (size // step * step for size in self.seen[10].shape)
        if not height or not width:
            return None
        return Window(
            reflectance={g: a[:, : height * 10 // g, : width * 10 // g] for g, a in self.reflectance.items()},
            seen={g: a[: height * 10 // g, : width * 10 // g] for g, a in self.seen.items()},
        )


def sample_windows(cube: xr.DataTree, *, seed: int) -> list[Window]:
    """Read up to `MAX_WINDOWS` windows, spread at random over the chunks and dates of a cube, and nothing else.

    Parameters
    ----------
    cube : xarray.DataTree
    seed : int
        The same seed reads the same windows.

    Returns
    -------
    list of Window

    Raises
    ------
    InputError
        If no window holds a seen pixel in every resolution.
    """
    places = list(_window_places(nodes(cube)[10]))
    order = np.random.default_rng(seed).permutation(len(places))[:MAX_TRIES]
    windows: list[Window] = []
    fallback: list[Window] = []
    for start in range(0, len(order), MAX_WINDOWS):
        batch = [places[i] for i in order[start : start + MAX_WINDOWS]]
        for window in _read_windows(cube, batch):
            share = window.seen_at(60 if 60 in window.seen else 20).mean()
            (windows if share >= MIN_VALID else fallback).append(window)
        if len(windows) >= MAX_WINDOWS:
            break
    chosen = windows or [window for window in fallback if any(seen.any() for seen in window.seen.values())]
    if not chosen:
        raise InputError(
            f"the {len(order)} windows sampled to fit the method hold nodata only; choose another date, or a bbox with imagery"
        )
    log.debug("fitting on %d windows of at most %d px", len(chosen), WINDOW)
    return chosen[:MAX_WINDOWS]


def _window_places(fine: xr.DataArray) -> Iterator[tuple[int, slice, slice]]:
    """Date, rows and columns, in 10 m pixels, of the windows a cube can be cut into without crossing a chunk."""
    chunks = fine.chunks or tuple((size,) for size in fine.shape)
    spans = [list(_spans(chunks[axis])) for axis in (2, 3)]
    for date in range(fine.sizes["time"]):
        for rows in spans[0]:
            for columns in spans[1]:
                yield date, rows, columns


def _spans(chunks: Sequence[int]) -> Iterator[slice]:
    start = 0
    for chunk in chunks:
        edge = min(WINDOW, chunk)
        for offset in range(0, chunk - edge + 1, edge):
            yield slice(start + offset, start + offset + edge)
        start += chunk


def _read_windows(cube: xr.DataTree, places: Sequence[tuple[int, slice, slice]]) -> list[Window]:
    encoding = encoding_of(cube)
    arrays = nodes(cube)
    parts = [
        {gsd: array.data[date, :, _coarse(rows, gsd), _coarse(columns, gsd)] for gsd, array in arrays.items()}
        for date, rows, columns in places
    ]
    windows = []
    for part in dask.compute(*parts):
        decoded = {gsd: encoding.decode(np.asarray(numbers)) for gsd, numbers in part.items()}
        windows.append(
            Window(
                reflectance={gsd: fill_nodata(a, reach=WINDOW) for gsd, a in decoded.items()},
                seen={gsd: np.isfinite(a).all(axis=0) for gsd, a in decoded.items()},
            )
        )
    return windows


def _coarse(span: slice, gsd: int) -> slice:
    return slice(span.start * 10 // gsd, span.stop * 10 // gsd)


def patch_corners(usable: npt.NDArray[np.bool_], *, size: int, stride: int) -> npt.NDArray[np.intp]:
    """Upper-left corners, (count, 2), of the `size` x `size` patches, `stride` apart, all of whose pixels are usable."""
    if min(usable.shape) < size:
        return np.empty((0, 2), dtype=np.intp)
    patches = np.lib.stride_tricks.sliding_window_view(usable, (size, size))[::stride, ::stride]
    return np.argwhere(patches.all(axis=(2, 3))) * stride


def train(
    network: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    device: str,
    label: str,
    progress: Progress | None = None,
) -> None:
    """Train `network` in place to predict `targets` from `inputs`, by mean squared error and Adam.

    Parameters
    ----------
    network : torch.nn.Module
    inputs, targets : Tensor, (patch, channel, y, x), float32
    steps, batch : int
        Optimiser steps, and patches in each; the patches are shuffled anew whenever all have been seen.
    learning_rate : float
    seed : int
        Of the shuffling.
    device : str
        A torch device.
    label : str
        Named to `progress`.
    progress : callable, optional
        Called at every step with (label, step, steps, loss).
    """
    kind = torch.device(device).type
    network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # missing in torch's stubs
    inputs = inputs.to(device).contiguous(memory_format=torch.channels_last)
    targets = targets.to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    order = _shuffled(len(inputs), batch, seed)
    for step in range(1, steps + 1):
        chosen = next(order).to(device)
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=_native_bfloat16(kind)):
            predicted = network(inputs[chosen])
        loss = nn.functional.mse_loss(predicted.float(), targets[chosen])
        loss.backward()
        optimiser.step()
        if progress is not None:
            progress(label, step, steps, loss.item())
    network.to("cpu").eval()


def _shuffled(count: int, batch: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order.split(batch)


def _native_bfloat16(kind: str) -> bool:
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return kind == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make torch's global random numbers, which initialise networks, follow `seed` within the block only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A rich progress bar on stderr, in a terminal or a notebook, for the trainings that happen within the block."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.2e}"),
        TimeRemainingColumn(),
    ]
    console = Console(stderr=True)
    seen = console.is_terminal or console.is_jupyter
    with RichProgress(*columns, console=console, transient=True, disable=not seen) as bar:
        tasks: dict[str, Any] = {}

        def report(label: str, step: int, steps: int, loss: float) -> None:
            if label not in tasks:
                tasks[label] = bar.add_task(label, total=steps, loss=loss)
            bar.update(tasks[label], completed=step, loss=loss)

        yield report
