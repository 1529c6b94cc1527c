"""The command line as a user types it, on simulated scenes in a local catalog or in files, and on real ones."""

import json
import pickle
import shutil
import signal
import subprocess
import sys

import dask
import numpy as np
import pandas as pd
import pystac
import pytest
import scipy.io
import zarr
from hypothesis import given
from hypothesis import strategies as st
from quick import quick_options
from terminal import Terminal
from typer.testing import CliRunner

import s2pipe
from s2pipe.cli import app as cli
from s2pipe.cli.app import app
from s2pipe.cli.tables import marked
from s2pipe.core.bands import BANDS
from s2pipe.inputs.dataarray import as_cube
from s2pipe.methods import METHODS
from s2pipe.quality import evaluation
from s2pipe.quality.reduced import reduce_scene
from s2pipe.simulation.archive import write_scene
from s2pipe.simulation.landscape import simulate_scene

DAY = ["--datetime", "2026-06-21"]
OFFSET = ["--offset", "-0.1"]


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


@pytest.fixture(scope="module")
def cube(scene):
    return s2pipe.from_arrays(scene.r10m, scene.r20m, scene.r60m, offset=-0.1)


@pytest.fixture(scope="module")
def npz(scene, tmp_path_factory):
    """The scene in a file, which does not state its offset."""
    path = tmp_path_factory.mktemp("scene") / "simulated.npz"
    np.savez(path, r10m=scene.r10m, r20m=scene.r20m, r60m=scene.r60m)
    return path


@pytest.fixture(scope="module")
def weights(npz, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "glp.safetensors"
    result = run("fit", npz, *OFFSET, "--method", "glp", "--out", path)
    assert result.exit_code == 0, result.output
    return path


def one_line_error(result, code):
    """The text of an error that ended a command as it should: exit code, one line, no traceback."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)  # Typer's way out, not an exception that went astray
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in result.output
    return lines[-1]


@pytest.mark.parametrize("command", ["", "search", "sharpen", "fit", "evaluate", "info", "demo"])
def test_help(command):
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_help_imports_nothing_slow():
    code = "import sys, s2pipe.cli.app; print([m for m in ('torch', 'dask', 'rasterio', 'xarray') if m in sys.modules])"
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
    assert written.attrs["s2pipe_method"] == "mtf-resnet"
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


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (["--chunks", 100], "--chunks"),
        (["--chunks", 6], "--chunks"),  # thinner than the halo, which the sharpening says
        (["--bands", "B05,B10"], "--bands"),
        (["--loader", "gdal"], "--loader"),
        (["--offset", 3], "--offset"),
        (["--device", "tpu"], "--device"),
        (["--precision", "float16"], "--precision"),
        (["--datetime", "yesterday"], "--datetime"),
        (["--datetime", "2019", "--max-cloud-cover", 5], "--datetime, --max-cloud-cover"),
        (["--catalog", "/no/such/catalog.json"], "--catalog"),
        (["--scheduler", ""], "--scheduler"),
        (["--scheduler", "tls://127.0.0.1:9", "--tls-key", "/gone.pem"], "--tls-key"),
        (["--method", "/gone.safetensors"], "--method"),
        (["--out", ""], "--out"),
    ],
)
def test_an_error_ends_with_the_options_it_is_about(arguments, flags, archive, tmp_path):
    command = ["sharpen", "--catalog", archive, *DAY, "--method", "glp", "--out", tmp_path / "o.zarr", *arguments]
    result = run(*command)
    assert result.exit_code in (1, 2)
    assert one_line_error(result, result.exit_code).endswith(f" ({flags})")


@pytest.mark.parametrize(("changed", "flags"), [("--method", "--overwrite, --refit"), ("--seed", "--overwrite, --refit")])
def test_a_store_of_another_fit_is_refused_with_the_options_that_cure_it(changed, flags, archive, tmp_path):
    given = {"--method": ("bicubic", "glp"), "--seed": (0, 1)}[changed]
    method = [] if changed == "--method" else ["--method", "ssc-cnn", "--steps", 1]
    command = ["sharpen", "--catalog", archive, *DAY, *method, "--out", tmp_path / "o.zarr", changed]
    assert run(*command, given[0]).exit_code == 0
    assert one_line_error(run(*command, given[1]), 1).endswith(f" ({flags})")


def test_other_commands_name_their_options_too(npz, tmp_path):
    fit = ["fit", npz, "--method", "glp", "--out"]
    assert one_line_error(run(*fit, tmp_path / "w.safetensors", "--scale", 0), 2).endswith(" (--scale)")
    assert one_line_error(run("evaluate", npz, "--method", "glp", "--precision", "half"), 2).endswith(" (--precision)")


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
    message = one_line_error(result, 2)
    assert "tcp://127.0.0.1:9" in message and message.endswith(" (--scheduler)")


@pytest.mark.parametrize("scheduler", [[], ["--scheduler", "local"]])
def test_a_damaged_file_ends_the_job_in_one_line(scheduler, private_archive, weights, tmp_path):
    (path,) = private_archive.parent.rglob("B11.tif")
    path.write_bytes(path.read_bytes()[:2000])
    store = tmp_path / "out.zarr"
    # weights, because a fit would read the file before anything is written
    result = run("sharpen", "--catalog", private_archive, *DAY, "--method", weights, *scheduler, "--out", store)
    assert "B11" in one_line_error(result, 1)
    # What was begun says so, and can be replaced.
    assert "not written to its end" in run("info", store).output
    shutil.copy(path.with_name("B12.tif"), path)
    again = run("sharpen", "--catalog", private_archive, *DAY, "--method", weights, "--out", store, "--overwrite")
    assert again.exit_code == 0, again.output


def test_interrupting_leaves_no_traceback(archive, tmp_path):
    command = ["sharpen", "--catalog", str(archive), *DAY, "--steps", "1000000", "--out", str(tmp_path / "o.zarr")]
    process = subprocess.Popen(
        [sys.executable, "-m", "s2pipe", *command],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which tests run in the background hand down ignored
    )
    assert process.stderr is not None
    assert "33TWM_32633" in process.stderr.readline()  # the fit begins
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in rest
    assert "Traceback" not in rest


def test_ctrl_c_in_a_terminal_leaves_it_clean(archive, tmp_path):
    terminal = Terminal("-m", "s2pipe", "sharpen", "--catalog", archive, *DAY, "--steps", "1000000", "--out", tmp_path / "o.zarr")
    next(lines for lines in terminal.states() if any("/1000000 " in line for line in lines))  # it trains
    terminal.type("\x03")
    *_, lines = terminal.states()
    assert terminal.close() == 130
    assert lines[0] == "33TWM_32633: 120 x 120 px at 10 m, 1 date"
    assert lines[-1] == "interrupted"
    assert len(lines) <= 3  # the bar as it stood, where the echo of Ctrl-C moved the cursor on
    assert not terminal.screen.cursor.hidden


def test_sharpen_with_weights_uses_them_as_they_are(archive, weights, tmp_path):
    store = tmp_path / "out.zarr"
    result = run("sharpen", "--catalog", archive, *DAY, "--method", weights, "--out", store)
    assert result.exit_code == 0, result.output
    loaded = s2pipe.load(s2pipe.search(archive, datetime="2026-06-21"))
    expected = s2pipe.sharpen(loaded, s2pipe.load_sharpener(weights))
    written = s2pipe.open_zarr(store, group="33TWM_32633")
    np.testing.assert_array_equal(written.values, expected.values)
    assert written.attrs["s2pipe_weights_sha256"] == s2pipe.load_sharpener(weights).weights_sha256


def test_weights_get_the_bands_they_need_whatever_bands_are_written(archive, weights, tmp_path):
    store = tmp_path / "out.zarr"
    result = run("sharpen", "--catalog", archive, *DAY, "--method", weights, "--bands", "B05", "--out", store)
    assert result.exit_code == 0, result.output
    assert list(s2pipe.open_zarr(store, group="33TWM_32633")["band"].values) == ["B05"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--steps", 5], "leave out --steps"),
        (["--seed", 0], "leave out --seed"),
        (["--method", "gone.safetensors"], "no file gone.safetensors"),
    ],
)
def test_weights_are_looked_at_before_the_search(arguments, named, weights, tmp_path):
    catalog = "http://127.0.0.1:9/stac"  # nobody answers there
    command = ["sharpen", "--catalog", catalog, *DAY, "--method", weights, "--out", tmp_path / "o.zarr", *arguments]
    assert named in one_line_error(run(*command), 2)


# ---- fit ----


@pytest.mark.parametrize("option", ["--sensor", "--protocol"])
def test_fit_writes_what_the_library_fits_and_tells_it(option, npz, cube, tmp_path):
    path = tmp_path / "w.safetensors"
    command = ["fit", npz, *OFFSET, "--method", "ssc-cnn", "--steps", 2, "--seed", 7, option, "corner", "--out", path]
    result = run(*command)
    assert result.exit_code == 0, result.output
    expected = s2pipe.fit(cube, "ssc-cnn", steps=2, seed=7, sensor=s2pipe.Sensor.named("corner"))
    assert s2pipe.load_sharpener(path).provenance() == expected.provenance()
    for text in (str(path), "ssc-cnn", "B05 B06 B07 B8A B11 B12 B01 B09", f"{expected.halo} px", "corner"):
        assert text in result.stdout


def test_fit_goes_on_from_its_checkpoint(npz, tmp_path):
    command = ["fit", npz, *OFFSET, "--method", "ssc-cnn"]
    assert run(*command, "--steps", 2, "--checkpoint", tmp_path / "new" / "c", "--out", tmp_path / "a.safetensors").exit_code == 0
    result = run(*command, "--steps", 1, "--checkpoint", tmp_path / "new" / "c", "--out", tmp_path / "b.safetensors")
    assert "is at step 2" in one_line_error(result, 2)


def test_fit_replaces_weights_only_when_asked(npz, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_text("dear")
    command = ["fit", npz, *OFFSET, "--method", "glp", "--out", path]
    assert "--overwrite" in one_line_error(run(*command), 2)
    assert path.read_text() == "dear"
    assert run(*command, "--overwrite").exit_code == 0
    assert s2pipe.load_sharpener(path).method == "glp"


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ("there.safetensors", "--overwrite"),
        ("folder.safetensors", "exists"),
        ("w.pt", "must end in .safetensors"),
        ("missing/w.safetensors", "missing is no folder"),
        ("there.safetensors/w.safetensors", "there.safetensors is no folder"),
    ],
)
def test_weights_that_cannot_be_written_are_told_before_anything_is_read(weights, named, tmp_path):
    (tmp_path / "there.safetensors").touch()
    (tmp_path / "folder.safetensors").mkdir()
    result = run("fit", "/no/such/scene", "--method", "glp", "--out", tmp_path / weights)
    assert named in one_line_error(result, 2)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--method", "magic"], "s2sucnn"),
        (["--method", "w.safetensors"], "is a file of weights"),
        (["--method", "glp", "--steps", 5], "steps"),
        (["--sensor", "middle"], "'middle'"),
        (["--device", "tpu"], "'tpu'"),
        (["--scale", 0], "scale"),
        (["--checkpoint", __file__], "--checkpoint"),
    ],
)
def test_fit_tells_bad_input(arguments, named, npz, tmp_path):
    path = tmp_path / "w.safetensors"
    assert named in one_line_error(run("fit", npz, "--method", "bicubic", "--out", path, *arguments), 2)
    assert not path.exists()


# ---- evaluate ----


def figures(table):
    """All of the table of `evaluate` but what differs from run to run."""
    return pd.DataFrame(table).drop(columns="seconds")


def row_of(method, output):
    """The words of the line that a printed table has for a method."""
    (line,) = (line for line in output.splitlines() if line.strip().startswith(method))
    return line.split()


def test_evaluate_prints_a_row_for_each_method(npz, cube):
    result = run("evaluate", npz, *OFFSET, "--method", "bicubic", "--method", "glp")
    assert result.exit_code == 0, result.output
    expected = s2pipe.evaluate(cube, ["bicubic", "glp"])
    for method, rows in expected.groupby("method"):
        mean = rows.iloc[-1]
        numbers = [
            f"{mean['rmse']:.5f}",
            f"{mean['ssim']:.4f}",
            f"{mean['uiqi']:.4f}",
            f"{mean['sam_deg']:.2f}",
            f"{mean['ergas']:.2f}",
        ]
        words = [word.lstrip("*'") for word in row_of(method, result.stdout)]
        assert words[1:-1] == [f"{sre:.2f}" for sre in rows["sre_db"]] + numbers
        assert float(words[-1]) >= 0  # seconds
    told = " ".join(result.stdout.split())
    for text in ("simulated, sensor matched, gsd 20", "degraded by a Gaussian matched to each band's MTF", "what was observed"):
        assert text in told
    assert "in-sample" not in told
    assert "told" not in told


def test_the_best_and_the_second_best_of_each_column_are_marked(npz):
    command = ["evaluate", npz, *OFFSET, "--method", "bicubic", "--method", "glp", "--method", "ssc-cnn", "--steps", 2]
    printed = run(*command).stdout
    table = pd.DataFrame({method: row_of(method, printed)[1:-1] for method in ("bicubic", "glp", "ssc-cnn")})
    lower = [7, 10, 11]  # RMSE, SAM, ERGAS
    for column, row in table.iterrows():
        in_order = sorted(row, key=lambda word: float(word.lstrip("*'")), reverse=column not in lower)
        assert [word.rstrip("-.0123456789") for word in in_order] == ["*", "'", ""]
    assert "*best and 'second best of each column" in " ".join(printed.split())


def test_what_has_seen_the_reference_is_not_ranked(npz, weights):
    command = ["evaluate", npz, *OFFSET, "--method", weights, "--method", "bicubic", "--method", "ssc-cnn", "--steps", 2]
    printed = run(*command).stdout
    assert not any(word.startswith(("*", "'")) for word in row_of("glp", printed))
    for marks in zip(row_of("bicubic", printed)[1:-1], row_of("ssc-cnn", printed)[1:-1], strict=True):
        assert {word.rstrip("-.0123456789") for word in marks} == {"*", "'"}
    assert "and is not ranked" in " ".join(printed.split())


@pytest.mark.parametrize("others", [[], ["weights"]])
def test_a_method_that_competes_with_none_gets_no_mark(others, npz, weights):
    methods = [part for _ in others for part in ("--method", weights)]
    printed = run("evaluate", npz, *OFFSET, "--method", "bicubic", *methods).stdout
    assert "*" not in printed.split("reflectance = number *")[1] and "second best" not in printed


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1), st.sampled_from(["highest", "lowest"]))
def test_marks_follow_what_is_printed(rows, best):
    values, ranked = (pd.Series(column) for column in zip(*rows, strict=True))
    printed = marked(values / 8, ".1f", ranked, best=best)  # 0.1 holds one or two eighths
    words = [f"{value / 8:.1f}" for value in values]
    competing = [word for word, competes in zip(words, ranked, strict=True) if competes]
    in_order = sorted(competing, key=float, reverse=best == "highest")
    first, second = in_order[:2] if len(competing) > 1 else (None, None)
    for text, word, competes in zip(printed, words, ranked, strict=True):
        mark = "*" if word == first else "'" if word == second else ""
        assert text.plain == (mark if competes else "") + word
        assert text.style == {"*": "bold", "'": "underline", "": ""}[mark if competes else ""]


@pytest.fixture
def few_methods(monkeypatch):
    """A table of three methods, of which one lacks its weights."""
    monkeypatch.setattr(evaluation, "METHODS", {name: METHODS[name] for name in ("bicubic", "glp", "dsen2")})


@pytest.mark.usefixtures("few_methods")
def test_evaluate_all_names_what_is_left_out_below_the_table(npz, weights):
    printed = run("evaluate", npz, *OFFSET, "--method", "all", "--method", weights).stdout
    assert row_of("bicubic", printed) and row_of("glp #1", printed) and row_of("glp #2", printed)[-1] == "in-sample"
    (line,) = [line for line in printed.splitlines() if line.startswith("left out: ")]
    assert line.startswith("left out: dsen2: dsen2 has no weights; give weights_20m= or weights_60m=")


@pytest.mark.usefixtures("few_methods")
def test_evaluate_all_names_what_is_left_out_beside_json(npz):
    result = run("evaluate", npz, *OFFSET, "--method", "all", "--json")
    assert {record["method"] for record in json.loads(result.stdout)} == {"bicubic", "glp"}
    assert "dsen2 is left out: dsen2 has no weights" in " ".join(result.stderr.split())


def test_evaluate_all_runs_the_whole_table_and_draws_it(npz, tmp_path):
    picture = tmp_path / "out.png"
    result = run("evaluate", npz, *OFFSET, "--method", "all", "--sensor", "centre", "--steps", 1, "--plot", picture)
    assert result.exit_code == 0, result.output
    left_out = [line.split(": ")[1] for line in result.stdout.splitlines() if line.startswith("left out: ")]
    assert "dsen2" in left_out
    assert all(row_of(f"{method} ", result.stdout) for method in METHODS if method not in left_out)
    assert f"picture: {picture}" in result.stdout and picture.read_bytes().startswith(b"\x89PNG")


def test_which_method_is_running_is_told(npz, monkeypatch):
    command = ["evaluate", npz, *OFFSET, "--method", "bicubic", "--method", "glp"]
    assert run(*command).stderr.splitlines() == ["1 of 2: bicubic", "2 of 2: glp"]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(cli.err, "is_interactive", True)
    shown = run(*command).stderr
    assert "1 of 2: bicubic" in shown and "2 of 2: glp" in shown


def test_evaluate_gives_dsen2_its_weights(npz):
    paths = quick_options("dsen2")
    command = ["--method", "dsen2", "--weights-20m", paths["weights_20m"], "--weights-60m", paths["weights_60m"], "--json"]
    result = run("evaluate", npz, *OFFSET, *command)
    assert result.exit_code == 0, result.output
    assert {record["method"] for record in json.loads(result.stdout)} == {"dsen2"}


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], {}),
        (["--protocol", "corner", "--crop", 5], {"sensor": "corner", "crop": 5}),
        (["--gsd", 60, "--crop", 0], {"gsd": 60, "crop": 0}),
        (["--told", "box"], {"told": "box"}),
        (["--method", "ssc-cnn", "--steps", 2, "--seed", 7], {"steps": 2, "seed": 7}),
    ],
)
def test_evaluate_gives_the_table_of_the_library_as_json(arguments, options, npz, cube):
    result = run("evaluate", npz, *OFFSET, "--method", "bicubic", *arguments, "--json")
    assert result.exit_code == 0, result.output
    records = json.loads(result.stdout)
    assert records[0]["sam_deg"] is None
    expected = s2pipe.evaluate(cube, ["bicubic", "ssc-cnn"] if "steps" in options else ["bicubic"], **options)
    pd.testing.assert_frame_equal(figures(records), figures(expected), rtol=1e-6)


def test_evaluate_says_what_the_methods_are_told_instead(npz):
    result = run("evaluate", npz, *OFFSET, "--method", "glp", "--sensor", "box", "--told", "corner")
    told = " ".join(result.stdout.split())
    assert "sigma 1/ratio and the block mean; the methods are told corner" in told


def test_weights_of_the_scene_itself_are_marked_in_sample(npz, weights):
    command = ["evaluate", npz, *OFFSET, "--method", weights, "--method", "bicubic"]
    printed = run(*command)
    assert row_of("glp", printed.stdout)[-1] == "in-sample"
    assert "in-sample" not in row_of("bicubic", printed.stdout)
    records = json.loads(run(*command, "--json").stdout)
    assert {(record["method"], record["in_sample"]) for record in records} == {("glp", True), ("bicubic", False)}


def test_weights_of_another_scene_are_not_in_sample(weights, tmp_path):
    other = simulate_scene(120, seed=5)
    path = tmp_path / "other.npz"
    np.savez(path, r10m=other.r10m, r20m=other.r20m, r60m=other.r60m)
    records = json.loads(run("evaluate", path, *OFFSET, "--method", weights, "--json").stdout)
    assert not any(record["in_sample"] for record in records)


def test_a_scene_that_brings_its_reference_is_judged_by_it(npz, cube, tmp_path):
    reduced = reduce_scene(as_cube(cube), s2pipe.Sensor.named("box"), 20)
    lower = {band: node.sel(band=band).values[0] for node in reduced.cube.arrays.values() for band in node["band"].values}
    cells = np.empty(len(BANDS), dtype=object)
    cells[:] = [lower[band] for band in BANDS]
    pair = tmp_path / "pair.mat"
    scipy.io.savemat(pair, {"Yim": cells, "Xm_im": np.moveaxis(reduced.reference, 0, -1)})

    command = ["--method", "bicubic", "--method", "ssc-cnn", "--steps", 2, "--protocol", "box"]
    degraded_here = json.loads(run("evaluate", npz, *OFFSET, *command, "--json").stdout)
    came_degraded = json.loads(run("evaluate", pair, "--scale", 1, *command, "--json").stdout)
    pd.testing.assert_frame_equal(figures(came_degraded), figures(degraded_here), rtol=1e-6)

    told = " ".join(run("evaluate", pair, "--scale", 1, *command).stdout.split())
    assert "pair, sensor box, gsd 20" in told
    assert "degraded in the file already" in told
    assert "the file's own reference" in told
    assert "gsd" in one_line_error(run("evaluate", pair, "--scale", 1, *command, "--gsd", 60), 2)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--method", "magic"], "s2sucnn"),
        (["--method", "gone.safetensors"], "no file gone.safetensors"),
        (["--sensor", "middle"], "'middle'"),
        (["--told", "middle"], "'middle'"),
        (["--gsd", 30], "gsd=30"),
        (["--crop", -1], "crop=-1"),
        (["--crop", 30], "crop=30"),
        (["--steps", 5], "steps"),
        (["--device", "tpu"], "'tpu'"),
        (["--method", "dsen2"], "dsen2 has no weights"),
        (["--plot", "/no/such/folder/out.png"], "/no/such/folder is no folder"),
        (["--plot", "out.docx"], "out.docx must end in one of"),
    ],
)
def test_evaluate_tells_bad_input(arguments, named, npz):
    result = run("evaluate", npz, "--method", "bicubic", *arguments, "--json")
    assert named in one_line_error(result, 2)
    assert result.stdout == ""


def test_evaluate_tells_a_missing_scene():
    assert "/no/such/scene" in one_line_error(run("evaluate", "/no/such/scene", "--method", "bicubic"), 2)


def test_evaluate_wants_a_method(npz):
    result = run("evaluate", npz)
    assert result.exit_code == 2
    assert "--method" in result.stderr


def test_weights_for_another_sensor_are_refused_unless_it_is_stated(npz, weights):
    command = ["evaluate", npz, *OFFSET, "--method", weights, "--protocol", "box"]
    assert "fitted for the sensor 'matched'" in one_line_error(run(*command), 2)
    assert run(*command, "--told", "matched").exit_code == 0


def test_a_pickle_by_another_name_is_never_opened(npz, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(pickle.dumps({"weights": 1}))
    assert "is no safetensors file" in one_line_error(run("evaluate", npz, "--method", path), 2)


def test_evaluate_on_a_real_scene(data_dir):
    folder = data_dir / "crops" / "majortom_L2A_T48QUE_20200223"
    records = json.loads(run("evaluate", folder, "--sensor", "centre", "--method", "bicubic", "--method", "glp", "--json").stdout)
    table = pd.DataFrame(records).set_index(["method", "band"])
    assert not table["in_sample"].any()
    together = table.xs("all", level="band")
    assert together.loc["bicubic", "sre_db"] == pytest.approx(20.52, abs=0.05)
    assert together.loc["glp", "sre_db"] == pytest.approx(28.96, abs=0.3)
    assert (together["sam_deg"] < 5).all()
    assert (together["rmse"] < 0.03).all()
    better = table.loc["glp"] > table.loc["bicubic"]
    assert better[["sre_db", "ssim", "uiqi"]].all(axis=None)


def test_evaluate_on_a_real_pair(data_dir):
    pair = data_dir / "papers" / "coastalA_cell_RR.mat"
    result = run("evaluate", pair, "--method", "bicubic", "--protocol", "box")
    assert result.exit_code == 0, result.output
    assert row_of("bicubic", result.stdout)[7] == "21.96"
    assert "coastalA_cell_RR, sensor box" in result.stdout
    assert "reflectance = number * 0.0001 + 0" in " ".join(result.stdout.split())
    result = run("evaluate", pair, "--method", "bicubic", "--repair")
    assert result.exit_code == 2 and "not its own reference" in result.stderr


def test_weights_that_are_no_safetensors_are_never_opened(data_dir, tmp_path):
    pickled = tmp_path / "weights.pth"
    pickled.write_bytes(b"\x80\x04.")
    result = run("evaluate", data_dir / "papers" / "iceland.mat", "--method", pickled)
    assert result.exit_code == 2 and "never opened" in result.stderr


def test_a_shifted_scene_is_warned_of_and_repaired_on_request(data_dir, caplog):
    scene = data_dir / "papers" / "iceland.mat"
    shifted = run("evaluate", scene, "--method", "glp")
    assert "repair_registration" in caplog.text
    caplog.clear()
    repaired = run("evaluate", scene, "--method", "glp", "--repair")
    assert "repair_registration" not in caplog.text
    assert float(row_of("glp", repaired.stdout)[7]) > float(row_of("glp", shifted.stdout)[7]) + 5


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
