"""Sharpen what a search finds on a Dask cluster, one Zarr group for each MGRS tile.

    python workflows/sharpen_on_cluster.py --catalog earth-search --bbox 11.4 47.2 11.6 47.3 \
        --datetime 2024-07-01/2024-07-31 --out s3://bucket/alps.zarr --scheduler tls://scheduler:8786 \
        --tls-ca-file ca.pem --tls-cert cert.pem --tls-key key.pem

Without --scheduler it starts a cluster on this machine, which listens on no network. Every worker must have s2pipe installed and
see the store. Run it again after an interruption, or for later dates: what the store has is kept.
"""

from __future__ import annotations

from tiles import add_tls, clean_exit, find_tiles, options_of, sharpen_tiles

from s2pipe.engine.clusters import connect, local_cluster, tls_security


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a scheduler that runs, tcp://host:8786 or tls://host:8786")
    add_tls(parser)
    options = parser.parse_args()
    with clean_exit(parser):
        security = tls_security(options.tls_ca_file, options.tls_cert, options.tls_key)
        if security is not None and options.scheduler is None:
            parser.error("--tls-ca-file, --tls-cert and --tls-key are for --scheduler tls://host:8786")
        tiles = find_tiles(options)
        with connect(options.scheduler, security) if options.scheduler is not None else local_cluster():
            sharpen_tiles(tiles, options)


if __name__ == "__main__":
    main()
