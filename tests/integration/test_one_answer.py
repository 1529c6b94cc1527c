"""The same job gives the same pixels, and the same fit the same weights, whatever computes them and whatever else is at work."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import dask
import pytest
import torch
import xarray as xr
from distributed import Client, LocalCluster
from quick import skip_without
from scenes import random_cube, with_chunks

import s2pipe
from s2pipe.store.zarr_io import open_zarr

THREADS = (1, 4)


@pytest.fixture(scope="module")
def cube() -> xr.DataTree:
    """Of two chunks, each of two blocks, and as high as the halo of mtf-resnet."""
    return with_chunks(random_cube(180, 468), 90, 468)


@pytest.fixture(scope="module")
def clusters() -> Iterator[list[LocalCluster]]:
    """One of a worker with two threads, and one of two workers with one thread each."""
    with ExitStack() as started:
        yield [
            started.enter_context(LocalCluster(n_workers=workers, threads_per_worker=threads, dashboard_address=None))
            for workers, threads in ((1, 2), (2, 1))
        ]


@contextmanager
def other_work() -> Iterator[None]:
    """As many busy processes as there are cores, while the block runs."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pixels_of_job(cube: xr.DataTree, sharpener: s2pipe.Sharpener, store: Path) -> str:
    """SHA-256 of all that it writes."""
    s2pipe.sharpen_to_store(cube, store, method=sharpener, overwrite=True)
    return hashlib.sha256(open_zarr(store).values.tobytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "precision"), [("mtf-resnet", "float32"), ("mtf-resnet", "bfloat16"), ("glp", "float32")])
def test_a_job_gives_the_same_pixels_each_time(
    cube: xr.DataTree, clusters: list[LocalCluster], tmp_path: Path, method: str, precision: str
) -> None:
    skip_without(precision)
    sharpener, store = s2pipe.fit(cube, method, precision=precision), tmp_path / "a.zarr"
    found = set()
    for beside in (False, True):
        with other_work() if beside else nullcontext():
            for count in THREADS:
                with threads_of_torch(count), dask.config.set(num_workers=count):
                    found.add(pixels_of_job(cube, sharpener, store))
    for cluster in clusters:
        with Client(cluster):
            found.add(pixels_of_job(cube, sharpener, store))
    assert len(found) == 1


FITS = """
import s2pipe
from quick import quick_options
from scenes import random_cube

cube = random_cube(84, 84)
for method, steps in (("glp", None), ("atprk", None), ("mtf-resnet", 2), ("ssc-cnn", 1), ("s2sucnn", 1)):
    options = quick_options(method) | ({"steps": steps} if steps else {})
    print(method, s2pipe.fit(cube, method, progress=lambda *_: None, **options).weights_sha256)
"""


@pytest.mark.slow
def test_a_fit_finds_the_same_weights_each_time(precision: str) -> None:
    found = set()
    for beside, count in ((False, 1), (True, 4)):
        with other_work() if beside else nullcontext():
            done = subprocess.run(
                [sys.executable, "-c", FITS],
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(sys.path)}
                | {"OMP_NUM_THREADS": str(count), "OPENBLAS_NUM_THREADS": str(count)},
                capture_output=True,
                text=True,
                check=True,
            )
        found.add(done.stdout)
    assert len(found) == 1
