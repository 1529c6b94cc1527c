"""A whole tile, COGs over http to a Zarr store by the default method: how long it takes, in how much memory, and on what.

    python benchmarks/whole_tile.py           some 60 minutes on two cores the first time, and the page
    python benchmarks/whole_tile.py --render  the page only, from the results there are

The input, a real crop made as large as a tile at three dates, is written once for each machine, into --cache; a server of its own
process gives it out. Measured are, one after another and each in a process of its own:

- the network alone: the fitted method on one chunk in memory with its halo, as often as the tile has chunks;
- the copy alone: the tile's bands as they are, from http to Zarr;
- the job, `s2pipe.sharpen_to_store`, of a ninth, a quarter and all of the tile, at one date and at three.

Machines are not equally fast all the time, so this is done in three rounds: in each a third of the network alone, and every job
but the longest, which lasts as long as all others and is done in the second. Of a job that was done three times the one of median
time counts.

The real crop is one of the data that the tests use, see S2PIPE_DATA in CONTRIBUTING.md.

Memory is the largest sum of the resident memory of all these processes, the server and this one included, in any round. Where the
time goes is looked up twenty times a second, in all threads that work for dask.

Killed and started again, it resumes: what was measured stays, and the store that was being written is completed. Then the job
is measured anew, and both stores must be equal.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
import shutil
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import psutil
import xarray as xr
from dask.system import CPU_COUNT
from run_facts import HERE, commit, looking_on, markdown, stated
from tile_input import TILE, TILE_NAME, Job, end_with_parent, jobs, measure_and_render, served, write_input

import s2pipe
from s2pipe.core.pixels import Pixels
from s2pipe.engine.worker import THIS_WORKER
from s2pipe.inputs.dataarray import as_cube

RESULTS = HERE / "results" / "whole_tile.json"

METHOD = "mtf-resnet"
TARGET = 1.25
"""Times the network and the copy alone, that the job may take."""
ROUNDS = 3
"""An odd number, by which that of a tile's chunks can be divided."""


# What is measured, in processes of their own


def network_alone(job: Job) -> dict[str, float]:
    """Seconds that the method, fitted on the job's cube, takes for its share of the chunks that this has, by round."""
    cube = as_cube(job.cube())
    sharpener = s2pipe.fit(cube.to_tree(), METHOD)
    padded = {}
    for gsd, array in cube.arrays.items():
        edge, width = job.chunk * 10 // gsd, sharpener.halo * 10 // gsd
        chunk = cube.encoding.decode(array.isel(time=0, y=slice(edge), x=slice(edge)).values)
        padded[gsd] = np.pad(np.nan_to_num(chunk), [(0, 0), (width, width), (width, width)], mode="symmetric")
    pixels = Pixels(reflectance=padded, valid={gsd: np.ones(array.shape, bool) for gsd, array in padded.items()})

    def sharpen(_: int) -> None:
        THIS_WORKER.sharpen(sharpener, pixels, device="auto", options=s2pipe.options)

    with ThreadPoolExecutor(CPU_COUNT) as threads:  # as the job does
        list(threads.map(sharpen, range(CPU_COUNT)))
        start = time.perf_counter()
        list(threads.map(sharpen, range((job.size // job.chunk) ** 2 // rounds_of(job.size))))
        return {"wall_s": time.perf_counter() - start}


def copy_alone(job: Job) -> dict[str, float]:
    """Seconds to write the job's cube as it is."""
    start = time.perf_counter()
    s2pipe.to_zarr(job.cube(), job.store, overwrite=True)
    return {"wall_s": time.perf_counter() - start}


def sharpened(job: Job) -> dict[str, Any]:
    """Do the job, or what is left of it; how long that took, and the share of the time for each kind of work."""
    start = time.perf_counter()
    with watch_threads() as kinds:
        s2pipe.sharpen_to_store(job.cube(), job.store, method=METHOD)
    seconds = time.perf_counter() - start
    return {"wall_s": seconds, **spent(kinds)}


def digest(store: str) -> str:
    """Of all pixels of a result."""
    found = hashlib.sha256()
    result = s2pipe.open_zarr(store)
    assert isinstance(result, xr.DataArray)
    for block in result.data.to_delayed().ravel():
        found.update(block.compute().tobytes())
    return found.hexdigest()


LOOKS_A_SECOND = 20

KINDS = (
    ("fit", "s2pipe/engine/fit.py", "fit_cube"),
    ("read", "s2pipe/inputs/reading.py", "read_window"),
    ("network", "s2pipe/engine/worker.py", "_sharpen_blocks"),
    ("wait for the network", "s2pipe/engine/worker.py", "_sharpen_on"),
    ("halo, fill, encode", "s2pipe/engine/halo.py", "_sharpen_chunk"),
    ("write", "s2pipe/store/writer.py", "write_chunk"),
    ("halo, fill, encode", "dask/local.py", "execute_task"),
    ("idle", "concurrent/futures/thread.py", "_worker"),
    ("wait for tasks", "dask/local.py", "queue_get"),
    ("scheduler", "dask/local.py", "get_async"),
)
"""What a thread is at that runs this function of this file; the first that fits counts."""


@contextmanager
def watch_threads() -> Iterator[Counter[str]]:
    """How often a thread was seen at each kind of work while the block ran: dask's, and the one that schedules."""
    seen: Counter[str] = Counter()
    main = threading.get_ident()

    def look() -> None:
        frames = sys._current_frames()
        scheduling = _kind(frames[main])
        seen[scheduling] += 1
        if scheduling != "fit":
            seen.update(_kind(frames[thread]) for thread in _newest_pool() if thread in frames)
        frames.clear()  # its own frame is among them, and a cycle would keep all of them, and the arrays they hold, alive

    with looking_on(look, every=1 / LOOKS_A_SECOND):
        yield seen
    del seen["wait for tasks"]  # the scheduling thread costs nothing then


def spent(kinds: Counter[str]) -> dict[str, Any]:
    """Seconds of the fit, and the shares of each kind of work in the rest of the time."""
    fit = kinds.pop("fit", 0) / LOOKS_A_SECOND
    return {"fit_s": fit, "shares": {kind: count / kinds.total() for kind, count in kinds.most_common()}}


def _newest_pool() -> list[int | None]:
    """The threads of the pool that was made last: dask's own, which read for the fit, is idle since."""
    pools: dict[int, list[int | None]] = {}
    for thread in threading.enumerate():
        if found := re.match(r"ThreadPoolExecutor-(\d+)_", thread.name):
            pools.setdefault(int(found[1]), []).append(thread.ident)
    return pools[max(pools)] if pools else []


def _kind(frame: FrameType | None) -> str:
    """The kind of work that a stack shows."""
    stack = []
    while frame is not None:
        stack.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    return next((kind for kind, file, function in KINDS if any(f.endswith(file) and n == function for f, n in stack)), "rest")


def measured(work: Callable[[Job], dict[str, Any]], job: Job) -> dict[str, Any]:
    """What the work returns that it did in a process of its own, and the most memory that all processes had in gigabytes."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_send_result, args=(theirs, work, job), daemon=True)
    process.start()
    theirs.close()
    peak, swapped = 0, psutil.swap_memory().sout
    while not ours.poll(0.2):
        peak = max(peak, _resident())
    result: dict[str, Any] = ours.recv()
    process.join()
    return {**result, "peak_rss_gb": peak / 1e9, "swapped_out_gb": (psutil.swap_memory().sout - swapped) / 1e9}


def _send_result(pipe: Connection, work: Callable[[Job], dict[str, Any]], job: Job) -> None:
    end_with_parent()
    pipe.send(work(job))


def _resident() -> int:
    """Bytes in memory of this process and all it has started."""
    found = 0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            found += process.memory_info().rss
    return found


# The benchmark


@dataclass
class Record:
    """What was measured so far, which outlives an end in between."""

    file: Path
    results: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def opened(cls, file: Path, **made: str) -> Record:
        """That of the same machine and commit; else an empty one, and the folder of it emptied."""
        if file.exists():
            results = json.loads(file.read_text())
            if all(results.get(name) == value for name, value in made.items()):
                return cls(file, results)
        shutil.rmtree(file.parent, ignore_errors=True)
        file.parent.mkdir(parents=True)
        record = cls(file)
        for name, value in made.items():
            record.keep(name, value)
        return record

    def keep(self, name: str, result: Any) -> None:
        """Enter a result."""
        self.results[name] = result
        # in one step, so that an end in between leaves the old one
        written = self.file.with_suffix(".new")
        written.write_text(json.dumps(self.results, indent=1))
        written.replace(self.file)


def measure(record: Record, name: str, work: Callable[[Job], dict[str, Any]], job: Job) -> None:
    """Measure it, unless the record has it."""
    if name not in record.results:
        print(name, file=sys.stderr)
        record.keep(name, measured(work, job))


def measure_job(record: Record, name: str, job: Job) -> None:
    """Measure a job. What an interrupted one left is resumed before, and must become what the measured one writes."""
    if name in record.results:
        return
    store, resumed = Path(job.store), f"{name}, resumed"
    if store.exists():
        print(resumed, file=sys.stderr)
        measured(sharpened, job)
        record.keep(resumed, digest(job.store))
        delete(store)
    print(name, file=sys.stderr)
    result = measured(sharpened, job)
    found = digest(job.store)
    if record.results.get(resumed, found) != found:
        raise SystemExit(f"{name}: what was resumed after an interruption is not what an undisturbed job writes")
    record.keep(name, {**result, "sha256": found})
    delete(store)


def delete(store: Path) -> None:
    """Delete a store; what an interruption leaves of it does not look like one."""
    trash = store.with_suffix(".deleted")
    shutil.rmtree(trash, ignore_errors=True)
    store.rename(trash)
    shutil.rmtree(trash)


def run(cache: Path, size: int) -> dict[str, Any]:
    """Measure all there is, in the cache folder; the results."""
    folder = cache / f"{size}px"
    items = write_input(folder / "input", size)
    made = stated(commit())
    record = Record.opened(folder / "work" / "measured.json", machine=made["machine"], commit=made["commit"])
    with served(folder / "input") as address:
        planned = dict(jobs(items, address, folder / "work", size))
        longest = list(planned)[-1]
        measure(record, "copy", copy_alone, replace(planned[TILE_NAME], store=str(folder / "work" / "copy.zarr")))
        rounds = rounds_of(size)
        for number in range(rounds):
            measure(record, f"network, {_round(number)}", network_alone, planned[TILE_NAME])
            for name, job in planned.items():
                if name != longest or number == rounds // 2:
                    measure_job(record, f"{name}, {_round(number)}", job)
    found = record.results
    rows = {
        name: {"share": (job.size / size) ** 2, "dates": len(job.items), **summary([*done_of(found, name)])}
        for name, job in planned.items()
    }
    # without its record, what an end from here on leaves of the copy is deleted by the next
    record.file.unlink()
    delete(folder / "work" / "copy.zarr")
    return {
        **made,
        "method": METHOD,
        "megapixels": size**2 / 1e6,
        "network_s": sum(done["wall_s"] for done in done_of(found, "network")),
        "copy_s": found["copy"]["wall_s"],
        **{key: rows[TILE_NAME][key] for key in ("wall_s", "fit_s", "peak_rss_gb", "swapped_out_gb", "shares", "sha256")},
        "jobs": rows,
    }


def rounds_of(size: int) -> int:
    """Of the measurements of a tile; one that is smaller than a real one is measured once."""
    return ROUNDS if size == TILE else 1


def _round(number: int) -> str:
    return f"round {number + 1}"


def done_of(found: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """What was measured of it, by round."""
    return (found[key] for number in range(ROUNDS) if (key := f"{name}, {_round(number)}") in found)


def summary(done: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of a job that was done some times: the one whose time, but for the fit, is the median, and the most memory of any."""
    if len({result["sha256"] for result in done}) > 1:
        raise SystemExit("the same job wrote different pixels in different rounds")
    times = [_sharpening_s(result) for result in done]
    return {
        **done[times.index(statistics.median(times))],
        "peak_rss_gb": max(result["peak_rss_gb"] for result in done),
        "swapped_out_gb": max(result["swapped_out_gb"] for result in done),
        "sharpening_s": times,
    }


def _sharpening_s(result: Mapping[str, Any]) -> float:
    """Seconds of a job without its fit."""
    seconds: float = result["wall_s"] - result["fit_s"]
    return seconds


def render(result: dict[str, Any]) -> str:
    """The page, in Markdown."""
    alone = result["network_s"] + result["copy_s"]
    rows = [
        [
            name,
            f"{job['wall_s']:.0f}",
            f"{job['fit_s']:.1f}",
            f"{_sharpening_s(job) / (job['share'] * job['dates'] * _sharpening_s(result)):.2f}",
            f"{job['peak_rss_gb']:.1f}",
        ]
        for name, job in result["jobs"].items()
    ]
    return "\n".join(
        [
            "# A whole tile\n",
            f"Written by `python benchmarks/whole_tile.py`, whose head says what is measured, on {result['machine']}, "
            f"{result['date']}, commit {result['commit']}: {result['megapixels']:.1f} megapixels, all twelve bands, "
            f"{result['method']}.\n",
            f"The network alone takes {result['network_s']:.0f} s, the copy alone {result['copy_s']:.0f} s, the job "
            f"**{result['wall_s']:.0f} s**: {result['wall_s'] / alone:.2f} times their sum (at most {TARGET}), in "
            f"{result['peak_rss_gb']:.1f} GB of all processes.\n",
            "Where the time of the threads goes that sharpen, once the method is fitted:\n",
            markdown([*result["shares"]], [[f"{share:.0%}" for share in result["shares"].values()]]),
            "The job of parts of the tile, the median of three times, but for three dates of all of it; the time of each without "
            "the fit, beside what it would be in proportion to the tile at one date:\n",
            markdown(["", "s", "of these the fit", "the rest, in proportion", "GB"], rows),
            f"SHA-256 of the pixels of the tile: `{result['sha256']}`.\n",
        ]
    )


if __name__ == "__main__":
    measure_and_render(__doc__, run, render, RESULTS)
