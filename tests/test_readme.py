"""What the README tells a newcomer to type works, in the order in which it stands there."""

import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from typer.testing import CliRunner

import s2pipe
from s2pipe.cli.app import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return [textwrap.dedent(text) for text in re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `make demo` was run."""
    folder = tmp_path_factory.mktemp("newcomer")
    result = CliRunner().invoke(app, ["demo", "--out", str(folder / "s2pipe-demo")])
    assert result.exit_code == 0, result.output
    return folder


def test_the_notebook_example(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo)
    five_lines, stacked, judged = blocks("python")
    names: dict[str, Any] = {}
    exec(five_lines, names)
    exec(judged, names)
    assert len(names["table"]) == 2 * 7 and names["shifts"]["dy_px"].eq(0).all() and len(names["residual"]) == 8
    exec(stacked, names)
    assert (names["sharp"].compute() > 0).all()
    stored = s2pipe.open_zarr("sharp.zarr")
    assert isinstance(stored, xr.DataArray) and stored.sizes["band"] == 12
    assert (stored != 0).mean() > 0.99


def test_the_command_lines(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo)
    make, *commands = blocks("bash")
    assert [line.split("#")[0].split() for line in make.splitlines()] == [["make", "demo"], ["make", "test"]]
    for line in "".join(commands).splitlines():
        program, *arguments = shlex.split(line)
        assert program == "s2pipe"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, f"{line}\n{result.output}"
