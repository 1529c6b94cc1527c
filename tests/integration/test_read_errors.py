"""What goes wrong on the way from a catalog to pixels ends in one of s2pipe's errors, and no token is ever told."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import traceback
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pystac
import pytest
import xarray as xr
from items import CAMEROON, GSD, TEST_REPROCESSING, Scene, native_file, planetary_computer_item, present_encoding, read_band
from refusals import refused
from servers import HOST, AssetServer, asset_server, free_port

import s2pipe

LOADERS = pytest.mark.parametrize("loader", ["stackstac", "odc"])
B05 = f"/{native_file(CAMEROON, 'B05')}"


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up soon on a server that fails for good; variables of the environment win over s2pipe's settings."""
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "2")
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.1")


def item_of(scene: Scene, folder: Path, server: AssetServer) -> pystac.Item:
    return pystac.Item.from_dict(planetary_computer_item(scene, folder, server.url()))


class Signer:
    """Signs as archives do: a new token for an href at each call, good until the server lets it expire."""

    def __init__(self, server: AssetServer) -> None:
        self.server = server
        self.signed: list[tuple[str, str]] = []

    def __call__(self, href: str) -> str:
        token = self.server.issue_token(urlsplit(href).path)
        self.signed.append((href, token))
        return f"{href}?sig={token}"

    def assert_secret(self, text: str) -> None:
        assert self.signed
        assert "?sig=" not in text
        assert not [token for _, token in self.signed if token in text]


def shown(error: BaseException) -> str:
    """What a user may get to see of an error: it, its causes and their tracebacks."""
    return "".join(traceback.format_exception(error))


# --- files that cannot be read --------------------------------------------------------------------------------------


@LOADERS
@pytest.mark.parametrize(("status", "cause"), [(404, "missing"), (403, "forbidden"), (503, "keeps failing")])
@pytest.mark.usefixtures("quick_retries")
def test_a_refused_file_is_an_error_and_never_nodata(
    faulty_assets: AssetServer, cog_dir: Path, loader: str, status: int, cause: str
) -> None:
    faulty_assets.fail(B05, status)
    item = item_of(CAMEROON, cog_dir, faulty_assets)
    cube = s2pipe.load([item], loader=loader)
    stated = f"band B05 of item {item.id} from {faulty_assets.url()}{B05}: "
    with refused(kind=s2pipe.ReadError, naming=(stated, cause)):
        cube["r20m"]["reflectance"].compute()
    asked = len(faulty_assets.requests(B05, status))
    assert asked == 2 if status != 503 else asked > 6  # of these, GDAL itself retries each twice


def test_a_server_that_never_answers_is_an_error(
    faulty_assets: AssetServer, cog_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_TIME", "1")
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    faulty_assets.fail(B05, "stall")
    cube = s2pipe.load([item_of(CAMEROON, cog_dir, faulty_assets)])
    with refused(kind=s2pipe.ReadError, naming=(f"from {faulty_assets.url()}{B05}: the server cannot be reached",)):
        cube["r20m"]["reflectance"].compute()


@LOADERS
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.6], ids=lambda kept: f"{kept:.0%}")
@pytest.mark.usefixtures("quick_retries")
def test_a_truncated_file_is_an_error(cog_dir: Path, tmp_path: Path, loader: str, kept: float) -> None:
    shutil.copytree(cog_dir / CAMEROON.name, tmp_path / CAMEROON.name)
    file = tmp_path / native_file(CAMEROON, "B05")
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    with asset_server(tmp_path) as server:
        item = item_of(CAMEROON, cog_dir, server)
        cube = s2pipe.load([item], loader=loader)
        with refused(kind=s2pipe.ReadError, naming=(f"band B05 of item {item.id} ", "truncated")):
            cube["r20m"]["reflectance"].compute()


@LOADERS
@pytest.mark.usefixtures("quick_retries")
def test_a_dropped_connection_is_an_error(faulty_assets: AssetServer, cog_dir: Path, loader: str) -> None:
    faulty_assets.cut(B05, (cog_dir / native_file(CAMEROON, "B05")).stat().st_size // 2)
    cube = s2pipe.load([item_of(CAMEROON, cog_dir, faulty_assets)], loader=loader)
    with refused(kind=s2pipe.ReadError, naming=("band B05",)):
        cube["r20m"]["reflectance"].compute()


@LOADERS
def test_a_passing_failure_is_retried(faulty_assets: AssetServer, cog_dir: Path, loader: str) -> None:
    faulty_assets.fail(B05, 503, times=2)
    cube = s2pipe.load([item_of(CAMEROON, cog_dir, faulty_assets)], loader=loader)
    loaded = cube["r20m"]["reflectance"].sel(band="B05").values[0]
    np.testing.assert_array_equal(loaded, present_encoding(CAMEROON, read_band(cog_dir, CAMEROON, "B05")))
    assert len(faulty_assets.requests(B05, 503)) == 2


def test_a_file_that_failed_is_read_once_it_is_there(faulty_assets: AssetServer, cog_dir: Path) -> None:
    """GDAL remembers in a process what it could not open; a later attempt must ask the server again."""
    faulty_assets.fail(B05, 404)
    cube = s2pipe.load([item_of(CAMEROON, cog_dir, faulty_assets)])
    with pytest.raises(s2pipe.ReadError):
        cube["r20m"]["reflectance"].compute()
    faulty_assets.fail(B05, 404, times=0)
    loaded = cube["r20m"]["reflectance"].sel(band="B05").values[0]
    np.testing.assert_array_equal(loaded, present_encoding(CAMEROON, read_band(cog_dir, CAMEROON, "B05")))


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("fault", ["missing", "truncated"])
def test_a_job_that_fails_on_one_file_goes_on_after_the_cure(cog_dir: Path, tmp_path: Path, fault: str) -> None:
    folder, store = tmp_path / "archive", tmp_path / "a.zarr"
    for name in (CAMEROON.name, "later"):
        shutil.copytree(cog_dir / CAMEROON.name, folder / name)
    file = folder / native_file(CAMEROON, "B05").replace(CAMEROON.name, "later")
    whole = file.read_bytes()
    with asset_server(folder) as server:
        item = planetary_computer_item(CAMEROON, cog_dir, server.url())
        later = json.loads(json.dumps(item).replace(f"/{CAMEROON.name}/", "/later/").replace("20220706", "20220711"))
        later["properties"]["datetime"] = later["properties"]["datetime"].replace("07-06", "07-11")
        cube = s2pipe.load([pystac.Item.from_dict(one) for one in (item, later)], chunks=240)
        sharpener = s2pipe.fit(s2pipe.load([pystac.Item.from_dict(item)], chunks=240), "glp")

        file.unlink() if fault == "missing" else file.write_bytes(whole[: len(whole) // 3])
        with refused(kind=s2pipe.ReadError, naming=(f"band B05 of item {later['id']}",)):
            s2pipe.sharpen_to_store(cube, store, method=sharpener)
        done = s2pipe.list_chunks(store)["written"]
        assert done.sum() >= len(done) / 2  # all of the other date

        file.write_bytes(whole)
        s2pipe.sharpen_to_store(cube, store, method=sharpener)
        expected = s2pipe.sharpen(cube, sharpener).compute()
    xr.testing.assert_identical(s2pipe.open_zarr(store).compute(), expected)


# --- catalogs and items ---------------------------------------------------------------------------------------------


def test_unreachable_catalog() -> None:
    url = f"http://{HOST}:{free_port()}"
    with refused("catalog", kind=s2pipe.CatalogError, naming=(url, "cannot be reached")):
        s2pipe.search(url, datetime="2020-02")


def test_unreachable_catalog_on_the_command_line(tmp_path: Path) -> None:
    catalog = f"http://{HOST}:{free_port()}/?key=secret"
    arguments = ["sharpen", "--catalog", catalog, "--datetime", "2020-02", "--out", tmp_path / "out.zarr"]
    done = subprocess.run([sys.executable, "-m", "s2pipe", *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "secret" not in done.stdout + done.stderr


def test_something_else_than_a_catalog(faulty_assets: AssetServer) -> None:
    with refused("catalog", kind=s2pipe.CatalogError, naming=(faulty_assets.url(),)):
        s2pipe.search(faulty_assets.url(), datetime="2020-02")


def test_empty_search(catalog: str) -> None:
    asked = ("bbox", "datetime", "collection")
    with refused(*asked, kind=s2pipe.CatalogError, naming=("bbox=(0, 0, 1, 1)", "datetime=2020-02", "collection=cdse")):
        s2pipe.search(catalog, collection="cdse", bbox=(0, 0, 1, 1), datetime="2020-02")


def test_baseline_that_says_nothing_needs_an_offset(faulty_assets: AssetServer, cog_dir: Path) -> None:
    item = item_of(TEST_REPROCESSING, cog_dir, faulty_assets)
    with refused("offset", naming=(item.id, "99.99")):
        s2pipe.load([item])
    assert faulty_assets.requests() == []

    dn = read_band(cog_dir, TEST_REPROCESSING, "B09")
    with_offset = s2pipe.load([item], offset=-0.1)["r60m"]["reflectance"].sel(band="B09").values[0]
    without = s2pipe.load([item], offset=0.0)["r60m"]["reflectance"].sel(band="B09").values[0]
    np.testing.assert_array_equal(with_offset, dn)
    between = (dn > 0) & (dn < 64535)
    np.testing.assert_array_equal(without[between], dn[between] + 1000)


# --- signed hrefs ---------------------------------------------------------------------------------------------------


@LOADERS
def test_hrefs_are_signed_at_each_read(faulty_assets: AssetServer, cog_dir: Path, loader: str) -> None:
    faulty_assets.protect("/")
    item, sign = item_of(CAMEROON, cog_dir, faulty_assets), Signer(faulty_assets)
    cube = s2pipe.load([item], loader=loader, chunks=240, sign=sign)
    assert sign.signed == []

    for attempt in (1, 2):  # the tokens of the first have expired when the second comes
        for band, gsd in GSD.items():
            loaded = cube[f"r{gsd}m"]["reflectance"].sel(band=band).values[0]
            np.testing.assert_array_equal(loaded, read_band(cog_dir, CAMEROON, band), err_msg=band)
            href = item.assets[band].href
            assert [signed for signed, _ in sign.signed].count(href) == 4 * attempt, "one token for each of the four chunks"
        faulty_assets.expire_tokens()
    assert faulty_assets.requests("/", 403) == []
    assert all("sig=" not in asset.href for asset in item.assets.values())


@LOADERS
def test_an_unsigned_href_is_an_error_with_the_cure(faulty_assets: AssetServer, cog_dir: Path, loader: str) -> None:
    faulty_assets.protect("/")
    cube = s2pipe.load([item_of(CAMEROON, cog_dir, faulty_assets)], loader=loader)
    with refused(kind=s2pipe.ReadError, naming=("sign",)):
        cube["r60m"]["reflectance"].compute()


@LOADERS
@pytest.mark.parametrize("fault", [403, 404, 503, "cut", "expired"])
@pytest.mark.usefixtures("quick_retries")
def test_errors_and_logs_tell_no_token(
    faulty_assets: AssetServer, cog_dir: Path, caplog: pytest.LogCaptureFixture, loader: str, fault: int | str
) -> None:
    caplog.set_level(logging.DEBUG)
    faulty_assets.protect("/")
    sign = Signer(faulty_assets)
    if isinstance(fault, int):
        faulty_assets.fail(B05, fault)
    elif fault == "cut":
        faulty_assets.cut(B05, 20_000)

    def sign_or_let_expire(href: str) -> str:
        signed = sign(href)
        if fault == "expired":
            faulty_assets.expire_tokens()
        return signed

    cube = s2pipe.load([item_of(CAMEROON, cog_dir, faulty_assets)], loader=loader, sign=sign_or_let_expire)
    with pytest.raises(s2pipe.ReadError) as raised:
        cube["r20m"]["reflectance"].compute()
    assert any(record.name.startswith("rasterio") for record in caplog.records)
    sign.assert_secret(shown(raised.value))
    sign.assert_secret(caplog.text)


@LOADERS
def test_a_failing_sign_function_is_an_error_that_tells_nothing(faulty_assets: AssetServer, cog_dir: Path, loader: str) -> None:
    def sign(href: str) -> str:
        raise RuntimeError(f"{href}?sig=secret is refused")

    cube = s2pipe.load([item_of(CAMEROON, cog_dir, faulty_assets)], loader=loader, sign=sign)
    with pytest.raises(s2pipe.ReadError, match="RuntimeError") as raised:
        cube["r60m"]["reflectance"].compute()
    assert raised.value.arguments == ("sign",)
    assert "secret" not in shown(raised.value)


@LOADERS
def test_stores_hold_no_token(
    faulty_assets: AssetServer, cog_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, loader: str
) -> None:
    caplog.set_level(logging.DEBUG)
    faulty_assets.protect("/")
    sign = Signer(faulty_assets)
    cube = s2pipe.load([item_of(CAMEROON, cog_dir, faulty_assets)], loader=loader, sign=sign)
    s2pipe.to_zarr(cube, tmp_path / "out.zarr", group="cube")
    s2pipe.to_zarr(cube.s2.sharpen(method="glp"), tmp_path / "out.zarr", group="sharpened")

    files = [path for path in (tmp_path / "out.zarr").rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        sign.assert_secret(path.read_bytes().decode("latin-1"))
    sign.assert_secret(caplog.text)
    assert list(s2pipe.open_zarr(tmp_path / "out.zarr", group="sharpened")["item_id"].values) == list(
        cube["r10m"]["item_id"].values
    )
