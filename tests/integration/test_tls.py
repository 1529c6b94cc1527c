"""A dask cluster that speaks TLS only, and what the command line and the workflow say where certificates do not fit it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dask
import pytest
from certificates import tls_options
from distributed import LocalCluster
from refusals import refused
from typer.testing import CliRunner

import s2pipe
from s2pipe.cli.app import app
from s2pipe.engine.clusters import TLS_ARGUMENTS, connect, tls_security

ROOT = Path(__file__).parents[2]
WORKFLOW = str(ROOT / "workflows" / "sharpen_on_cluster.py")
GROUP = "33TWM_32633"


@dataclass
class Guarded:
    """A cluster that takes only who has a certificate of its authority."""

    address: str
    certificates: list[str]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    certificates = tls_options(tmp_path_factory.mktemp("tls") / "own")
    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        security=tls_security(*certificates[1::2]),
        host="127.0.0.1",
        dashboard_address=None,
    ) as cluster:
        assert cluster.scheduler_address.startswith("tls://")
        yield Guarded(cluster.scheduler_address, certificates)


@pytest.fixture
def job(archive: Path, tmp_path: Path) -> list[str]:
    return ["--catalog", str(archive), "--datetime", "2026-06", "--method", "bicubic", "--out", str(tmp_path / "out.zarr")]


def run_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120)


def test_the_command_line_takes_certificates(cluster: Guarded, job: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["sharpen", *job, "--scheduler", cluster.address, *cluster.certificates])
    assert done.exit_code == 0, done.output
    assert (s2pipe.open_zarr(tmp_path / "out.zarr", group=GROUP) > 0).all()


def test_so_does_the_workflow(cluster: Guarded, job: list[str], tmp_path: Path) -> None:
    done = run_process(WORKFLOW, *job, "--scheduler", cluster.address, *cluster.certificates)
    assert done.returncode == 0, done.stderr
    assert (s2pipe.open_zarr(tmp_path / "out.zarr", group=GROUP) > 0).all()


def test_certificates_of_dasks_configuration_serve(cluster: Guarded, job: list[str], tmp_path: Path) -> None:
    ca_file, cert, key = cluster.certificates[1::2]
    tls = "distributed.comm.tls"
    with dask.config.set({f"{tls}.ca-file": ca_file, f"{tls}.client.cert": cert, f"{tls}.client.key": key}):
        done = CliRunner().invoke(app, ["sharpen", *job, "--scheduler", cluster.address])
    assert done.exit_code == 0, done.output
    assert (s2pipe.open_zarr(tmp_path / "out.zarr", group=GROUP) > 0).all()


@pytest.mark.parametrize("program", [("-m", "s2pipe", "sharpen"), (WORKFLOW,)], ids=["command", "workflow"])
def test_certificates_of_another_authority_end_a_job_at_once(
    cluster: Guarded, job: list[str], tmp_path: Path, program: tuple[str, ...]
) -> None:
    done = run_process(*program, *job, "--scheduler", cluster.address, *tls_options(tmp_path / "others"))
    assert done.returncode == 2
    *_, told = done.stderr.splitlines()
    assert told.startswith("error: ") and "certificates" in told and cluster.address in told
    assert "Traceback" not in done.stderr


def test_other_ways_not_to_get_in(cluster: Guarded, tmp_path: Path) -> None:
    ca_file, cert, key = cluster.certificates[1::2]
    stranger = tls_options(tmp_path / "others")[1::2]
    (tmp_path / "text.pem").write_text("no certificate")
    unencrypted = cluster.address.replace("tls://", "tcp://")
    start = time.monotonic()
    for address, files, arguments, named in [
        (cluster.address, (None, None, None), TLS_ARGUMENTS, cluster.address),
        (cluster.address, (None, cert, key), TLS_ARGUMENTS, cluster.address),
        (cluster.address, (ca_file, *stranger[1:]), ("address", *TLS_ARGUMENTS), cluster.address),
        (cluster.address, (ca_file, cert, stranger[2]), TLS_ARGUMENTS, "mismatch"),
        (cluster.address, (str(tmp_path / "text.pem"), cert, key), TLS_ARGUMENTS, "cannot be used"),
        (cluster.address, (str(tmp_path / "gone.pem"), cert, key), ("tls_ca_file",), "gone.pem"),
        (unencrypted, (ca_file, cert, key), ("address", *TLS_ARGUMENTS), "not encrypted"),
        (unencrypted, (None, None, None), ("address",), unencrypted),
    ]:
        with refused(*arguments, naming=(named,)):
            connect(address, tls_security(*files))
    assert time.monotonic() - start < 20


def test_certificates_without_a_scheduler_are_refused(cluster: Guarded, job: list[str]) -> None:
    command = CliRunner().invoke(app, ["sharpen", *job, *cluster.certificates])
    workflow = run_process(WORKFLOW, *job, *cluster.certificates)
    assert (command.exit_code, workflow.returncode) == (2, 2)
    assert "--scheduler tls://" in command.stderr and "--scheduler tls://" in workflow.stderr
