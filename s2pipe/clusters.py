"""The dask cluster at hand, if there is one, and the GPUs that its workers declare."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import dask

from s2pipe.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

GPU = "GPU"
"""The resource by which a dask worker declares a GPU: ``dask worker --resources GPU=1``."""


def current_client() -> Client | None:
    """The client of the dask cluster that computes, None where threads do."""
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None


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
    workers: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    declared = any(worker["resources"].get(GPU, 0) >= 1 for worker in workers.values())
    if device.startswith("cuda") and not declared:
        raise InputError(
            f"device={device!r}, but no worker of the dask cluster declares a GPU; start workers that do (dask worker "
            f"--resources {GPU}=1), or use device='auto' or 'cpu'"
        )
    return declared


def where_gpus_are() -> AbstractContextManager[Any]:
    """Context in which dask layers are made whose tasks run on workers that declare a GPU, as many at once as it declares.

    dask forgets it when it optimises an array, unless its setting ``optimization.fuse.active`` is False.
    """
    return dask.annotate(resources={GPU: 1})
