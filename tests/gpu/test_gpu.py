"""What a GPU makes of a job: the pixels of the CPU, also where its memory is too small for the blocks; skipped without one."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from scenes import with_chunks

import s2pipe
from s2pipe.engine import worker
from s2pipe.simulation.landscape import simulate_scene

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def cube() -> xr.DataTree:
    scene = simulate_scene(756, seed=0)
    return with_chunks(s2pipe.from_arrays(scene.r10m, scene.r20m, scene.r60m, scale=1e-4, offset=-0.1, crs="EPSG:32633",
        transform=(10, 0, 300000, 0, -10, 4000020)), 378, 378)  # fmt: skip


@pytest.fixture(autouse=True)
def forget_devices():
    yield
    worker.THIS_WORKER = worker.Worker()
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.parametrize("method", ["mtf-resnet", "glp", "atprk", "bicubic"])
def test_pixels_are_those_of_the_cpu(cube: xr.DataTree, method: str) -> None:
    sharpener = s2pipe.fit(cube, method, device="cpu")
    here, there = (s2pipe.sharpen(cube, sharpener, device=device).compute().astype(int) for device in ("cpu", "cuda"))
    difference = np.abs(here - there)
    assert difference.mean() < 2  # DN; the network computes in bfloat16 there
    assert difference.quantile(0.999) < 30


def test_a_fit_on_the_gpu_is_that_of_the_cpu(cube: xr.DataTree) -> None:
    results = [s2pipe.sharpen(cube, "mtf-resnet", device=device).compute().astype(int) for device in ("cpu", "cuda")]
    assert np.abs(results[0] - results[1]).mean() < 2


def test_where_memory_is_short_blocks_are_halved_and_pixels_stay(cube: xr.DataTree, caplog: pytest.LogCaptureFixture) -> None:
    sharpener = s2pipe.fit(cube, "mtf-resnet", device="cpu")
    expected = s2pipe.sharpen(cube, sharpener, device="cuda").compute().astype(int)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 4e7) / total)
    with caplog.at_level(logging.WARNING, "s2pipe"):
        found = s2pipe.sharpen(cube, sharpener, device="cuda").compute().astype(int)
    assert "out of memory on cuda; going on with blocks of" in caplog.text
    assert np.abs(found - expected).mean() < 1


def test_a_job_writes_what_sharpening_gives(cube: xr.DataTree, tmp_path: Path) -> None:
    sharpener = s2pipe.fit(cube, "mtf-resnet")
    s2pipe.sharpen_to_store(cube, tmp_path / "a.zarr", method=sharpener, device="cuda")
    written = s2pipe.open_zarr(tmp_path / "a.zarr").compute()
    assert np.abs(written.astype(int) - s2pipe.sharpen(cube, sharpener).compute().astype(int)).max() <= 1
    assert written.attrs["s2pipe_method"] == "mtf-resnet"
