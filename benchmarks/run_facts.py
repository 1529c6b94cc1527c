"""What every result states of how it was made: machine, date and commit; and where data and results lie."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import torch

HERE = Path(__file__).parent
DATA = Path(os.environ.get("S2PIPE_DATA", HERE.parents[1] / "shared" / "data"))
REFERENCE = DATA.parent / "reference"


def stated(started: str) -> dict[str, str]:
    """Of a run that began at the commit `started`."""
    return {"machine": machine(), "date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": started}


def machine() -> str:
    """Processor, cores, threads, torch and GPU."""
    processor = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}{gpu}"


def commit() -> str:
    """Of the checkout; it ends in -dirty where files differ from it."""
    described = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=True)
    return described.stdout.strip()


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
