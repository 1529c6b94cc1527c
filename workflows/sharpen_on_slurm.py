"""Sharpen what a search finds on workers that run as Slurm jobs, one Zarr group for each MGRS tile.

    python workflows/sharpen_on_slurm.py --catalog earth-search --bbox 11.4 47.2 11.6 47.3 \
        --datetime 2024-07-01/2024-07-31 --out /shared/alps.zarr \
        --interface ib0 --queue gpu --account myproject --cores 8 --memory 32GB --gpus 1 --walltime 02:00:00 --jobs 1 8

Run it where jobs may be submitted, such as on a login node, in an environment that the nodes see too, with dask-jobqueue
(pip install 's2pipe[slurm]'). The scheduler runs in this process; it and the workers listen on --interface, and on no other.
Who reaches that network can use them, unless certificates are given. --show-job prints a job and submits none. Run it again after
an interruption, or for later dates: what the store has is kept.
"""

from __future__ import annotations

import argparse
import sys

from distributed import Client
from tiles import add_tls, clean_exit, find_tiles, options_of, sharpen_tiles

from s2pipe.engine.clusters import tls_security


def worker_arguments(options: argparse.Namespace) -> list[str]:
    """Arguments of every worker: its status page is for this machine alone, and which part of the work it does."""
    arguments = ["--dashboard-address", "127.0.0.1:0"]
    return [*arguments, "--resources", f"GPU={options.gpus}"] if options.gpus else arguments


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--interface", required=True, help="network between this machine and the nodes, such as ib0")
    parser.add_argument("--queue", help="partition")
    parser.add_argument("--account")
    parser.add_argument("--cores", type=int, required=True, help="of one job: threads of its worker")
    parser.add_argument("--memory", required=True, help="of one job, such as 32GB")
    parser.add_argument("--gpus", type=int, choices=(0, 1), default=0, help="of one job")
    parser.add_argument("--walltime", default="01:00:00", help="of one job")
    parser.add_argument("--jobs", type=int, nargs=2, metavar=("LEAST", "MOST"), default=(1, 4), help="as the work needs")
    parser.add_argument("--show-job", action="store_true", help="print the script of a job, and stop")
    add_tls(parser)
    options = parser.parse_args()
    if not 1 <= options.jobs[0] <= options.jobs[1]:
        parser.error("--jobs wants two numbers from 1 on, the larger one last")
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        parser.exit(2, "error: dask-jobqueue is missing: pip install 's2pipe[slurm]'\n")

    with clean_exit(parser):
        security = tls_security(options.tls_ca_file, options.tls_cert, options.tls_key)
        tiles = {} if options.show_job else find_tiles(options)
        with SLURMCluster(
            queue=options.queue,
            account=options.account,
            cores=options.cores,
            memory=options.memory,
            processes=1,
            walltime=options.walltime,
            interface=options.interface,
            security=security,
            scheduler_options={"dashboard_address": "127.0.0.1:0"},
            worker_extra_args=worker_arguments(options),
            job_extra_directives=[f"--gres=gpu:{options.gpus}"] if options.gpus else [],
        ) as cluster:
            if options.show_job:
                print(cluster.job_script())
                return
            least, most = options.jobs
            cluster.adapt(minimum_jobs=least, maximum_jobs=most)
            with Client(cluster) as client:
                print("waiting for the first job to start", file=sys.stderr)
                client.wait_for_workers(1)
                sharpen_tiles(tiles, options)


if __name__ == "__main__":
    main()
