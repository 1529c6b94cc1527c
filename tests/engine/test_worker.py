import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch
from refusals import refused

from s2pipe import options
from s2pipe.core.pixels import Pixels
from s2pipe.engine import worker
from s2pipe.engine.worker import Worker
from s2pipe.simulation.fakes import FakeSharpener


@dataclass
class MeanOfNeighbours(FakeSharpener):
    """Each 10 m pixel of B02 becomes the mean of it and the pixels 6 up and 6 left."""

    largest: int = 10**9
    error: type[Exception] = torch.OutOfMemoryError

    def __call__(self, pixels):
        fine, coarse = pixels.reflectance.values()
        assert coarse.shape[1] * 2 == fine.shape[1] == pixels.valid[10].shape[1]
        if fine.shape[1] > self.largest:
            raise self.error("out of memory")
        return (fine + np.roll(fine, 6, axis=1) + np.roll(fine, 6, axis=2)) / 3


@pytest.fixture
def own():
    """A worker that knows nothing yet."""
    return Worker()


def sharpen(own, sharpener, pixels, device="cpu"):
    return own.sharpen(sharpener, pixels, device=device, options=options)


def padded(height=240, width=180, halo=6):
    fine = np.random.default_rng(0).random((1, height + 2 * halo, width + 2 * halo)).astype(np.float32)
    reflectance = {10: fine, 20: fine[:, ::2, ::2]}
    return Pixels(reflectance=reflectance, valid={gsd: np.ones(array.shape, bool) for gsd, array in reflectance.items()})


def expected(pixels):
    fine = pixels.reflectance[10]
    whole = (fine + np.roll(fine, 6, axis=1) + np.roll(fine, 6, axis=2)) / 3
    return whole[:, 6:-6, 6:-6]


def test_blocks_give_what_the_whole_gives(own, monkeypatch):
    pixels = padded()
    monkeypatch.setattr(options, "cpu_block", (66, 48))
    result = sharpen(own, MeanOfNeighbours(), pixels, "cpu")
    np.testing.assert_array_equal(result, expected(pixels))


class CpuOutOfMemory(RuntimeError):
    """What a failed allocation on the CPU says."""

    def __str__(self):
        return "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"


class MpsOutOfMemory(RuntimeError):
    """What one on Apple's GPUs says, which torch has no class for."""

    def __str__(self):
        return "MPS backend out of memory (MPS allocated: 9 GB, other allocations: 1 GB, max allowed: 9 GB)"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, CpuOutOfMemory, MpsOutOfMemory])
def test_blocks_shrink_when_memory_runs_out(own, error, caplog):
    pixels = padded()
    result = sharpen(own, MeanOfNeighbours(largest=140, error=error), pixels, "cpu")
    np.testing.assert_array_equal(result, expected(pixels))
    assert "retrying with blocks of" in caplog.text
    caplog.clear()
    sharpen(own, MeanOfNeighbours(largest=140, error=error), pixels, "cpu")
    assert not caplog.text  # what fits is remembered
    with pytest.raises(error):
        sharpen(own, MeanOfNeighbours(largest=20, error=error), pixels, "cpu")


@dataclass
class SmallDevice(MeanOfNeighbours):
    """Has no memory on any device but the CPU."""

    device: str = "cpu"
    tried: list[tuple[str, int]] = field(default_factory=list)

    def to(self, device):
        return SmallDevice(device=device, tried=self.tried)

    def __dask_tokenize__(self):
        return "small device"

    def __call__(self, pixels):
        self.tried.append((self.device, pixels.reflectance[10].shape[1] - 12))
        if self.device != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__call__(pixels)


def test_a_device_without_memory_leaves_its_work_to_the_cpu(own, monkeypatch, caplog):
    monkeypatch.setattr(worker, "choose_device", lambda device: device)  # there is no such device here
    sharpener, pixels = SmallDevice(), padded()
    for _ in range(2):
        result = sharpen(own, sharpener, pixels, "cuda:0")
        np.testing.assert_array_equal(result, expected(pixels))
    assert sharpener.tried == [("cuda:0", 240), ("cuda:0", 120), ("cuda:0", 60), ("cpu", 240), ("cpu", 240)]
    assert [record.message for record in caplog.records if "the CPU" in record.message] == [
        "not even blocks of 60 px fit on cuda:0; the CPU computes instead, more slowly"
    ]


@dataclass
class Sized(MeanOfNeighbours):
    """Notes the heights of the blocks that it is called with."""

    tried: list[int] = field(default_factory=list)

    def __call__(self, pixels):
        self.tried.append(pixels.reflectance[10].shape[1] - 12)
        return super().__call__(pixels)


def test_a_device_that_was_short_of_memory_gets_full_blocks_again_later(own, monkeypatch):
    sharpener, pixels = Sized(largest=140), padded()
    sharpen(own, sharpener, pixels)
    assert sharpener.tried[0] == 240
    sharpener.tried.clear()
    sharpen(own, sharpener, pixels)
    assert set(sharpener.tried) == {120}
    monkeypatch.setattr(options, "memory_retry_s", 1e-9)
    sharpen(own, sharpener, pixels)
    assert sharpener.tried[2:].count(240) == 1


def test_a_device_that_was_too_small_is_tried_again_later(own, monkeypatch):
    monkeypatch.setattr(worker, "choose_device", lambda device: device)
    sharpener = SmallDevice()
    sharpen(own, sharpener, padded(), "cuda:0")
    monkeypatch.setattr(options, "memory_retry_s", 1e-9)
    sharpen(own, sharpener, padded(), "cuda:0")
    assert [tried[0] for tried in sharpener.tried] == ["cuda:0"] * 3 + ["cpu"] + ["cuda:0"] * 3 + ["cpu"]


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
def test_weights_for_which_a_device_has_no_memory_stay_on_the_cpu(own, monkeypatch, message):
    monkeypatch.setattr(worker, "choose_device", lambda device: device)
    pixels = padded()
    result = sharpen(own, CrowdedDevice(message=message), pixels, "cuda:0")
    np.testing.assert_array_equal(result, expected(pixels))


def test_other_errors_are_not_taken_for_a_lack_of_memory(own):
    with pytest.raises(RuntimeError, match="out of memory"):
        sharpen(own, MeanOfNeighbours(largest=100, error=RuntimeError), padded())


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

    def __call__(self, pixels):
        Counted.running += 1
        Counted.most = max(Counted.most, Counted.running)
        result = super().__call__(pixels)
        Counted.running -= 1
        return result


def sharpen_at_once(own, sharpener, chunks):
    """Sharpen so many chunks from as many threads."""
    pixels = padded()
    with ThreadPoolExecutor(chunks) as pool:
        jobs = [pool.submit(sharpen, own, sharpener, pixels) for _ in range(chunks)]
        for job in jobs:
            np.testing.assert_array_equal(job.result(), expected(pixels))


def test_a_sharpener_is_placed_once_and_as_many_blocks_are_at_work_as_there_are_cores(own, monkeypatch):
    monkeypatch.setattr(worker, "cores", lambda: ("this test", 2))
    sharpen_at_once(own, Counted(), 6)
    assert Counted.moves == 1 and Counted.most <= 2


class Meeting(MeanOfNeighbours):
    """Waits until as many blocks are at it as are expected, and tells the threads of torch that each has."""

    def __init__(self, expected):
        super().__init__()
        self.barrier, self.threads = threading.Barrier(expected), []

    def __call__(self, pixels):
        self.barrier.wait(60)
        self.threads.append(torch.get_num_threads())
        return super().__call__(pixels)


@pytest.mark.parametrize(("chunks", "cores"), [(1, 1), (1, 4), (2, 4), (4, 4)])
def test_blocks_of_chunks_are_computed_side_by_side_by_one_thread_each(own, monkeypatch, chunks, cores):
    monkeypatch.setattr(worker, "cores", lambda: (f"{chunks} of {cores}", cores))
    monkeypatch.setattr(options, "cpu_block", (120, 90))  # four to a chunk
    sharpener, before = Meeting(cores), torch.get_num_threads()
    sharpen_at_once(own, sharpener, chunks)
    assert sharpener.threads == [1] * 4 * chunks
    assert torch.get_num_threads() == before


@dataclass
class Numbered(MeanOfNeighbours):
    moved: ClassVar[list[int]] = []
    number: int = 0

    def to(self, device):
        self.moved.append(self.number)
        return self


def test_few_sharpeners_stay_placed(own, monkeypatch):
    monkeypatch.setattr(options, "cached_sharpeners", 2)
    for number in (1, 2, 1, 3, 1, 2):
        sharpen(own, Numbered(number=number), padded())
    assert Numbered.moved == [1, 2, 3, 2]


def test_devices():
    assert worker.choose_device("cpu") == "cpu"
    assert worker.choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with refused("device", naming=("'gpu'", "'auto', 'cpu'")):
        worker.check_device("gpu")
    with refused("device", naming=("cuda:99",)):
        worker.choose_device("cuda:99")
