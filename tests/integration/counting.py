"""A Sharpener that counts how often a process receives it. In a module of its own, so that workers import it."""

import time
from collections import Counter
from typing import Any

import numpy as np

from s2pipe import Sensor

SEEN: Counter[str] = Counter()


class CountingSharpener:
    """Repeats the 20 m bands; carries weights it does not need."""

    sensor, bands_in, bands_out, halo = Sensor(), ("B02", "B05"), ("B05",), 6

    def __init__(self) -> None:
        self.weights = np.zeros(300_000)

    def __call__(self, r10m: Any, r20m: Any, r60m: Any) -> Any:
        SEEN["called"] += 1
        return r20m.repeat(2, axis=1).repeat(2, axis=2)

    def __setstate__(self, state: Any) -> None:
        SEEN["received"] += 1
        self.__dict__ = state

    def __dask_tokenize__(self) -> str:
        return "counting"


class SlowCountingSharpener(CountingSharpener):
    """Takes a tenth of a second."""

    def __call__(self, r10m: Any, r20m: Any, r60m: Any) -> Any:
        time.sleep(0.1)
        return super().__call__(r10m, r20m, r60m)


def seen() -> dict[str, int]:
    """Counts of the process that calls this."""
    return dict(SEEN)
