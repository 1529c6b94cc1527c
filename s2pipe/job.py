"""The main job on a loaded cube, fit, sharpen and write, with its progress shown: what the command line and the demo run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import dask
from dask.callbacks import Callback
from dask.utils import key_split

from s2pipe.errors import ReadError, S2PipeError
from s2pipe.kept_sharpener import check_same_fit, keep_sharpener, kept_sharpener
from s2pipe.lock import hold, refuse_if_held
from s2pipe.places import locate
from s2pipe.progress import chunk_bar
from s2pipe.sensor import as_sensor
from s2pipe.sharpening import as_method, bands_wanted, fit_for, is_fitted, sharpen
from s2pipe.store import check_place, plan_writing
from s2pipe.writing import write_chunk

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

    from s2pipe.methods import Method, Sharpener
    from s2pipe.places import StoreLike
    from s2pipe.sensor import Sensor
    from s2pipe.writing import Plan

log = logging.getLogger(__name__)

Report = Callable[[int], object]
"""Called with the bytes of a chunk when it is written."""


def sharpen_to_store(
    cube: xr.DataTree,
    store: StoreLike,
    *,
    method: str | Method | Sharpener = "mtf-resnet",
    group: str | None = None,
    sensor: Sensor | None = None,
    bands: Sequence[str] | None = None,
    device: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    refit: bool = False,
    shards: bool = True,
    **fit_options: Any,
) -> None:
    """Sharpen all of a cube by a method, fitted on it first, or by a Sharpener, and write it, showing progress on stderr.

    What the group of the store has already is kept: an interrupted job goes on where it stood, and dates that the group lacks are
    added to it. The fitted weights stand in the group, and are used again.

    Parameters
    ----------
    cube : xarray.DataTree
    store, group, overwrite, shards
        As for `to_zarr`.
    method, sensor, bands, device, seed, **fit_options
        As for `sharpen`.
    refit : bool
        Write what the group lacks by a new fit, which may be of another method or other options; else such a one is refused.

    Raises
    ------
    S2PipeError
        What `sharpen` and `to_zarr` raise.
    """
    place = locate(store, group)
    refuse_if_held(place)
    check_place(place, overwrite=overwrite, resume=not overwrite)
    kept = None if overwrite or refit else kept_sharpener(place)
    if is_fitted(method):
        sharpened = sharpen(cube, method, sensor=sensor, bands=bands, device=device, **fit_options)
        fitted: Sharpener | None = method
    else:
        recipe = as_method(method, fit_options)
        if kept is not None:
            check_same_fit(place, kept, recipe, sensor=as_sensor(sensor), seed=seed)
            log.info("using the weights that %s keeps", place)
        fitted = kept or fit_for(cube, bands_wanted(cube, bands), recipe, sensor=sensor, seed=seed, device=device)
        sharpened = sharpen(cube, fitted or recipe, sensor=sensor, bands=bands, device=device)
    with hold(place):
        keep = partial(keep_sharpener, sharpener=fitted)
        plan = plan_writing(sharpened, place, overwrite=overwrite, resume=not overwrite, refit=refit, shards=shards, keep=keep)
        write(plan, label="chunks sharpened and written")


def write(plan: Plan, *, label: str) -> None:
    """Write the chunks of a plan on the current dask cluster, or on threads where there is none, with progress on stderr.

    Raises
    ------
    ReadError
        If pixels cannot be read, once everything else is written: on a cluster all other chunks, on threads all other dates.
    """
    done = plan.total - plan.left
    if done:
        log.info("%d of %d chunks of %s are there already", done, plan.total, plan.place)
    with chunk_bar(label, done=done, total=plan.total) as report:
        client = _current_client()
        failures = _write_on_threads(plan, report) if client is None else _write_on_cluster(plan, client, report)
    if failures:
        log.warning("not all of %s is written, but what is stays; the same job again writes the rest", plan.place)
        raise failures[0]
    plan.finish()


def _write_on_threads(plan: Plan, report: Report) -> list[ReadError]:
    """Write date by date; returns what could not be read."""
    failures = []
    with _ChunksWritten(report):
        for date in plan.writes:
            try:
                dask.compute(date, scheduler="threads")
            except ReadError as error:
                failures.append(error)
    return failures


class _ChunksWritten(Callback):
    """Reports the chunks that computations within the block write."""

    def __init__(self, report: Report) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.report = report

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        if key_split(key) == write_chunk.__name__:
            self.report(result)


def _current_client() -> Client | None:
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None


def _write_on_cluster(plan: Plan, client: Client, report: Report) -> list[ReadError]:
    """Write all dates at once; returns what could not be read."""
    from distributed import KilledWorker, as_completed

    failures = []
    futures = client.compute([write for date in plan.writes for write in date])
    try:
        for future in as_completed(futures):
            try:
                report(future.result())
            except ReadError as error:
                failures.append(error)
            future.release()  # else the chunk would be computed again if the worker that holds its size died
    except KilledWorker:
        raise S2PipeError(
            "a dask worker died several times over the same task, most likely out of memory; "
            "give smaller chunks (--chunks), or workers with more memory or fewer threads"
        ) from None
    finally:
        client.cancel(futures)  # what still runs when the user interrupts
    return failures
