"""What the halo of the default method costs at four chunk sizes, by either way to get one: reading it again, or from neighbours.

    python benchmarks/halo_costs.py           some 10 minutes on two cores, once there is the input of whole_tile.py, and the page
    python benchmarks/halo_costs.py --render  the page only, from the results there are

- Reading again: each chunk reads its own window of every band, halo included, over http; beside it a read without halos.
- Moving, which s2pipe does: each chunk is read once, and tasks hand the rims of their chunks to one another, on a dask cluster of
  two processes; beside it the same without halos. The network is a fake one, which repeats pixels.

Both are done on a quarter of the tile of `whole_tile.py`, or as much of it as whole chunks cover; figures are a megapixel's.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import rasterio
from distributed import Client, LocalCluster
from rasterio.windows import Window
from run_facts import HERE, commit, markdown, stated
from tile_input import CACHE, TILE, TILE_NAME, Job, jobs, served, write_input
from whole_tile import METHOD

import s2pipe
from s2pipe.core.bands import BANDS, BANDS_BY_GSD
from s2pipe.inputs.reading import GDAL_OPTIONS
from s2pipe.methods import get_method
from s2pipe.physics.sensor import Sensor
from s2pipe.simulation.fakes import FakeSharpener

RESULTS = HERE / "results" / "halo_costs.json"
EDGES = (366, 732, 1098, 1830)
HALO = get_method(METHOD).halo((10, 20, 60), Sensor())


def repeating(halo: int) -> FakeSharpener:
    """Repeats the pixels of all coarse bands."""
    return FakeSharpener(bands_in=tuple(BANDS), bands_out=(*BANDS_BY_GSD[20], *BANDS_BY_GSD[60]), halo=halo)


def covered(edge: int) -> int:
    """Edge of what whole chunks cover of a quarter of the tile."""
    return TILE // 2 // edge * edge


def seconds_to_read(job: Job, edge: int, around: int) -> float:
    """Of all chunks of every band, with `around` 10 m pixels on every side that has a neighbour in the tile, by two threads."""
    starts, windows = range(0, covered(edge), edge), []
    for asset in job.items[0]["assets"].values():
        ratio = asset["gsd"] // 10
        spans = [(max(start - around, 0) // ratio, min(start + edge + around, TILE) // ratio) for start in starts]
        windows += [(asset["href"], Window.from_slices(rows, columns)) for rows in spans for columns in spans]

    def read(href: str, window: Window) -> None:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(href, sharing=False) as file:
            file.read(1, window=window)

    start = time.perf_counter()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(read, *zip(*windows, strict=True)))
    return time.perf_counter() - start


def moved(job: Job, edge: int, halo: int, client: Client) -> tuple[float, float]:
    """Seconds to sharpen by the fake network, and megabytes that went from process to process meanwhile."""
    cube = replace(job, size=covered(edge), chunk=edge).cube()
    lazy = s2pipe.sharpen(cube, repeating(halo))
    before = _received(client)
    start = time.perf_counter()
    lazy.data.max().compute()
    return time.perf_counter() - start, (_received(client) - before) / 1e6


def _received(client: Client) -> float:
    """Bytes that workers got from one another so far."""
    return float(sum(client.run(lambda dask_worker: sum(part["total"] for part in dask_worker.transfer_incoming_log)).values()))


def run(cache: Path) -> dict[str, Any]:
    """Measure all there is; the results."""
    folder = cache / f"{TILE}px"
    items = write_input(folder / "input", TILE)
    results: dict[str, Any] = {}
    with (
        served(folder / "input") as address,
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1") as cluster,
        Client(cluster) as client,
    ):
        job = dict(jobs(items, address, folder, TILE))[TILE_NAME]
        for edge in EDGES:
            megapixels = covered(edge) ** 2 / 1e6
            found = {
                "read_s": seconds_to_read(job, edge, 0),
                "read_with_halo_s": seconds_to_read(job, edge, 2 * HALO),
            }
            for name, halo in (("without_halo", 0), ("moving", HALO)):
                found[f"{name}_s"], found[f"{name}_mb"] = moved(job, edge, halo, client)
            results[str(edge)] = {name: value / megapixels for name, value in found.items()} | {
                "work": (1 + 2 * HALO / edge) ** 2
            }
    return {**stated(commit()), "halo": HALO, "edges": results}


def render(result: dict[str, Any]) -> str:
    """The page, in Markdown."""
    rows = [
        [
            edge,
            *(f"{found[name]:.3f}" for name in ("read_s", "read_with_halo_s", "without_halo_s", "moving_s")),
            f"{found['moving_mb'] - found['without_halo_mb']:.1f}",
            f"{found['work']:.2f}",
        ]
        for edge, found in result["edges"].items()
    ]
    heads = ["chunk in px", "read", "read with halos", "job without halos", "job with halos moved", "MB moved for them"]
    return "\n".join(
        [
            "# What halos cost\n",
            f"Written by `python benchmarks/halo_costs.py`, whose head says what is measured, on {result['machine']}, "
            f"{result['date']}, commit {result['commit']}. The halo of {METHOD} is {result['halo']} px; a chunk gets "
            "twice as much of its neighbours, to fill nodata in its halo from. Seconds and megabytes a megapixel; the last "
            "column is what the network computes for each pixel that is kept, if a chunk is one block.\n",
            markdown([*heads, "pixels computed"], rows),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--render", action="store_true", help="only render the results there are")
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args(arguments)
    if not options.render:
        RESULTS.write_text(json.dumps(run(options.cache), indent=1) + "\n")
    page = render(json.loads(RESULTS.read_text()))
    RESULTS.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
