"""What the workflows that sharpen share: their options, the search, and the loop over the tiles it finds."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pystac

import s2pipe
from s2pipe.core.errors import InputError, S2PipeError, redact
from s2pipe.inputs.search import signer_of


def options_of(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalog", required=True, help="as of s2pipe sharpen")
    parser.add_argument("--bbox", type=float, nargs=4, metavar=("WEST", "SOUTH", "EAST", "NORTH"), help="in degrees")
    parser.add_argument("--datetime", required=True, help="a day, a month, or an interval, 2024-07-01/2024-07-31")
    parser.add_argument("--out", required=True, help="Zarr store: a path or an fsspec URL")
    parser.add_argument("--method", default="mtf-resnet")
    parser.add_argument("--max-cloud-cover", type=float, default=20, help="in percent")
    parser.add_argument("--chunks", type=int, default=1830, help="edge in 10 m pixels, a multiple of 6")
    return parser


def add_tls(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tls-ca-file", help="PEM file of the authority; what is left out is taken from dask's configuration")
    parser.add_argument("--tls-cert", help="PEM file of the certificate")
    parser.add_argument("--tls-key", help="PEM file of its key")


def find_tiles(options: argparse.Namespace) -> dict[str, pystac.ItemCollection]:
    items = s2pipe.search(options.catalog, bbox=options.bbox, datetime=options.datetime, max_cloud_cover=options.max_cloud_cover)
    return s2pipe.group_items(items)


def sharpen_tiles(tiles: dict[str, pystac.ItemCollection], options: argparse.Namespace) -> None:
    """Sharpen each tile into a group of its own, on the current dask cluster, or on threads where there is none."""
    load = partial(s2pipe.load, bbox=options.bbox, chunks=options.chunks, sign=signer_of(options.catalog))
    cubes = {tile: partial(load, items) for tile, items in tiles.items()}
    s2pipe.sharpen_tiles(cubes, options.out, method=options.method)
    for tile, items in tiles.items():
        print(f"{tile}: {len(items)} dates in {redact(options.out)}")


@contextmanager
def clean_exit(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Turn s2pipe's own errors into one line on stderr and an exit code: 2 for bad input, 1 for the rest."""
    try:
        yield
    except KeyboardInterrupt:
        parser.exit(130, "interrupted\n")
    except S2PipeError as error:
        parser.exit(2 if isinstance(error, InputError) else 1, f"error: {error}\n")
