"""The main job on many tiles, one after another: as few of them at once as keep a cluster at work, whatever their number."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from s2pipe.checks import check_whole
from s2pipe.clusters import current_client
from s2pipe.errors import InputError, S2PipeError
from s2pipe.job import Submitted, planned, sharpen_to_store

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client, Future

    from s2pipe.places import StoreLike

log = logging.getLogger(__name__)

MakeCube = Callable[[], "xr.DataTree"]


def sharpen_tiles(cubes: Mapping[str, MakeCube], store: StoreLike, *, at_once: int = 2, **options: Any) -> None:
    """Sharpen many cubes, such as those of all tiles of a country, each into a group of its own of one store.

    On a dask cluster some of them are at work at once, so that one is fitted while another is sharpened; on threads one after
    another. No more than these are ever held, whatever their number: a cube is made when its turn has come.

    Parameters
    ----------
    cubes : mapping of str to callable
        By the name of the group: what makes the cube, without arguments. For items of a search it is
        ``{tile: partial(s2pipe.load, found) for tile, found in s2pipe.group_items(items).items()}``.
    store : str, path or zarr store
    at_once : int
        Cubes at work at once on a cluster, at least 1.
    **options
        Of `sharpen_to_store`, but for `group`.

    Raises
    ------
    S2PipeError
        If something went wrong with one of them, once all others are done. The same call again does what is left.
    """
    check_whole("at_once", at_once, least=1)
    if "group" in options:
        raise InputError("group= names one group, and each cube has its own: name them in cubes=")
    if len(cubes) == 1:
        ((group, make_cube),) = cubes.items()
        sharpen_to_store(make_cube(), store, group=group, **options)
        return
    client = current_client()
    if client is None:
        failures = _one_by_one(cubes, store, options)
    else:
        stream = _Stream(store, options, client)
        stream.run(cubes, at_once)
        failures = stream.failures
    if failures:
        first = next(iter(failures.values()))
        raise type(first)(
            f"{len(failures)} of {len(cubes)} are not done: {', '.join(failures)}; the same again does what is left of them. "
            f"The first error: {first}"
        )


def _one_by_one(cubes: Mapping[str, MakeCube], store: StoreLike, options: Mapping[str, Any]) -> dict[str, S2PipeError]:
    """Sharpen one cube after another; the errors, by group."""
    failures = {}
    for group, make_cube in cubes.items():
        try:
            sharpen_to_store(make_cube(), store, group=group, **options)
        except S2PipeError as error:
            failures[group] = _told(group, error)
    return failures


def _told(group: str, error: S2PipeError) -> S2PipeError:
    log.warning("%s: %s", group, error)
    return error


class _Stream:
    """Cubes that are sharpened on a cluster, some at a time."""

    def __init__(self, store: StoreLike, options: Mapping[str, Any], client: Client) -> None:
        from distributed import as_completed

        self.store, self.options, self.client = store, options, client
        self.failures: dict[str, S2PipeError] = {}
        self.running: dict[str, tuple[Submitted, ExitStack]] = {}
        self._completed = as_completed()
        self._owners: dict[Any, str] = {}

    def run(self, cubes: Mapping[str, MakeCube], at_once: int) -> None:
        """Sharpen all of them; `failures` tells what went wrong."""
        waiting = iter(cubes.items())
        try:
            while True:
                while len(self.running) < at_once and (cube := next(waiting, None)):
                    self._begin(*cube)
                if not self.running:
                    return
                self._take(next(self._completed))
        finally:  # what is left when the user interrupts
            for _, held in self.running.values():
                held.close()

    def _begin(self, group: str, make_cube: MakeCube) -> None:
        with ExitStack() as stack:
            try:
                plan = stack.enter_context(planned(make_cube(), self.store, group=group, **self.options))
            except S2PipeError as error:
                self.failures[group] = _told(group, error)
                return
            submitted = stack.enter_context(Submitted(plan, self.client))
            self.running[group] = submitted, stack.pop_all()
        self._owners |= {future.key: group for future in submitted.futures}
        self._completed.update(submitted.futures)
        if not submitted.left:
            self._end(group)

    def _take(self, future: Future[Any]) -> None:
        group = self._owners.pop(future.key)
        if group not in self.running:  # it failed, and this was cancelled
            return
        submitted, _ = self.running[group]
        try:
            submitted.take(future)
        except S2PipeError as error:
            self._end(group, error)
        else:
            if not submitted.left:
                self._end(group)

    def _end(self, group: str, error: S2PipeError | None = None) -> None:
        submitted, held = self.running.pop(group)
        with held:
            try:
                if error:
                    raise error
                submitted.finish()
            except S2PipeError as found:
                self.failures[group] = _told(group, found)
