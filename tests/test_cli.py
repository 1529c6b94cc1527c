"""The command line as a user types it, on simulated scenes in a local catalog."""

import shutil
import signal
import subprocess
import sys

import dask
import numpy as np
import pystac
import pytest
import zarr
from typer.testing import CliRunner

import s2pipe
from s2pipe.cli import app
from s2pipe.simulate import simulate_scene, write_scene

DAY = ["--datetime", "2026-06-21"]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def scene():
    return simulate_scene(120, seed=4)


@pytest.fixture(scope="module")
def archive(scene, tmp_path_factory):
    """One tile on two dates; the later one is cloudy."""
    folder = tmp_path_factory.mktemp("archive")
    write_scene(scene, folder)
    return write_scene(simulate_scene(120, seed=5), folder, datetime="2026-06-26T10:00:31Z", cloud_cover=60)


@pytest.fixture
def private_archive(scene, tmp_path):
    """An archive whose files a test may damage."""
    return write_scene(scene, tmp_path / "archive")


def one_line_error(result, code):
    """The text of an error that ended a command as it should: exit code, one line, no traceback."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)  # Typer's way out, not an exception that went astray
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in result.output
    return lines[-1]


@pytest.mark.parametrize("command", ["", "search", "sharpen", "info", "demo"])
def test_help(command):
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_help_imports_nothing_slow():
    code = "import sys, s2pipe.cli; print([m for m in ('torch', 'dask', 'rasterio', 'xarray') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "torch" not in loaded
    assert "rasterio" not in loaded


# ---- search ----


def test_search_lists_and_saves_items(archive, tmp_path):
    result = run("search", "--catalog", archive, "--out", tmp_path / "items.json")
    assert result.exit_code == 0
    for text in ("S2A_33TWM_20260621_0_L2A", "S2A_33TWM_20260626_0_L2A", "33TWM", "60.0", "05.11"):
        assert text in result.output
    saved = pystac.ItemCollection.from_file(str(tmp_path / "items.json"))
    assert {item.id for item in saved} == {"S2A_33TWM_20260621_0_L2A", "S2A_33TWM_20260626_0_L2A"}


def test_one_item_is_not_items(archive):
    output = run("search", "--catalog", archive, "--limit", 1).output
    assert "1 item" in output
    assert "1 items" not in output


def test_search_filters(archive):
    result = run(
        "search", "--catalog", archive, "--max-cloud-cover", 20, "--bbox", 15.4, 46.5, 15.6, 46.7, "--datetime", "2026-06"
    )
    assert "20260621" in result.output
    assert "20260626" not in result.output


def test_saved_items_are_a_catalog(archive, tmp_path):
    run("search", "--catalog", archive, "--limit", 1, "--out", tmp_path / "items.json")
    result = run("sharpen", "--catalog", tmp_path / "items.json", *DAY, "--method", "bicubic", "--out", tmp_path / "o.zarr")
    assert result.exit_code == 0, result.output


def test_search_that_finds_nothing(archive):
    assert "widen" in one_line_error(run("search", "--catalog", archive, "--datetime", "2019"), 1)


def test_unreachable_catalog_shows_no_secret():
    result = run("search", "--catalog", "http://127.0.0.1:9/stac?token=SECRET")
    assert "127.0.0.1" in one_line_error(result, 1)
    assert "SECRET" not in result.output


# ---- sharpen ----


def test_sharpen_writes_what_the_library_makes(archive, scene, tmp_path):
    store = tmp_path / "out.zarr"
    result = run("sharpen", "--catalog", archive, *DAY, "--method", "glp", "--chunks", 60, "--out", store)
    assert result.exit_code == 0, result.output
    assert "33TWM_32633" in result.output
    written = s2pipe.open_zarr(store, group="33TWM_32633")
    items = s2pipe.search(archive, datetime="2026-06-21")
    expected = s2pipe.sharpen(s2pipe.load(items, chunks=60), "glp")
    np.testing.assert_array_equal(written.values, expected.values)
    np.testing.assert_array_equal(written.sel(band=["B02", "B03", "B04", "B08"]).values[0], scene.r10m)
    assert list(written["item_id"].values) == ["S2A_33TWM_20260621_0_L2A"]
    assert written.attrs["s2pipe_method"] == "glp"
    assert written.rio.crs.to_epsg() == 32633
    assert written.rio.transform().c == 540000


def test_sharpen_with_a_network_and_all_dates(archive, tmp_path):
    store = tmp_path / "out.zarr"
    result = run(
        "sharpen", "--catalog", archive, "--datetime", "2026-06", "--steps", 2, "--seed", 7, "--unsharded", "--out", store
    )
    assert result.exit_code == 0, result.output
    written = s2pipe.open_zarr(store, group="33TWM_32633")
    assert written.sizes["time"] == 2
    assert written.attrs["s2pipe_method"] == "ssc-cnn"
    assert written.attrs["s2pipe_seed"] == 7
    assert '"steps": 2' in written.attrs["s2pipe_options"]


@pytest.mark.parametrize("arguments", [["--bands", "B05,B11"], ["--bands", "B05", "--bands", "B11"]])
def test_sharpen_reads_no_resolution_that_no_band_asked_for_needs(arguments, private_archive, tmp_path):
    for path in private_archive.parent.rglob("B0[19].tif"):
        path.unlink()
    store = tmp_path / "out.zarr"
    result = run("sharpen", "--catalog", private_archive, *DAY, "--method", "glp", *arguments, "--out", store)
    assert result.exit_code == 0, result.output
    assert list(s2pipe.open_zarr(store, group="33TWM_32633")["band"].values) == ["B05", "B11"]


def test_one_group_for_each_tile(scene, tmp_path):
    write_scene(scene, tmp_path / "archive")
    archive = write_scene(scene, tmp_path / "archive", tile="32TQS", origin=(780000, 5160000))
    store = tmp_path / "out.zarr"
    result = run("sharpen", "--catalog", archive, *DAY, "--method", "bicubic", "--out", store)
    assert result.exit_code == 0, result.output
    for group, epsg in (("33TWM_32633", 32633), ("32TQS_32632", 32632)):
        assert s2pipe.open_zarr(store, group=group).rio.crs.to_epsg() == epsg
    told = run("info", store)
    assert "33TWM_32633" in told.output
    assert "32TQS_32632" in told.output


@pytest.mark.slow
def test_schedulers_give_the_pixels_of_threads(archive, tmp_path):
    from distributed import LocalCluster

    command = ["sharpen", "--catalog", archive, *DAY, "--method", "glp", "--chunks", 60]
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
        addresses = {"threads": [], "local": ["--scheduler", "local"], "address": ["--scheduler", cluster.scheduler_address]}
        written = {}
        for name, scheduler in addresses.items():
            result = run(*command, *scheduler, "--out", tmp_path / f"{name}.zarr")
            assert result.exit_code == 0, result.output
            written[name] = s2pipe.open_zarr(tmp_path / f"{name}.zarr", group="33TWM_32633").values
    # another number of threads to a convolution rounds differently
    for name in ("local", "address"):
        np.testing.assert_allclose(written[name].astype(int), written["threads"].astype(int), rtol=0, atol=1)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--method", "magic"], "ssc-cnn"),
        (["--method", "glp", "--steps", 5], "steps"),
        (["--bands", "B05,B10"], "'B10'"),
        (["--bands", ","], "bands is empty"),
        (["--device", "tpu"], "'tpu'"),
        (["--bbox", 16, 46, 15, 47], "bbox"),
        (["--chunks", 100], "100"),
        (["--loader", "gdal"], "loader"),
        (["--offset", -1000], "offset=-1000"),
        (["--catalog", "/no/such/catalog.json"], "/no/such/catalog.json"),
    ],
)
def test_bad_input_is_told_before_any_work(arguments, named, private_archive, tmp_path):
    for path in private_archive.parent.rglob("*.tif"):
        path.unlink()  # reading would fail with another error
    store = tmp_path / "out.zarr"
    result = run("sharpen", "--catalog", private_archive, *DAY, "--out", store, *arguments)
    assert named in one_line_error(result, 2)
    assert not store.exists()


@pytest.mark.parametrize(
    ("arguments", "named"), [(["--chunks", 100], "chunks=100"), (["--loader", "gdal"], "loader"), (["--offset", 3], "offset=3")]
)
def test_bad_options_are_told_before_the_search(arguments, named, tmp_path):
    catalog = "http://127.0.0.1:9/stac"  # nobody answers there
    assert named in one_line_error(run("sharpen", "--catalog", catalog, *DAY, "--out", tmp_path / "o.zarr", *arguments), 2)


@pytest.mark.parametrize("option", ["--seed", "--steps"])
def test_numbers_below_zero_are_usage_errors(option, archive, tmp_path):
    result = run("sharpen", "--catalog", archive, *DAY, "--out", tmp_path / "o.zarr", option, -1)
    assert result.exit_code == 2
    assert f"Invalid value for '{option}'" in result.stderr


def test_chunks_thinner_than_the_halo_name_the_option(archive, tmp_path):
    command = ["sharpen", "--catalog", archive, *DAY, "--method", "bicubic", "--out", tmp_path / "o.zarr"]
    message = one_line_error(run(*command, "--chunks", 6), 2)
    assert "halo" in message
    assert "--chunks" in message


def test_empty_parts_of_bands_are_ignored(archive, tmp_path):
    store = tmp_path / "out.zarr"
    result = run("sharpen", "--catalog", archive, *DAY, "--method", "bicubic", "--bands", "B11, B05,", "--out", store)
    assert result.exit_code == 0, result.output
    assert list(s2pipe.open_zarr(store, group="33TWM_32633")["band"].values) == ["B05", "B11"]


def test_the_store_is_told_without_its_secrets(archive):
    result = run("sharpen", "--catalog", archive, *DAY, "--method", "bicubic", "--out", "memory://me:SECRET@told/a.zarr")
    assert result.exit_code == 0, result.output
    assert "memory://told/a.zarr: 33TWM_32633" in result.output
    assert "SECRET" not in result.output


def test_an_existing_store_is_replaced_only_when_asked(archive, tmp_path):
    store = tmp_path / "out.zarr"
    command = ["sharpen", "--catalog", archive, *DAY, "--out", store]
    assert run(*command, "--method", "bicubic").exit_code == 0
    assert "--overwrite" in one_line_error(run(*command, "--method", "glp"), 1)
    assert s2pipe.open_zarr(store, group="33TWM_32633").attrs["s2pipe_method"] == "bicubic"
    assert run(*command, "--method", "glp", "--overwrite").exit_code == 0
    assert s2pipe.open_zarr(store, group="33TWM_32633").attrs["s2pipe_method"] == "glp"


def test_an_unwritable_store_is_told_before_any_work(private_archive, tmp_path):
    for path in private_archive.parent.rglob("*.tif"):
        path.unlink()
    (tmp_path / "file").write_text("no folder")
    result = run("sharpen", "--catalog", private_archive, *DAY, "--out", tmp_path / "file" / "out.zarr")
    assert "file" in one_line_error(result, 1)


def test_an_unreachable_scheduler(archive, tmp_path):
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        result = run("sharpen", "--catalog", archive, *DAY, "--scheduler", "tcp://127.0.0.1:9", "--out", tmp_path / "o.zarr")
    assert "--scheduler tcp://127.0.0.1:9" in one_line_error(result, 2)


@pytest.mark.parametrize("scheduler", [[], ["--scheduler", "local"]])
def test_a_damaged_file_ends_the_job_in_one_line(scheduler, private_archive, tmp_path):
    (path,) = private_archive.parent.rglob("B11.tif")
    path.write_bytes(path.read_bytes()[:2000])
    store = tmp_path / "out.zarr"
    result = run("sharpen", "--catalog", private_archive, *DAY, "--method", "bicubic", *scheduler, "--out", store)
    assert "B11" in one_line_error(result, 1)
    # What was begun says so, and can be replaced.
    assert "not written to its end" in run("info", store).output
    shutil.copy(path.with_name("B12.tif"), path)
    again = run("sharpen", "--catalog", private_archive, *DAY, "--method", "bicubic", "--out", store, "--overwrite")
    assert again.exit_code == 0, again.output


def test_interrupting_leaves_no_traceback(archive, tmp_path):
    command = ["sharpen", "--catalog", str(archive), *DAY, "--steps", "1000000", "--out", str(tmp_path / "o.zarr")]
    process = subprocess.Popen([sys.executable, "-m", "s2pipe", *command], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "33TWM_32633" in process.stderr.readline()  # the fit begins
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in rest
    assert "Traceback" not in rest


# ---- info ----


def test_info_tells_methods_and_bands():
    result = run("info")
    assert result.exit_code == 0
    for text in (s2pipe.__version__, "bicubic", "ssc-cnn", "B8A", "cpu"):
        assert text in result.output


def test_info_finds_groups_at_any_depth(scene, tmp_path):
    cube = s2pipe.from_arrays(scene.r10m, scene.r20m, scene.r60m, offset=-0.1)
    store = tmp_path / "out.zarr"
    s2pipe.to_zarr(cube, store, group="north/33TWM")
    s2pipe.to_zarr(s2pipe.sharpen(cube, "bicubic"), store, group="sharp")
    result = run("info", store)
    assert result.exit_code == 0, result.output
    for text in ("north/33TWM", "sharp", "1 date, 12 bands, 120 x 120 px", "1 date, 6 bands, 60 x 60 px"):
        assert text in result.output


def test_info_on_a_store_of_others(tmp_path):
    zarr.create_group(tmp_path / "other.zarr")
    assert "nothing that s2pipe wrote" in one_line_error(run("info", tmp_path / "other.zarr"), 1)


@pytest.mark.parametrize("store", ["nosuch://me:SECRET@host/a.zarr", "https://me:SECRET@127.0.0.1:1/a.zarr?sig=SECRET"])
def test_info_on_an_unreachable_store(store):
    result = run("info", store)
    assert "a.zarr" in one_line_error(result, 1)
    assert "SECRET" not in result.output


def test_info_on_no_store(tmp_path):
    assert "no Zarr store" in one_line_error(run("info", tmp_path / "nothing.zarr"), 1)
