"""The main job on a loaded cube, fit, sharpen and write, with its progress shown: what the command line and the demo run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dask.callbacks import Callback

from s2pipe.errors import S2PipeError
from s2pipe.progress import progress_bar
from s2pipe.sharpening import sharpen
from s2pipe.store import to_zarr

if TYPE_CHECKING:
    import xarray as xr
    from dask.delayed import Delayed
    from distributed import Client

    from s2pipe.methods import Method, Sharpener
    from s2pipe.places import StoreLike

Draw = Callable[[int, int], object]
"""Called with the number of finished tasks and of all tasks."""


def sharpen_to_store(
    cube: xr.DataTree,
    store: StoreLike,
    *,
    method: str | Method | Sharpener,
    group: str | None = None,
    bands: Sequence[str] | None = None,
    device: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    shards: bool = True,
    **fit_options: Any,
) -> None:
    """Sharpen all of a cube by a method, fitted on it first, or by a Sharpener, and write it, showing progress on stderr.

    Parameters
    ----------
    cube : xarray.DataTree
    store, group, overwrite, shards
        As for `to_zarr`.
    method, bands, device, seed, **fit_options
        As for `sharpen`.

    Raises
    ------
    S2PipeError
        What `sharpen` and `to_zarr` raise.
    """
    sharpened = sharpen(cube, method, bands=bands, device=device, seed=seed, **fit_options)
    work = to_zarr(sharpened, store, group=group, overwrite=overwrite, shards=shards, compute=False)
    assert work is not None  # because compute=False
    compute(work, label="sharpening and writing")


def compute(work: Delayed, *, label: str) -> None:
    """Compute `work` on the current dask cluster, or on threads where there is none, with a progress bar on stderr."""
    with progress_bar() as report:

        def draw(done: int, total: int) -> None:
            report(label, done, total, None)

        client = _current_client()
        if client is None:
            with _ThreadsProgress(draw):
                work.compute(scheduler="threads")
        else:
            _compute_on_cluster(work, client, draw)


class _ThreadsProgress(Callback):
    """Tells how many tasks of the computations within the block are done."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draw = draw

    def _start_state(self, dsk: Any, state: Any) -> None:
        self.draw(*_count(state))

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        self.draw(*_count(state))


def _count(state: Any) -> tuple[int, int]:
    done = len(state["finished"])
    return done, done + sum(len(state[kind]) for kind in ("ready", "waiting", "running"))


def _current_client() -> Client | None:
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None


def _compute_on_cluster(work: Delayed, client: Client, draw: Draw) -> None:
    from distributed import KilledWorker
    from distributed.diagnostics.progressbar import ProgressBar

    class ClusterProgress(ProgressBar):
        def _draw_bar(self, *, remaining: int, all: int, **_: Any) -> None:
            draw(all - remaining, all)

    future = client.compute(work)
    try:
        client.sync(ClusterProgress([future]).listen)  # type: ignore[no-untyped-call]
        future.result()
    except KilledWorker:
        raise S2PipeError(
            "a dask worker died several times over the same task, most likely out of memory; "
            "give smaller chunks (--chunks), or workers with more memory or fewer threads"
        ) from None
    finally:
        future.cancel()  # what still runs when the user interrupts
