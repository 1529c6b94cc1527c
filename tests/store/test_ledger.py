import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from s2pipe.store.ledger import Ledger
from s2pipe.store.location import locate

EDGES = [(1, 1, 1), (12,), (48, 48), (42, 42, 6)]


@pytest.fixture
def location():
    return locate(MemoryStore(), "T18SVG")


def test_it_begins_with_nothing_written(location):
    assert Ledger.open(location) is None
    created = Ledger.create(location, EDGES)
    opened = Ledger.open(location)
    assert opened is not None
    for ledger in (created, opened):
        assert ledger.dates == 3
        assert ledger.edges == [[12], [48, 48], [42, 42, 6]]
        assert ledger.runs == []
        np.testing.assert_array_equal(ledger.read(), np.zeros((3, 1, 2, 3), np.int32), strict=True)


def test_it_tells_which_run_wrote_a_chunk(location):
    ledger = Ledger.create(location, EDGES)
    first, second = ledger.begin_run({"s2pipe_method": "glp"}), ledger.begin_run({"s2pipe_method": "atprk"})
    ledger.mark((0, 0, 1, 2), first)
    ledger.mark((2, 0, 0, 0), second)
    numbers = Ledger.open(location).read()
    assert (numbers[0, 0, 1, 2], numbers[2, 0, 0, 0], np.count_nonzero(numbers)) == (first, second, 2)
    assert [Ledger.open(location).runs[run - 1]["s2pipe_method"] for run in (first, second)] == ["glp", "atprk"]


def test_a_chunk_is_one_key_so_that_workers_do_not_meet(location):
    ledger = Ledger.create(location, EDGES)
    before = set(location.store._store_dict)
    ledger.mark((1, 0, 1, 1), 1)
    ledger.mark((1, 0, 1, 2), 1)
    assert len(set(location.store._store_dict) - before) == 2


def test_dates_that_are_added_are_unwritten(location):
    ledger = Ledger.create(location, EDGES)
    ledger.mark((2, 0, 0, 0), ledger.begin_run({}))
    ledger.add_dates(2)
    again = Ledger.open(location)
    assert again.dates == 5
    assert again.read()[2, 0, 0, 0] == 1 and not again.read()[3:].any()


def test_xarray_can_open_it(location):
    Ledger.create(location, EDGES)
    assert dict(zarr.open_group(location.store, path="T18SVG/s2pipe")["chunks"].metadata.to_dict())["dimension_names"]
