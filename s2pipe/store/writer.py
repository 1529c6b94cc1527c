"""Writing a result: what the store lacks of it, chunk by chunk, in an order that may be interrupted anywhere and resumed.

The group is marked as incomplete first and as complete last. A chunk is marked in the ledger once its pixels are in the store. A
date belongs to the result once the ledger has room for its chunks; what the arrays hold of further dates is cut off.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
import zarr
from dask.delayed import Delayed, delayed
from zarr.storage import LocalStore

from s2pipe.core.bands import GSDS, node_name
from s2pipe.core.errors import StoreError
from s2pipe.store.differences import COMPLETE, STARTED, VERSION, WRITTEN, made_by, refuse_differences
from s2pipe.store.layout import VARIABLE
from s2pipe.store.ledger import Index, Ledger
from s2pipe.store.location import OWN_GROUP, Location, open_group, open_node, store_errors, sync
from s2pipe.store.lock import NAME as LOCK
from s2pipe.store.lock import check_held, refuse_if_held

log = logging.getLogger(__name__)

LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.partial$")
"""How the names of files end that zarr was writing to a local store when its process was killed."""


def is_result(node: Any) -> bool:
    """Whether a zarr node is the group of something that s2pipe wrote."""
    return isinstance(node, zarr.Group) and COMPLETE in node.attrs


def members(group: zarr.Group) -> list[tuple[str, Any]]:
    """Names and nodes in a group, but for what s2pipe keeps there for itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr warns of a lock, which is no part of a Zarr hierarchy
        return [(name, node) for name, node in group.members() if name != OWN_GROUP]


Keep = Callable[[Location], object]
"""Stores beside a result, before its chunks are planned, what resuming them will need."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be written.

    Attributes
    ----------
    location : Location
    writes : list of list of Delayed
        By date. Each writes a chunk that the store lacks, and returns its size in bytes.
    total : int
        Number of chunks of the dates given, those that are written already included.
    """

    location: Location
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
        """Mark the group as complete, once all is written, unless it lacks chunks of other dates."""
        with store_errors(self.location, "finish"):
            ledgers = [_ledger(self.location.below(name)) for name in node_names(open_node(self.location))]
            left = sum(int((ledger.read() == 0).sum()) for ledger in ledgers)
            if not left:
                _mark(self.location, complete=True)
                return
        log.warning("%s still lacks %d chunks of dates that were not given; it stays incomplete", self.location, left)


def _finish(plan: Plan, written: list[list[int]]) -> None:
    """`Plan.finish`, once the chunks of which `written` holds the sizes are written."""
    plan.finish()


def begin(
    location: Location, datasets: Mapping[str, xr.Dataset], attrs: Mapping[str, Any], *, keep: Keep, token: str | None
) -> Plan:
    """Create the group, replacing the result that it may hold, and plan all of its chunks.

    Parameters
    ----------
    location : Location
    datasets : mapping of str to xarray.Dataset
        By the group below the result's own that each goes to, as `layout.datasets_of` makes them.
    attrs : mapping
        Of the group.
    keep : callable
        See `Keep`.
    token : str or None
        Of the lock that is held until the plan is done, see `lock.hold`; None where none is.
    """
    marks = {VERSION: version("s2pipe"), WRITTEN: datetime.now(UTC).isoformat(), COMPLETE: False}
    _create_group(location, {**attrs, **marks})
    for name, dataset in datasets.items():
        node = location.below(name)
        stated = dataset if name else dataset.assign_attrs(marks)  # xarray replaces the attributes of the group
        stated.to_zarr(location.store, group=node.path, mode="a", zarr_format=3, consolidated=False, compute=False)
    ledgers = {name: Ledger.create(location.below(name), dataset[VARIABLE].chunks or ()) for name, dataset in datasets.items()}
    keep(location)
    return _plan(location, token, datasets, ledgers, {name: range(dataset.sizes["time"]) for name, dataset in datasets.items()})


def can_resume(location: Location, datasets: Mapping[str, xr.Dataset]) -> bool:
    """Whether there is a result some chunks of which are written.

    Raises
    ------
    StoreError
        If it has other nodes than `datasets`; or it holds chunks but no ledger that says which: starting again would lose them.
    """
    group = open_node(location)
    if not is_result(group):
        return False
    names = node_names(group)
    ledgers = {name: Ledger.open(location.below(name)) for name in names}
    if any(ledger is None and _has_chunks(location.below(name)) for name, ledger in ledgers.items()):
        raise StoreError(
            f"{location} holds chunks but no ledger that says which are written, because another version of s2pipe wrote it; "
            "give another store or group, or replace this one with overwrite=True",
            argument="overwrite",
        )
    if not any(ledger is not None and ledger.read().any() for ledger in ledgers.values()):
        return False
    if set(names) != set(datasets):
        raise StoreError(
            f"{location} holds {_nodes(names)}, but the data given are {_nodes(datasets)}; give the same, or another store or "
            "group, or replace this one with overwrite=True",
            argument=("data", "overwrite"),
        )
    return True


def node_names(group: zarr.Group) -> list[str]:
    """Names of a result's groups that hold an array; the result's own, of one array, is called ""."""
    return [""] if VARIABLE in group else [name for name in map(node_name, GSDS) if name in group]


def _nodes(names: Iterable[str]) -> str:
    return "one array" if "" in names else f"a cube of {', '.join(names)}"


def _has_chunks(location: Location) -> bool:
    return not sync((location.node / VARIABLE / "c").is_empty())


def resume_from(location: Location, datasets: Mapping[str, xr.Dataset], *, refit: bool, keep: Keep, token: str | None) -> Plan:
    """Plan what a result lacks of `datasets`, after adding the dates that it does not have.

    Raises
    ------
    StoreError
        If the result differs in bands, grid, encoding or chunks; or, unless `refit`, in how it was made. Then nothing is changed.
    """
    ledgers = {name: _ledger(location.below(name)) for name in datasets}
    stored = {}
    for name, ledger in ledgers.items():
        _cut_off(location.below(name), ledger.dates)
        stored[name] = open_dataset(location.below(name))
    refuse_differences(location, stored, datasets, ledgers, refit=refit)
    where = {}
    for name, dataset in datasets.items():
        times = stored[name]["time"].values
        new = np.flatnonzero(~np.isin(dataset["time"].values, times))
        if len(new):
            _mark(location, complete=False)
            _append(location.below(name), dataset.isel(time=new))
            ledgers[name].add_dates(len(new))
        times = np.concatenate([times, dataset["time"].values[new]])
        where[name] = [int(np.flatnonzero(times == time)[0]) for time in dataset["time"].values]
    _delete_leftovers(location)
    keep(location)
    return _plan(location, token, datasets, ledgers, where)


def _plan(
    location: Location,
    token: str | None,
    datasets: Mapping[str, xr.Dataset],
    ledgers: Mapping[str, Ledger],
    where: Mapping[str, Sequence[int]],
) -> Plan:
    """Plan the unwritten chunks of each dataset, whose dates have the indices `where` in the store."""
    writes: defaultdict[Any, list[Delayed]] = defaultdict(list)
    total, begun = 0, open_node(location).attrs[WRITTEN]
    for name, dataset in datasets.items():
        node, ledger = location.below(name), ledgers[name]
        unwritten = ledger.read() == 0
        # optimising arrays loses on which workers tasks may run, https://github.com/dask/dask/issues/7036, and saves no task here
        blocks = dataset[VARIABLE].data.to_delayed(optimize_graph=False)
        total += blocks.size
        wanted = [index for index in np.ndindex(blocks.shape) if unwritten[where[name][index[0]], *index[1:]]]
        if not wanted:
            continue
        run = ledger.begin_run(
            {**made_by(dataset[VARIABLE]), VERSION: version("s2pipe"), STARTED: datetime.now(UTC).isoformat(timespec="seconds")}
        )
        array: Any = zarr.open_array(store=location.store, path=node.below(VARIABLE).path, mode="r+")
        target = _Target(location=location, token=token, begun=begun, array=array, ledger=ledger)
        shared = delayed(target, pure=False, traverse=False)  # one key, which is sent to a worker once
        starts, times = ledger.starts, dataset["time"].values
        for index in wanted:
            chunk: Index = (where[name][index[0]], *index[1:])
            region = tuple(slice(axis[i], axis[i + 1]) for axis, i in zip(starts, chunk[1:], strict=True))
            writes[times[index[0]]].append(delayed(write_chunk)(blocks[index], shared, chunk, region, run))
    return Plan(location=location, writes=list(writes.values()), total=total)


@dataclass(frozen=True, kw_only=True)
class _Target:
    """Where chunks are written; `token` see `begin`, `begun` is when their result was begun."""

    location: Location
    token: str | None
    begun: str
    array: Any
    ledger: Ledger

    def check(self) -> None:
        """StoreError where another writer has taken the result over, as from a machine that was suspended, or has replaced it."""
        if self.token is not None:
            check_held(self.location, self.token)
            return
        refuse_if_held(self.location)
        group = open_node(self.location)
        if not is_result(group) or group.attrs[WRITTEN] != self.begun:
            raise StoreError(f"{self.location} was replaced, or deleted, after this was planned; call to_zarr again")


def write_chunk(block: npt.NDArray[Any], target: _Target, chunk: Index, region: tuple[slice, ...], run: int) -> int:
    """Write a chunk to its bands, rows and columns, and mark it in the ledger; returns its size in bytes; see `_Target.check`."""
    target.check()
    with store_errors(target.location, "write to"):
        target.array[(slice(chunk[0], chunk[0] + 1), *region)] = block
        target.ledger.mark(chunk, run)
    return int(block.nbytes)


# What the store holds


def chunk_table(location: Location, name: str) -> pd.DataFrame:
    """A row for each chunk of the array in group `name` of a result, see `s2pipe.list_chunks`."""
    node = location.below(name)
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


def _ledger(location: Location) -> Ledger:
    ledger = Ledger.open(location)
    if ledger is None:
        raise StoreError(
            f"{location} has lost its ledger of the chunks that are written; write it again with overwrite=True",
            argument="overwrite",
        )
    return ledger


def open_dataset(location: Location) -> xr.Dataset:
    """An array of the store, with its coordinates and its raw numbers."""
    dataset: xr.Dataset = xr.open_zarr(
        location.store,
        group=location.path,
        zarr_format=3,
        consolidated=False,
        mask_and_scale=False,
        decode_coords="all",
        chunks=None,
    )
    return dataset


def _cut_off(location: Location, dates: int) -> None:
    """Cut off what the arrays hold of dates beyond the ledger's."""
    for array in _arrays_of_dates(location).values():
        if array.shape[0] > dates:
            array.resize((dates, *array.shape[1:]))


def _append(location: Location, dataset: xr.Dataset) -> None:
    """Make room for more dates, and describe them."""
    for name, array in _arrays_of_dates(location).items():
        before, added = array.shape[0], dataset.sizes["time"]
        array.resize((before + added, *array.shape[1:]))
        if name != VARIABLE:
            array[before:] = xr.conventions.encode_cf_variable(dataset[name].variable).values


def _arrays_of_dates(location: Location) -> dict[str, zarr.Array[Any]]:
    return {name: array for name, array in open_group(location).arrays() if _dimensions(array)[:1] == ["time"]}


def _dimensions(array: zarr.Array[Any]) -> list[Any]:
    names: Any = array.metadata.to_dict().get("dimension_names")
    return list(names or ())


# Groups and their marks


def _create_group(location: Location, attrs: Mapping[str, Any]) -> None:
    """Create the group, empty and marked as incomplete, replacing the result that it may hold."""
    if is_result(open_node(location)):
        # Deleting takes time and may be interrupted: what is left by then must not look complete.
        _mark(location, complete=False)
        arrays = [name for name, node in members(open_node(location)) if isinstance(node, zarr.Array)]
        sync(_clear(location, {VARIABLE, *map(node_name, GSDS), *arrays}))
    group = open_group(location, mode="a")  # an empty one may be there
    group.attrs.put(dict(attrs))


async def _clear(location: Location, written: Collection[str]) -> None:
    """Delete what s2pipe wrote in a group, which is called `written`, and all of its own group but the lock; the group last.

    Ledgers go first: if this is interrupted, a job that resumes must find no deleted chunk marked as written.
    """
    own = location.below(OWN_GROUP)
    beside = [own.node / name async for name in own.store.list_dir(own.path) if name not in (LOCK, "zarr.json")]
    nodes = [location.node / name for name in written]
    for node in (*beside, *(node / OWN_GROUP for node in nodes), *nodes):
        await node.delete_dir()
    await (location.node / "zarr.json").delete()


def _delete_leftovers(location: Location) -> None:
    """Delete the files that zarr was writing to a local store when its process was killed."""
    if isinstance(location.store, LocalStore):
        for path in (location.store.root / location.path).rglob("*.partial"):
            if LEFTOVER.search(path.name):
                path.unlink(missing_ok=True)


def _mark(location: Location, *, complete: bool) -> None:
    open_group(location).update_attributes({COMPLETE: complete})
