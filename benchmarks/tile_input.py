"""The input of the benchmarks of a whole tile: a real crop made as large as one, as COGs on a server, and parts of it as jobs."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pystac
import xarray as xr
from RangeHTTPServer import RangeRequestHandler
from run_facts import load_scene

import s2pipe
from s2pipe.simulation.archive import write_scene
from s2pipe.simulation.landscape import enlarge_scene

CACHE = Path.home() / ".cache" / "s2pipe" / "whole_tile"
CROP = "T48QUE"
TILE = 10980
DATES = ("2026-06-21T10:00:31Z", "2026-06-26T10:00:31Z", "2026-07-01T10:00:31Z")
CHUNKS_A_SIDE = 6
PARTS = {"1/9": 3, "1/4": 2, "1": 1}
"""Of the tile, and what its side is divided by."""
TILE_NAME = "1 tile, 1 date"


def write_input(folder: Path, size: int) -> Path:
    """The STAC items of the scenes, which are written if they are not there."""
    items, complete = folder / "items.json", folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        for seed, date in enumerate(DATES):
            print(f"writing the scene of {date[:10]}", file=sys.stderr)
            write_scene(
                enlarge_scene(load_scene(CROP), size, seed=seed), folder, datetime=date, tile="48QUE", origin=(300000, 2000040)
            )
        complete.touch()
    return items


def end_with_parent() -> None:
    """End this process when the one that started it is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


class _Handler(RangeRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _serve(folder: Path, port: Any) -> None:
    end_with_parent()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    port.value = server.server_port
    server.serve_forever()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address of a server that gives out the folder."""
    context = multiprocessing.get_context("spawn")
    port = context.Value("i", 0)
    server = context.Process(target=_serve, args=(folder, port), daemon=True)
    server.start()
    try:
        while not port.value:
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port.value}"
    finally:
        server.terminate()
        server.join()


@dataclass(frozen=True, kw_only=True)
class Job:
    """A part of the tile, at some dates.

    Attributes
    ----------
    items : list of dict
        STAC items of the dates.
    size : int
        Of the part, edge in 10 m pixels.
    chunk : int
    store : str
        Where to write.
    """

    items: list[dict[str, Any]]
    size: int
    chunk: int
    store: str

    def cube(self) -> xr.DataTree:
        """The part, lazily."""
        cube = s2pipe.load([pystac.Item.from_dict(item) for item in self.items], chunks=self.chunk)
        parts = {}
        for name, node in cube.children.items():
            edge = self.size * 10 // int(name[1:3])
            parts[name] = node.to_dataset().isel(y=slice(edge), x=slice(edge))
        return xr.DataTree.from_dict(parts)


def served_items(items: Path, address: str) -> list[dict[str, Any]]:
    """STAC items, by date, whose files the server at `address` gives out."""
    described = [item.to_dict() for item in pystac.ItemCollection.from_file(str(items))]
    for item in described:
        for asset in item["assets"].values():
            asset["href"] = f"{address}/{Path(asset['href']).relative_to(items.parent)}"
    return sorted(described, key=lambda item: item["properties"]["datetime"])


def jobs(items: Path, address: str, work: Path, size: int) -> Iterator[tuple[str, Job]]:
    """The jobs to do and their names."""
    described = served_items(items, address)
    for count in (1, len(DATES)):
        for share, divisor in PARTS.items():
            store = str(work / f"{size // divisor}px{count}.zarr")
            job = Job(items=described[:count], size=size // divisor, chunk=size // CHUNKS_A_SIDE, store=store)
            yield f"{share} tile, {count} date{'s' * (count > 1)}", job


def measure_and_render(
    doc: str, run: Callable[[Path, int], dict[str, Any]], render: Callable[[dict[str, Any]], str], results: Path
) -> None:
    """The command line of a benchmark: measure in the cache folder a tile of some size, and write the results and their page."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--render", action="store_true", help="only render the results there are")
    parser.add_argument("--size", type=int, default=TILE, help="edge of the tile in 10 m pixels, a multiple of 36")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--results", type=Path, default=results, help="file to write; the page lies beside it")
    options = parser.parse_args()
    if not options.render:
        options.results.write_text(json.dumps(run(options.cache, options.size), indent=1) + "\n")
    page = render(json.loads(options.results.read_text()))
    options.results.with_suffix(".md").write_text(page)
    print(page)
