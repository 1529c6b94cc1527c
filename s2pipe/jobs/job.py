"""The main job on a loaded cube, fit, sharpen and write, with its progress shown."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import dask
from dask.callbacks import Callback
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.system import CPU_COUNT
from dask.utils import key_split

from s2pipe.core.errors import ReadError, S2PipeError
from s2pipe.core.progress import chunk_bar, progress_of
from s2pipe.engine.clusters import current_client, warn_if_nobody_works
from s2pipe.engine.fit import DEFAULT_METHOD, FitArguments, fit_for
from s2pipe.engine.sharpening import sharpen_cube
from s2pipe.inputs.dataarray import as_cube
from s2pipe.jobs.kept_sharpener import check_same_fit, keep_sharpener, kept_sharpener
from s2pipe.store.location import locate
from s2pipe.store.lock import hold, refuse_if_held
from s2pipe.store.permission import check_location
from s2pipe.store.writer import write_chunk
from s2pipe.store.zarr_io import plan_writing

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client, Future

    from s2pipe.methods import Method, Sharpener
    from s2pipe.physics.sensor import Sensor
    from s2pipe.store.location import Location, StoreLike
    from s2pipe.store.writer import Plan

log = logging.getLogger(__name__)

Report = Callable[[int], object]
"""Called with the bytes of a chunk when it is written."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be made of a cube, or of each of many; see `sharpen_to_store`."""

    arguments: FitArguments
    bands: Sequence[str] | None
    overwrite: bool
    refit: bool
    shards: bool

    @classmethod
    def of(
        cls,
        method: str | Method | Sharpener,
        *,
        sensor: Sensor | str | None = None,
        bands: Sequence[str] | None = None,
        device: str = "auto",
        precision: str = "auto",
        seed: int | None = None,
        overwrite: bool = False,
        refit: bool = False,
        shards: bool = True,
        **fit_options: Any,
    ) -> Job:
        """The job of the arguments of `sharpen_to_store`."""
        arguments = FitArguments(method=method, sensor=sensor, device=device, precision=precision, seed=seed, options=fit_options)
        return cls(arguments=arguments, bands=bands, overwrite=overwrite, refit=refit, shards=shards)


def sharpen_to_store(
    data: xr.DataTree | xr.DataArray,
    store: StoreLike,
    method: str | Method | Sharpener = DEFAULT_METHOD,
    *,
    group: str | None = None,
    **options: Any,
) -> None:
    """Sharpen a scene by a method, fitted on it first, or by a Sharpener, and write all of it, showing progress on stderr.

    What the group of the store has already is kept: an interrupted job is resumed, and dates that the group lacks are added to
    it. The fitted weights are kept in the group, and used again.

    Parameters
    ----------
    data : xarray.DataTree or xarray.DataArray
        As for `sharpen`.
    store : str, os.PathLike, zarr.abc.store.Store or obstore store
        As for `to_zarr`.
    method : str, Method or Sharpener
        As for `sharpen`.
    group : str, optional
        Group within the store; its root if not given.
    overwrite : bool
        Replace what s2pipe wrote to this group before.
    refit : bool
        Write what the group lacks by a new fit, which may be of another method or other options; otherwise such a fit is refused.
    shards : bool
        False writes plain chunks, for readers that do not support shards.
    sensor, bands, device, precision, seed, **options
        As for `sharpen`; the precision that the group was begun in is kept, and another one refused.

    Raises
    ------
    S2PipeError
        What `sharpen` and `to_zarr` raise.

    Examples
    --------
    >>> s2pipe.sharpen_to_store(cube, "sharp.zarr", "glp", bands=["B05", "B11"])  # doctest: +SKIP
    """
    run(data, store, Job.of(method, **options), group=group)


def run(data: xr.DataTree | xr.DataArray, store: StoreLike, job: Job, *, group: str | None) -> None:
    """Do a job on one scene, on the cluster at hand or on threads; see `sharpen_to_store`."""
    client = current_client()  # before the fit: where it is lost meanwhile, this process does not take over
    with cluster_failures(), planned(data, store, job, group=group) as plan:
        write(plan, client)


@contextmanager
def planned(data: xr.DataTree | xr.DataArray, store: StoreLike, job: Job, *, group: str | None) -> Iterator[Plan]:
    """Fit, and plan what the store lacks, which is locked while the block runs."""
    location = locate(store, group)
    refuse_if_held(location)
    check_location(location, overwrite=job.overwrite, resume=not job.overwrite)
    warn_if_nobody_works()
    cube = as_cube(data)
    bands = cube.bands_named(job.bands)
    sharpener = job.arguments.fitted()
    if sharpener is None:
        sharpener = _kept(location, job, cube.all_bands, bands)
    if sharpener is None:
        with progress_of(group):
            sharpener = fit_for(cube, bands, job.arguments)
    sharpened = sharpen_cube(cube, bands, sharpener, device=job.arguments.device)
    with hold(location) as token:
        yield plan_writing(
            sharpened,
            location,
            overwrite=job.overwrite,
            resume=not job.overwrite,
            refit=job.refit,
            shards=job.shards,
            keep=partial(keep_sharpener, sharpener=sharpener),
            token=token,
        )


def _kept(location: Location, job: Job, available: Sequence[str], bands: Sequence[str]) -> Sharpener | None:
    """The Sharpener that the store keeps, if it is to be used again; StoreError where it is not of this job."""
    kept = None if job.overwrite or job.refit else kept_sharpener(location)
    if kept is not None:
        check_same_fit(location, kept, job.arguments, bands=bands, available=available)
        log.info("using the weights that %s keeps", location)
    return kept


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
        log.info("%d of %d chunks of %s are there already", done, plan.total, plan.location)
    name = f"{plan.location.path}: " if plan.location.path else ""
    return chunk_bar(f"{name}chunks written", done=done, total=plan.total)


def _finish(plan: Plan, failures: Sequence[ReadError]) -> None:
    """Mark the result as complete, unless something of it could not be read."""
    if failures:
        log.warning("not all of %s is written, but what is stays; the same job again writes the rest", plan.location)
        raise failures[0]
    plan.finish()


def _write_on_threads(plan: Plan, report: Report) -> list[ReadError]:
    """Write date by date; returns what could not be read."""

    def finished(key: object, result: int, *_: object) -> None:
        if key_split(key) == write_chunk.__name__:
            report(result)

    # `with Callback():` would also report what other threads of this process compute at the same time
    callbacks = [*Callback.active, (None, None, None, finished, None)]
    failures = []
    # however the block ends, these threads have finished their writes by then
    with ThreadPoolExecutor(dask.config.get("num_workers", None) or CPU_COUNT) as threads:
        for date in plan.writes:
            try:
                dask.compute(date, scheduler="threads", pool=threads, callbacks=callbacks)
            except ReadError as error:
                failures.append(error)
            except KeyboardInterrupt:
                log.warning("interrupted; the chunks in progress are written first")
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
        self._at_work: set[Future[int]] = set()
        self._failures: list[ReadError] = []
        self._shown = ExitStack()
        self._report = self._shown.enter_context(_bar(plan))

    def begin(self) -> list[Future[int]]:
        """Submit the first dates."""
        return self._submit() + self._submit()

    def _submit(self) -> list[Future[int]]:
        """Submit the next date, if there is one."""
        writes = next(self._dates, None)
        if writes is None:
            return []
        futures: list[Future[int]] = self.client.get(_graph_of(writes), [write.key for write in writes], sync=False)
        self._newest = len(futures)
        self._at_work.update(futures)
        return futures

    def take(self, future: Future[int]) -> list[Future[int]]:
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


def _graph_of(writes: Sequence[Delayed]) -> HighLevelGraph:
    """A graph of these writes alone: that of each is of all dates, which the cluster would be sent with each date.

    `dask.optimize` reduces it too, but loses on which workers tasks may run: https://github.com/dask/dask/issues/7036
    """
    return HighLevelGraph.merge(*(write.dask for write in writes)).cull([write.key for write in writes])


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
            "give smaller chunks, or workers with more memory or fewer threads",
            argument="chunks",
        ) from None
    except (ClosedClientError, CommClosedError, FutureCancelledError):
        raise S2PipeError(
            "the connection to the dask scheduler was lost; what is written stays, and the same job elsewhere writes the rest"
        ) from None
