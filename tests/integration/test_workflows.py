"""The scripts of `workflows/` that sharpen, as a user starts them."""

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dask
import numpy as np
import pytest
from certificates import tls_options
from typer.testing import CliRunner

import s2pipe
from s2pipe.cli.app import app

WORKFLOWS = Path(__file__).parents[2] / "workflows"
GROUP = "33TWM_32633"


@pytest.fixture
def job(archive: Path, tmp_path: Path) -> list[str]:
    return ["--catalog", str(archive), "--datetime", "2026-06", "--method", "glp", "--out", str(tmp_path / "out.zarr")]


@pytest.fixture
def lure() -> Iterator[socket.socket]:
    """What listens where dask's configuration says that a scheduler is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def address_of(server: socket.socket) -> str:
    host, port = server.getsockname()
    return f"tcp://{host}:{port}"


def nobody_came(server: socket.socket) -> bool:
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return True
    return False


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(WORKFLOWS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, env={**os.environ, **environment})


@pytest.mark.parametrize("script", ["sharpen_here.py", "sharpen_on_cluster.py"])
def test_it_writes_what_the_library_makes(
    script: str, archive: Path, job: list[str], tmp_path: Path, lure: socket.socket
) -> None:
    done = run(script, *job, "--bbox", "15.5", "46.5", "15.6", "46.6", "--chunks", "72", DASK_SCHEDULER_ADDRESS=address_of(lure))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{GROUP}: 1 dates in {tmp_path / 'out.zarr'}\n"
    assert "33TWM_32633: chunks written: 100 % (4 of 4)" in done.stderr
    assert nobody_came(lure)
    expected = s2pipe.sharpen(s2pipe.load(s2pipe.search(str(archive)), chunks=72), "glp")
    written = s2pipe.open_zarr(tmp_path / "out.zarr", group=GROUP)
    assert np.abs(written.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("scheduler", [[], ["--scheduler", ""]])
def test_nor_does_the_command_line_guess_a_scheduler(scheduler: list[str], job: list[str], lure: socket.socket) -> None:
    with dask.config.set({"scheduler-address": address_of(lure)}):
        done = CliRunner().invoke(app, ["sharpen", *job, *scheduler])
    assert done.exit_code == (2 if "" in scheduler else 0), done.output
    assert nobody_came(lure)


def test_its_errors_are_one_line(job: list[str]) -> None:
    done = run("sharpen_here.py", *job, "--chunks", "7")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_a_slurm_job_is_what_was_asked_for(job: list[str], tmp_path: Path) -> None:
    asked = ["--cores", "8", "--memory", "30GB", "--gpus", "1", "--walltime", "02:00:00", "--queue", "gpu", "--account", "us"]
    certificates = tls_options(tmp_path / "tls")
    done = run("sharpen_on_slurm.py", *job, "--interface", "lo", *asked, *certificates, "--show-job")
    assert done.returncode == 0, done.stderr
    directives = [line.removeprefix("#SBATCH ") for line in done.stdout.splitlines() if line.startswith("#SBATCH")]
    wanted = ["-p gpu", "-A us", "-n 1", "--cpus-per-task=8", "--mem=28G", "-t 02:00:00", "--gres=gpu:1"]
    assert directives[1:] == wanted  # the first is the job's name
    (worker,) = (line for line in done.stdout.splitlines() if "dask_worker" in line)
    assert worker.startswith(f"{sys.executable} -m distributed.cli.dask_worker tls://127.0.0.1:")
    for told in ("--nthreads 8", "--resources GPU=1", "--interface lo", "--dashboard-address 127.0.0.1:0", *pairs(certificates)):
        assert told in worker


def pairs(arguments: list[str]) -> list[str]:
    return [f"{option} {value}" for option, value in zip(arguments[::2], arguments[1::2], strict=True)]


def test_without_gpus_a_slurm_job_asks_for_none(job: list[str]) -> None:
    done = run("sharpen_on_slurm.py", *job, "--interface", "lo", "--cores", "2", "--memory", "4GB", "--show-job")
    assert done.returncode == 0, done.stderr
    assert "dask_worker tcp://127.0.0.1:" in done.stdout
    assert "gpu" not in done.stdout.lower() and "--resources" not in done.stdout


def test_the_script_for_gpus_says_what_it_needs(job: list[str]) -> None:
    assert "--gpus" in run("sharpen_on_gpus.py", "--help").stdout
    if importlib.util.find_spec("dask_cuda") is None:
        done = run("sharpen_on_gpus.py", *job)
        assert done.returncode == 2
        assert done.stderr == "error: dask-cuda is missing: pip install 's2pipe[gpus]'\n"
