"""Jobs that are killed and run again, writers that come second, workers that die: the store is that of an undisturbed run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import interrupted
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster, get_client
from interrupted import kill, start, wait_for, written
from reporting import ReportingSharpener

import s2pipe
from s2pipe.core.errors import S2PipeError, StoreError
from s2pipe.jobs.job import sharpen_to_store
from s2pipe.methods import get_method
from s2pipe.store.zarr_io import open_zarr

KILLS = 10
PATHS = {"PYTHONPATH": os.pathsep.join(str(path) for path in (Path(__file__).parent, Path(__file__).parents[1]))}
"""Environment in which processes find what this module imports."""


@pytest.fixture(scope="module")
def expected() -> xr.DataArray:
    return interrupted.expected()


@pytest.fixture(params=["local", "s3"])
def place_of_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store may stand: on disk or in a bucket."""
    return str(tmp_path / "a.zarr") if request.param == "local" else f"{request.getfixturevalue('s3_bucket')}/a.zarr"


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_goes_on_where_it_stood(tmp_path: Path, expected: xr.DataArray) -> None:
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
@pytest.mark.parametrize("library", ["s3fs", "obstore"])
def test_killed_on_s3_it_goes_on_where_it_stood(s3_bucket: str, expected: xr.DataArray, library: str) -> None:
    url, kills = f"{s3_bucket}/killed.zarr", 0
    store, run = (url, interrupted.run) if library == "s3fs" else (interrupted.by_obstore(url), interrupted.run_by_obstore)
    before = written(store)
    for chunks in (1, 6, 12):
        job = start(run, url)
        wait_for(lambda chunks=chunks: (written(store) > 0).sum() >= chunks)
        kills += kill(job, 0)
        now = written(store)
        np.testing.assert_array_equal(now[before > 0], before[before > 0])  # what was written before is not written again
        before = now
    assert kills >= 2  # the last one may end first
    assert not kill(start(run, url), 120)
    np.testing.assert_array_equal(written(store)[before > 0], before[before > 0])
    xr.testing.assert_identical(open_zarr(store).compute(), expected)


def test_a_second_writer_is_refused_while_the_first_is_alive(place_of_store: str, expected: xr.DataArray) -> None:
    store = place_of_store
    job = start(interrupted.run, store)
    wait_for(lambda: bool((written(store) > 0).any()))
    assert job.pid is not None
    os.kill(job.pid, signal.SIGSTOP)  # alive, if slow
    with pytest.raises(StoreError, match=f"being written by process {job.pid} on "):
        interrupted.run(store)
    os.kill(job.pid, signal.SIGCONT)
    job.join(120)
    assert job.exitcode == 0
    xr.testing.assert_identical(open_zarr(store).compute(), expected)


@pytest.mark.parametrize("scheduler", [None, "local"])
def test_interrupted_by_the_user_it_ends_cleanly_and_can_go_on(
    tmp_path: Path, expected: xr.DataArray, scheduler: str | None
) -> None:
    store = tmp_path / "a.zarr"
    script = (
        "import interrupted, s2pipe.cli.app\n"
        "@s2pipe.cli.app.app.command()\n"
        "def interrupt(store: str):\n"
        f"    with s2pipe.cli.console.clean_exit(), s2pipe.cli.arguments.cluster_at({scheduler!r}):\n"
        "        interrupted.run(store)\n"
        "s2pipe.cli.app.app()"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", script, "interrupt", str(store)],
        env=os.environ | PATHS,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: bool((written(str(store)) > 0).any()))
    os.killpg(job.pid, signal.SIGINT)  # as a terminal does
    _, shown = job.communicate(timeout=60)
    assert (job.returncode, shown.splitlines()[-1]) == (130, "interrupted")
    assert "Traceback" not in shown
    assert not (store / "s2pipe" / ".lock").exists()
    assert (written(str(store)) == 0).any()
    interrupted.run(str(store))
    xr.testing.assert_identical(open_zarr(store).compute(), expected)


def test_ctrl_c_while_a_local_cluster_reads_says_no_more_than_that():
    script = (
        "import time, dask, s2pipe.cli.app\n"
        "@s2pipe.cli.app.app.command()\n"
        "def interrupt():\n"
        "    with s2pipe.cli.console.clean_exit(), s2pipe.cli.arguments.cluster_at('local'):\n"
        "        print('ready', flush=True)\n"
        "        dask.compute([dask.delayed(time.sleep)(60 + i) for i in range(8)])\n"  # as a fit does
        "s2pipe.cli.app.app()"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", script, "interrupt"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert job.stdout is not None and job.stdout.readline() == "ready\n"
    time.sleep(2)
    os.killpg(job.pid, signal.SIGINT)
    _, shown = job.communicate(timeout=60)
    assert (job.returncode, shown) == (130, "interrupted\n")


@pytest.fixture(scope="module")
def cluster(s3_environment: dict[str, str]) -> Iterator[LocalCluster]:
    """Of two workers, which are replaced when they die."""
    with (
        # after how long dask gives up a worker that died and is dead again by then, and one that does not answer another
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour", "distributed.comm.timeouts.connect": "10s"}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1", env=s3_environment) as cluster,
    ):
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster.scheduler_address) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.mark.slow
def test_workers_killed_while_they_write_are_replaced(place_of_store: str, client: Client, expected: xr.DataArray) -> None:
    store, killed = place_of_store, []
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


def die_in_next_write() -> None:
    """Kill this worker where its next chunk is written to a file that has not got its name yet."""
    replace = Path.replace

    def killed(path: Path, target: Any) -> Path:
        if "reflectance/c/" in str(target):
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(path, target)

    Path.replace = killed  # type: ignore[method-assign]


@pytest.mark.slow
def test_a_worker_killed_inside_a_write_is_replaced(client: Client, tmp_path: Path, expected: xr.DataArray) -> None:
    store = tmp_path / "a.zarr"
    workers = client.run(os.getpid)
    client.run(die_in_next_write, workers=[next(iter(workers))])
    interrupted.run(str(store))
    assert not set(workers.values()) <= set(client.run(os.getpid).values())  # one died
    xr.testing.assert_identical(open_zarr(store).compute(), expected)
    assert (written(str(store)) == 1).all()


@pytest.mark.slow
def test_a_worker_killed_inside_the_network_is_replaced(place_of_store: str, client: Client, tmp_path: Path) -> None:
    store, inside, calls = place_of_store, tmp_path / "inside", tmp_path / "calls"
    sharpener, at_kill = ReportingSharpener(tmp_path), []

    def kill_inside() -> None:
        wait_for(lambda: inside.exists() and inside.read_text() != "")
        time.sleep(1)  # until all have heard of what is written
        at_kill.extend([(written(store) == 0).sum(), calls.stat().st_size])
        os.kill(int(inside.read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill_inside)
    killer.start()
    sharpen_to_store(interrupted.CUBE, store, method=sharpener, bands=["B02", "B05"])
    killer.join()
    lacking, sharpened = at_kill
    assert calls.stat().st_size - sharpened <= lacking  # what the dead one had written is not sharpened again
    assert (written(store) == 1).all()
    undisturbed = s2pipe.sharpen(interrupted.CUBE, sharpener, bands=["B02", "B05"]).compute()
    xr.testing.assert_identical(open_zarr(store).compute(), undisturbed)


@pytest.fixture
def lone_scheduler(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A scheduler, which writes its address to scheduler.json, with one worker."""
    file = ["--scheduler-file", str(tmp_path / "scheduler.json")]
    commands = [
        ["scheduler", *file, "--host", "127.0.0.1", "--port", "0", "--no-dashboard"],
        ["worker", *file, "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard", "--no-nanny"],
    ]
    processes = [
        subprocess.Popen([sys.executable, "-m", "dask", *command], env=os.environ | PATHS, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    yield processes[0]
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_lost_scheduler_ends_the_job_which_goes_on_without_it(
    tmp_path: Path, lone_scheduler: subprocess.Popen[bytes], expected: xr.DataArray
) -> None:
    store = str(tmp_path / "a.zarr")

    def kill_scheduler() -> None:
        wait_for(lambda: (written(store) > 0).sum() >= 3)
        lone_scheduler.kill()

    killer = threading.Thread(target=kill_scheduler)
    wait_for((tmp_path / "scheduler.json").exists)
    with dask.config.set({"distributed.comm.timeouts.connect": "5s"}), Client(scheduler_file=tmp_path / "scheduler.json"):
        killer.start()
        with pytest.raises(S2PipeError, match="the connection to the dask scheduler was lost; what is written stays"):
            interrupted.run(store)
    killer.join()
    time.sleep(1)  # for the worker to write what it was at
    before = written(store)
    interrupted.run(store)
    np.testing.assert_array_equal(written(store)[before > 0], before[before > 0])
    xr.testing.assert_identical(open_zarr(store).compute(), expected)


class KillingMethod:
    """glp, in whose fit the scheduler dies."""

    name = "killing"

    def __init__(self, scheduler: subprocess.Popen[bytes]) -> None:
        self.scheduler = scheduler

    def halo(self, *arguments: Any) -> int:
        return get_method("glp").halo(*arguments)

    def fit(self, sample: Any, context: Any) -> Any:
        client = get_client()
        self.scheduler.kill()
        wait_for(lambda: client.status != "running")
        return get_method("glp").fit(sample, context)


def test_a_scheduler_lost_in_the_fit_does_not_leave_the_work_to_this_process(
    tmp_path: Path, lone_scheduler: subprocess.Popen[bytes]
) -> None:
    store = str(tmp_path / "a.zarr")
    wait_for((tmp_path / "scheduler.json").exists)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "5s"}),
        Client(scheduler_file=tmp_path / "scheduler.json"),
        pytest.raises(S2PipeError, match="the connection to the dask scheduler was lost"),
    ):
        sharpen_to_store(interrupted.CUBE, store, method=KillingMethod(lone_scheduler))
    assert not (written(store) > 0).any()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB: mounted in a namespace, for which nobody needs privileges, and reached through the process there."""
    mount = 'mount -t tmpfs -o size=8m none "$0" && echo mounted && read -r _'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, str(tmp_path)]
    try:
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        pytest.skip("no namespaces here to mount a small file system in")
    with holder:
        assert holder.stdin is not None and holder.stdout is not None
        if holder.stdout.readline() != "mounted\n":
            pytest.skip("no small file system can be mounted here")
        yield Path(f"/proc/{holder.pid}/root{tmp_path}")
        holder.stdin.close()


@pytest.mark.parametrize("scheduler", ["threads", "cluster"])
def test_a_full_disk_ends_the_job_which_goes_on_once_there_is_room(
    request: pytest.FixtureRequest, small_disk: Path, expected: xr.DataArray, scheduler: str
) -> None:
    store, filler = str(small_disk / "a.zarr"), small_disk / "filler"
    filler.write_bytes(bytes(6_000_000))
    if scheduler == "cluster":
        request.getfixturevalue("client")
    with pytest.raises(StoreError, match=r"cannot write to .*a\.zarr .*: the disk is full\. What was written stays; free some"):
        interrupted.run(store)
    before = written(store)
    assert 0 < (before > 0).sum() < before.size
    assert not (small_disk / "a.zarr" / "s2pipe" / ".lock").exists()

    filler.unlink()
    interrupted.run(store)
    now = written(store)
    np.testing.assert_array_equal(now[before > 0], before[before > 0])  # what was written before is not written again
    assert (now > 0).all()
    xr.testing.assert_identical(open_zarr(store).compute(), expected)
