"""What every test shares: the real data, an S3 server and the settings of hypothesis."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import settings
from quick import skip_without

from s2pipe.core import threads
from s2pipe.core.precision import Precision

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") or os.environ.get("S2PIPE_REQUIRE_DATA") == "1" else "default")

# A shell that starts the tests in the background has them ignore Ctrl-C, and with them the jobs that they start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

threads.FIT_THREADS = 1
"""The tests run beside one another, on all cores; torch's convolutions wait for the threads of a fit by spinning, so that with
two threads a step of training lasts up to ten times as long there. Fits in processes of their own keep to two."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that take long first, so that no process is left with one of them alone while others have none."""
    items.sort(key=lambda item: "integration" not in item.path.parts)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real Sentinel-2 data: `S2PIPE_DATA`, by default ``../shared/data`` beside the repository."""
    repository = Path(__file__).parents[1]
    folder = Path(os.environ.get("S2PIPE_DATA", repository.parent / "shared" / "data"))
    if not (folder / "crops").is_dir():
        message = f"no real data at {folder}; set S2PIPE_DATA to its folder"
        if os.environ.get("S2PIPE_REQUIRE_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder.resolve()


@pytest.fixture(params=get_args(Precision))
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each in turn, in which networks then compute unless they are told otherwise, whatever the machine would choose."""
    skip_without(request.param)
    monkeypatch.setenv("S2PIPE_PRECISION", request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an S3 server."""
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path_factory.mktemp("moto") / "log").open("w")
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(10)
        log.close()


@pytest.fixture(scope="session")
def s3_environment(s3: str) -> dict[str, str]:
    """Variables of the environment that lead to the S3 server."""
    return {
        "AWS_ENDPOINT_URL": s3,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.fixture
def s3_bucket(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty bucket, with what it takes to get there in the environment."""
    import s3fs

    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"s2pipe-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"
