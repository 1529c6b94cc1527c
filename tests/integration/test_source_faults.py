"""A source that fails for a while in the middle of a job: the job comes through, and the store is that of an undisturbed run."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from pathlib import Path

import pystac
import pytest
import xarray as xr
from items import CAMEROON, planetary_computer_item
from servers import AssetServer, Fault
from test_read_errors import Signer

import s2pipe

BANDS = ["B02", "B08", "B05", "B01"]


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the environment win over s2pipe's settings."""
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "3")
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.1")
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_TIME", "1")


def cube_from(server: AssetServer, folder: Path, sign: Callable[[str], str] | None = None) -> xr.DataTree:
    item = pystac.Item.from_dict(planetary_computer_item(CAMEROON, folder, server.url()))
    return s2pipe.load([item], bands=BANDS, chunks=120, sign=sign)


@pytest.fixture(scope="module")
def sharpener(assets: AssetServer, cog_dir: Path) -> s2pipe.Sharpener:
    return s2pipe.fit(cube_from(assets, cog_dir), "glp")


@pytest.fixture(scope="module")
def expected(assets: AssetServer, cog_dir: Path, sharpener: s2pipe.Sharpener) -> xr.DataArray:
    """What an undisturbed job writes."""
    return s2pipe.sharpen(cube_from(assets, cog_dir), sharpener).compute()


@pytest.mark.parametrize(("fault", "times"), [(503, 20), (429, 20), ("stall", 6), ("dribble", 6)])
def test_a_job_comes_through_a_fault_that_passes(
    faulty_assets: AssetServer,
    cog_dir: Path,
    tmp_path: Path,
    sharpener: s2pipe.Sharpener,
    expected: xr.DataArray,
    fault: Fault,
    times: int,
) -> None:
    store, reads = tmp_path / "a.zarr", itertools.count(1)

    def begin_at_the_tenth_read(href: str) -> str:
        if next(reads) == 10:
            faulty_assets.fail("/", fault, times=times)
        return href

    s2pipe.sharpen_to_store(cube_from(faulty_assets, cog_dir, begin_at_the_tenth_read), store, method=sharpener)
    assert next(reads) > 10 and faulty_assets.faults_left() == 0
    xr.testing.assert_identical(s2pipe.open_zarr(store).compute(), expected)


def test_a_job_signs_anew_what_expired_in_its_middle(
    faulty_assets: AssetServer,
    cog_dir: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    sharpener: s2pipe.Sharpener,
    expected: xr.DataArray,
) -> None:
    caplog.set_level(logging.DEBUG)
    store, signer = tmp_path / "a.zarr", Signer(faulty_assets)
    faulty_assets.protect("/")

    def sign(href: str) -> str:
        signed = signer(href)
        if len(signer.signed) in (5, 30):  # and so do those of all reads under way
            faulty_assets.expire_tokens()
        return signed

    cube = cube_from(faulty_assets, cog_dir, sign)
    s2pipe.sharpen_to_store(cube, store, method=sharpener)
    assert len(signer.signed) > 30 and faulty_assets.requests("/", 403)
    xr.testing.assert_identical(s2pipe.open_zarr(store).compute(), expected)
    signer.assert_secret(caplog.text)
