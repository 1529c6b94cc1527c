"""The layout of what is stored."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pandas as pd
from scenes import random_cube

from s2pipe.store.layout import VARIABLE, datasets_of

THREADS = 3


def test_dates_that_threads_share_are_told_apart():
    """pandas fills the hash table of an index on first use, and has no lock on it."""
    image = random_cube(6, 6)["r10m"][VARIABLE]
    with ThreadPoolExecutor(THREADS) as threads:
        for _ in range(5):
            dates = pd.date_range("2020-01-01", periods=1000, freq="h")
            array = image.isel(time=np.zeros(dates.size, int)).assign_coords(time=dates).chunk(time=-1)
            begin = Barrier(THREADS)
            for laid_out in [threads.submit(_lay_out, array, begin) for _ in range(THREADS)]:
                laid_out.result()


def _lay_out(array, begin):
    begin.wait()
    datasets_of(array, shards=True)
