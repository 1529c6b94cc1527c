"""Progress on stderr: a bar in a terminal or a notebook while something is done, a line for every tenth elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

Progress = Callable[[str, int, int, float | None], None]
"""Called with what is done, how far, of how much, and the loss of a training (else None)."""


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show the progress of what reports within the block, each label by itself."""
    with _shown() as show:
        yield lambda label, done, total, loss: show(label, done, total, "" if loss is None else f"loss {loss:.2e}")


@contextmanager
def chunk_bar(label: str, *, done: int, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` chunks are written, how fast, and how long the rest will take; `done` were there before.

    The block gets a function to call with the bytes of each chunk that is written.
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
"""Called with what is done, how far, of how much, and a remark."""


@contextmanager
def _shown() -> Iterator[_Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield _Lines(console.print)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[remark]}"),
    )  # fmt: skip
    with RichProgress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def show(label: str, done: int, total: int, remark: str) -> None:
            if label not in tasks:
                tasks[label] = bar.add_task(label, total=total, remark=remark)
            bar.update(tasks[label], completed=done, total=total, remark=remark, visible=done < total)

        yield show


class _Lines:
    """Prints a line whenever another tenth of a label is done; of what is done in one step, that it began."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._tenths: dict[str, int] = {}

    def __call__(self, label: str, done: int, total: int, remark: str) -> None:
        tenths = 10 * done // max(total, 1)
        if total == 1:
            if not done:
                self._show(label)
        elif tenths > self._tenths.get(label, 0):
            self._tenths[label] = tenths
            self._show(f"{label}: {10 * tenths} % ({done} of {total}) {remark}".rstrip())
