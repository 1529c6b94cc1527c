"""Threads that compute. Another number of them rounds sums otherwise, so theirs never depends on what else is at work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")

FIT_THREADS = 2
"""Threads of torch in a fit, on every machine. Its steps are too small to gain much from more."""


@contextmanager
def fixed_threads() -> Iterator[None]:
    """Within the block, torch computes with `FIT_THREADS` threads and numpy's linear algebra with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(FIT_THREADS)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item], *, threads: int) -> list[Result]:
    """Results of a function for each item, side by side in so many threads, in each of which torch computes with one."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(before)  # new threads begin with the number that was set last, in whichever thread
