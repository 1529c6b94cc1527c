import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from s2pipe import InputError, Sensor
from s2pipe.engine import worker


@dataclass
class MeanOfNeighbours:
    """A fake Sharpener: each 10 m pixel of B02 becomes the mean of it and the pixels 6 up and 6 left."""

    largest: int = 10**9
    error: type[Exception] = torch.OutOfMemoryError
    sensor: Sensor = field(default_factory=Sensor)
    bands_in: tuple[str, ...] = ("B02", "B05")
    bands_out: tuple[str, ...] = ("B05",)
    halo: int = 6

    def __call__(self, r10m, r20m, r60m):
        assert r60m is None and r20m.shape[1] * 2 == r10m.shape[1]
        if r10m.shape[1] > self.largest:
            raise self.error("out of memory")
        return (r10m + np.roll(r10m, 6, axis=1) + np.roll(r10m, 6, axis=2)) / 3


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(worker, "_largest_block", {})
    monkeypatch.setattr(worker, "_placed", worker.OrderedDict())
    monkeypatch.setattr(worker, "_too_small", set())


def padded(height=240, width=180, halo=6):
    fine = np.random.default_rng(0).random((1, height + 2 * halo, width + 2 * halo)).astype(np.float32)
    return fine, fine[:, ::2, ::2]


def expected(fine):
    whole = (fine + np.roll(fine, 6, axis=1) + np.roll(fine, 6, axis=2)) / 3
    return whole[:, 6:-6, 6:-6]


def test_blocks_give_what_the_whole_gives(monkeypatch):
    fine, coarse = padded()
    monkeypatch.setitem(worker.BLOCK, "cpu", (66, 48))
    result = worker.sharpen_padded(MeanOfNeighbours(), fine, coarse, None, device="cpu")
    np.testing.assert_array_equal(result, expected(fine))


class CpuOutOfMemory(RuntimeError):
    """What a failed allocation on the CPU says."""

    def __str__(self):
        return "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"


class MpsOutOfMemory(RuntimeError):
    """What one on Apple's GPUs says, which torch has no class for."""

    def __str__(self):
        return "MPS backend out of memory (MPS allocated: 9 GB, other allocations: 1 GB, max allowed: 9 GB)"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, CpuOutOfMemory, MpsOutOfMemory])
def test_blocks_shrink_when_memory_runs_out(error, caplog):
    fine, coarse = padded()
    result = worker.sharpen_padded(MeanOfNeighbours(largest=140, error=error), fine, coarse, None, device="cpu")
    np.testing.assert_array_equal(result, expected(fine))
    assert "going on with blocks of" in caplog.text
    caplog.clear()
    worker.sharpen_padded(MeanOfNeighbours(largest=140, error=error), fine, coarse, None, device="cpu")
    assert not caplog.text  # what fits is remembered
    with pytest.raises(error):
        worker.sharpen_padded(MeanOfNeighbours(largest=20, error=error), fine, coarse, None, device="cpu")


@dataclass
class SmallDevice(MeanOfNeighbours):
    """Has no memory on any device but the CPU."""

    device: str = "cpu"
    tried: list[tuple[str, int]] = field(default_factory=list)

    def to(self, device):
        return SmallDevice(device=device, tried=self.tried)

    def __dask_tokenize__(self):
        return "small device"

    def __call__(self, r10m, r20m, r60m):
        self.tried.append((self.device, r10m.shape[1] - 12))
        if self.device != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__call__(r10m, r20m, r60m)


def test_a_device_without_memory_leaves_its_work_to_the_cpu(monkeypatch, caplog):
    monkeypatch.setattr(worker, "choose_device", lambda device: device)  # there is no such device here
    sharpener, (fine, coarse) = SmallDevice(), padded()
    for _ in range(2):
        result = worker.sharpen_padded(sharpener, fine, coarse, None, device="cuda:0")
        np.testing.assert_array_equal(result, expected(fine))
    assert sharpener.tried == [("cuda:0", 240), ("cuda:0", 120), ("cuda:0", 60), ("cpu", 240), ("cpu", 240)]
    assert [record.message for record in caplog.records if "the CPU" in record.message] == [
        "not even blocks of 60 px fit on cuda:0; going on on the CPU, which is slower"
    ]


@dataclass
class CrowdedDevice(MeanOfNeighbours):
    """Cannot even be moved to a device that is not the CPU."""

    message: str = ""

    def to(self, device):
        if device != "cpu":
            raise RuntimeError(self.message)
        return self

    def __dask_tokenize__(self):
        return "crowded"


@pytest.mark.parametrize(
    "message", ["CUDA error: out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED when ..."]
)
def test_weights_for_which_a_device_has_no_memory_stay_on_the_cpu(monkeypatch, message):
    monkeypatch.setattr(worker, "choose_device", lambda device: device)
    fine, coarse = padded()
    result = worker.sharpen_padded(CrowdedDevice(message=message), fine, coarse, None, device="cuda:0")
    np.testing.assert_array_equal(result, expected(fine))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="out of memory"):
        worker.sharpen_padded(MeanOfNeighbours(largest=100, error=RuntimeError), *padded(), None, device="cpu")


@dataclass
class Counted(MeanOfNeighbours):
    moves = 0
    running = 0
    most = 0

    def to(self, device):
        Counted.moves += 1
        return self

    def __dask_tokenize__(self):
        return "counted"

    def __call__(self, *arrays):
        Counted.running += 1
        Counted.most = max(Counted.most, Counted.running)
        result = super().__call__(*arrays)
        Counted.running -= 1
        return result


def sharpen_at_once(sharpener, chunks):
    """Sharpen so many chunks from as many threads."""
    fine, coarse = padded()
    with ThreadPoolExecutor(chunks) as pool:
        jobs = [pool.submit(worker.sharpen_padded, sharpener, fine, coarse, None, device="cpu") for _ in range(chunks)]
        for job in jobs:
            np.testing.assert_array_equal(job.result(), expected(fine))


def test_a_sharpener_is_placed_once_and_as_many_blocks_are_at_work_as_there_are_cores(monkeypatch):
    monkeypatch.setattr(worker, "cores", lambda: ("this test", 2))
    sharpen_at_once(Counted(), 6)
    assert Counted.moves == 1 and Counted.most <= 2


class Meeting(MeanOfNeighbours):
    """Waits until as many blocks are at it as are expected, and tells the threads of torch that each has."""

    def __init__(self, expected):
        super().__init__()
        self.barrier, self.threads = threading.Barrier(expected), []

    def __call__(self, *arrays):
        self.barrier.wait(60)
        self.threads.append(torch.get_num_threads())
        return super().__call__(*arrays)


@pytest.mark.parametrize(("chunks", "cores"), [(1, 1), (1, 4), (2, 4), (4, 4)])
def test_blocks_of_chunks_are_computed_side_by_side_by_one_thread_each(monkeypatch, chunks, cores):
    monkeypatch.setattr(worker, "cores", lambda: (f"{chunks} of {cores}", cores))
    monkeypatch.setitem(worker.BLOCK, "cpu", (120, 90))  # four to a chunk
    sharpener, before = Meeting(cores), torch.get_num_threads()
    sharpen_at_once(sharpener, chunks)
    assert sharpener.threads == [1] * 4 * chunks
    assert torch.get_num_threads() == before


def test_few_sharpeners_stay_placed():
    for i in range(worker.PLACED_AT_MOST + 2):
        other = Counted()
        other.__dict__["name"] = i
        Counted.__dask_tokenize__ = lambda self: ("counted", self.__dict__.get("name"))
        worker.sharpen_padded(other, *padded(), None, device="cpu")
    assert len(worker._placed) == worker.PLACED_AT_MOST


def test_devices():
    assert worker.choose_device("cpu") == "cpu"
    assert worker.choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="unknown device 'gpu'; legal are 'auto', 'cpu'"):
        worker.check_device("gpu")
    with pytest.raises(InputError, match="'cuda:99' is not available"):
        worker.choose_device("cuda:99")
