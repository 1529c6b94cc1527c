"""Threads that compute. Another number of them rounds sums otherwise, so theirs never depends on what else is at work."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

FIT_THREADS = 2
"""Threads of torch in a fit, on every machine: the small steps of a training gain little from more."""


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


@contextmanager
def single_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of so many threads, in each of which torch computes with that one.

    So a result does not depend on their number, and none waits for another at every step of its work.
    """
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, "s2pipe", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # new threads begin with the number that was set last, in whichever thread
