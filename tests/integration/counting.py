"""A Sharpener that counts how often a process receives it. In a module of its own, so that workers import it."""

import time
from collections import Counter
from typing import Any

import numpy as np

from s2pipe.core.pixels import Pixels
from s2pipe.simulation.fakes import FakeSharpener

SEEN: Counter[str] = Counter()


class CountingSharpener(FakeSharpener):
    """Repeats the 20 m bands; carries weights it does not need."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = np.zeros(300_000)

    def __call__(self, pixels: Pixels) -> Any:
        SEEN["called"] += 1
        return super().__call__(pixels)

    def __setstate__(self, state: Any) -> None:
        SEEN["received"] += 1
        self.__dict__ = state

    def __dask_tokenize__(self) -> str:
        return "counting"


class SlowCountingSharpener(CountingSharpener):
    """Takes a tenth of a second."""

    def __call__(self, pixels: Pixels) -> Any:
        time.sleep(0.1)
        return super().__call__(pixels)


def seen() -> dict[str, int]:
    """Counts of the process that calls this."""
    return dict(SEEN)
