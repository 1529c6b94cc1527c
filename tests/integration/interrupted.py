"""A small job as a process of its own, to be killed: what it writes, and where it stands."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import numpy as np
import xarray as xr
from scenes import random_cube, with_chunks

import s2pipe
from s2pipe.jobs.job import sharpen_to_store
from s2pipe.store.ledger import Ledger
from s2pipe.store.location import StoreLike, locate

DATES = 3
METHOD = "glp"


CUBE = with_chunks(random_cube(216, 216, dates=DATES), 72, 72)
"""Nine chunks a date; made when the process that all others are forked from imports this."""


def expected() -> xr.DataArray:
    """What an undisturbed job writes."""
    return s2pipe.sharpen(CUBE, METHOD).compute()


def written(store: StoreLike) -> np.ndarray:
    """The run that wrote each chunk, as far as there is a ledger."""
    ledger = Ledger.open(locate(store, None))
    return np.zeros((DATES, 1, 3, 3), np.int32) if ledger is None else ledger.read()


def run(store: StoreLike) -> None:
    sharpen_to_store(CUBE, store, method=METHOD)


def by_obstore(url: str) -> StoreLike:
    """A store in a bucket, for this process."""
    from obstore.store import S3Store

    return S3Store.from_url(url, endpoint=os.environ["AWS_ENDPOINT_URL"], client_options={"allow_http": True})


def run_by_obstore(url: str) -> None:
    run(by_obstore(url))


def start(job: Callable[[str], None], store: str) -> BaseProcess:
    """In a process that has imported everything, so that it is at work at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["interrupted", "distributed", "s3fs", "torch", "s2pipe.jobs.job", "s2pipe.methods"])
    # the server from which it is forked began with the environment of another test
    process = context.Process(target=_in_environment, args=(dict(os.environ), job, store))
    process.start()
    return process


def _in_environment(environment: dict[str, str], job: Callable[[str], None], store: str) -> None:
    os.environ.update(environment)
    job(store)


def kill(process: BaseProcess, after: float) -> bool:
    """Kill a process that is still at work after some seconds; whether it was."""
    process.join(after)
    if not process.is_alive():
        assert process.exitcode == 0
        return False
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return True


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)
