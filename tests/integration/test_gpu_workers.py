"""Where networks run on a cluster, some of whose workers declare a GPU; torch finds none here, and the CPU does the work."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import xarray as xr
from distributed import Client, Nanny, Scheduler, SpecCluster
from placed import TellingSharpener, ran, read
from scenes import random_cube

import s2pipe
from s2pipe import options
from s2pipe.inputs.dataarray import as_cube

WORKER = {"nthreads": 1, "host": "127.0.0.1", "dashboard": False}


@pytest.fixture
def cluster() -> Iterator[SpecCluster]:
    """Three workers, of which the first declares a GPU."""
    workers = {
        name: {"cls": Nanny, "options": {**WORKER, "resources": {"GPU": 1} if name == "gpu" else {}}}
        for name in ("gpu", "a", "b")
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False}}
    with SpecCluster(workers=workers, scheduler=scheduler) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def cube() -> xr.DataTree:
    """Thirty-six chunks at each of two dates, which are read by tasks that tell where."""
    parts = {}
    for gsd, array in as_cube(random_cube(360, 360, dates=2)).arrays.items():
        array = array.chunk(time=1, y=600 // gsd, x=600 // gsd)
        parts[f"r{gsd}m"] = array.copy(data=array.data.map_blocks(read, dtype=array.dtype)).to_dataset(name="reflectance")
    return xr.DataTree.from_dict(parts)


def test_networks_run_on_gpu_workers_only_in_large_blocks_and_the_rest_anywhere(
    cluster: SpecCluster, cube: xr.DataTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "cuda_block", (120, 120))  # of as many pixels as four chunks
    bands = ["B02", "B05"]
    expected = s2pipe.sharpen(cube, TellingSharpener(), bands=bands).compute(scheduler="threads")
    with Client(cluster) as client:
        client.wait_for_workers(3)
        s2pipe.sharpen_to_store(cube, tmp_path / "a.zarr", method=TellingSharpener(), bands=bands, device="auto")
        counts = client.run(ran)
        names = {description["name"]: address for address, description in client.scheduler_info()["workers"].items()}
    counts = {name: counts[address] for name, address in names.items()}
    assert counts["gpu"]["network"] == 2 * 36 / 4
    assert "network" not in counts["a"] and "network" not in counts["b"]
    assert counts["a"]["read"] > 0 and counts["b"]["read"] > 0
    written = s2pipe.open_zarr(tmp_path / "a.zarr")
    assert isinstance(written, xr.DataArray)
    assert written.chunks is not None and written.chunks[2] == (60,) * 6
    xr.testing.assert_identical(written.compute(), expected)


def test_a_gpu_that_workers_declare_need_not_be_where_the_job_is_begun(cluster: SpecCluster, cube: xr.DataTree) -> None:
    with Client(cluster) as client:
        client.wait_for_workers(3)
        lazy = s2pipe.sharpen(cube, "glp", device="cuda")  # the fit is done here
    annotations = [layer.annotations for name, layer in lazy.data.dask.layers.items() if name.startswith("sharpen-")]
    assert annotations == [{"resources": {"GPU": 1}}]
