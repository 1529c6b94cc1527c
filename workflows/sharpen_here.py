"""Sharpen what a search finds on this machine's cores, in threads of this process, one Zarr group for each MGRS tile.

    python workflows/sharpen_here.py --catalog earth-search --bbox 11.4 47.2 11.6 47.3 \
        --datetime 2024-07-01/2024-07-31 --out alps.zarr

Networks run on a GPU where there is one. Run it again after an interruption, or for later dates: what the store has is kept.
"""

from __future__ import annotations

from tiles import clean_exit, find_tiles, options_of, sharpen_tiles


def main() -> None:
    parser = options_of(__doc__)
    options = parser.parse_args()
    with clean_exit(parser):
        sharpen_tiles(find_tiles(options), options)


if __name__ == "__main__":
    main()
