"""The committed tables are what the committed results say, and every run is accounted for."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from s2pipe.methods.s2sucnn import S2sucnn

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("published_report")


@pytest.fixture(scope="module")
def runs():
    """Every run by name, "done" or "missing"."""
    command = [sys.executable, str(BENCHMARKS / "published_tables.py"), "--list"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[1].rstrip(":"): line.split()[0] for line in lines}


def test_the_committed_page_is_rendered_from_the_committed_results(report, runs, data_dir):
    names = list(runs)
    results = report.load_results(names, BENCHMARKS / "results" / "published_tables")
    page = report.render(names, results, data_dir.parent / "reference" / "measured_peers.csv")
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


@pytest.mark.slow
def test_the_curve_of_a_long_run_goes_on_where_it_was_interrupted(data_dir, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    tables = importlib.import_module("published_tables")
    monkeypatch.setattr(tables, "HELD_OUT_EVERY", 1)
    long, short = (S2sucnn(steps=steps, patch=None, held_out=0) for steps in (2, 1))
    first = tables.s2sucnn_curve("iceland-raw", "corner", short, tmp_path)
    both = tables.s2sucnn_curve("iceland-raw", "corner", long, tmp_path)
    assert both[: len(first)] == first
    assert sorted({row["step"] for row in both}) == [1, 2] and len(both) == 2 * 7
