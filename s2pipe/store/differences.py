"""How data differ from the result that they are to be written into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from s2pipe.core.errors import StoreError
from s2pipe.store.layout import VARIABLE
from s2pipe.store.ledger import Ledger
from s2pipe.store.location import Location

COMPLETE = "s2pipe_complete"
VERSION = "s2pipe_version"
WRITTEN = "s2pipe_written"
STARTED = "started"


def made_by(array: xr.DataArray) -> dict[str, Any]:
    """What an array states of how its pixels were made."""
    return {str(name): value for name, value in array.attrs.items() if str(name).startswith("s2pipe_") and name != VERSION}


def refuse_differences(
    location: Location,
    stored: Mapping[str, xr.Dataset],
    given: Mapping[str, xr.Dataset],
    ledgers: Mapping[str, Ledger],
    *,
    refit: bool,
) -> None:
    """StoreError unless the data given, by node, can be written into the result that is stored at `location`."""
    of_data = [
        f"{name}: {difference}".removeprefix(": ")
        for name in given
        for difference in _differences_of_data(stored[name], given[name], ledgers[name])
    ]
    of_fit = [
        f"{name}: {difference}".removeprefix(": ")
        for name in given
        for difference in _differences_of_fit(given[name], ledgers[name])
        if not refit
    ]
    if not of_data and not of_fit:
        return
    text = (
        f"{location} cannot be resumed: {'; '.join(of_data + of_fit)}. Give another store or group, or replace this one with "
        "overwrite=True"
    )
    if of_data:
        raise StoreError(text, argument="overwrite")
    raise StoreError(f"{text}, or write what it lacks by the new fit with refit=True", argument=("overwrite", "refit"))


def _differences_of_data(stored: xr.Dataset, given: xr.Dataset, ledger: Ledger) -> Iterator[str]:
    """Why `given` cannot be written into `stored`, but for how their pixels were made; each a clause of a sentence."""
    old, new = stored[VARIABLE], given[VARIABLE]
    if list(old["band"].values) != list(new["band"].values):
        yield f"it has bands {', '.join(old['band'].values)}, not {', '.join(new['band'].values)}"
    elif not all(np.array_equal(old[axis].values, new[axis].values) for axis in ("y", "x")) or not _same_crs(old, new):
        yield f"it has another grid, {_grid(old)}, not {_grid(new)}"
    elif ledger.edges != (edges := [list(axis) for axis in (new.chunks or ())[1:]]):
        yield f"it was written in chunks of {_chunk(ledger.edges)} px, not {_chunk(edges)}"
    yield from _different_items(_not_made(old), _not_made(new))
    if old.dtype != new.dtype:
        yield f"it holds {old.dtype}, not {new.dtype}"
    yield from _differences_of_dates(old, new)


def _differences_of_fit(given: xr.Dataset, ledger: Ledger) -> Iterator[str]:
    """In what the pixels of `given` were made otherwise than those of the last run of a result."""
    last = {name: value for name, value in ledger.runs[-1].items() if name not in (VERSION, STARTED)}
    yield from _different_items(last, made_by(given[VARIABLE]))


def _not_made(array: xr.DataArray) -> dict[str, Any]:
    return {str(name): value for name, value in array.attrs.items() if not str(name).startswith("s2pipe_")}


def _different_items(old: Mapping[Any, Any], new: Mapping[Any, Any]) -> Iterator[str]:
    for name in sorted({*map(str, old), *map(str, new)}):
        if not _same(old.get(name), new.get(name)):
            yield f"its {name} is {_plain(old.get(name))!r}, not {_plain(new.get(name))!r}"


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal, or both are NaN."""
    return bool(one == other) or (one != one and other != other)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _differences_of_dates(old: xr.DataArray, new: xr.DataArray) -> Iterator[str]:
    names = [{str(name) for name, coord in array.coords.items() if coord.dims[:1] == ("time",)} for array in (old, new)]
    if names[0] != names[1]:
        yield f"its dates have the coordinates {', '.join(sorted(names[0]))}, not {', '.join(sorted(names[1]))}"
        return
    both, *indices = np.intersect1d(old["time"].values, new["time"].values, return_indices=True)
    for name in sorted(names[0]):
        before, after = (array[name].values[found] for array, found in zip((old, new), indices, strict=True))
        for time, one, other in zip(both, before.tolist(), after.tolist(), strict=True):
            if not _same(one, other):
                yield f"the {name} of {time} is {one!r}, not {other!r}"


def _same_crs(old: xr.DataArray, new: xr.DataArray) -> bool:
    return bool(old.rio.crs == new.rio.crs)


def _grid(array: xr.DataArray) -> str:
    corner = f"{array['x'].values[0]:.0f}, {array['y'].values[0]:.0f}"
    return f"{array.sizes['y']} x {array.sizes['x']} px from {corner} in {array.rio.crs}"


def _chunk(edges: Sequence[Sequence[int]]) -> str:
    return " x ".join(str(axis[0]) for axis in edges[1:])
