"""Progress on stderr: a bar in a terminal or a notebook while something is done, a line for every tenth elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = Callable[[str, int, int, float | None], None]
"""Called with what is done, how far, of how much, and the loss of a training (else None)."""


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show the progress of what reports within the block, each label by itself."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield _Lines(console.print)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    )  # fmt: skip
    with RichProgress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def report(label: str, done: int, total: int, loss: float | None) -> None:
            remark = _remark(loss)
            if label not in tasks:
                tasks[label] = bar.add_task(label, total=total, remark=remark)
            bar.update(tasks[label], completed=done, total=total, remark=remark, visible=done < total)

        yield report


class _Lines:
    """Prints a line whenever another tenth of a label is done; of what is done in one step, that it began."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._tenths: dict[str, int] = {}

    def __call__(self, label: str, done: int, total: int, loss: float | None) -> None:
        tenths = 10 * done // max(total, 1)
        if total == 1:
            if not done:
                self._show(label)
        elif tenths > self._tenths.get(label, 0):
            self._tenths[label] = tenths
            self._show(f"{label}: {10 * tenths} % ({done} of {total}) {_remark(loss)}".rstrip())


def _remark(loss: float | None) -> str:
    return "" if loss is None else f"loss {loss:.2e}"
