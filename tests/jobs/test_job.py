from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import dask
import numpy as np
import pytest
import xarray as xr
from dask.utils import key_split
from distributed import Client
from quick import skip_without
from refusals import refused
from scenes import random_cube, with_chunks, with_numbers

import s2pipe
from s2pipe.core.errors import StoreError
from s2pipe.jobs import job
from s2pipe.jobs.job import sharpen_to_store
from s2pipe.store.ledger import Ledger
from s2pipe.store.location import locate
from s2pipe.store.lock import hold
from s2pipe.store.zarr_io import open_zarr, plan_writing

OPTIONS = {"steps": 1, "patches": 48, "blocks": 1}


@pytest.fixture
def cube():
    return with_chunks(random_cube(120, 96, dates=2), 120, 96)


def first_date(cube):
    return xr.DataTree.from_dict({name: node.to_dataset().isel(time=[0]) for name, node in cube.children.items()})


def unfittable(*_, **__):
    raise AssertionError("fitted again")


def test_it_writes_what_sharpen_gives(cube, tmp_path):
    sharpen_to_store(cube, tmp_path / "a.zarr", group="T33", method="resnet", **OPTIONS)
    expected = s2pipe.sharpen(cube, "resnet", **OPTIONS)
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr", group="T33").compute(), expected.compute())


def test_dates_are_added_by_the_weights_that_are_kept(cube, tmp_path, monkeypatch):
    sharpen_to_store(first_date(cube), tmp_path / "a.zarr", method="resnet", **OPTIONS)
    monkeypatch.setattr(job, "fit_for", unfittable)
    sharpen_to_store(cube, tmp_path / "a.zarr", method="resnet", **OPTIONS)
    sharpener = s2pipe.fit(first_date(cube), "resnet", **OPTIONS)
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr").compute(), s2pipe.sharpen(cube, sharpener).compute())


def test_another_method_is_refused_before_anything_is_fitted(cube, tmp_path, monkeypatch):
    sharpen_to_store(first_date(cube), tmp_path / "a.zarr", method="glp")
    monkeypatch.setattr(job, "fit_for", unfittable)
    with pytest.raises(StoreError, match="method was 'glp', not 'atprk'"):
        sharpen_to_store(cube, tmp_path / "a.zarr", method="atprk")


def test_bands_that_the_kept_weights_do_not_make_are_refused(cube, tmp_path):
    sharpen_to_store(first_date(cube), tmp_path / "a.zarr", method="glp", bands=["B02", "B05"])
    with refused("bands", "overwrite", kind=StoreError, naming=("B01, B09",)):
        sharpen_to_store(cube, tmp_path / "a.zarr", method="glp")


def test_kept_weights_are_not_written_again(cube, tmp_path):
    sharpen_to_store(first_date(cube), tmp_path / "a.zarr", method="glp")
    (weights,) = (tmp_path / "a.zarr" / "s2pipe").glob("sharpener_*/c/0")
    before = weights.stat().st_mtime_ns
    sharpen_to_store(cube, tmp_path / "a.zarr", method="glp")
    assert weights.stat().st_mtime_ns == before


def test_the_precision_of_the_weights_is_kept_and_stated(cube, tmp_path, precision, monkeypatch):
    store, other = tmp_path / "a.zarr", {"float32": "bfloat16", "bfloat16": "float32"}[precision]
    sharpen_to_store(first_date(cube), store, method="mtf-resnet", precision=precision)
    with pytest.raises(StoreError, match=f"precision was '{precision}', not '{other}'"):
        sharpen_to_store(cube, store, method="mtf-resnet", precision=other)
    monkeypatch.setenv("S2PIPE_PRECISION", other)
    sharpen_to_store(cube, store, method="mtf-resnet")
    assert open_zarr(store).attrs["s2pipe_precision"] == precision
    assert set(s2pipe.list_chunks(store)["precision"]) == {precision}
    sharpener = s2pipe.fit(first_date(cube), "mtf-resnet", precision=precision)
    xr.testing.assert_identical(open_zarr(store).compute(), s2pipe.sharpen(cube, sharpener).compute())


def test_the_precision_named_for_a_fitted_sharpener_is_kept_with_it(cube, tmp_path):
    skip_without("bfloat16")
    store, sharpener = tmp_path / "a.zarr", s2pipe.fit(first_date(cube), "mtf-resnet", precision="bfloat16")
    sharpen_to_store(first_date(cube), store, method=sharpener, precision="float32")
    sharpen_to_store(cube, store)
    assert set(s2pipe.list_chunks(store)["precision"]) == {"float32"}


def test_a_refit_may_be_in_another_precision(cube, tmp_path):
    skip_without("bfloat16")
    sharpen_to_store(first_date(cube), tmp_path / "a.zarr", method="mtf-resnet", precision="float32")
    sharpen_to_store(cube, tmp_path / "a.zarr", method="mtf-resnet", precision="bfloat16", refit=True)
    assert list(s2pipe.list_chunks(tmp_path / "a.zarr")["precision"]) == ["float32", "bfloat16"]


def test_methods_that_know_one_precision_go_on_whatever_is_named(cube, tmp_path):
    sharpen_to_store(first_date(cube), tmp_path / "a.zarr", method="glp", precision="float32")
    sharpen_to_store(cube, tmp_path / "a.zarr", method="glp", precision="bfloat16")
    assert set(s2pipe.list_chunks(tmp_path / "a.zarr")["precision"]) == {"float32"}


def taken_over(lock):
    lock.write_text(lock.read_text().replace('"token": "', '"token": "another'))


def taken_over_and_left(lock):
    lock.unlink(missing_ok=True)


@pytest.mark.parametrize("on", ["threads", "cluster"])
@pytest.mark.parametrize(
    ("event", "message"), [(taken_over, "is being written by process"), (taken_over_and_left, "no longer locked by this process")]
)
def test_who_lost_the_lock_to_another_writes_no_more(cube, tmp_path, on, event, message):
    lock = tmp_path / "a.zarr" / "s2pipe" / ".lock"

    def read(block, block_info=None):
        if block_info[None]["chunk-location"][0] == 1:  # the second date
            event(lock)
        return block

    taken = with_numbers(cube, r10m=cube["r10m"]["reflectance"].data.map_blocks(read, dtype="uint16"))
    sharpener = s2pipe.fit(cube, "glp")
    with ExitStack() as held:
        if on == "cluster":
            held.enter_context(Client(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None))
        with pytest.raises(StoreError, match=message):
            sharpen_to_store(taken, tmp_path / "a.zarr", method=sharpener)
    assert not s2pipe.list_chunks(tmp_path / "a.zarr")["written"].iloc[1]


def test_it_is_taken_where_a_refit_is_asked_for(cube, tmp_path):
    sharpen_to_store(first_date(cube), tmp_path / "a.zarr", method="glp")
    sharpen_to_store(cube, tmp_path / "a.zarr", method="atprk", refit=True)
    ledger = Ledger.open(locate(tmp_path / "a.zarr", None))
    assert [ledger.runs[run - 1]["s2pipe_method"] for run in ledger.read()[:, 0, 0, 0]] == ["glp", "atprk"]
    expected = [s2pipe.sharpen(first_date(cube), "glp")[0], s2pipe.sharpen(cube, "atprk")[1]]
    np.testing.assert_array_equal(open_zarr(tmp_path / "a.zarr"), expected)


def test_weights_that_were_not_kept_whole_are_fitted_anew(cube, tmp_path):
    sharpen_to_store(cube, tmp_path / "a.zarr", method="resnet", **OPTIONS)
    (chunk,) = (tmp_path / "a.zarr" / "s2pipe").glob("sharpener_*/c/0")
    chunk.unlink()
    sharpen_to_store(cube, tmp_path / "a.zarr", method="resnet", **OPTIONS)


def test_a_store_that_is_being_written_is_refused_before_anything_is_fitted(cube, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "fit_for", unfittable)
    with hold(locate(tmp_path / "a.zarr", None)), pytest.raises(StoreError, match="is being written"):
        sharpen_to_store(cube, tmp_path / "a.zarr", method="glp")


def test_it_tells_how_many_chunks_are_written(cube, tmp_path, capsys):
    sharpen_to_store(cube, tmp_path / "a.zarr", group="tile", method="glp")
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("tile: chunks written: 100 % (2 of 2) ")
    assert lines[-1].endswith("MB/s, 0:00:00 left")
    sharpen_to_store(cube, tmp_path / "a.zarr", group="tile", method="glp")
    assert "(2 of 2)" in capsys.readouterr().err


def test_threads_count_their_own_chunks(tmp_path, capsys):
    cube = with_chunks(random_cube(120, 120), 60, 60)
    with ThreadPoolExecutor(3) as threads:
        jobs = [threads.submit(sharpen_to_store, cube, tmp_path / "a.zarr", group=f"{n}", method="bicubic") for n in range(3)]
    for submitted in jobs:
        submitted.result()
    lines = capsys.readouterr().err.splitlines()
    for n in range(3):
        told = [line.split(" MB/s")[0].rsplit(" ", 1)[0] for line in lines if line.startswith(f"{n}: ")]
        assert told == [f"{n}: chunks written: {25 * done // 10}0 % ({done} of 4)" for done in range(1, 5)]


def test_a_date_is_submitted_without_the_tasks_of_others(cube, tmp_path):
    with dask.annotate(resources={"GPU": 1}):
        sharpened = s2pipe.sharpen(cube, "glp")
    plan = plan_writing(sharpened, locate(tmp_path / "a.zarr", None), overwrite=False, resume=True, refit=False, shards=True)
    graphs = [job._graph_of(date) for date in plan.writes]
    tasks = [set(graph) for graph in graphs]
    assert len(tasks) == 2 and not {key for key in tasks[0] & tasks[1] if key_split(key) in ("sharpen", "write_chunk")}
    for graph in graphs:
        assert {"resources": {"GPU": 1}} in [layer.annotations for layer in graph.layers.values()]
    for graph, date in zip(graphs, plan.writes, strict=True):
        dask.threaded.get(graph, [write.key for write in date])
    plan.finish()
    xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr").compute(), sharpened.compute())


def test_10_m_bands_alone_need_no_fit(cube, tmp_path, monkeypatch):
    sharpen_to_store(cube, tmp_path / "a.zarr", method="resnet", bands=["B02", "B08"], **OPTIONS)
    sharpen_to_store(cube, tmp_path / "a.zarr", method="resnet", bands=["B02", "B08"], **OPTIONS)
    np.testing.assert_array_equal(open_zarr(tmp_path / "a.zarr")[:, 0], cube["r10m"]["reflectance"].sel(band="B02"))


def test_a_sharpener_is_used_as_it_is(cube, tmp_path):
    sharpener = s2pipe.fit(cube, "glp")
    sharpen_to_store(first_date(cube), tmp_path / "a.zarr", method=sharpener)
    sharpen_to_store(cube, tmp_path / "a.zarr", method=sharpener)
    with pytest.raises(StoreError, match="its s2pipe_method is 'glp', not 'atprk'"):
        sharpen_to_store(cube, tmp_path / "a.zarr", method=s2pipe.fit(cube, "atprk"))
