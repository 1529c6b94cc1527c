"""A thousand tiles at ten dates, streamed through a cluster with a fake network: what is held at once, what planning costs.

    python benchmarks/many_tiles.py           some 20 minutes on two cores, and the page
    python benchmarks/many_tiles.py --render  the page only, from the results there are

The tiles are small, one chunk a date, and their network repeats pixels, so that all that is left is the driver's and the
scheduler's work, which does not depend on the size of chunks: `s2pipe.sharpen_tiles` fits, plans, submits and finishes each tile,
its lock and ledger included, on a dask cluster in processes of its own. Looked up twice a second are the tasks that the scheduler
holds and the memory of the process that drives. Beside it a real tile is planned: 10980 x 10980 px, all bands, 36 chunks a date,
from its STAC items to the graph of its writes, of which nothing is computed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xarray as xr
from distributed import Client, LocalCluster
from run_facts import HERE, commit, looking_on, markdown, stated

import s2pipe
from s2pipe.simulation.archive import write_scene
from s2pipe.simulation.fakes import FakeMethod, FakeSharpener
from s2pipe.simulation.landscape import simulate_scene
from s2pipe.store.location import locate
from s2pipe.store.zarr_io import plan_writing

RESULTS = HERE / "results" / "many_tiles.json"
TILES, DATES, AT_ONCE = 1000, 10, 4
EDGE = 60
BANDS = ("B02", "B05")
TILE = 10980


SHARPENER = FakeSharpener(bands_in=("B02", "B05", "B01"))


def tile(number: int) -> xr.DataTree:
    """A small cube of all dates."""
    random = np.random.default_rng(number)
    arrays = [
        random.integers(1, 10_000, (DATES, bands, EDGE // ratio, EDGE // ratio), np.uint16)
        for bands, ratio in ((4, 1), (6, 2), (2, 6))
    ]
    times = np.datetime64("2026-01-01", "ns") + np.arange(DATES) * np.timedelta64(5, "D")
    return s2pipe.from_arrays(*arrays, crs="EPSG:32633", transform=(10, 0, 300000, 0, -10, 5000040), time=times, offset=-0.1)


@contextmanager
def watched(client: Client) -> Iterator[list[tuple[float, int, float]]]:
    """Seconds since the start, tasks that the scheduler holds, and gigabytes of this process, while the block runs."""
    seen: list[tuple[float, int, float]] = []
    start, process = time.monotonic(), psutil.Process()

    def look() -> None:
        tasks = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
        seen.append((time.monotonic() - start, tasks, process.memory_info().rss / 1e9))

    with looking_on(look, every=0.5):
        yield seen


def stream(tiles: int, store: Path) -> dict[str, Any]:
    """Sharpen the tiles on a cluster; what was observed."""
    cubes = {f"tile{number:04d}": partial(tile, number) for number in range(tiles)}
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
        watched(client) as seen,
    ):
        s2pipe.sharpen_tiles(cubes, store, at_once=AT_ONCE, method=FakeMethod(SHARPENER), bands=BANDS)
    complete = sum(s2pipe.open_zarr(store, group=name).sizes["time"] == DATES for name in cubes)
    tenth = len(seen) // 10
    return {
        "tiles": tiles,
        "dates": DATES,
        "at_once": AT_ONCE,
        "complete": complete,
        "wall_s": seen[-1][0],
        "most_tasks_held": max(tasks for _, tasks, _ in seen),
        "memory_gb_early": max(memory for _, _, memory in seen[tenth : 2 * tenth]),
        "memory_gb_late": max(memory for _, _, memory in seen[-tenth:]),
    }


def plan(folder: Path) -> dict[str, float]:
    """What it costs to plan a real tile of as many dates."""
    scene = simulate_scene(EDGE)
    for date in range(DATES):
        write_scene(scene, folder / "items", datetime=f"2026-06-{1 + date:02d}T10:00:31Z")
    found = json.loads((folder / "items" / "items.json").read_text())["features"]
    for item in found:  # as if the files were as large as a tile's
        for asset in item["assets"].values():
            asset["proj:shape"] = [TILE * 10 // asset["gsd"]] * 2
    start = time.perf_counter()
    cube = s2pipe.load(found)
    sharpened = s2pipe.sharpen(cube, SHARPENER, bands=BANDS)
    location = locate(folder / "planned.zarr", None)
    planned = plan_writing(sharpened, location, overwrite=False, resume=False, refit=False, shards=True)
    seconds = time.perf_counter() - start
    return {
        "plan_s_a_date": seconds / DATES,
        "chunks": planned.total,
        "tasks_a_chunk": len(dict(planned.work().dask)) / planned.total,
    }


def render(result: dict[str, Any]) -> str:
    """The page, in Markdown."""
    streamed, planned = result["streamed"], result["planned"]
    rows = [
        ["tiles complete, each with its dates", f"{streamed['complete']} x {streamed['dates']}"],
        ["at work at once", f"{streamed['at_once']}"],
        ["seconds a tile", f"{streamed['wall_s'] / streamed['tiles']:.2f}"],
        ["most tasks that the scheduler held", f"{streamed['most_tasks_held']}"],
        ["GB of the driving process, in the second tenth", f"{streamed['memory_gb_early']:.2f}"],
        ["and in the last", f"{streamed['memory_gb_late']:.2f}"],
        ["a real tile: seconds to plan a date", f"{planned['plan_s_a_date']:.2f}"],
        ["tasks a chunk", f"{planned['tasks_a_chunk']:.0f}"],
    ]
    return "\n".join(
        [
            "# A thousand tiles\n",
            f"Written by `python benchmarks/many_tiles.py`, whose head says what is measured, on {result['machine']}, "
            f"{result['date']}, commit {result['commit']}.\n",
            markdown(["", ""], rows),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--render", action="store_true", help="only render the results there are")
    parser.add_argument("--tiles", type=int, default=TILES)
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to write; the page lies beside it")
    options = parser.parse_args(arguments)
    if not options.render:
        with tempfile.TemporaryDirectory() as folder:
            result = {
                **stated(commit()),
                "planned": plan(Path(folder)),
                "streamed": stream(options.tiles, Path(folder) / "tiles.zarr"),
            }
        options.results.write_text(json.dumps(result, indent=1) + "\n")
    page = render(json.loads(options.results.read_text()))
    options.results.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
