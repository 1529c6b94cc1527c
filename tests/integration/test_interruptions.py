"""Jobs that are killed and run again, writers that come second, workers that die: the store is that of an undisturbed run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import interrupted
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from interrupted import kill, start, wait_for, written

from s2pipe.errors import StoreError
from s2pipe.store import open_zarr

KILLS = 20


@pytest.fixture(scope="module")
def expected() -> xr.DataArray:
    return interrupted.expected()


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_goes_on_where_it_stood(tmp_path: Path, expected: xr.DataArray) -> None:
    moments, undisturbed = random.Random(0), tmp_path / "undisturbed.zarr"
    assert not kill(start(interrupted.run, str(undisturbed)), 120)  # the first one waits for the imports
    shutil.rmtree(undisturbed)
    begun = time.monotonic()
    assert not kill(start(interrupted.run, str(undisturbed)), 120)
    seconds = time.monotonic() - begun
    kills, stores = 0, 0
    while kills < KILLS:
        store = str(tmp_path / f"{stores}.zarr")
        stores += 1
        before = written(store)
        while kill(start(interrupted.run, store), moments.uniform(0, seconds)):
            kills += 1
            now = written(store)
            if now.shape == before.shape:  # what was written before is not written again
                np.testing.assert_array_equal(now[before > 0], before[before > 0])
            before = now
            if kills == KILLS:
                assert not kill(start(interrupted.run, store), 120)
                break
        assert (written(store) > 0).all()
        xr.testing.assert_identical(open_zarr(store).compute(), expected)
        assert not [path for path in Path(store).rglob("*") if path.suffix == ".partial" or path.name == ".lock"]


@pytest.mark.slow
def test_killed_on_s3_it_goes_on_where_it_stood(s3_bucket: str, expected: xr.DataArray) -> None:
    store, moments = f"{s3_bucket}/killed.zarr", random.Random(0)
    assert kill(start(interrupted.run, store), 0.5)
    for _ in range(3):
        before = written(store)
        kill(start(interrupted.run, store), moments.uniform(1, 4))
        np.testing.assert_array_equal(written(store)[before > 0], before[before > 0])
    assert not kill(start(interrupted.run, store), 120)
    xr.testing.assert_identical(open_zarr(store).compute(), expected)


def test_a_second_writer_is_refused_while_the_first_is_alive(tmp_path: Path, expected: xr.DataArray) -> None:
    store = str(tmp_path / "a.zarr")
    job = start(interrupted.run, store)
    wait_for((tmp_path / "a.zarr" / "s2pipe" / ".lock").exists)
    assert job.pid is not None
    os.kill(job.pid, signal.SIGSTOP)  # alive, if slow
    with pytest.raises(StoreError, match=f"being written by process {job.pid} on "):
        interrupted.run(store)
    os.kill(job.pid, signal.SIGCONT)
    job.join(120)
    assert job.exitcode == 0
    xr.testing.assert_identical(open_zarr(store).compute(), expected)


def test_interrupted_by_the_user_it_ends_cleanly_and_can_go_on(tmp_path: Path, expected: xr.DataArray) -> None:
    store = tmp_path / "a.zarr"
    script = (
        "import interrupted, s2pipe.cli\n"
        "@s2pipe.cli.app.command()\n"
        "def interrupt(store: str):\n"
        "    with s2pipe.cli._clean_exit():\n"
        "        interrupted.run(store)\n"
        "s2pipe.cli.app()"
    )
    paths = os.pathsep.join(str(path) for path in (Path(__file__).parent, Path(__file__).parents[1]))
    job = subprocess.Popen(
        [sys.executable, "-c", script, "interrupt", str(store)],
        env=os.environ | {"PYTHONPATH": paths},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: bool((written(str(store)) > 0).any()))
    job.send_signal(signal.SIGINT)
    _, shown = job.communicate(timeout=60)
    assert (job.returncode, shown.splitlines()[-1]) == (130, "interrupted")
    assert "Traceback" not in shown
    assert not (store / "s2pipe" / ".lock").exists()
    assert (written(str(store)) == 0).any()
    interrupted.run(str(store))
    xr.testing.assert_identical(open_zarr(store).compute(), expected)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(tmp_path: Path, expected: xr.DataArray) -> None:
    store = str(tmp_path / "a.zarr")
    killed = []
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster,
        Client(cluster) as client,
    ):
        workers = list(client.run(os.getpid).values())

        def kill_while_writing() -> None:
            for chunks, worker in zip((2, 10), workers, strict=True):
                wait_for(lambda chunks=chunks: (written(store) > 0).sum() >= chunks)
                os.kill(worker, signal.SIGKILL)
                killed.append(worker)

        killer = threading.Thread(target=kill_while_writing)
        killer.start()
        interrupted.run(store)
        killer.join()
    assert len(killed) == 2
    xr.testing.assert_identical(open_zarr(store).compute(), expected)
