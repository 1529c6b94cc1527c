"""The demo, small: the whole way from simulated COGs to a store, a table and a picture."""

import numpy as np
import pytest
from PIL import Image
from refusals import refused
from typer.testing import CliRunner

import s2pipe
import s2pipe.simulation.demo as demo_module
from s2pipe.cli.app import DEMO_SIZE_MIN, app
from s2pipe.core.metrics import sre
from s2pipe.jobs.job import sharpen_to_store
from s2pipe.simulation.demo import METHODS, PAPERS, run_demo

SIZE = 360


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, CliRunner().invoke(app, ["demo", "--out", str(folder), "--size", str(SIZE), "--seed", "2"])


@pytest.mark.slow
def test_the_demo_ends_well_and_tells_what_it_did(demo):
    folder, result = demo
    assert result.exit_code == 0, result.output
    for text in (*METHODS, "B05", "B12", "B01", "B09", "mean"):
        assert text in result.output
    assert str(folder / "sharpened.zarr") in result.output
    assert str(folder / "before-after.png") in result.output


@pytest.mark.slow
def test_the_table_is_that_of_the_store(demo):
    folder, result = demo
    table = dict(line.replace("│", " ").split(maxsplit=1) for line in result.output.splitlines() if line.startswith("│"))
    mean = [float(number) for number in table["mean"].split()]
    bicubic, glp, default = mean
    assert bicubic + 5 < glp < default
    truth = s2pipe.simulation.landscape.simulate_scene(SIZE, seed=2).truth
    for i, method in enumerate(METHODS):
        stored = s2pipe.open_zarr(folder / "sharpened.zarr", group=method)
        assert stored.attrs["s2pipe_method"] == method
        reflectance = stored.sel(band="B11").values[0] * 1e-4 - 0.1
        assert float(table["B11"].split()[i]) == pytest.approx(sre(truth[10], reflectance), abs=0.01)


@pytest.mark.slow
def test_the_picture_shows_something(demo):
    folder, _ = demo
    with Image.open(folder / "before-after.png") as picture:
        assert picture.width > 1500
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.std() > 20


@pytest.mark.slow
def test_the_demo_can_be_run_again_and_trains_networks_where_asked_to(demo):
    folder, _ = demo
    again = CliRunner().invoke(app, ["demo", "--out", str(folder), "--size", str(DEMO_SIZE_MIN), "--papers", "--steps", "1"])
    assert again.exit_code == 0, again.output  # and not: the store exists
    assert "ssc-cnn for 1, s2sucnn for 1;" in again.output
    for method in (*METHODS, *PAPERS):
        assert s2pipe.open_zarr(folder / "sharpened.zarr", group=method).sizes["x"] == DEMO_SIZE_MIN


def test_the_demo_fails_where_the_default_is_no_better_than_others(tmp_path, monkeypatch):
    def broken(*arguments, method, **options):
        sharpen_to_store(*arguments, method="bicubic", **options)

    monkeypatch.setattr(demo_module, "sharpen_to_store", broken)
    failed = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), "--size", str(DEMO_SIZE_MIN)])
    assert failed.exit_code == 1 and "mtf-resnet is no better than bicubic" in failed.stderr


@pytest.mark.parametrize("options", [["--size", str(DEMO_SIZE_MIN - 6)], ["--seed", "-1"], ["--steps", "0"]])
def test_options_out_of_range_are_usage_errors(tmp_path, options):
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo"), *options])
    assert result.exit_code == 2
    assert f"Invalid value for '{options[0]}'" in result.stderr
    assert not (tmp_path / "demo").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        result = CliRunner().invoke(app, ["demo", "--out", str(folder)])
        assert result.exit_code == 2
        assert str(folder) in result.stderr and result.stderr.endswith("(--out)\n")
        with refused("folder", naming=(folder,)):
            run_demo(folder)


def test_the_function_takes_small_scenes(tmp_path):
    result = run_demo(tmp_path, size=DEMO_SIZE_MIN)
    assert list(result.sre.columns) == list(METHODS)
    assert result.store.exists()
    assert result.picture.exists()
