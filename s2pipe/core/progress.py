"""Progress on stderr: a bar in a terminal or a notebook while work is done, a line for every tenth of it elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

Progress = Callable[[str, int, int, float | None], None]
"""Called with a label of the work, the steps done, their total, and the loss of a training (else None)."""

REDRAWN_AFTER = 0.5
"""Seconds between two states of what a notebook shows."""

_about: ContextVar[str] = ContextVar("_about", default="")


@contextmanager
def progress_of(name: str | None) -> Iterator[None]:
    """Put `name` before the labels that this thread shows within the block, because other threads may work on other tiles."""
    token = _about.set(f"{name}: " if name else "")
    try:
        yield
    finally:
        _about.reset(token)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Give the block a function that shows progress, a bar or lines for each label."""
    with _shown() as show:
        yield lambda label, done, total, loss: show(label, done, total, "" if loss is None else f"loss {loss:.2e}")


@contextmanager
def chunk_bar(label: str, *, done: int, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` chunks are written, how fast, and how long the rest will take; `done` were written before.

    The block gets a function to call with the number of bytes of each chunk that is written.
    """
    start, before, written = time.monotonic(), done, 0

    with _shown() as show:
        show(label, done, total, "")

        def report(size: int) -> None:
            nonlocal done, written
            done, written = done + 1, written + size
            seconds = time.monotonic() - start
            left = timedelta(seconds=round(seconds / (done - before) * (total - done)))
            show(label, done, total, f"{written / 1e6 / seconds:.1f} MB/s, {left} left")

        yield report


_Show = Callable[[str, int, int, str], None]
"""Called with a label of the work, the steps done, their total, and a remark."""

_sharing = threading.Lock()
_display: _Terminal | _Log | None = None
_callers = 0


@contextmanager
def _shown() -> Iterator[_Show]:
    """Show what one caller reports, from its first report on."""
    about = _about.get()
    rows: _Rows | _Lines | None = None

    def show(label: str, done: int, total: int, remark: str) -> None:
        nonlocal rows
        rows = rows or _join()
        rows.show(about + label, done, total, remark)

    try:
        yield show
    finally:
        if rows:
            _leave(rows)


def _join() -> _Rows | _Lines:
    """Rows in the display that all threads share while any of them shows something: two in one terminal would garble it."""
    global _display, _callers
    with _sharing:
        _display = _display or _new_display()
        _callers += 1
        return _display.rows()


def _leave(rows: _Rows | _Lines) -> None:
    global _display, _callers
    with _sharing:
        _callers -= 1
        if _callers:
            rows.leave()
        elif _display:
            display, _display = _display, None
            display.stop()


@cache
def stderr_console() -> Console:
    """The one console on stderr: bars make room for what is printed on their own console only."""
    from rich.console import Console

    return Console(stderr=True)


def _new_display() -> _Terminal | _Log:
    console = stderr_console()
    if console.is_jupyter:
        return _Notebook(console)
    moving = console.is_interactive and console.is_terminal and not console.is_dumb_terminal  # the first is of when it was made
    return _Terminal(console) if moving else _Log()


class _Terminal:
    """Bars, one below the other, that are removed in the end."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        # in a narrow terminal the bar is shortened, not the numbers
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[remark]}"),
        )
        self.bars = RichProgress(*columns, console=console, transient=True)
        self.start()

    def start(self) -> None:
        self.bars.start()

    def stop(self) -> None:
        self.bars.stop()

    def rows(self) -> _Rows:
        return _Rows(self)


class _Notebook(_Terminal):
    """Bars in one output of a cell, where they stay. (rich's own needs ipywidgets, whose content a saved notebook lacks.)"""

    def start(self) -> None:
        from IPython.display import display

        self._handle = display(self.bars, display_id=True)  # type: ignore[no-untyped-call]
        self._stopped = threading.Event()
        self._redrawing = threading.Thread(target=self._redraw, daemon=True)
        self._redrawing.start()

    def _redraw(self) -> None:
        while not self._stopped.wait(REDRAWN_AFTER):
            self._handle.update(self.bars)

    def stop(self) -> None:
        self._stopped.set()
        self._redrawing.join()
        self._handle.update(self.bars)


class _Rows:
    """The bars of one caller. One that is done stays until the caller reports another, or leaves."""

    def __init__(self, display: _Terminal) -> None:
        self._bars = display.bars
        self._tasks: dict[str, TaskID] = {}
        self._done: str | None = None

    def show(self, label: str, done: int, total: int, remark: str) -> None:
        if self._done not in (None, label):
            self._bars.remove_task(self._tasks.pop(self._done))
            self._done = None
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, total=total, completed=done, remark=remark)
        self._bars.update(self._tasks[label], completed=done, total=total, remark=remark)
        if done >= total:
            self._done = label

    def leave(self) -> None:
        """Remove the bars of this caller; those of others stay."""
        for task in self._tasks.values():
            self._bars.remove_task(task)


class _Log:
    """Lines, which stay."""

    def rows(self) -> _Lines:
        return _Lines()

    def stop(self) -> None:
        """Lines need no end."""


class _Lines:
    """A line whenever another tenth of a label is done; of what is done in one step, that it began."""

    def __init__(self) -> None:
        self._tenths: dict[str, int] = {}

    def show(self, label: str, done: int, total: int, remark: str) -> None:
        tenths = 10 * done // max(total, 1)
        if total == 1:
            if not done:
                self._print(label)
        elif tenths > self._tenths.get(label, 0):
            self._tenths[label] = tenths
            self._print(f"{label}: {10 * tenths} % ({done} of {total}) {remark}".rstrip())

    def _print(self, line: str) -> None:
        sys.stderr.write(f"{line}\n")  # at once, so that lines of several threads do not mix

    def leave(self) -> None:
        """Lines stay."""
