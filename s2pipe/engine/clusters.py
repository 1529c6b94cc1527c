"""Dask clusters: connecting to one, starting one on this machine, the current one, and the GPUs that its workers declare."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
from dask.system import CPU_COUNT

from s2pipe.core.errors import InputError

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

log = logging.getLogger(__name__)

GPU = "GPU"
"""The resource by which a dask worker declares a GPU: ``dask worker --resources GPU=1``."""

TLS_ARGUMENTS = ("tls_ca_file", "tls_cert", "tls_key")
"""The arguments of `tls_security`."""

_TLS_FILES = "tls_ca_file, tls_cert and tls_key"


def current_client() -> Client | None:
    """The client of the dask cluster that computes; None where threads of this process do."""
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None


def warn_if_nobody_works() -> None:
    """Log a warning if there is a cluster, but no worker in it yet: all that is computed then waits for one."""
    client = current_client()
    if client is not None and client.status == "running" and not _workers_of(client):
        log.warning("the dask cluster has no workers yet; the job waits for them")


def _workers_of(client: Client) -> list[dict[str, Any]]:
    """What the scheduler knows of each worker of the client's cluster."""
    workers: dict[str, dict[str, Any]] = client.scheduler_info(n_workers=-1).get("workers", {})
    return list(workers.values())


def cores() -> tuple[str, int]:
    """Whose cores this thread may compute on, and how many: the name and threads of a dask worker, elsewhere "" and all."""
    from distributed import get_worker

    try:
        worker = get_worker()
    except ValueError:
        return "", CPU_COUNT
    return str(worker.name), int(worker.state.nthreads)


def runs_on_gpus(device: str) -> bool:
    """Whether networks are to run on workers of the cluster that declare a GPU: those of "auto" where there are any.

    Raises
    ------
    InputError
        If there is a cluster and the device is CUDA, but no worker declares a GPU.
    """
    client = current_client()
    if client is None or not device.startswith(("auto", "cuda")):
        return False
    declared = any(worker["resources"].get(GPU, 0) >= 1 for worker in _workers_of(client))
    if device.startswith("cuda") and not declared:
        raise InputError(
            f"device={device!r}, but no worker of the dask cluster declares a GPU; start workers that do (dask worker "
            f"--resources {GPU}=1), or use device='auto' or 'cpu'",
            argument="device",
        )
    return declared


def where_gpus_are() -> AbstractContextManager[None]:
    """Context in which dask layers are made whose tasks run on workers that declare a GPU, as many at once as it declares.

    dask forgets it when it optimises an array, unless its setting ``optimization.fuse.active`` is False.
    """
    return dask.annotate(resources={GPU: 1})


def tls_security(tls_ca_file: str | None, tls_cert: str | None, tls_key: str | None) -> Security | None:
    """The settings of dask for TLS, from PEM files, for every role; None leaves all to dask's configuration.

    Raises
    ------
    InputError
        If there is no such file.
    """
    from distributed.security import Security

    for name, path in zip(TLS_ARGUMENTS, (tls_ca_file, tls_cert, tls_key), strict=True):
        if path is not None and not Path(path).is_file():
            raise InputError(f"there is no file {path}; {_TLS_FILES} are PEM files", argument=name)
    paths = {"tls_ca_file": tls_ca_file}
    for role in ("client", "scheduler", "worker"):
        paths |= {f"tls_{role}_cert": tls_cert, f"tls_{role}_key": tls_key}
    given = {name: path for name, path in paths.items() if path is not None}
    return Security(**given) if given else None


@contextmanager
def local_cluster() -> Iterator[Client]:
    """A cluster of processes on this machine, which listens on no network and ends with the block."""
    from distributed import Client, LocalCluster

    _log_no_waits_left_behind()
    # A failing task's error comes back to this process; the workers need not log its traceback as well.
    with interrupts_ignored():
        cluster = LocalCluster(dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL)
    with cluster, Client(cluster) as client:
        yield client


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Processes that are started in the block ignore Ctrl-C, which a terminal sends to all: this process ends them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _log_no_waits_left_behind() -> None:
    """Keep asyncio from logging what dask was waiting for when it was interrupted, as errors that nobody caught."""
    logging.getLogger("asyncio").addFilter(_is_no_wait)


def _is_no_wait(record: logging.LogRecord) -> bool:
    from distributed.client import AllExit

    return not (record.exc_info and isinstance(record.exc_info[1], AllExit))


def connect(address: str, security: Security | None = None) -> Client:
    """A client of the dask scheduler at `address`; without `security`, dask's configuration sets up TLS.

    Raises
    ------
    InputError
        If no scheduler answers there, or the scheduler and this client do not accept each other's certificates.
    """
    from distributed import Client
    from distributed.security import Security

    if not address:  # dask would look for one in its configuration
        message = "address is empty; give that of a dask scheduler, tcp://host:8786, or leave it out"
        raise InputError(message, argument="address")
    _log_no_waits_left_behind()
    security = security or Security()
    encrypted = address.startswith(("tls://", "wss://"))
    _check_certificates(address, security, encrypted)
    try:
        return Client(address, security=security)
    except (OSError, ValueError) as error:
        if encrypted:
            raise InputError(
                f"no dask scheduler that accepts these certificates answers at {address} ({error}); "
                f"give its address, tls://host:8786, and {_TLS_FILES} of the same authority",
                argument=("address", *TLS_ARGUMENTS),
            ) from None
        message = f"no dask scheduler answers at {address}; give its address, tcp://host:8786"
        raise InputError(message, argument="address") from None


def _check_certificates(address: str, security: Security, encrypted: bool) -> None:
    """Refuse what would make dask fail with a client half open, which then hinders others."""
    try:
        context = security.get_connection_args("client").get("ssl_context")
    except OSError as error:
        raise InputError(f"the files {_TLS_FILES} cannot be used: {error}", argument=TLS_ARGUMENTS) from None
    if encrypted and context is None:
        message = f"{address} needs {_TLS_FILES}, or dask's own settings of them, distributed.comm.tls"
        raise InputError(message, argument=TLS_ARGUMENTS)
    if security.require_encryption and not encrypted:
        message = f"{address} is not encrypted; give tls://host:8786, or leave out {_TLS_FILES}"
        raise InputError(message, argument=("address", *TLS_ARGUMENTS))
