"""How fast each method sharpens, and in how much memory: all bands of a chunk, and the 20 m bands of a whole tile.

    python benchmarks/methods_speed.py             every method, each in a process of its own, then the tiles, and the page
    python benchmarks/methods_speed.py --only glp  these methods, printed
    python benchmarks/methods_speed.py --render    the page only, from the results there are

A chunk is 1830 x 1830 px at 10 m with its halo, 366 x 366 px for the methods that solve for the whole image or hold a large
network. It goes through the worker as in a job, which cuts it into blocks; its figure is the median of three. The copy is that of
the chunk's own arrays, in and out, in memory. Memory is the largest that the process held above what it held before, the arrays
of the chunk included. A tile is 10980 x 10980 px; its chunks are made when they are needed and its results thrown away, so that
only the computing is timed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import psutil
from run_facts import HERE, commit, looking_on, markdown, stated

import s2pipe
from s2pipe.core.bands import BANDS_BY_GSD, bands_at
from s2pipe.core.pixels import Pixels
from s2pipe.engine.worker import THIS_WORKER
from s2pipe.methods import METHODS, Sharpener
from s2pipe.simulation.landscape import simulate_scene

RESULTS = HERE / "results" / "methods_speed.json"
PAGE = RESULTS.with_suffix(".md")

LARGE, SMALL = 1830, 366
SMALL_CHUNKS = ("supreme", "s2sharp", "ssss", "ssc-cnn", "resnet", "s2sucnn")
SCENE = 756
"""Edge of the simulated scene that methods are fitted on, and chunks are made of."""
TILE = 10980
TILES = ("glp", "atprk")
REPEATS = 3


@dataclass
class Peak:
    """Bytes that a process held above what it held before."""

    held: int = 0


@contextmanager
def watch_memory(every: float = 0.002) -> Iterator[Peak]:
    """Look at this process until the block ends."""
    process, peak = psutil.Process(), Peak()
    before = process.memory_info().rss

    def look() -> None:
        peak.held = max(peak.held, process.memory_info().rss - before)

    with looking_on(look, every=every):
        yield peak


def fitted(name: str, *, coarsest: int = 60) -> tuple[Sharpener, float]:
    """On the simulated scene; networks are trained for one step only, which makes them no slower."""
    scene = simulate_scene(SCENE, seed=0)
    cube = s2pipe.from_arrays(scene.r10m, scene.r20m, scene.r60m if coarsest == 60 else None, offset=-0.1)
    options = {"steps": 1} if METHODS[name].trained else {}
    start = time.perf_counter()
    sharpener = s2pipe.fit(cube, name, progress=lambda *_: None, **options)
    return sharpener, time.perf_counter() - start


def chunk(edge: int, halo: int) -> list[np.ndarray]:
    """Reflectance of all bands, (band, y, x), with a halo: the simulated scene, mirrored as often as it takes."""
    scene = simulate_scene(SCENE, seed=0)
    arrays = []
    for ratio, array in ((1, scene.r10m), (2, scene.r20m), (6, scene.r60m)):
        size = (edge + 2 * halo) // ratio
        reflectance = array.astype(np.float32) * np.float32(1e-4) - np.float32(0.1)
        widths = [(0, 0), *[(0, max(size - n, 0)) for n in reflectance.shape[1:]]]
        arrays.append(np.ascontiguousarray(np.pad(reflectance, widths, mode="symmetric")[:, :size, :size]))
    return arrays


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def all_valid(reflectance: dict[int, np.ndarray]) -> Pixels:
    """Pixels without nodata."""
    return Pixels(reflectance=reflectance, valid={gsd: np.ones(array.shape, bool) for gsd, array in reflectance.items()})


def measure(name: str) -> dict[str, Any]:
    """One method on one chunk."""
    edge = SMALL if name in SMALL_CHUNKS else LARGE
    sharpener, fit_seconds = fitted(name)
    arrays = chunk(edge, sharpener.halo)
    inputs = {10: arrays[0]} | {
        gsd: array[[BANDS_BY_GSD[gsd].index(band) for band in used]]
        for gsd, array in zip((10, 20, 60), arrays, strict=True)
        if (used := bands_at(sharpener.bands_in, gsd))
    }
    pixels = all_valid(inputs)

    def sharpen() -> Any:
        return THIS_WORKER.sharpen(sharpener, pixels, device="cpu", options=s2pipe.options)

    sharpen()  # what is made once for a shape is made
    with watch_memory() as peak:
        result = sharpen()
    seconds = [timed(sharpen) for _ in range(REPEATS)]
    held = [*inputs.values(), result]
    copies = [timed(lambda: [array.copy() for array in held]) for _ in range(2 * REPEATS + 1)]
    megapixels = edge**2 / 1e6
    return {
        "method": name,
        "edge": edge,
        "halo": sharpener.halo,
        "fit_s": fit_seconds,
        "s_per_megapixel": statistics.median(seconds) / megapixels,
        "times_a_copy": statistics.median(seconds) / statistics.median(copies),
        "memory_mb": (peak.held + sum(array.nbytes for array in held)) / 1e6,
    }


class Nowhere:
    """Takes what is stored, and keeps none of it."""

    def __setitem__(self, key: Any, value: np.ndarray) -> None:
        """Drop it."""


def measure_tile(name: str) -> dict[str, Any]:
    """The 20 m bands of a whole tile, from chunks that are made when needed."""
    sharpener, _ = fitted(name, coarsest=20)
    scene = simulate_scene(SCENE, seed=0)

    def tiled(array: np.ndarray, ratio: int) -> da.Array:
        edge = LARGE // ratio
        numbers = np.pad(array, [(0, 0), *[(0, max(edge - n, 0)) for n in array.shape[1:]]], mode="symmetric")[:, :edge, :edge]
        count, size = len(array), TILE // ratio
        return da.map_blocks(
            lambda block_info=None: numbers[None], chunks=((1,), (count,), (edge,) * (size // edge), (edge,) * (size // edge)),
            dtype=array.dtype, meta=np.empty((0, 0, 0, 0), array.dtype),
        )  # fmt: skip

    cube = s2pipe.from_arrays(tiled(scene.r10m, 1), tiled(scene.r20m, 2), offset=-0.1)
    lazy = s2pipe.sharpen(cube, sharpener, bands=BANDS_BY_GSD[20])
    with watch_memory() as peak:
        seconds = timed(lambda: da.store(lazy.data, Nowhere(), lock=False))
    return {"method": name, "seconds": seconds, "memory_mb": peak.held / 1e6}


def in_a_process(work: Callable[[str], dict[str, Any]], name: str) -> dict[str, Any]:
    """Run by itself, so that neither memory nor caches of others matter."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result = pool.apply(work, (name,))
    print(result, flush=True)
    return result


def render(result: dict[str, Any]) -> str:
    """The page, in Markdown."""
    rows = [
        [
            row["method"], f"{row['edge']}", f"{row['halo']}", f"{row['fit_s']:.1f}", f"{row['s_per_megapixel']:.2f}",
            f"{row['times_a_copy']:.0f}", f"{row['memory_mb']:.0f}",
        ]
        for row in result["chunks"]
    ]  # fmt: skip
    tiles = [[row["method"], f"{row['seconds']:.0f}", f"{row['memory_mb']:.0f}"] for row in result["tiles"]]
    made = f"on {result['machine']}, {result['date']}, commit {result['commit']}"
    parts = [
        "# The speed of the methods\n",
        f"Written by `python benchmarks/methods_speed.py` {made}; its head says what is measured. Networks were trained for one "
        "step, and `dsen2` needs weights that are not here.\n",
        "## A chunk, all bands\n",
        markdown(["method", "edge, px", "halo, px", "fit, s", "s a megapixel", "times a copy", "memory, MB"], rows),
        f"## The 20 m bands of a tile of {TILE} x {TILE} px\n",
        markdown(["method", "seconds", "memory, MB"], tiles),
    ]
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="only these, and write nothing")
    parser.add_argument("--render", action="store_true", help="only render the results there are")
    options = parser.parse_args(arguments)
    if not options.render:
        started = commit()
        names = options.only or [name for name in METHODS if name != "dsen2"]
        chunks = [in_a_process(measure, name) for name in names]
        tiles = [in_a_process(measure_tile, name) for name in TILES if name in names]
        if options.only:
            return
        RESULTS.write_text(json.dumps(stated(started) | {"chunks": chunks, "tiles": tiles}, indent=1) + "\n")
    PAGE.write_text(render(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
