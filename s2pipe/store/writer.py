"""Writing a result: what the store lacks of it, chunk by chunk, in an order that may break off anywhere and be gone on with.

The group is marked as incomplete first and as complete last. A chunk is marked in the ledger once its pixels are in the store; a
date once the ledger has room for its chunks. What stands in the store beyond the ledger was never begun, and is cut off.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
import zarr
from dask.delayed import Delayed, delayed
from zarr.core.metadata import ArrayV3Metadata
from zarr.core.sync import sync
from zarr.storage import LocalStore

from s2pipe.core.bands import GSDS, node_name
from s2pipe.core.errors import StoreError
from s2pipe.store.differences import COMPLETE, STARTED, VERSION, WRITTEN, differences_between, made_by
from s2pipe.store.layout import VARIABLE
from s2pipe.store.ledger import Index, Ledger
from s2pipe.store.location import OWN_GROUP, Place, open_node, store_errors
from s2pipe.store.lock import NAME as LOCK
from s2pipe.store.lock import check_held, refuse_if_held

log = logging.getLogger(__name__)

LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.partial$")
"""How the names of files end that zarr was writing to a local store when it was killed."""


def is_result(node: Any) -> bool:
    """Whether a zarr node is the group of something that s2pipe wrote."""
    return isinstance(node, zarr.Group) and COMPLETE in node.attrs


def members(group: zarr.Group) -> list[tuple[str, Any]]:
    """Names and nodes in a group, but for what s2pipe keeps there for itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a lock is no part of a Zarr hierarchy
        return [(name, node) for name, node in group.members() if name != OWN_GROUP]


Keep = Callable[[Place], object]
"""Puts into a result, before its chunks are planned, what must be known of their making."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be written.

    Attributes
    ----------
    place : Place
    writes : list of list of Delayed
        By date. Each writes a chunk that the store lacks, and returns how many bytes that has.
    total : int
        Number of chunks there are.
    """

    place: Place
    writes: list[list[Delayed]]
    total: int

    @property
    def left(self) -> int:
        """Number of chunks that the store lacks."""
        return sum(map(len, self.writes))

    def work(self) -> Delayed:
        """All of it."""
        work: Delayed = delayed(_finish)(replace(self, writes=[]), self.writes)
        return work

    def finish(self) -> None:
        """Mark the group as complete, if it is, once all is written."""
        with store_errors(self.place, "finish"):
            left = sum(int((_ledger(self.place.below(name)).read() == 0).sum()) for name in node_names(open_node(self.place)))
            if not left:
                _mark(self.place, complete=True)
                return
        log.warning("%s still lacks %d chunks of dates that were not given; it stays marked as incomplete", self.place, left)


def _finish(plan: Plan, written: list[list[int]]) -> None:
    """`Plan.finish`, once everything that `written` stands for is done."""
    plan.finish()


def begin(place: Place, datasets: Mapping[str, xr.Dataset], attrs: Mapping[str, Any], *, keep: Keep, token: str | None) -> Plan:
    """Create the group anew, in place of the result that may stand there, and plan all of its chunks.

    Parameters
    ----------
    place : Place
    datasets : mapping of str to xarray.Dataset
        By the group under the result's own in which each stands, as `layout.datasets_of` makes them.
    attrs : mapping
        Of the group.
    keep : callable
        See `Keep`.
    token : str or None
        Of the lock, see `lock.hold`, that is held until the plan is done; None where none is.
    """
    marks = {VERSION: version("s2pipe"), WRITTEN: datetime.now(UTC).isoformat(), COMPLETE: False}
    _create_group(place, {**attrs, **marks})
    for name, dataset in datasets.items():
        node = place.below(name)
        stated = dataset if name else dataset.assign_attrs(marks)  # xarray replaces the attributes of the group
        stated.to_zarr(place.store, group=node.path, mode="a", zarr_format=3, consolidated=False, compute=False)
    ledgers = {name: Ledger.create(place.below(name), dataset[VARIABLE].chunks or ()) for name, dataset in datasets.items()}
    keep(place)
    return _plan(place, token, datasets, ledgers, {name: range(dataset.sizes["time"]) for name, dataset in datasets.items()})


def may_go_on(place: Place, datasets: Mapping[str, xr.Dataset]) -> bool:
    """Whether a result was begun there so far that some of it is written.

    Raises
    ------
    StoreError
        If it has other nodes than `datasets`; or there are chunks, but nothing that tells which of them were written: beginning
        anew would lose them.
    """
    group = open_node(place)
    if not is_result(group):
        return False
    names = node_names(group)
    ledgers = {name: Ledger.open(place.below(name)) for name in names}
    if any(ledger is None and sync(_has_chunks(place.below(name).below(VARIABLE))) for name, ledger in ledgers.items()):
        raise StoreError(
            f"{place} holds chunks but nothing that tells which were written, because another version of s2pipe wrote it. Write "
            "to another store or group, or replace this one with overwrite=True (--overwrite)"
        )
    if not any(ledger is not None and ledger.read().any() for ledger in ledgers.values()):
        return False
    if set(names) != set(datasets):
        raise StoreError(
            f"{place} holds {_nodes(names)}, but what is given is {_nodes(datasets)}. Give the same, write to another store or "
            "group, or replace this one with overwrite=True (--overwrite)"
        )
    return True


def node_names(group: zarr.Group) -> list[str]:
    """Names of a result's groups that hold an array; the result's own, of one array, is called ""."""
    return [""] if VARIABLE in group else [name for name in map(node_name, GSDS) if name in group]


def _nodes(names: Iterable[str]) -> str:
    return "one array" if "" in names else f"a cube of {', '.join(names)}"


async def _has_chunks(array: Place) -> bool:
    async for _ in array.store.list_prefix(f"{array.path}/c/"):
        return True
    return False


def go_on(place: Place, datasets: Mapping[str, xr.Dataset], *, refit: bool, keep: Keep, token: str | None) -> Plan:
    """Plan what a result lacks of `datasets`, after adding the dates that it does not have.

    Raises
    ------
    StoreError
        If the result differs in bands, grid, encoding or chunks; or, unless `refit`, in how it was made. Nothing that was begun
        is changed then.
    """
    ledgers = {name: _ledger(place.below(name)) for name in datasets}
    stored = {}
    for name, ledger in ledgers.items():
        _cut_off(place.below(name), ledger.dates)
        stored[name] = open_dataset(place.below(name))
    differences = [
        f"{name}: {difference}" if name else difference
        for name, dataset in datasets.items()
        for difference in differences_between(stored[name], dataset, ledgers[name], refit=refit)
    ]
    if differences:
        raise StoreError(
            f"{place} cannot be gone on with: {'; '.join(differences)}. Write to another store or group, or replace this "
            "one with overwrite=True (--overwrite)"
        )
    where = {}
    for name, dataset in datasets.items():
        times = stored[name]["time"].values
        new = np.flatnonzero(~np.isin(dataset["time"].values, times))
        if len(new):
            _mark(place, complete=False)
            _append(place.below(name), dataset.isel(time=new))
            ledgers[name].add_dates(len(new))
        times = np.concatenate([times, dataset["time"].values[new]])
        where[name] = [int(np.flatnonzero(times == time)[0]) for time in dataset["time"].values]
    _delete_leftovers(place)
    keep(place)
    return _plan(place, token, datasets, ledgers, where)


def _plan(
    place: Place,
    token: str | None,
    datasets: Mapping[str, xr.Dataset],
    ledgers: Mapping[str, Ledger],
    where: Mapping[str, Sequence[int]],
) -> Plan:
    """Plan the unwritten chunks of each dataset, whose dates stand at `where` in the store."""
    writes: defaultdict[Any, list[Delayed]] = defaultdict(list)
    total, begun = 0, open_node(place).attrs[WRITTEN]
    for name, dataset in datasets.items():
        node, ledger = place.below(name), ledgers[name]
        unwritten = ledger.read() == 0
        # dask's optimisation of arrays forgets on which workers tasks may run, and spares none of these
        blocks = dataset[VARIABLE].data.to_delayed(optimize_graph=False)
        total += blocks.size
        wanted = [index for index in np.ndindex(blocks.shape) if unwritten[where[name][index[0]], *index[1:]]]
        if not wanted:
            continue
        run = ledger.begin_run(
            {**made_by(dataset[VARIABLE]), VERSION: version("s2pipe"), STARTED: datetime.now(UTC).isoformat(timespec="seconds")}
        )
        array: Any = zarr.open_array(store=place.store, path=node.below(VARIABLE).path, mode="r+")
        target = _Target(place=place, token=token, begun=begun, array=array, ledger=ledger)
        shared = delayed(target, pure=False, traverse=False)  # one key, which reaches a worker once
        starts, times = ledger.starts, dataset["time"].values
        for index in wanted:
            chunk: Index = (where[name][index[0]], *index[1:])
            region = tuple(slice(axis[i], axis[i + 1]) for axis, i in zip(starts, chunk[1:], strict=True))
            writes[times[index[0]]].append(delayed(write_chunk)(blocks[index], shared, chunk, region, run))
    return Plan(place=place, writes=list(writes.values()), total=total)


@dataclass(frozen=True, kw_only=True)
class _Target:
    """Where chunks are written; `token` see `begin`, `begun` is when the result was begun that they belong to."""

    place: Place
    token: str | None
    begun: str
    array: Any
    ledger: Ledger

    def check(self) -> None:
        """StoreError where another writer has taken the result over, as from a machine that slept, or has replaced it."""
        if self.token is not None:
            check_held(self.place, self.token)
            return
        refuse_if_held(self.place)
        group = open_node(self.place)
        if not is_result(group) or group.attrs[WRITTEN] != self.begun:
            raise StoreError(f"{self.place} was replaced, or deleted, after this was planned; call to_zarr again")


def write_chunk(block: npt.NDArray[Any], target: _Target, chunk: Index, region: tuple[slice, ...], run: int) -> int:
    """Write a chunk to its bands, rows and columns, and mark it; returns how many bytes it has; see `_Target.check`."""
    target.check()
    with store_errors(target.place, "write to"):
        target.array[(slice(chunk[0], chunk[0] + 1), *region)] = block
        target.ledger.mark(chunk, run)
    return int(block.nbytes)


# What stands in the store


def chunk_table(place: Place, name: str) -> pd.DataFrame:
    """A row for each chunk of the array under `name` in a result, see `s2pipe.list_chunks`."""
    node = place.below(name)
    ledger = _ledger(node)
    times = open_dataset(node)["time"].values
    bands, starts = ledger.edges[0], ledger.starts
    numbers, runs = ledger.read(), ledger.runs
    rows = []
    for date, band, y, x in np.ndindex(numbers.shape):
        run = int(numbers[date, band, y, x])
        where = {"node": name, "time": times[date], "bands": bands[band], "y": starts[1][y], "x": starts[2][x]}
        known = {key.removeprefix("s2pipe_"): value for key, value in runs[run - 1].items()} if run else {}
        rows.append(where | {"written": run > 0} | known)
    return pd.DataFrame(rows)


def _ledger(place: Place) -> Ledger:
    ledger = Ledger.open(place)
    if ledger is None:
        raise StoreError(f"{place} has lost its ledger of the chunks that were written; write it again with overwrite=True")
    return ledger


def open_dataset(place: Place) -> xr.Dataset:
    """An array that stands in the store, with its coordinates and its raw numbers."""
    dataset: xr.Dataset = xr.open_zarr(
        place.store, group=place.path, zarr_format=3, consolidated=False, mask_and_scale=False, decode_coords="all", chunks=None
    )
    return dataset


def _cut_off(place: Place, dates: int) -> None:
    """Drop what the arrays have of dates beyond the ledger's."""
    for array in _arrays_of_dates(place).values():
        if array.shape[0] > dates:
            array.resize((dates, *array.shape[1:]))


def _append(place: Place, dataset: xr.Dataset) -> None:
    """Make room for more dates, and describe them."""
    for name, array in _arrays_of_dates(place).items():
        before, added = array.shape[0], dataset.sizes["time"]
        array.resize((before + added, *array.shape[1:]))
        if name != VARIABLE:
            array[before:] = xr.conventions.encode_cf_variable(dataset[name].variable).values


def _arrays_of_dates(place: Place) -> dict[str, zarr.Array[Any]]:
    group = zarr.open_group(store=place.store, path=place.path, mode="r+")
    return {name: array for name, array in group.arrays() if _dimensions(array)[:1] == ("time",)}


def _dimensions(array: zarr.Array[Any]) -> tuple[Any, ...]:
    assert isinstance(array.metadata, ArrayV3Metadata)  # s2pipe writes no other
    return array.metadata.dimension_names or ()


# Groups and their marks


def _create_group(place: Place, attrs: Mapping[str, Any]) -> None:
    """Create the group, empty and marked as incomplete, in place of the result that may stand there."""
    if is_result(open_node(place)):
        # Deleting takes time and may break off: what is left by then must not look complete.
        _mark(place, complete=False)
        arrays = [name for name, node in members(open_node(place)) if isinstance(node, zarr.Array)]
        sync(_clear(place, {OWN_GROUP, VARIABLE, *map(node_name, GSDS), *arrays}))
    group = zarr.open_group(store=place.store, path=place.path, mode="a", zarr_format=3)  # an empty one may be there
    group.attrs.put(dict(attrs))


async def _clear(place: Place, written: Collection[str]) -> None:
    """Delete what s2pipe wrote in a group, which is called `written`, but for the lock that a writer holds; the group last."""
    own, itself = place.below(OWN_GROUP).path, place.below("zarr.json").path
    kept = {f"{own}/{LOCK}", f"{own}/zarr.json", itself}
    prefix = f"{place.path}/" if place.path else ""
    keys = [key async for key in place.store.list_prefix(prefix) if key.removeprefix(prefix).split("/")[0] in written]
    for key in keys:
        if key not in kept:
            await place.store.delete(key)
    await place.store.delete(itself)
    if isinstance(place.store, LocalStore):
        for name in written:
            _delete_empty_folders(place.store.root / place.path / name)


def _delete_empty_folders(root: Path) -> None:
    for folder in sorted((path for path in (root, *root.rglob("*")) if path.is_dir()), reverse=True):  # what is deepest first
        with suppress(OSError):
            folder.rmdir()


def _delete_leftovers(place: Place) -> None:
    """Delete what zarr was writing to a local store when it was killed."""
    if isinstance(place.store, LocalStore):
        for path in (place.store.root / place.path).rglob("*.partial"):
            if LEFTOVER.search(path.name):
                path.unlink(missing_ok=True)


def _mark(place: Place, *, complete: bool) -> None:
    zarr.open_group(store=place.store, path=place.path, mode="r+").update_attributes({COMPLETE: complete})
