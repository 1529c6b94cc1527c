"""What is resumed, what is added and what is refused; that the numbers come back equal is for test_store.py."""

import itertools

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from refusals import refused
from scenes import random_cube, with_chunks
from zarr.storage import LocalStore

import s2pipe
from s2pipe.core.errors import StoreError
from s2pipe.store.ledger import Ledger
from s2pipe.store.location import locate
from s2pipe.store.lock import hold
from s2pipe.store.zarr_io import open_zarr, plan_writing, to_zarr


@pytest.fixture
def array():
    """Two dates of 4 chunks each, as `sharpen` gives them."""
    return s2pipe.sharpen(with_chunks(random_cube(120, 96, dates=3), 60, 48), "bicubic")


class Broken(Exception):
    """What a worker dies of in these tests."""


def breaking(array, chunks):
    """The array, but that computing one of these chunks (date, row, column) fails."""

    def fail(block, block_info=None):
        date, _, row, column = block_info[0]["chunk-location"]
        if (date, row, column) in chunks:
            raise Broken
        return block

    return array.copy(data=array.data.map_blocks(fail, dtype=array.dtype, meta=array.data._meta))


def interrupt(array, store, lacking, **options):
    """Write all of an array but these chunks (date, row, column)."""
    plan = plan_writing(
        array, locate(store, None), **{"overwrite": False, "resume": True, "refit": False, "shards": True} | options
    )
    chunks = [(date, *index) for date, writes in enumerate(plan.writes) for index in np.ndindex(2, 2) if len(writes) == 4]
    writes = [write for date in plan.writes for write in date]
    dask.compute([write for chunk, write in zip(chunks, writes, strict=True) if chunk not in lacking], scheduler="sync")


def left(array, store, **options):
    plan = plan_writing(
        array, locate(store, None), **{"overwrite": False, "resume": True, "refit": False, "shards": True} | options
    )
    return plan.left, plan.total


@pytest.mark.parametrize("shards", [True, False])
def test_only_what_is_lacking_is_computed(array, tmp_path, shards):
    interrupt(array, tmp_path / "a.zarr", {(1, 0, 1)}, shards=shards)
    written = Ledger.open(locate(tmp_path / "a.zarr", None)).read() > 0
    assert 0 < written.sum() < written.size
    rest = breaking(array, {(date, row, column) for date, _, row, column in np.argwhere(written)})
    to_zarr(rest, tmp_path / "a.zarr", resume=True, shards=shards)
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr").compute(), array.compute())
    runs = Ledger.open(locate(tmp_path / "a.zarr", None)).read()
    np.testing.assert_array_equal(runs, np.where(written, 1, 2))


def test_a_chunk_that_cannot_be_written_names_the_store(array, tmp_path):
    interrupt(array, tmp_path / "a.zarr", {(1, 0, 1)})
    obstacle = tmp_path / "a.zarr" / "reflectance" / "c" / "1" / "0" / "0" / "1"
    obstacle.mkdir()
    with refused("store", kind=StoreError, naming=(tmp_path / "a.zarr", "IsADirectoryError")):
        to_zarr(array, tmp_path / "a.zarr", resume=True)
    obstacle.rmdir()
    to_zarr(array, tmp_path / "a.zarr", resume=True)
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr").compute(), array.compute())


def test_what_is_complete_is_left_alone(array, tmp_path):
    to_zarr(array, tmp_path / "a.zarr")
    assert left(array, tmp_path / "a.zarr") == (0, 12)
    to_zarr(breaking(array, {(0, 0, 0)}), tmp_path / "a.zarr", resume=True)
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr").compute(), array.compute())


def test_dates_are_added_in_any_number_of_steps(array, tmp_path):
    to_zarr(array[:1], tmp_path / "a.zarr", resume=True)
    to_zarr(array[:2], tmp_path / "a.zarr", resume=True)
    to_zarr(array[2:], tmp_path / "a.zarr", resume=True)  # those that are there need not be given again
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr").compute(), array.compute())
    assert Ledger.open(locate(tmp_path / "a.zarr", None)).read()[:, 0, 0, 0].tolist() == [1, 2, 3]


def test_an_earlier_date_comes_behind_those_that_are_there(array, tmp_path):
    to_zarr(array[1:], tmp_path / "a.zarr")
    to_zarr(array[:1], tmp_path / "a.zarr", resume=True)
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr").sortby("time").compute(), array.compute())


def test_dates_of_another_unit_of_time_keep_their_nanoseconds(array, tmp_path):
    times = np.array(["2024-06-01", "2024-06-02T10:00:31.024", "2024-06-03T10:00:31.024000001"], "datetime64[ns]")
    array = array.assign_coords(time=times)
    for date in range(3):
        to_zarr(array[[date]], tmp_path / "a.zarr", resume=True)
    np.testing.assert_array_equal(open_zarr(tmp_path / "a.zarr")["time"].values, times)


def test_with_a_date_that_is_not_given_it_stays_incomplete(array, tmp_path, caplog):
    interrupt(array[:2], tmp_path / "a.zarr", {(1, 1, 1)})
    to_zarr(array[2:], tmp_path / "a.zarr", resume=True)
    assert "still lacks" in caplog.text
    with refused("store", "group", kind=StoreError):
        open_zarr(tmp_path / "a.zarr")
    to_zarr(array[:2], tmp_path / "a.zarr", resume=True)
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr").compute(), array.compute())


@pytest.mark.parametrize("stage", ["_mark", "_append", "add_dates"])
def test_adding_a_date_may_be_interrupted_anywhere(array, tmp_path, monkeypatch, stage):
    to_zarr(array[:1], tmp_path / "a.zarr")

    def broken(*_, **__):
        raise Broken

    with monkeypatch.context() as patch:
        owner = Ledger if stage == "add_dates" else s2pipe.store.writer
        patch.setattr(owner, stage, broken)
        with refused("store", kind=StoreError, naming=("Broken",)):
            to_zarr(array, tmp_path / "a.zarr", resume=True)
    to_zarr(array, tmp_path / "a.zarr", resume=True)
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr").compute(), array.compute())


def test_half_an_added_date_is_cut_off(array, tmp_path):
    to_zarr(array[:1], tmp_path / "a.zarr")
    time = zarr.open_group(tmp_path / "a.zarr", mode="r+")["time"]
    time.resize((3,))
    to_zarr(array, tmp_path / "a.zarr", resume=True)
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr").compute(), array.compute())


@pytest.mark.parametrize("at", range(0, 22, 3))
def test_creating_may_be_interrupted_anywhere(array, tmp_path, monkeypatch, at):
    """At any of the keys that metadata and coordinates are."""
    real, count = LocalStore.set, itertools.count()

    async def broken(self, key, value):
        if next(count) == at:
            raise Broken
        await real(self, key, value)

    location = locate(tmp_path / "a.zarr", None)
    monkeypatch.setattr(LocalStore, "set", broken)
    with refused("store", kind=StoreError, naming=("Broken",)):
        plan_writing(array, location, overwrite=False, resume=True, refit=False, shards=True)
    monkeypatch.undo()
    to_zarr(array, tmp_path / "a.zarr", resume=True)
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr").compute(), array.compute())


def test_a_cube_is_resumed_node_by_node(tmp_path):
    cube = with_chunks(random_cube(120, 96, dates=2), 60, 48)
    part = xr.DataTree.from_dict({name: node.to_dataset().isel(time=[0]) for name, node in cube.children.items()})
    to_zarr(part, tmp_path / "cube.zarr")
    to_zarr(cube, tmp_path / "cube.zarr", resume=True)
    read = open_zarr(tmp_path / "cube.zarr")
    for name in cube.children:
        np.testing.assert_array_equal(read[name]["reflectance"].values, cube[name]["reflectance"].values)


@pytest.mark.parametrize(
    ("change", "cures", "facts"),
    [
        (lambda a: a.isel(band=slice(0, 4)), ["overwrite"], ["B01", "B08"]),
        (lambda a: a.assign_coords(x=a["x"] + 60), ["overwrite"], ["grid"]),
        (lambda a: a.rio.write_crs(32634), ["overwrite"], ["EPSG:32633", "EPSG:32634"]),
        (lambda a: a.chunk(y=120), ["overwrite"], ["60 x 48", "120 x 48"]),
        (lambda a: a.assign_attrs(add_offset=0.0), ["overwrite"], ["add_offset is -0.1, not 0.0"]),
        (lambda a: a.assign_attrs(s2pipe_seed=7), ["overwrite", "refit"], ["s2pipe_seed is 0, not 7"]),
        (lambda a: a.assign_attrs(s2pipe_seed=7, add_offset=0.0), ["overwrite"], ["s2pipe_seed", "add_offset"]),
        (lambda a: a.assign_coords(item_id=("time", list("abc"))), ["overwrite"], ["item_id"]),
    ],
)
def test_what_differs_is_refused_and_nothing_is_changed(array, tmp_path, change, cures, facts):
    to_zarr(array, tmp_path / "a.zarr")
    before = {path: path.read_bytes() for path in (tmp_path / "a.zarr").rglob("*") if path.is_file()}
    with refused(*cures, kind=StoreError, naming=(tmp_path / "a.zarr", *facts)):
        to_zarr(change(array), tmp_path / "a.zarr", resume=True)
    assert before == {path: path.read_bytes() for path in (tmp_path / "a.zarr").rglob("*") if path.is_file()}


def test_a_date_given_twice_is_refused_at_once(array, tmp_path):
    with refused("data"):
        to_zarr(array.isel(time=[0, 0]), tmp_path / "a.zarr")
    assert not list(tmp_path.iterdir())


def test_nan_is_no_difference(tmp_path):
    array = random_cube(120, 96, dates=2)["r10m"]["reflectance"].astype("float32").drop_attrs(deep=False)
    array = array.where(array > 2000).assign_attrs(_FillValue=np.float32("nan"))
    array = array.assign_coords(cloud=("time", [np.nan, 1.0]))
    to_zarr(array[:1], tmp_path / "a.zarr")
    to_zarr(array, tmp_path / "a.zarr", resume=True)
    np.testing.assert_array_equal(open_zarr(tmp_path / "a.zarr"), array)


def test_a_refit_can_be_resumed_without_another(array, tmp_path):
    to_zarr(array[:1], tmp_path / "a.zarr")
    other = array.assign_attrs(s2pipe_seed=7)
    to_zarr(other[:2], tmp_path / "a.zarr", resume=True, refit=True)
    to_zarr(other, tmp_path / "a.zarr", resume=True)
    with refused("overwrite", "refit", kind=StoreError, naming=("s2pipe_seed is 7, not 0",)):
        to_zarr(array, tmp_path / "a.zarr", resume=True)


def test_a_part_of_a_cube_is_not_taken_for_all_of_it(tmp_path):
    cube = with_chunks(random_cube(120, 96), 60, 48)
    to_zarr(cube, tmp_path / "cube.zarr")
    part = xr.DataTree.from_dict({"r10m": cube["r10m"].to_dataset()})
    with refused("data", "overwrite", kind=StoreError):
        to_zarr(part, tmp_path / "cube.zarr", resume=True)


def test_planning_waits_for_no_other_writer(array, tmp_path):
    to_zarr(array, tmp_path / "a.zarr")
    with hold(locate(tmp_path / "a.zarr", None)), refused("store", "group", kind=StoreError):
        to_zarr(array, tmp_path / "a.zarr", overwrite=True, compute=False)
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr").compute(), array.compute())


def test_what_s2pipe_did_not_write_is_neither_replaced_nor_deleted(array, tmp_path):
    to_zarr(array, tmp_path / "a.zarr")
    zarr.open_group(tmp_path / "a.zarr", path="mine", mode="w")
    (tmp_path / "a.zarr" / "film.partial").write_text("not zarr's")
    to_zarr(array, tmp_path / "a.zarr", overwrite=True)
    to_zarr(array, tmp_path / "a.zarr", resume=True)
    assert (tmp_path / "a.zarr" / "mine" / "zarr.json").exists() and (tmp_path / "a.zarr" / "film.partial").exists()


@pytest.mark.parametrize("group", ["s2pipe", "T18SVG/s2pipe"])
def test_the_name_of_the_group_beside_a_result_is_refused(array, tmp_path, group):
    with refused("group", naming=(group,)):
        to_zarr(array, tmp_path / "a.zarr", group=group)


def test_another_item_of_a_date_is_refused(array, tmp_path):
    ids = ["S2A_1", "S2A_2", "S2A_3"]
    to_zarr(array.assign_coords(item_id=("time", ids)), tmp_path / "a.zarr")
    with refused("overwrite", kind=StoreError, naming=("item_id", "2024-06-06", "S2A_2", "S2B_2")):
        to_zarr(array.assign_coords(item_id=("time", ["S2A_1", "S2B_2", "S2A_3"])), tmp_path / "a.zarr", resume=True)


def test_a_refit_is_taken_where_it_is_asked_for_and_told_apart(array, tmp_path):
    to_zarr(array[:2], tmp_path / "a.zarr")
    to_zarr(array.assign_attrs(s2pipe_seed=7), tmp_path / "a.zarr", resume=True, refit=True)
    ledger = Ledger.open(locate(tmp_path / "a.zarr", None))
    assert [ledger.runs[run - 1]["s2pipe_seed"] for run in ledger.read()[:, 0, 0, 0]] == [0, 0, 7]


def test_what_zarr_left_when_it_was_killed_is_removed(array, tmp_path):
    interrupt(array, tmp_path / "a.zarr", {(0, 0, 1)})
    leftover = tmp_path / "a.zarr" / "reflectance" / f"0.{'0f' * 16}.partial"
    leftover.write_bytes(b"half a shard")
    to_zarr(array, tmp_path / "a.zarr", resume=True)
    assert not leftover.exists()


def test_planning_computes_nothing(array, tmp_path):
    everything = {(date, row, column) for date in range(3) for row in range(2) for column in range(2)}
    assert left(breaking(array, everything), tmp_path / "a.zarr") == (12, 12)


@pytest.mark.parametrize("complete", [True, False])
def test_chunks_of_which_nothing_is_known_are_not_deleted(array, tmp_path, complete):
    if complete:
        to_zarr(array, tmp_path / "a.zarr")
    else:
        interrupt(array, tmp_path / "a.zarr", {(0, 0, 1)})
    (tmp_path / "a.zarr" / "s2pipe" / "chunks" / "zarr.json").unlink()
    before = sorted(tmp_path.rglob("*"))
    with refused("overwrite", kind=StoreError, naming=(tmp_path / "a.zarr",)):
        to_zarr(array, tmp_path / "a.zarr", resume=True)
    assert sorted(tmp_path.rglob("*")) == before
    to_zarr(array, tmp_path / "a.zarr", overwrite=True)
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr").compute(), array.compute())


def test_a_node_that_the_store_lacks_is_refused(tmp_path):
    cube = with_chunks(random_cube(120, 96), 60, 48)
    part = xr.DataTree.from_dict({"r10m": cube["r10m"].to_dataset()})
    to_zarr(part, tmp_path / "cube.zarr")
    with refused("data", "overwrite", kind=StoreError, naming=("r10m, r20m, r60m",)):
        to_zarr(cube, tmp_path / "cube.zarr", resume=True)
