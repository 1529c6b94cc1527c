"""Threads that compute. Their number changes how sums are rounded, so it never depends on what else is running."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import torch
from threadpoolctl import threadpool_info, threadpool_limits

log = logging.getLogger(__name__)

FIT_THREADS = 2
"""Threads of torch in a fit, on every machine: the small steps of a training gain little from more."""


class _Shared(AbstractContextManager["_Shared"]):
    """A setting of the whole process, made by the first of the threads that are within it at once, and undone by the last.

    Both is done by one thread of its own: threadpoolctl lets nobody undo what another thread has set, and says nothing.
    """

    def __init__(self, setting: Callable[[], AbstractContextManager[None]]) -> None:
        self._setting, self._lock, self._within = setting, threading.Lock(), 0

    def __enter__(self) -> _Shared:
        with self._lock:
            if not self._within:
                self._thread, self._made = ThreadPoolExecutor(1), self._setting()
                self._thread.submit(self._made.__enter__).result()
            self._within += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within:
                self._thread.submit(self._made.__exit__, None, None, None).result()
                self._thread.shutdown()


@contextmanager
def _one_thread_of_blas() -> Iterator[None]:
    with threadpool_limits(limits=1, user_api="blas"):
        if any(library["num_threads"] != 1 for library in threadpool_info() if library["user_api"] == "blas"):
            log.warning(
                "other code of this process has set the threads of BLAS, which a fit cannot change: weights may differ by it"
            )
        yield


@contextmanager
def _threads_of_torch() -> Iterator[None]:
    """New threads begin with the number that was set last, in whichever thread; after the block, with the one before it."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


_blas = _Shared(_one_thread_of_blas)
_torch = _Shared(_threads_of_torch)


@contextmanager
def fixed_threads() -> Iterator[None]:
    """Within the block, torch computes with `FIT_THREADS` threads and numpy's linear algebra with one."""
    with _blas, _torch, _threads_of_torch():
        torch.set_num_threads(FIT_THREADS)
        yield


@contextmanager
def single_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of so many threads, in each of which torch computes with that one.

    So a result does not depend on their number, and none waits for another at every step of its work.
    """
    with _torch, ThreadPoolExecutor(count, "s2pipe", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool
