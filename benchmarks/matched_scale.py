"""The default method and every classical one on real scenes one scale lower, matched, with the scene's noise and without.

    python benchmarks/matched_scale.py           an hour on two cores, and the page; an interrupted run is resumed
    python benchmarks/matched_scale.py --render  the page only, from the results there are

SRE in dB, SAM in degrees and ERGAS over the bands of 20 m, and of 60 m; `s2pipe.evaluate` with ``sensor="matched"``, and with
``noise="native"`` where it says so. The scenes are those of run_facts.py but the raw ones, and every third by name of the folder
``scenes`` of the data that the tests use, grade C left out. The default's weights have not seen the place.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from default_method import WEIGHTS, WITHOUT
from run_facts import DATA, HERE, SCENES, commit, load_scene, markdown, stated

import s2pipe
from s2pipe.core.errors import S2PipeError
from s2pipe.methods import METHODS
from s2pipe.methods.mtf_resnet.recipe import MtfResNet

RESULTS = HERE / "results" / "matched_scale.json"

CLASSICAL = tuple(name for name, entry in METHODS.items() if not entry.trained and name != "dsen2" and name != "mtf-resnet")
NOISE = (None, "native")
EVERY = 3


def scenes() -> dict[str, tuple[Callable[[], xr.DataTree], Path | None]]:
    """By name what reads a scene, and the weights that have not seen its place; None: those that come with the package."""
    found: dict[str, tuple[Callable[[], xr.DataTree], Path | None]] = {}
    for name in SCENES:
        if not name.endswith("-raw"):
            weights = WEIGHTS / f"{WITHOUT['BigEarthNet' if name.startswith('BigEarthNet') else name]}.safetensors"
            found[name] = partial(load_scene, name), weights
    table = (DATA / "scenes" / "README.md").read_text()
    rows = re.findall(r"^\| (\w+) \| (\w)[^|]* \|[^|]*\|[^|]*\| (-?\d+)?", table, flags=re.MULTILINE)
    graded = {name: int(offset or 0) for name, grade, offset in rows if grade != "C"}
    for path in sorted((DATA / "scenes").glob("*.npz"))[::EVERY]:
        if path.stem in graded:
            seen = "bigearthnet" if path.stem.startswith("ben_") else ""
            weights = WEIGHTS / f"{WITHOUT['BigEarthNet']}.safetensors" if seen else None
            found[path.stem] = partial(scene_of, path, graded[path.stem]), weights
    return found


def scene_of(path: Path, offset: int) -> xr.DataTree:
    """What an export never sampled is nodata."""
    held = np.load(path)
    arrays = {
        f"r{gsd}m": np.where(held[f"seen{gsd}"], held[f"r{gsd}m"], 0) if f"seen{gsd}" in held else held[f"r{gsd}m"]
        for gsd in (10, 20, 60)
    }
    return s2pipe.from_arrays(**arrays, offset=offset / 10_000)


def measure(name: str, cube: xr.DataTree, weights: Path | None, gsd: int, noise: str | None) -> list[dict[str, Any]]:
    try:
        ours = MtfResNet() if weights is None else MtfResNet(weights=weights)
        table = s2pipe.evaluate(cube, [ours, *CLASSICAL], gsd=gsd, noise=noise, precision="float32", progress=lambda *_: None)
    except S2PipeError as error:
        print(f"{name}, {gsd} m: {error}", flush=True)
        return []
    rows = table[table["band"] == "all"]
    if rows["in_sample"].any():
        raise RuntimeError("the weights have seen the scene")
    kept = rows[["method", "sre_db", "sam_deg", "ergas"]].round(4).to_dict(orient="records")
    return [{"scene": name, "gsd": gsd, "noise": noise, **row} for row in kept]


def measure_all() -> None:
    started = commit()
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    for name, (load, weights) in scenes().items():
        if any(row["scene"] == name for row in rows):
            continue
        print(name, flush=True)
        cube = load()
        for gsd in (20, 60):
            for noise in NOISE:
                rows += measure(name, cube, weights, gsd, noise)
        RESULTS.write_text(json.dumps(stated(started) | {"rows": rows}, indent=1) + "\n")


def render(result: dict[str, Any]) -> str:
    table = pd.DataFrame(result["rows"])
    table["noise"] = table["noise"].fillna("none")
    parts = [
        "# One scale lower, matched",
        __doc__.split("\n\n")[2].replace("\n", " "),
        f"`python benchmarks/matched_scale.py` on {result['machine']}, {result['date']}, commit {result['commit']}. Each "
        "cell: the default's SRE / SAM / ERGAS, and those of the best classical method of each.",
    ]
    for gsd in (20, 60):
        rows = []
        for scene, own in table[table["gsd"] == gsd].groupby("scene", sort=False):
            cells = [scene]
            for noise in ("none", "native"):
                part = own[own["noise"] == noise].set_index("method")
                if part.empty:
                    cells += ["-", "-", "-"]
                    continue
                ours, others = part.loc["mtf-resnet"], part.drop(index="mtf-resnet")
                best = others["sre_db"].idxmax()
                cells += [
                    f"{ours['sre_db']:.2f} / {ours['sam_deg']:.2f} / {ours['ergas']:.2f}",
                    f"{others['sre_db'].max():.2f} ({best}) / {others['sam_deg'].min():.2f} / {others['ergas'].min():.2f}",
                    f"{ours['sre_db'] - others['sre_db'].max():+.2f}",
                ]
            rows.append(cells)
        header = ["scene", "default, no noise", "best classical", "dB", "default, native noise", "best classical", "dB"]
        parts += [f"## Bands of {gsd} m", markdown(header, rows)]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--render", action="store_true", help="write the page only, from the results there are")
    if not parser.parse_args().render:
        measure_all()
    RESULTS.with_suffix(".md").write_text(render(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
