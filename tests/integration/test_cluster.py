"""The whole job on a dask cluster: what travels, and that the pixels are those of threads."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import numpy as np
import psutil
import pytest
import xarray as xr
from counting import CountingSharpener, SlowCountingSharpener, seen
from distributed import Client, LocalCluster
from quick import WITHOUT_BFLOAT16, skip_without
from scenes import random_cube, with_chunks

import s2pipe
from s2pipe import InputError
from s2pipe.cli.arguments import cluster_at


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster:
        yield cluster


def test_weights_and_settings_reach_each_worker_once(cluster: LocalCluster) -> None:
    cube = with_chunks(random_cube(240, 240, dates=2), 60, 60)
    lazy = s2pipe.sharpen(cube, CountingSharpener(), bands=["B02", "B05"])
    with Client(cluster.scheduler_address) as client:
        result = lazy.compute()
        counts = client.run(seen)
    calls = [count.get("called", 0) for count in counts.values()]
    assert sum(calls) == 2 * 4 * 4 and min(calls) > 0
    assert [count["received"] for count in counts.values()] == [1, 1]
    coarse = cube["r20m"]["reflectance"].sel(band="B05").values
    np.testing.assert_array_equal(result.sel(band="B05"), coarse.repeat(2, axis=1).repeat(2, axis=2))


@pytest.mark.parametrize("method", ["glp", "ssc-cnn"])
def test_a_cluster_writes_the_pixels_of_threads(cluster: LocalCluster, method: str, tmp_path: Path) -> None:
    cube = with_chunks(random_cube(120, 120, dates=2), 60, 60)
    options = {"steps": 3} if method == "ssc-cnn" else {}
    sharpener = s2pipe.fit(cube, method, **options)
    lazy = s2pipe.sharpen(cube, sharpener)
    expected = lazy.compute(scheduler="threads")
    with Client(cluster.scheduler_address):
        s2pipe.to_zarr(lazy, tmp_path / "cluster.zarr")
    stored = s2pipe.open_zarr(tmp_path / "cluster.zarr")
    assert isinstance(stored, xr.DataArray)
    xr.testing.assert_identical(stored.compute(), expected)


def test_a_worker_that_cannot_compute_in_the_precision_ends_the_job_and_the_cure_works(tmp_path: Path) -> None:
    skip_without("bfloat16")
    cube, store = with_chunks(random_cube(120, 192, dates=2), 120, 192), tmp_path / "a.zarr"
    first = xr.DataTree.from_dict({name: node.to_dataset().isel(time=[0]) for name, node in cube.children.items()})
    s2pipe.sharpen_to_store(first, store, precision="bfloat16")
    with (
        LocalCluster(n_workers=1, dashboard_address=None, host="127.0.0.1", env=WITHOUT_BFLOAT16) as cluster,
        Client(cluster),
    ):
        with pytest.raises(InputError, match=r"cannot compute in bfloat16; give precision='float32'.*also refit=True"):
            s2pipe.sharpen_to_store(cube, store)
        s2pipe.sharpen_to_store(cube, store, precision="float32", refit=True)
    assert list(s2pipe.list_chunks(store)["precision"]) == ["bfloat16", "float32"]


def test_a_job_waits_for_workers_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cube = with_chunks(random_cube(120, 120), 60, 60)
    told = "the dask cluster has no workers yet; the job waits for them"

    def add_worker() -> None:
        while told not in caplog.messages:
            time.sleep(0.1)
        cluster.scale(1)

    adding = threading.Thread(target=add_worker, daemon=True)
    with LocalCluster(n_workers=0, dashboard_address=None, host="127.0.0.1", threads_per_worker=1) as cluster, Client(cluster):
        adding.start()
        s2pipe.sharpen_to_store(cube, tmp_path / "a.zarr", method="glp")
    assert caplog.messages.count(told) == 1
    xr.testing.assert_identical(s2pipe.open_zarr(tmp_path / "a.zarr").compute(), s2pipe.sharpen(cube, "glp").compute())


def test_a_cluster_of_the_command_line_listens_on_this_machine_only() -> None:
    guessed = {"scheduler-address": "tcp://127.0.0.1:9"}  # nobody answers there
    with dask.config.set(guessed), cluster_at("local"):
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = [c.laddr.ip for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(listening) >= 3
    assert {ip for ip in listening if ip not in ("127.0.0.1", "::1")} == set()


def test_where_no_worker_declares_a_gpu_tasks_run_anywhere_and_cuda_is_refused(cluster: LocalCluster) -> None:
    cube = with_chunks(random_cube(120, 120), 60, 60)
    with Client(cluster.scheduler_address):
        lazy = s2pipe.sharpen(cube, CountingSharpener(), bands=["B05"])
        assert [layer.annotations for layer in lazy.data.dask.layers.values() if layer.annotations] == []
        for method in ("glp", CountingSharpener()):
            with pytest.raises(s2pipe.InputError, match="no worker of the dask cluster declares a GPU"):
                s2pipe.sharpen(cube, method, bands=["B05"], device="cuda")


def test_weights_reach_a_worker_that_joins_later_once_too() -> None:
    cube = with_chunks(random_cube(480, 480), 60, 60)
    lazy = s2pipe.sharpen(cube, SlowCountingSharpener(), bands=["B05"])
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster,
        Client(cluster) as client,
    ):
        job = client.compute(lazy)
        while not sum(count.get("called", 0) for count in client.run(seen).values()):
            time.sleep(0.05)
        (first,) = client.run(seen)
        cluster.scale(2)
        job.result()
        counts = client.run(seen)
    first_counts, later_counts = counts.pop(first), *counts.values()
    assert first_counts["called"] + later_counts["called"] == 64
    assert later_counts["received"] == 1
