"""Sharpen what a search finds on the GPUs of this machine, a worker for each, one Zarr group for each MGRS tile.

    python workflows/sharpen_on_gpus.py --catalog earth-search --bbox 11.4 47.2 11.6 47.3 \
        --datetime 2024-07-01/2024-07-31 --out alps.zarr --gpus 0,1

Needs dask-cuda, pip install 's2pipe[gpus]', which takes the release of dask that it is made for. Run it again after an
interruption, or for later dates: what the store has is kept.
"""

from __future__ import annotations

from distributed import Client
from tiles import clean_exit, find_tiles, options_of, sharpen_tiles

from s2pipe.engine.clusters import interrupts_ignored


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--gpus", metavar="0,1,...", help="numbers of those to use; default: all")
    parser.add_argument("--threads", type=int, default=4, help="of each worker: one computes while others read and write")
    options = parser.parse_args()
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError:
        parser.exit(2, "error: dask-cuda is missing: pip install 's2pipe[gpus]'\n")

    with clean_exit(parser):
        tiles = find_tiles(options)
        with interrupts_ignored():
            cluster = LocalCUDACluster(
                CUDA_VISIBLE_DEVICES=options.gpus,
                threads_per_worker=options.threads,
                resources={"GPU": 1},  # held by one task at a time
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
            )
        with cluster, Client(cluster):
            sharpen_tiles(tiles, options)


if __name__ == "__main__":
    main()
