import html
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
from shown_by_threads import TILES
from terminal import Terminal

from s2pipe.core.progress import chunk_bar, progress_bar, stderr_console

SHOWN_BY_THREADS = Path(__file__).parents[1] / "shown_by_threads.py"
CHUNKS_SHOWN = """
import time
from s2pipe.core.progress import chunk_bar

with chunk_bar("33TWM_32633: chunks written", done=10, total=1000) as report:
    for _ in range({chunks}):
        time.sleep(0.02)
        report(1_000_000)
"""
LOGGED = """
import logging
import time
from s2pipe.cli import app as cli
from s2pipe.core.progress import chunk_bar

cli.main(verbose=True)
with chunk_bar("33TWM_32633: chunks written", done=0, total=1000) as report:
    for chunk in range(5):
        time.sleep(0.15)
        report(1_000_000)
        logging.getLogger("s2pipe").info("a remark")
"""
SHARPENED = """
import s2pipe
from scenes import random_cube, with_chunks
from zarr.storage import MemoryStore

s2pipe.sharpen_to_store(with_chunks(random_cube(144, 144), 72, 72), MemoryStore(), group="tile", method="glp")
"""
BAR = re.compile(r"33TWM_32633: chunks written [━╸╺]+ +(?P<done>\d+)/1000 0:00:0\d [\d.]+ MB/s, 0:\d\d:\d\d left")


def test_outside_a_terminal_every_tenth_is_a_line(capsys):
    with progress_bar() as report:
        for step in range(1, 41):
            report("training", step, 40, 1 / step)
            report("writing", step, 40, None)
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 20
    assert lines[0] == "training: 10 % (4 of 40) loss 2.50e-01"
    assert lines[1] == "writing: 10 % (4 of 40)"
    assert lines[-1] == "writing: 100 % (40 of 40)"


def test_a_long_line_of_a_log_is_not_broken(capsys):
    with chunk_bar("of one of the tiles with the longest names that there are: chunks written", done=0, total=10) as report:
        report(1_000_000)
    (line,) = capsys.readouterr().err.splitlines()
    assert "chunks written: 10 % (1 of 10)" in line and line.endswith("left")


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    with progress_bar() as report:
        report("training", 4, 40, None)
    assert capsys.readouterr().err == "training: 10 % (4 of 40)\n"


def test_of_what_is_done_in_one_step_a_line_says_that_it_began(capsys):
    with progress_bar() as report:
        report("3 of 17: atprk", 0, 1, None)
        report("3 of 17: atprk", 1, 1, None)
    assert capsys.readouterr().err.splitlines() == ["3 of 17: atprk"]


def test_threads_write_whole_lines_to_a_log():
    done = subprocess.run([sys.executable, SHOWN_BY_THREADS], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    for tile in range(1, TILES + 1):
        own = [line for line in lines if line.startswith(f"tile {tile}: ")]
        assert own[3] == f"tile {tile}: training: 100 % (4 of 4) loss 5.00e-01"
        expected = [rf"tile {tile}: chunks written: {n}0 % \({2 * n} of 20\) [\d.]+ MB/s, 0:00:0\d left" for n in range(1, 11)]
        assert all(re.fullmatch(*pair) for pair in zip(expected, own[4:], strict=True))
        assert f"tile {tile} is there" in lines
    assert len(lines) == TILES * (4 + 10 + 1)


# ---- in a terminal ----


def test_a_terminal_shows_one_line_and_wipes_it_away():
    terminal = Terminal("-c", CHUNKS_SHOWN.format(chunks=25))
    states = list(terminal.states())
    assert terminal.close() == 0
    assert all(len(lines) <= 1 for lines in states)
    bars = [bar for lines in states for line in lines if (bar := BAR.fullmatch(line))]
    assert len({bar["done"] for bar in bars}) > 2
    assert terminal.lines() == [] and not terminal.screen.cursor.hidden


def test_what_is_logged_meanwhile_stands_above_the_only_bar():
    terminal = Terminal("-c", LOGGED)
    states = list(terminal.states())
    assert terminal.close() == 0
    assert max(sum(line.startswith("33TWM") for line in lines) for lines in states) == 1
    assert [" ".join(line.split()) for line in terminal.lines()] == ["INFO a remark"] * 5


def test_in_a_terminal_what_is_done_makes_room_for_the_next(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(stderr_console(), "is_interactive", True)
    with progress_bar() as report:
        report("1 of 2: bicubic", 0, 1, None)
        report("1 of 2: bicubic", 1, 1, None)
        before = len(capsys.readouterr().err)
        report("2 of 2: glp", 0, 1, None)
    shown = capsys.readouterr().err
    assert before > 0 and "2 of 2: glp" in shown and "bicubic" not in shown


def test_threads_share_a_terminal_a_row_for_each_tile():
    terminal = Terminal(str(SHOWN_BY_THREADS))
    states = list(terminal.states())
    assert terminal.close() == 0
    row = re.compile(r"tile (\d): (training|chunks written) [━╸╺]+ +\d+/\d+ 0:00:0\d.*")
    assert max(sum(bool(row.fullmatch(line)) for line in lines) for lines in states) == TILES
    for lines in states:  # some of which are seen half drawn
        tiles = [line.partition(":")[0] for line in lines if ":" in line]
        assert len(set(tiles)) == len(tiles)
    assert sorted(terminal.lines()) == [f"tile {tile} is there" for tile in range(1, TILES + 1)]
    assert not terminal.screen.cursor.hidden


# ---- in a notebook ----


class Notebook(nbclient.NotebookClient):
    """A notebook that keeps what its displays showed meanwhile."""

    def __init__(self, *cells: str) -> None:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        super().__init__(notebook, timeout=120, resources={"metadata": {"path": Path(__file__).parents[1]}})
        self.updates: list[str] = []

    def process_message(self, message: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if message["msg_type"] == "update_display_data":
            self.updates.append(plain(message["content"]))
        return super().process_message(message, cell, cell_index)


def plain(output: Any) -> str:
    """The text of an output as a person sees it."""
    return html.unescape(re.sub("<[^>]+>", "", output["data"]["text/html"]))


def test_a_notebook_shows_one_line_and_keeps_it():
    notebook = Notebook(CHUNKS_SHOWN.format(chunks=60), SHARPENED)
    shown, sharpened = (cell["outputs"] for cell in notebook.execute()["cells"])
    (output,) = shown
    assert output["output_type"] == "display_data"
    assert BAR.fullmatch(plain(output).rstrip())["done"] == "70"
    states = [bar["done"] for text in notebook.updates if (bar := BAR.fullmatch(text.rstrip()))]
    assert 2 <= len(states) < 6 and states[-1] == "70"

    (output,) = sharpened
    assert re.fullmatch(r"tile: chunks written ━+ 4/4 0:00:\d\d [\d.]+ MB/s, 0:00:00 left", plain(output).rstrip())
