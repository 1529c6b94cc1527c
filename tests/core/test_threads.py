import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from s2pipe.core import threads


@pytest.fixture(autouse=True)
def two(monkeypatch):
    """As in a fit outside of the tests; one is what torch begins with."""
    monkeypatch.setattr(threads, "FIT_THREADS", 2)


def blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize("before", [1, 3])
def test_a_fit_has_a_fixed_number_of_threads_whatever_there_was_before(before):
    kept, blas = torch.get_num_threads(), blas_threads()
    torch.set_num_threads(before)
    try:
        with threads.fixed_threads():
            assert torch.get_num_threads() == threads.FIT_THREADS
            assert blas_threads() == {1}
        assert torch.get_num_threads() == before and blas_threads() == blas
    finally:
        torch.set_num_threads(kept)


def test_fits_and_pools_of_several_threads_leave_the_process_as_it_was():
    before, blas = torch.get_num_threads(), blas_threads()
    for number in range(20):  # whichever of them ends last
        entered = threading.Barrier(4)

        def work(context, entered=entered):
            with context:
                entered.wait(30)
                limited = blas_threads()
                entered.wait(30)  # a pool leaves BLAS as it is, which a fit limits until it ends
                return limited

        contexts = [threads.fixed_threads(), threads.single_threads(2), threads.fixed_threads(), threads.single_threads(2)]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(work, contexts)) == [{1}] * 4, number
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == before
        assert torch.get_num_threads() == before and blas_threads() == blas, number


def test_a_fit_says_so_where_other_code_keeps_blas_to_its_threads(caplog):
    with ThreadPoolExecutor(1) as pool:
        limits = pool.submit(threadpool_limits, 2, "blas").result()
        with threads.fixed_threads():
            assert (blas_threads() == {1}) != ("BLAS" in caplog.text)
        pool.submit(limits.restore_original_limits).result()
    caplog.clear()
    with threads.fixed_threads():
        assert blas_threads() == {1} and not caplog.text


def test_single_threads_compute_with_one_and_leave_others_as_they_were():
    before, found = torch.get_num_threads(), []
    with threads.single_threads(3) as pool:
        assert list(pool.map(lambda _: torch.get_num_threads(), range(5))) == [1] * 5
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert torch.get_num_threads() == before and found == [before]
