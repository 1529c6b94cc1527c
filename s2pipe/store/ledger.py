"""The ledger of a result: which of its chunks have been written, and by which run.

It is stored beside the array, in a group of its own: an array with one number for each chunk, that of the run that wrote it, 0
where none has yet; the runs are described in the group's attributes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from s2pipe.store.location import OWN_GROUP, Location, open_group, open_node

_ARRAY = "chunks"
_RUNS = "runs"
_EDGES = "edges"

Index = tuple[int, int, int, int]
"""Of a chunk, along time, band, y and x."""


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Of one array (time, band, y, x), which is written in chunks of one date.

    Attributes
    ----------
    group : zarr.Group
    written : zarr.Array, (time, band, y, x)
        One number for each chunk.
    """

    group: zarr.Group
    written: zarr.Array[Any]

    @classmethod
    def create(cls, location: Location, edges: Sequence[Sequence[int]]) -> Ledger:
        """Of the array at `location`, nothing of which is written yet; `edges` are those of its chunks, by axis."""
        group = open_group(location.below(OWN_GROUP), mode="a")
        group.attrs.put({_RUNS: [], _EDGES: [list(axis) for axis in edges[1:]]})
        written = group.create_array(
            _ARRAY,
            shape=tuple(len(axis) for axis in edges),
            chunks=(1, 1, 1, 1),  # so that each is written by itself
            dtype=np.int32,
            fill_value=0,
            dimension_names=("time", "chunk_band", "chunk_y", "chunk_x"),
        )
        return cls(group=group, written=written)

    @classmethod
    def open(cls, location: Location) -> Ledger | None:
        """Of the array at `location`; None where there is none."""
        found = open_node(location.below(OWN_GROUP))
        if found is None or _ARRAY not in found:
            return None
        group = open_group(location.below(OWN_GROUP))
        written = group[_ARRAY]
        assert isinstance(written, zarr.Array)
        return cls(group=group, written=written)

    @property
    def dates(self) -> int:
        """Number of dates it knows of; nothing of further dates in the array was ever written."""
        return int(self.written.shape[0])

    @property
    def edges(self) -> list[list[int]]:
        """Of the chunks along band, y and x."""
        found: Any = self.group.attrs[_EDGES]
        return [list(axis) for axis in found]

    @property
    def starts(self) -> list[list[int]]:
        """First band, row and column of each chunk, and where the last one ends, along band, y and x."""
        return [list(itertools.accumulate(axis, initial=0)) for axis in self.edges]

    @property
    def runs(self) -> list[dict[str, Any]]:
        """What is known of each run, the first first."""
        found: Any = self.group.attrs[_RUNS]
        return list(found)

    def begin_run(self, stated: dict[str, Any]) -> int:
        """The number of a new run, of which `stated` is known."""
        runs = [*self.runs, stated]
        self.group.update_attributes({_RUNS: runs})
        return len(runs)

    def add_dates(self, count: int) -> None:
        """Nothing of them is written yet."""
        self.written.resize((self.dates + count, *self.written.shape[1:]))

    def read(self) -> npt.NDArray[np.int32]:
        """The number of the run that wrote each chunk, 0 where none has."""
        numbers: Any = self.written[:]
        return np.asarray(numbers, dtype=np.int32)

    def mark(self, index: Index, run: int) -> None:
        """A chunk is written."""
        self.written[index] = run
