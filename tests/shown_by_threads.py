"""Several tiles at once, each in a thread of its own."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from s2pipe.core.progress import chunk_bar, progress_bar, progress_of

TILES, CHUNKS = 4, 20


def sharpen(tile: int) -> None:
    with progress_of(f"tile {tile}"):
        with progress_bar() as trained:
            for step in range(1, 5):
                trained("training", step, 4, 0.5)
        all_trained.wait()
        with chunk_bar("chunks written", done=0, total=CHUNKS) as written:
            for _ in range(CHUNKS):
                time.sleep(0.01 * tile)
                written(1_000_000)
            print(f"tile {tile} is there", file=sys.stderr)


all_trained = threading.Barrier(TILES)

if __name__ == "__main__":
    with ThreadPoolExecutor(TILES) as threads:
        list(threads.map(sharpen, range(1, TILES + 1)))
