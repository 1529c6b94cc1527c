"""Threads that compute. Their number changes how sums are rounded, so it never depends on what else is running."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from threadpoolctl import threadpool_limits

FIT_THREADS = 2
"""Threads of torch in a fit, on every machine: the small steps of a training gain little from more."""


class _Shared(AbstractContextManager["_Shared"]):
    """A setting of the whole process, made by the first of the threads that are within it at once, and undone by the last."""

    def __init__(self, setting: Callable[[], AbstractContextManager[Any]]) -> None:
        self._setting, self._lock, self._within, self._made = setting, threading.Lock(), 0, ExitStack()

    def __enter__(self) -> _Shared:
        with self._lock:
            if not self._within:
                self._made.enter_context(self._setting())
            self._within += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within:
                self._made.close()


@contextmanager
def _threads_of_torch() -> Iterator[None]:
    """New threads begin with the number that was set last, in whichever thread; after the block, with the one before it."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


_blas = _Shared(lambda: threadpool_limits(limits=1, user_api="blas"))
_torch = _Shared(_threads_of_torch)


@contextmanager
def fixed_threads() -> Iterator[None]:
    """Within the block, torch computes with `FIT_THREADS` threads and numpy's linear algebra with one."""
    with _blas, _threads_of_torch():
        torch.set_num_threads(FIT_THREADS)
        yield


@contextmanager
def single_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of so many threads, in each of which torch computes with that one.

    So a result does not depend on their number, and none waits for another at every step of its work.
    """
    with _torch, ThreadPoolExecutor(count, "s2pipe", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool
