"""A whole tile on a GPU, COGs over http to a Zarr store: tiles a minute, how long the GPU waits, and which blocks are fastest.

    python benchmarks/gpu_tile.py           some minutes on a machine with CUDA, and the page
    python benchmarks/gpu_tile.py --render  the page only, from the results there are

The input is that of `whole_tile.py`, at one date. The job runs on threads of one process, then on a dask cluster of this machine:
one worker that declares the GPU, and others that read and write. Each runs twice, and the second counts: the first loads CUDA.
The idle share of the GPU is one less its utilisation as the driver reports it, ten times a second while the job runs, the
fit included. Blocks are of one chunk in memory with its halo, moved to the GPU and back.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dask.system import CPU_COUNT
from distributed import Client, Nanny, Scheduler, SpecCluster
from run_facts import HERE, commit, looking_on, markdown, stated
from tile_input import TILE, TILE_NAME, Job, jobs, measure_and_render, served, write_input
from whole_tile import METHOD, delete, spent, watch_threads

import s2pipe
from s2pipe.core.pixels import Pixels
from s2pipe.engine.worker import THIS_WORKER

RESULTS = HERE / "results" / "gpu_tile.json"
EDGES = (366, 732, 1098, 1830, 3660)
REPEATS = 3
THREADS = 4
"""Of each worker of the cluster: while one is at the network, others read and write."""


@contextmanager
def watch_gpu() -> Iterator[list[float]]:
    """Shares of time in which the GPU was at work, ten a second, while the block ran."""
    import pynvml

    pynvml.nvmlInit()
    gpu = pynvml.nvmlDeviceGetHandleByIndex(torch.cuda.current_device())
    shares: list[float] = []
    with looking_on(lambda: shares.append(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100), every=0.1):
        yield shares


def timed(job: Job) -> dict[str, Any]:
    """The job on whatever computes now, done twice; of the second time."""
    for _ in range(2):
        shutil.rmtree(job.store, ignore_errors=True)
        start = time.perf_counter()
        with watch_gpu() as busy, watch_threads() as kinds:
            s2pipe.sharpen_to_store(job.cube(), job.store, method=METHOD)
        seconds = time.perf_counter() - start
    delete(Path(job.store))
    return {"wall_s": seconds, **spent(kinds), "gpu_idle": 1 - statistics.mean(busy)}


@contextmanager
def cluster() -> Iterator[None]:
    """One worker that declares the GPU, and as many others as there are cores for."""
    common = {"nthreads": THREADS, "host": "127.0.0.1", "dashboard": False}
    workers: dict[str, Any] = {"gpu": {"cls": Nanny, "options": {**common, "resources": {"GPU": 1}}}}
    for number in range(max(CPU_COUNT // THREADS - 1, 1)):
        workers[f"cpu {number}"] = {"cls": Nanny, "options": {**common, "env": {"CUDA_VISIBLE_DEVICES": ""}}}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False}}
    with SpecCluster(workers=workers, scheduler=scheduler) as found, Client(found) as client:
        client.wait_for_workers(len(workers))
        yield


def blocks(job: Job) -> dict[str, float]:
    """Seconds a megapixel by the edge of a block."""
    sharpener = s2pipe.fit(job.cube(), METHOD)
    random, found = np.random.default_rng(0), {}
    for edge in EDGES:
        sizes = {gsd: (edge + 2 * sharpener.halo) * 10 // gsd for gsd in (10, 20, 60)}
        arrays = {
            gsd: random.random((bands, sizes[gsd], sizes[gsd]), dtype=np.float32) / 2
            for bands, gsd in ((4, 10), (6, 20), (2, 60))
        }
        pixels = Pixels(reflectance=arrays, valid={gsd: np.ones(array.shape, bool) for gsd, array in arrays.items()})
        s2pipe.options.cuda_block = edge, edge
        seconds = []
        for _ in range(1 + REPEATS):
            start = time.perf_counter()
            THIS_WORKER.sharpen(sharpener, pixels, device="cuda", options=s2pipe.options)
            seconds.append(time.perf_counter() - start)
        found[str(edge)] = statistics.median(seconds[1:]) * 1e6 / edge**2
    return found


def run(cache: Path, size: int) -> dict[str, Any]:
    """Measure all there is; the results."""
    folder = cache / f"{size}px"
    items = write_input(folder / "input", size)
    (folder / "work").mkdir(exist_ok=True)
    with served(folder / "input") as address:
        job = dict(jobs(items, address, folder / "work", size))[TILE_NAME]
        threads = timed(job)
        with cluster():
            spread = timed(replace(job, store=f"{job.store}.cluster"))
        return {
            **stated(commit()),
            "megapixels": size**2 / 1e6,
            "threads": threads,
            "cluster": spread,
            "blocks_s_per_megapixel": blocks(job),
        }


def render(result: dict[str, Any]) -> str:
    """The page, in Markdown."""
    tile = result["megapixels"] * 1e6 / TILE**2
    rows = [
        [name, f"{row['wall_s']:.1f}", f"{row['fit_s']:.1f}", f"{60 * tile / row['wall_s']:.1f}", f"{row['gpu_idle']:.0%}"]
        for name, row in (("threads", result["threads"]), ("cluster", result["cluster"]))
    ]
    return "\n".join(
        [
            "# A whole tile on a GPU\n",
            f"Written by `python benchmarks/gpu_tile.py`, whose head says what is measured, on {result['machine']}, "
            f"{result['date']}, commit {result['commit']}: {result['megapixels']:.1f} megapixels, all twelve bands, {METHOD}.\n",
            markdown(["", "s", "of these the fit", "tiles a minute", "GPU idle"], rows),
            "Where the time of the threads goes, of the first:\n",
            markdown([*result["threads"]["shares"]], [[f"{share:.0%}" for share in result["threads"]["shares"].values()]]),
            "Blocks with their halos, in and out of the GPU:\n",
            markdown(
                ["edge in px", "s a megapixel"],
                [[edge, f"{seconds:.4f}"] for edge, seconds in result["blocks_s_per_megapixel"].items()],
            ),
        ]
    )


if __name__ == "__main__":
    measure_and_render(__doc__, run, render, RESULTS)
