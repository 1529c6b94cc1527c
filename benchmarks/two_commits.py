"""The speed of this commit beside that of another one, in turn, so that a machine whose speed changes is fair to both.

    python benchmarks/two_commits.py CHECKOUT  some 10 minutes on two cores, and the page
    python benchmarks/two_commits.py --render  the page only, from the results there are

CHECKOUT is a folder with the other commit, as `git worktree add CHECKOUT COMMIT` makes one. Measured are, each in a process of
its own that imports that commit's s2pipe, and by the default method:

- the job: `s2pipe.sharpen_to_store` of 3660 x 3660 px, from COGs to a Zarr store, with its fit;
- one chunk: `s2pipe.sharpen` of a scene of one chunk of 1830 px in memory, without a fit;
- the training: `s2pipe.fit` with 150 steps, of a scene of 756 px.

The median of the rounds counts. Networks compute in what each commit chooses on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# What measures a commit must not import what only this one has: `run_facts` is imported where both are compared.

RESULTS = Path(__file__).parent / "results" / "two_commits.json"
ROUNDS = 3
JOB, CHUNK, SCENE = 3660, 1830, 756
WORK = ("job", "one chunk", "training")


def quiet(*_: Any) -> None:
    """No progress bar."""


def make_input(folder: Path) -> None:
    """Scenes that both commits read: COGs with their STAC item, and arrays."""
    import numpy as np
    from run_facts import load_scene

    from s2pipe.simulation.archive import write_scene
    from s2pipe.simulation.landscape import enlarge_scene

    crop = load_scene("T48QUE")
    write_scene(
        enlarge_scene(crop, JOB, seed=0), folder / "job", datetime="2026-06-21T10:00:31Z", tile="48QUE", origin=(300000, 2000040)
    )
    for name, size in (("one chunk", CHUNK), ("training", SCENE)):
        scene = enlarge_scene(crop, size, seed=0)
        np.savez(folder / f"{name}.npz", r10m=scene.r10m, r20m=scene.r20m, r60m=scene.r60m)


def seconds(work: str, folder: Path) -> float:
    """Of one of `WORK`, by the s2pipe that is imported here."""
    import numpy as np
    import pystac

    import s2pipe

    if work == "job":
        items = list(pystac.ItemCollection.from_file(str(folder / "job" / "items.json")))
        start = time.perf_counter()
        s2pipe.sharpen_to_store(s2pipe.load(items, chunks=CHUNK), folder / "out.zarr")
        done = time.perf_counter() - start
        shutil.rmtree(folder / "out.zarr")
        return done
    with np.load(folder / f"{work}.npz") as arrays:
        cube = s2pipe.from_arrays(*(arrays[name] for name in ("r10m", "r20m", "r60m")), offset=-0.1)
    sharpener = s2pipe.fit(cube, progress=quiet) if work == "one chunk" else None
    start = time.perf_counter()
    if sharpener is not None:
        s2pipe.sharpen(cube, sharpener).compute()
    else:
        s2pipe.fit(cube, steps=150, progress=quiet)
    return time.perf_counter() - start


def measured(checkout: Path, work: str, folder: Path) -> float:
    """`seconds` in a process of its own that imports the s2pipe of a checkout."""
    done = subprocess.run(
        [sys.executable, __file__, "--work", work, str(folder)],
        env=os.environ | {"PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


def run(other: Path) -> dict[str, Any]:
    """Measure both in turn."""
    from run_facts import HERE, commit, stated

    described = subprocess.run(["git", "describe", "--always"], cwd=other, capture_output=True, text=True, check=True)
    checkouts = {"other": other, "this": HERE.parent}
    found: dict[str, dict[str, list[float]]] = {work: {name: [] for name in checkouts} for work in WORK}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_input(folder)
        for _ in range(ROUNDS):
            for work in WORK:
                for name, checkout in checkouts.items():
                    found[work][name].append(measured(checkout, work, folder))
                    print(work, name, f"{found[work][name][-1]:.2f} s", file=sys.stderr)
    return {**stated(commit()), "other": described.stdout.strip(), "seconds": found}


def render(result: dict[str, Any]) -> str:
    """The page, in Markdown."""
    from run_facts import markdown

    rows = []
    for work, times in result["seconds"].items():
        ratios = [this / other for this, other in zip(times["this"], times["other"], strict=True)]
        medians = {name: statistics.median(found) for name, found in times.items()}
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append([work, f"{medians['other']:.1f}", f"{medians['this']:.1f}", spread])
    return "\n".join(
        [
            "# Two commits side by side\n",
            f"Written by `python benchmarks/two_commits.py CHECKOUT`, whose head says what is measured, on {result['machine']}, "
            f"{result['date']}, commit {result['commit']} beside {result['other']}. The ratio is the median of those of "
            f"{len(result['seconds'][WORK[0]]['this'])} rounds.\n",
            markdown(["", f"{result['other']}, s", f"{result['commit']}, s", "ratio"], rows),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", nargs="?", type=Path, help="folder with the other commit")
    parser.add_argument("--render", action="store_true", help="only render the results there are")
    parser.add_argument("--work", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        print(seconds(options.work[0], Path(options.work[1])))
        return
    if not options.render:
        if options.checkout is None:
            parser.error("name the folder with the other commit, or --render")
        RESULTS.write_text(json.dumps(run(options.checkout.resolve()), indent=1) + "\n")
    RESULTS.with_suffix(".md").write_text(render(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
