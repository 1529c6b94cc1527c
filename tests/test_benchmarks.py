"""The committed tables are what the committed results say, and every run is accounted for."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from s2pipe.methods import METHODS
from s2pipe.methods.learned.s2sucnn import S2sucnn
from s2pipe.methods.mtf_resnet.pretrained import load_pretrained
from s2pipe.networks import s2sucnn

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def report(monkeypatch):
    return benchmark(monkeypatch, "published_report")


def benchmark(monkeypatch, name):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def runs():
    """Every run by name, "done" or "missing"."""
    command = [sys.executable, str(BENCHMARKS / "published_tables.py"), "--list"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[1].rstrip(":"): line.split()[0] for line in lines}


def test_the_committed_page_is_rendered_from_the_committed_results(report, runs, peers):
    names = list(runs)
    results = report.load_results(names, BENCHMARKS / "results" / "published_tables")
    page = report.render(names, results, peers)
    assert page == (BENCHMARKS / "results" / "published_tables.md").read_text()


def test_every_run_is_listed_and_what_was_not_run_is_said(report, runs):
    assert len(runs) == 2 + 8 + 3 * 4 * 4 + 1
    page = (BENCHMARKS / "results" / "published_tables.md").read_text()
    for name, state in runs.items():
        (row,) = [line for line in page.splitlines() if line.startswith((f"| {name} |", f"| {name} (incomplete) |"))]
        assert (f"| {report.NOT_RUN} |" in row or "(incomplete)" in row) == (state == "missing")


def test_every_result_names_machine_date_and_commit(report, runs):
    for result in report.load_results(list(runs), BENCHMARKS / "results" / "published_tables").values():
        assert result["machine"] and result["date"] and result["rows"]
        assert not result["commit"].endswith("-dirty")


def committed(monkeypatch, name):
    """A benchmark and its committed result, which says of what commit it is."""
    module = benchmark(monkeypatch, name)
    result = json.loads(module.RESULTS.read_text())
    assert not result["commit"].endswith("-dirty")
    return module, result


@pytest.fixture
def peers(data_dir):
    return data_dir.parent / "reference" / "measured_peers.csv"


@pytest.fixture(scope="module")
def docs():
    return (BENCHMARKS.parent / "docs" / "methods.md").read_text()


def test_the_classical_tables_are_rendered_from_their_results_and_quoted_in_the_docs(monkeypatch, peers, docs):
    tables, result = committed(monkeypatch, "classical_tables")
    assert tables.render(result, peers) == tables.PAGE.read_text()
    for part in (tables.differences(result, peers), tables.told_the_truth(result), tables.in_chunks(result)):
        assert part in docs


def test_the_settings_of_s2sharp_and_ssss_are_rendered_from_their_results_and_quoted_in_the_docs(monkeypatch, docs):
    settings, result = committed(monkeypatch, "classical_settings")
    assert settings.render(result) == settings.PAGE.read_text()
    assert settings.table(result) in docs


def test_the_figures_of_the_default_method_are_rendered_from_their_results_and_quoted_in_the_docs(monkeypatch, peers):
    tables, result = committed(monkeypatch, "default_method")
    assert tables.render(result, peers) == tables.PAGE.read_text()
    page = (BENCHMARKS.parent / "docs" / "default_method.md").read_text()
    assert tables.table(result, peers) in page
    for table in (tables.table_of_variants, tables.table_of_mistakes, tables.table_of_ceilings, tables.table_of_ceilings_60m):
        assert table(result) in page


def test_the_page_of_the_default_methods_speed_is_rendered_from_its_results(monkeypatch):
    speed, result = committed(monkeypatch, "default_speed")
    assert speed.render(result) == speed.PAGE.read_text()


def test_the_mtfs_of_the_platforms_are_rendered_from_their_results_and_quoted_in_the_docs(monkeypatch):
    platforms, result = committed(monkeypatch, "platform_mtf")
    assert platforms.render(result) == platforms.PAGE.read_text()
    assert platforms.table(result) in (BENCHMARKS.parent / "docs" / "default_method.md").read_text()


def test_the_weights_of_the_default_method_have_not_seen_what_they_are_judged_on(monkeypatch):
    tables = benchmark(monkeypatch, "default_method")
    for scene, name in tables.WITHOUT.items():
        trained_on = load_pretrained(tables.WEIGHTS / f"{name}.safetensors").stated["scenes"]
        assert scene.split()[0].removesuffix("-raw").lower() not in [one.lower() for one in trained_on]


def test_what_falls_short_of_the_restatement_is_what_the_docs_explain(monkeypatch, peers):
    tables, result = committed(monkeypatch, "classical_tables")
    cells = tables.less_restatement(result, peers)
    assert set(cells[cells < -tables.TOLERANCE].index.unique(0)) == {"s2sharp", "ressr"}  # docs/methods.md tells why


def test_the_page_of_speeds_is_rendered_from_its_results(monkeypatch):
    speed, result = committed(monkeypatch, "methods_speed")
    assert speed.render(result) == speed.PAGE.read_text()
    assert {row["method"] for row in result["chunks"]} == METHODS.keys() - {"dsen2"}
    assert all(row["seconds"] < 120 for row in result["tiles"])


@pytest.mark.slow
def test_the_curve_of_a_long_run_goes_on_where_it_was_interrupted(data_dir, tmp_path, monkeypatch):
    tables = benchmark(monkeypatch, "published_tables")
    monkeypatch.setattr(tables, "HELD_OUT_EVERY", 1)
    monkeypatch.setattr(s2sucnn, "FEATURES", 16)
    long, short = (S2sucnn(steps=steps, patch=None, held_out=0) for steps in (2, 1))
    first = tables.s2sucnn_curve("iceland-raw", "corner", short, tmp_path)
    both = tables.s2sucnn_curve("iceland-raw", "corner", long, tmp_path)
    assert both[: len(first)] == first
    assert sorted({row["step"] for row in both}) == [1, 2] and len(both) == 2 * 7


@pytest.mark.parametrize("name", ["whole_tile", "gpu_tile", "halo_costs", "many_tiles"])
def test_the_pages_of_scaling_are_rendered_from_their_results_and_their_tables_quoted(monkeypatch, name):
    module, result = committed(monkeypatch, name)
    page = module.render(result)
    assert page == module.RESULTS.with_suffix(".md").read_text()
    scaling = (BENCHMARKS.parent / "docs" / "scaling.md").read_text()
    for line in page.splitlines():
        if line.startswith("|"):
            assert line in scaling


def test_the_job_on_a_whole_tile_costs_little_more_than_its_parts(monkeypatch):
    _, result = committed(monkeypatch, "whole_tile")
    assert result["wall_s"] <= 1.25 * (result["network_s"] + result["copy_s"])
    assert max(job["peak_rss_gb"] for job in result["jobs"].values()) <= 6
    assert result["swapped_out_gb"] == 0


def test_what_a_job_costs_grows_with_area_and_dates_and_its_memory_does_not(monkeypatch):
    _, result = committed(monkeypatch, "whole_tile")
    tile = result["wall_s"] - result["fit_s"]
    for job in result["jobs"].values():
        assert job["wall_s"] - job["fit_s"] == pytest.approx(job["share"] * job["dates"] * tile, rel=0.1)
        assert job["peak_rss_gb"] == pytest.approx(result["peak_rss_gb"], rel=0.2)


def test_what_benchmarks_measure_still_runs(data_dir, monkeypatch):
    speed, tables = benchmark(monkeypatch, "default_speed"), benchmark(monkeypatch, "published_tables")
    for module in (speed, importlib.import_module("methods_speed")):
        monkeypatch.setattr(module, "LARGE", 120)
        monkeypatch.setattr(module, "REPEATS", 1)
    assert speed.default()["all_s_per_megapixel"] > 0
    reduced, lower = tables.load_pair("coastal")
    assert reduced.reference.shape[1:] == lower[10].shape[1:]
    assert set(benchmark(monkeypatch, "default_method").ceiling_60m("T48QUE")) == {"scene", "before", "after"}


def test_the_default_is_first_or_about_level_where_the_truth_is_known(monkeypatch):
    module, result = committed(monkeypatch, "true_reference")
    assert module.render(result) == module.RESULTS.with_suffix(".md").read_text()
    for cube in {row["cube"] for row in result["rows"]}:
        reached = module.means(result["rows"], cube=cube, noise=max(module.NOISE))
        others = [value for name, value in reached.items() if not name.startswith("mtf-resnet")]
        assert reached["mtf-resnet"] > max(others) - 0.35


@pytest.mark.parametrize(("scene", "kinds"), [("iceland", ("blobs 40 %",)), ("satclip_322265", ("dubai",))])
def test_holes_cost_the_pixels_that_are_left_little(data_dir, monkeypatch, scene, kinds):
    holes = benchmark(monkeypatch, "holes")
    for row in holes.measure(scene, holes.scenes()[scene](), kinds):
        assert row["far"] < holes.LIMITS["far"] and row["seen"] < holes.LIMITS["seen"], row
