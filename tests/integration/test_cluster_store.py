"""Processes of a distributed cluster write one store together."""

from collections.abc import Iterator
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster

from s2pipe.core.encoding import Encoding
from s2pipe.core.errors import StoreError
from s2pipe.store.zarr_io import open_zarr, to_zarr

DN = np.array([0, 1, 3000, 65534, 65535], dtype=np.uint16)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster:
        yield cluster


@pytest.fixture
def array() -> xr.DataArray:
    """Sharpened-like array (2, 12, 204, 96) whose last chunk in y is thicker than the others."""
    values = np.random.default_rng(0).choice(DN, size=(2, 12, 204, 96))
    return xr.DataArray(
        da.from_array(values, chunks=(1, -1, (96, 108), 48)),
        dims=("time", "band", "y", "x"),
        name="reflectance",
        coords={
            "time": np.array(["2020-01-01", "2020-01-06"], "datetime64[ns]"),
            "band": [f"B{number:02d}" for number in range(1, 13)],
            "y": 4179420.0 - 10 * (np.arange(204) + 0.5),
            "x": 435780.0 + 10 * (np.arange(96) + 0.5),
        },
        attrs={**Encoding.default("uint16", offset=-0.1).attrs(), "s2pipe_method": "bicubic"},
    )


@pytest.mark.parametrize("shards", [True, False])
def test_processes_write_what_was_given(cluster: LocalCluster, array: xr.DataArray, tmp_path: Path, shards: bool) -> None:
    with Client(cluster) as client:
        to_zarr(array, tmp_path / "a.zarr", shards=shards)
        read = open_zarr(tmp_path / "a.zarr")
        assert read.chunks[:2] == ((1, 1), (12,))
        xr.testing.assert_identical(read.compute(), array.compute(scheduler="sync"))
        written_by = client.run(lambda dask_worker: dask_worker.state.transition_counter > 0)
        assert all(written_by.values())


def test_the_store_is_complete_when_the_future_is_done(cluster: LocalCluster, array: xr.DataArray, tmp_path: Path) -> None:
    with Client(cluster.scheduler_address) as client:
        delayed = to_zarr(array, tmp_path / "a.zarr", group="T18SVG", compute=False)
        with pytest.raises(StoreError, match="not written to its end"):
            open_zarr(tmp_path / "a.zarr", group="T18SVG")
        client.compute(delayed).result()
        xr.testing.assert_identical(open_zarr(tmp_path / "a.zarr", group="T18SVG").compute(), array.compute(scheduler="sync"))
