"""A Sharpener that tells from within that it is at work, and waits there to be killed. In a module of its own, for workers."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from s2pipe.core.pixels import Pixels
from s2pipe.simulation.fakes import FakeSharpener

CALLS: Counter[str] = Counter()


class ReportingSharpener(FakeSharpener):
    """Repeats the 20 m bands, and notes each chunk in a folder; the first process that comes to its eighth chunk stays in it.

    The folder holds ``calls``, a byte for each chunk, and ``inside``, the number of the process that waits.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __call__(self, pixels: Pixels) -> Any:
        with (self.folder / "calls").open("ab") as calls:
            calls.write(b".")
        CALLS[str(self.folder)] += 1
        if CALLS[str(self.folder)] == 8:
            self._wait_once()
        return super().__call__(pixels)

    def _wait_once(self) -> None:
        try:
            with (self.folder / "inside").open("x") as inside:
                inside.write(str(os.getpid()))
        except FileExistsError:
            return
        time.sleep(600)

    def __dask_tokenize__(self) -> str:
        return f"reporting to {self.folder}"  # a worker that has one of this name takes it again
