"""Sharpen what a search finds on a Dask cluster, one Zarr group for each MGRS tile.

    python workflows/sharpen_on_cluster.py --catalog earth-search --bbox 11.4 47.2 11.6 47.3 \
        --datetime 2024-07-01/2024-07-31 --out s3://bucket/alps.zarr --scheduler tcp://scheduler:8786

Without --scheduler it starts a cluster on this machine. Every worker must have s2pipe installed and see the store. Run it again
after an interruption, or for later dates: what the store has is kept.
"""

from __future__ import annotations

import argparse

from distributed import Client, LocalCluster

import s2pipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalog", required=True)
    parser.add_argument("--bbox", type=float, nargs=4, metavar=("WEST", "SOUTH", "EAST", "NORTH"))
    parser.add_argument("--datetime", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--method", default="mtf-resnet")
    parser.add_argument("--max-cloud-cover", type=float, default=20)
    parser.add_argument("--scheduler", help="address of a running scheduler")
    options = parser.parse_args()

    items = s2pipe.search(options.catalog, bbox=options.bbox, datetime=options.datetime, max_cloud_cover=options.max_cloud_cover)
    with Client(options.scheduler or LocalCluster(threads_per_worker=1, dashboard_address="127.0.0.1:0")):
        for tile, members in s2pipe.group_items(items).items():
            cube = s2pipe.load(members, bbox=options.bbox)
            s2pipe.sharpen_to_store(cube, options.out, group=tile, method=options.method)
            print(f"{tile}: {len(members)} dates in {options.out}")


if __name__ == "__main__":
    main()
