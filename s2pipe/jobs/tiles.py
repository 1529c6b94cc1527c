"""The main job on many tiles, one after another: as few of them at once as keep a cluster busy, whatever their number."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from s2pipe.core.checks import check_whole
from s2pipe.core.errors import InputError, S2PipeError, redact
from s2pipe.core.progress import progress_bar
from s2pipe.engine.clusters import current_client
from s2pipe.engine.fit import DEFAULT_METHOD
from s2pipe.jobs.job import Job, Submitted, cluster_failures, planned, run

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client, Future

    from s2pipe.methods import Method, Sharpener
    from s2pipe.store.location import StoreLike

log = logging.getLogger(__name__)

MakeCube = Callable[[], "xr.DataTree"]

Show = Callable[[int], object]
"""Called with the number of cubes that are done, or failed."""

NAMED_AT_MOST = 10
"""Cubes that failed, in an error."""


def sharpen_tiles(
    cubes: Mapping[str, MakeCube],
    store: StoreLike,
    method: str | Method | Sharpener = DEFAULT_METHOD,
    *,
    at_once: int = 2,
    **options: Any,
) -> None:
    """Sharpen many cubes, such as those of all tiles of a country, each into a group of its own of one store.

    On a dask cluster some of them are in progress at once: they are fitted in this process, one after another, while the cluster
    sharpens the others, two dates of each at once. On threads one is done after another. Only these are in memory, whatever the
    number of cubes: a cube is made when its turn comes.

    Parameters
    ----------
    cubes : mapping of str to callable
        By the name of the group: what makes the cube, without arguments.
    store : str, os.PathLike, zarr.abc.store.Store or obstore store
        As for `to_zarr`.
    method : str, Method or Sharpener
        As for `sharpen`.
    at_once : int
        Cubes in progress at once on a cluster, at least 1.
    **options
        Of `sharpen_to_store`, but for `group`.

    Raises
    ------
    S2PipeError
        If something went wrong with one of them, once all others are done. Once the cause is removed, the same call again does
        the rest.

    Examples
    --------
    >>> from functools import partial
    >>> cubes = {tile: partial(s2pipe.load, found) for tile, found in s2pipe.group_items(items).items()}  # doctest: +SKIP
    >>> s2pipe.sharpen_tiles(cubes, "tiles.zarr", "glp", at_once=4)  # doctest: +SKIP
    """
    check_whole("at_once", at_once, least=1)
    _check_names(cubes, options)
    job, client = Job.of(method, **options), current_client()
    if len(cubes) == 1:
        ((group, make_cube),) = cubes.items()
        run(make_cube(), store, job, group=group)
        return
    with progress_bar() as report:

        def show(done: int) -> None:
            report("tiles", done, len(cubes), None)

        show(0)
        if client is None:
            failures = _one_by_one(cubes, store, job, show)
        else:
            stream = _Stream(store, job, client, show)
            stream.run(cubes, at_once)
            failures = stream.failures
    if failures:
        first = next(iter(failures.values()))
        named = ", ".join([*list(failures)[:NAMED_AT_MOST], *(["..."] if len(failures) > NAMED_AT_MOST else [])])
        others = "the others are done. " if len(failures) < len(cubes) else ""
        message = f"{len(failures)} of {len(cubes)} failed: {named}; {others}The first error: {first}"
        raise type(first)(message, argument=first.arguments) from first


def _check_names(cubes: Mapping[str, MakeCube], options: Mapping[str, object]) -> None:
    if not isinstance(cubes, Mapping) or not all(map(callable, cubes.values())):
        raise InputError("cubes= must be a dict: by the name of each group, a function that makes its cube", argument="cubes")
    if len({name.strip("/") for name in cubes}) < len(cubes):
        raise InputError("cubes= names a group twice; each cube needs a group of its own", argument="cubes")
    if "group" in options:
        raise InputError("group= names one group, and each cube has its own: name them in cubes=", argument=("group", "cubes"))


def _one_by_one(cubes: Mapping[str, MakeCube], store: StoreLike, job: Job, show: Show) -> dict[str, S2PipeError]:
    """Sharpen one cube after another; the errors, by group."""
    failures: dict[str, S2PipeError] = {}
    for number, (group, make_cube) in enumerate(cubes.items(), start=1):
        with _kept_to_itself(group, failures):
            run(make_cube(), store, job, group=group)
        show(number)
    return failures


@contextmanager
def _kept_to_itself(group: str, failures: dict[str, S2PipeError]) -> Iterator[None]:
    """Enter what goes wrong within the block among the failures: it must not end the work on other cubes."""
    try:
        with cluster_failures():
            yield
    except S2PipeError as error:
        failures[group] = error
    except Exception as error:
        failures[group] = S2PipeError(redact(f"{group} failed with {type(error).__name__}: {error}"))
    if group in failures:
        log.warning("%s: %s", group, failures[group])


class _Stream:
    """Cubes that are sharpened on a cluster, some at a time."""

    def __init__(self, store: StoreLike, job: Job, client: Client, show: Show) -> None:
        from distributed import as_completed

        self.store, self.job, self.client, self.show = store, job, client, show
        self.failures: dict[str, S2PipeError] = {}
        self.running: dict[str, tuple[Submitted, ExitStack]] = {}
        self._completed = as_completed()
        self._owners: dict[object, str] = {}

    def run(self, cubes: Mapping[str, MakeCube], at_once: int) -> None:
        """Sharpen all of them; `failures` holds the errors."""
        waiting = iter(cubes.items())
        begun = 0
        with ExitStack() as everything:  # what is left when the user interrupts
            while True:
                while len(self.running) < at_once and (cube := next(waiting, None)):
                    with _kept_to_itself(cube[0], self.failures):
                        begun += 1
                        self._begin(*cube, held=everything.enter_context(ExitStack()))
                    self.show(begun - len(self.running))
                if not self.running:
                    return
                self._take(next(self._completed))
                self.show(begun - len(self.running))

    def _begin(self, group: str, make_cube: MakeCube, *, held: ExitStack) -> None:
        try:
            plan = held.enter_context(planned(make_cube(), self.store, self.job, group=group))
            submitted = held.enter_context(Submitted(plan, self.client))
            self._watch(group, submitted.begin())
        except Exception:
            held.close()
            raise
        self.running[group] = submitted, held
        if not submitted.left:
            self._end(group)

    def _watch(self, group: str, futures: list[Future[int]]) -> None:
        self._owners |= {future.key: group for future in futures}
        self._completed.update(futures)

    def _take(self, future: Future[int]) -> None:
        group = self._owners.pop(future.key)
        if group not in self.running:  # it failed, and this was cancelled
            return
        submitted, held = self.running[group]
        with _kept_to_itself(group, self.failures):
            try:
                self._watch(group, submitted.take(future))
            except Exception:
                del self.running[group]
                held.close()
                raise
        if group in self.running and not submitted.left:
            self._end(group)

    def _end(self, group: str) -> None:
        submitted, held = self.running.pop(group)
        with _kept_to_itself(group, self.failures), held:
            submitted.finish()
