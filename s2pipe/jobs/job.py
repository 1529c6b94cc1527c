"""The main job on a loaded cube, fit, sharpen and write, with its progress shown."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import dask
from dask.callbacks import Callback
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.system import CPU_COUNT
from dask.utils import key_split

from s2pipe.core.errors import ReadError, S2PipeError
from s2pipe.core.progress import chunk_bar, progress_of
from s2pipe.engine.clusters import current_client, warn_if_nobody_works
from s2pipe.engine.sharpening import as_method, bands_wanted, fit_for, in_precision, is_fitted, sharpen
from s2pipe.jobs.kept_sharpener import check_same_fit, keep_sharpener, kept_sharpener
from s2pipe.physics.sensor import as_sensor
from s2pipe.store.location import locate
from s2pipe.store.lock import hold, refuse_if_held
from s2pipe.store.permission import check_place
from s2pipe.store.writer import write_chunk
from s2pipe.store.zarr_io import plan_writing

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client, Future

    from s2pipe.methods import Method, Sharpener
    from s2pipe.physics.sensor import Sensor
    from s2pipe.store.location import StoreLike
    from s2pipe.store.writer import Plan

log = logging.getLogger(__name__)

Report = Callable[[int], object]
"""Called with the bytes of a chunk when it is written."""


def sharpen_to_store(
    cube: xr.DataTree,
    store: StoreLike,
    *,
    method: str | Method | Sharpener = "mtf-resnet",
    group: str | None = None,
    sensor: Sensor | str | None = None,
    bands: Sequence[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
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
    method, sensor, bands, device, precision, seed, **fit_options
        As for `sharpen`; the precision that the group was begun in is kept, and another one refused.
    refit : bool
        Write what the group lacks by a new fit, which may be of another method or other options; else such a one is refused.

    Raises
    ------
    S2PipeError
        What `sharpen` and `to_zarr` raise.
    """
    client = current_client()
    with (
        cluster_failures(),
        planned(
            cube,
            store,
            method=method,
            group=group,
            sensor=sensor,
            bands=bands,
            device=device,
            precision=precision,
            seed=seed,
            overwrite=overwrite,
            refit=refit,
            shards=shards,
            **fit_options,
        ) as plan,
    ):
        write(plan, client)


@contextmanager
def planned(
    cube: xr.DataTree,
    store: StoreLike,
    *,
    method: str | Method | Sharpener = "mtf-resnet",
    group: str | None = None,
    sensor: Sensor | str | None = None,
    bands: Sequence[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
    refit: bool = False,
    shards: bool = True,
    **fit_options: Any,
) -> Iterator[Plan]:
    """Fit, and plan what the store lacks, which is locked while the block runs; arguments as of `sharpen_to_store`."""
    place = locate(store, group)
    refuse_if_held(place)
    check_place(place, overwrite=overwrite, resume=not overwrite)
    warn_if_nobody_works()
    if is_fitted(method):
        fitted: Sharpener | None = in_precision(method, precision)
        sharpened = sharpen(cube, fitted or method, sensor=sensor, bands=bands, device=device, **fit_options)
    else:
        recipe, wanted = as_method(method, fit_options), bands_wanted(cube, bands)
        kept = None if overwrite or refit else kept_sharpener(place)
        if kept is not None:
            check_same_fit(place, kept, recipe, sensor=as_sensor(sensor), seed=seed, precision=precision, bands=wanted)
            log.info("using the weights that %s keeps", place)
        with progress_of(group):
            fitted = kept or fit_for(cube, wanted, recipe, sensor=sensor, seed=seed, device=device, precision=precision)
        sharpened = sharpen(cube, fitted or recipe, sensor=sensor, bands=bands, device=device)
    with hold(place) as token:
        yield plan_writing(
            sharpened,
            place,
            overwrite=overwrite,
            resume=not overwrite,
            refit=refit,
            shards=shards,
            keep=partial(keep_sharpener, sharpener=fitted),
            token=token,
        )


def write(plan: Plan, client: Client | None) -> None:
    """Write the chunks of a plan on the client's dask cluster, or on threads where it is None, with progress on stderr.

    Raises
    ------
    ReadError
        If pixels cannot be read, once everything else is written: on a cluster all other chunks, on threads all other dates.
    """
    if client is None:
        with _bar(plan) as report:
            failures = _write_on_threads(plan, report)
        _finish(plan, failures)
        return
    from distributed import as_completed

    with Submitted(plan, client) as submitted:
        completed = as_completed(submitted.begin())
        for future in completed:
            completed.update(submitted.take(future))
        submitted.finish()


def _bar(plan: Plan) -> AbstractContextManager[Report]:
    done = plan.total - plan.left
    if done:
        log.info("%d of %d chunks of %s are there already", done, plan.total, plan.place)
    name = f"{plan.place.path}: " if plan.place.path else ""
    return chunk_bar(f"{name}chunks written", done=done, total=plan.total)


def _finish(plan: Plan, failures: Sequence[ReadError]) -> None:
    """Mark the result as complete, unless something of it could not be read."""
    if failures:
        log.warning("not all of %s is written, but what is stays; the same job again writes the rest", plan.place)
        raise failures[0]
    plan.finish()


def _write_on_threads(plan: Plan, report: Report) -> list[ReadError]:
    """Write date by date; returns what could not be read."""

    def finished(key: Any, result: Any, *_: Any) -> None:
        if key_split(key) == write_chunk.__name__:
            report(result)

    # `with Callback():` would also report what other threads of this process compute at the same time
    callbacks = [*Callback.active, (None, None, None, finished, None)]
    failures = []
    # whatever ends the block, these threads have written by then what they were at
    with ThreadPoolExecutor(dask.config.get("num_workers", None) or CPU_COUNT) as threads:
        for date in plan.writes:
            try:
                dask.compute(date, scheduler="threads", pool=threads, callbacks=callbacks)
            except ReadError as error:
                failures.append(error)
            except KeyboardInterrupt:
                log.warning("interrupted; what is at work now is written first")
                raise
    return failures


class Submitted(AbstractContextManager["Submitted"]):
    """A plan whose chunks a dask cluster writes, two dates at once at most, until the block ends.

    So that workers that read faster than others compute hold no more than that.
    """

    def __init__(self, plan: Plan, client: Client) -> None:
        self.plan, self.client = plan, client
        self.left = plan.left
        self._dates = iter(plan.writes)
        self._at_work: set[Future[Any]] = set()
        self._failures: list[ReadError] = []
        self._shown = ExitStack()
        self._report = self._shown.enter_context(_bar(plan))

    def begin(self) -> list[Future[Any]]:
        """Submit the first dates."""
        return self._submit() + self._submit()

    def _submit(self) -> list[Future[Any]]:
        """Submit the next date, if there is one."""
        futures: list[Future[Any]] = self.client.compute(_alone(next(self._dates, [])))
        self._newest = len(futures)
        self._at_work.update(futures)
        return futures

    def take(self, future: Future[Any]) -> list[Future[Any]]:
        """Take in a chunk that is written, or could not be read, and submit more if it is time; raise what else went wrong."""
        self.left -= 1
        try:
            self._report(future.result())
        except ReadError as error:
            self._failures.append(error)
        self._at_work.discard(future)
        future.release()  # else the chunk would be computed again if the worker that holds its size died
        return self._submit() if len(self._at_work) <= self._newest else []

    def finish(self) -> None:
        """See `_finish`."""
        _finish(self.plan, self._failures)

    def __exit__(self, *_: object) -> None:
        self._shown.close()
        self.client.cancel(list(self._at_work))  # when the user interrupts, or something failed


def _alone(writes: Sequence[Delayed]) -> list[Delayed]:
    """The same, in a graph of their own: each is made in that of all dates, which the cluster would be sent with each date.

    `dask.optimize` does so too, but forgets on which workers tasks may run.
    """
    keys = [write.key for write in writes]
    graph = HighLevelGraph.merge(*(write.dask for write in writes)).cull(keys)
    # looking into layers of another kind would make their tasks, which are sent as a recipe
    listed = {name: layer for name, layer in graph.layers.items() if isinstance(layer, MaterializedLayer)}
    layer_of = {key: name for name, layer in listed.items() for key in layer.keys() & set(keys)}
    return [Delayed(key, graph, layer=layer_of[key]) for key in keys]


@contextmanager
def cluster_failures() -> Iterator[None]:
    """Say what most likely ends dask workers again and again, and what becomes of a job whose scheduler is lost."""
    from distributed import KilledWorker
    from distributed.client import ClosedClientError, FutureCancelledError
    from distributed.comm.core import CommClosedError

    try:
        yield
    except KilledWorker:
        raise S2PipeError(
            "dask workers died one after another over the same task, most likely out of memory; "
            "give smaller chunks (--chunks), or workers with more memory or fewer threads"
        ) from None
    except (ClosedClientError, CommClosedError, FutureCancelledError):
        raise S2PipeError(
            "the connection to the dask scheduler was lost; what is written stays, and the same job elsewhere writes the rest"
        ) from None
