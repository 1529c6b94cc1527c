"""From a search of a real STAC API, over http, to a sharpened Zarr store, in each catalog's convention."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from items import (
    CAMEROON,
    CONVENTIONS,
    GSD,
    OFFSET_APPLIED,
    SCENES,
    THAILAND,
    VIRGINIA,
    Scene,
    lonlat_bbox,
    native_file,
    present_encoding,
    read_band,
    read_grid,
)

import s2pipe

EVERYWHEN = "2015-06/2030"
WINDOW = 120, 100, 300
"""Row and column at 10 m of the ground that the sharpening of Thailand asks for, and its edge; on the 60 m lattice outward."""
SNAPPED = slice(120, 420), slice(96, 402)
"""The rows and columns of the crop that cover it: edges on multiples of 6."""


def window_bbox(cog_dir: Path) -> list[float]:
    """`WINDOW` in degrees, a little inside so that its outline's curve in degrees does not reach the next 60 m pixel."""
    grid = read_grid(cog_dir / native_file(THAILAND, "B02"))
    row, column, edge = WINDOW
    left, top = grid.transform @ (column, row)
    return lonlat_bbox(grid.epsg, (left + 10, top - 10 * edge + 25, left + 10 * edge - 10, top - 25))


def scene_bbox(cog_dir: Path, scene: Scene) -> list[float]:
    grid = read_grid(cog_dir / native_file(scene, "B02"))
    return lonlat_bbox(grid.epsg, grid.bounds)


STEPS = {"ssc-cnn": ("--steps", 1)}


def run_cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "s2pipe", *map(str, arguments)], capture_output=True, text=True, timeout=300)


def native(cube: xr.DataTree, band: str) -> xr.DataArray:
    return cube[f"r{GSD[band]}m"]["reflectance"].sel(band=band)


# --- search ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("max_cloud_cover", "scenes"), [(3, []), (3.5, [VIRGINIA]), (50, [VIRGINIA, THAILAND]), (100, SCENES)])
def test_search_by_cloud_cover(catalog: str, convention: str, max_cloud_cover: float, scenes: list[Scene]) -> None:
    def search() -> set[str]:
        items = s2pipe.search(catalog, collection=convention, max_cloud_cover=max_cloud_cover)
        return {next(scene.tile for scene in SCENES if scene.tile in item.id) for item in items}

    if scenes:
        assert search() == {scene.tile for scene in scenes}
    else:
        with pytest.raises(s2pipe.CatalogError, match="max_cloud_cover=3"):
            search()


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.tile)
def test_search_by_bbox_and_by_datetime(catalog: str, cog_dir: Path, convention: str, scene: Scene) -> None:
    by_place = s2pipe.search(catalog, collection=convention, bbox=scene_bbox(cog_dir, scene))
    by_time = s2pipe.search(catalog, collection=convention, datetime=scene.datetime[:10])
    assert all(scene.tile in item.id for item in by_place)
    assert [item.id for item in by_time] == [item.id for item in by_place if item.datetime == by_time[0].datetime]


# --- load -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loader", ["stackstac", "odc"])
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.tile)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_loaded_pixel_is_the_files(catalog: str, cog_dir: Path, convention: str, scene: Scene, loader: str) -> None:
    items = s2pipe.search(catalog, collection=convention, bbox=scene_bbox(cog_dir, scene), datetime=EVERYWHEN)
    dates = [scene]
    if scene is THAILAND and convention == "earth-search":
        dates.append(OFFSET_APPLIED)  # one cube of two dates that differ in their offset
    cube = s2pipe.load(items, loader=loader).compute()

    assert [str(time) for time in cube["r10m"]["time"].values] == [f"{date.datetime[:-1]}000000" for date in dates]
    assert list(cube["r10m"]["processing_baseline"].values) == [date.baseline for date in dates]
    for band in GSD:
        loaded = native(cube, band)
        assert loaded.dtype == np.uint16
        dn = read_band(cog_dir, scene, band)
        assert {0, 65000, 65535} <= set(dn[0].tolist())
        for date, pixels in zip(dates, loaded.values, strict=True):
            np.testing.assert_array_equal(pixels, present_encoding(date, dn), err_msg=f"{band} of {date.datetime}")
        grid = read_grid(cog_dir / native_file(scene, band))
        assert loaded.rio.crs.to_epsg() == grid.epsg
        assert loaded.rio.transform() == grid.transform
        assert loaded["x"][0] == grid.transform.c + GSD[band] / 2
        assert loaded["y"][0] == grid.transform.f - GSD[band] / 2


def test_what_the_expectation_rests_on() -> None:
    """The three ways to the present encoding, in numbers written by hand."""
    dn = np.array([0, 1, 999, 64534, 65000, 65535], np.uint16)
    moved = [0, 1001, 1999, 65534, 65534, 65535]
    assert present_encoding(VIRGINIA, dn).tolist() == moved
    assert present_encoding(OFFSET_APPLIED, dn).tolist() == moved
    assert present_encoding(CAMEROON, dn).tolist() == dn.tolist()


# --- the whole job --------------------------------------------------------------------------------------------------


def check_store(store: Path, group: str, scene: Scene, cog_dir: Path, rows: slice, columns: slice) -> xr.DataArray:
    """The reopened result, after its labels and its 10 m bands are found right and its other bands plausible."""
    result = s2pipe.open_zarr(store, group=group)
    grid = read_grid(cog_dir / native_file(scene, "B02"))
    transform = grid.transform @ grid.transform.translation(columns.start, rows.start)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    assert result.dims == ("time", "band", "y", "x")
    assert result.shape == (1, 12, height, width)
    assert result.dtype == np.uint16
    assert list(result["band"].values) == ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
    assert result.rio.crs.to_epsg() == grid.epsg
    assert result.rio.transform() == transform
    np.testing.assert_array_equal(result["x"], transform.c + 5 + 10 * np.arange(width))
    np.testing.assert_array_equal(result["y"], transform.f - 5 - 10 * np.arange(height))
    assert str(result["time"].values[0]) == f"{scene.datetime[:-1]}000000"
    assert (result.attrs["scale_factor"], result.attrs["add_offset"]) == (1e-4, -0.1)

    for band, gsd in GSD.items():
        ratio = gsd // 10
        part = tuple(slice(edge.start // ratio, edge.stop // ratio) for edge in (rows, columns))
        expected = present_encoding(scene, read_band(cog_dir, scene, band))[part]
        written = result.sel(band=band).values[0]
        if gsd == 10:
            np.testing.assert_array_equal(written, expected, err_msg=band)
        else:
            coarse = written.reshape(height // ratio, ratio, width // ratio, ratio).mean(axis=(1, 3))
            measured = (expected > 0) & (expected < 65000)
            assert np.corrcoef(coarse[measured], expected[measured])[0, 1] > 0.97, band
    return result


@pytest.mark.parametrize(("convention", "method"), zip(CONVENTIONS, ("ssc-cnn", "glp", "glp"), strict=True))
def test_sharpen_from_search_to_store(catalog: str, cog_dir: Path, tmp_path: Path, convention: str, method: str) -> None:
    store = tmp_path / "thailand.zarr"
    where = ("--catalog", catalog, "--collection", convention, "--bbox", *window_bbox(cog_dir))
    when = ("--datetime", "2020-02-01/2020-02-29", "--max-cloud-cover", 20)
    done = run_cli("sharpen", *where, *when, "--method", method, *STEPS.get(method, ()), "--out", store)
    assert done.returncode == 0, done.stderr

    result = check_store(store, "48QUE_32648", THAILAND, cog_dir, *SNAPPED)
    (item,) = s2pipe.search(catalog, collection=convention, datetime="2020-02")
    assert list(result["item_id"].values) == [item.id]
    assert list(result["platform"].values) == ["sentinel-2b"]
    assert list(result["processing_baseline"].values) == ["02.14"]
    assert result.attrs["s2pipe_method"] == method
    assert result.attrs["s2pipe_version"] == s2pipe.__version__
    assert re.fullmatch(r"[0-9a-f]{64}", result.attrs["s2pipe_weights_sha256"])
    if method == "ssc-cnn":
        assert json.loads(result.attrs["s2pipe_options"])["steps"] == 1
        assert list(result.attrs["s2pipe_bicubic_bands"]) == ["B01", "B09"]  # the window is too small to train for them


def test_sharpen_whole_scenes_of_two_tiles(catalog: str, cog_dir: Path, tmp_path: Path) -> None:
    """No bbox, a level 1C and a level 2A scene in two UTM zones: one group for each, nothing warped."""
    store = tmp_path / "both.zarr"
    search = ("--catalog", catalog, "--collection", "cdse", "--datetime", EVERYWHEN, "--max-cloud-cover", 50)
    done = run_cli("sharpen", *search, "--method", "glp", "--loader", "odc", "--out", store)
    assert done.returncode == 0, done.stderr
    for scene, group in ((VIRGINIA, "18SVG_32618"), (THAILAND, "48QUE_32648")):
        rows, columns = read_grid(cog_dir / native_file(scene, "B02")).shape
        result = check_store(store, group, scene, cog_dir, slice(0, rows), slice(0, columns))
        assert result.attrs["s2pipe_method"] == "glp"


def test_nothing_found_is_one_clean_line(catalog: str, cog_dir: Path, tmp_path: Path) -> None:
    store = tmp_path / "nothing.zarr"
    where = ("--catalog", catalog, "--collection", "cdse", "--bbox", *window_bbox(cog_dir))
    done = run_cli("sharpen", *where, "--datetime", "2020-02", "--max-cloud-cover", 12, "--out", store)
    assert done.returncode == 1
    assert "nothing found" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not store.exists()
