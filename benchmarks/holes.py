"""What holes cost the pixels that are left: the same pixels, sharpened with holes in the scene and without.

    python benchmarks/holes.py           some 30 minutes on two cores, and the page
    python benchmarks/holes.py --render  the page only, from the results there are

Every band is nodata in the holes, which are laid on the grid of the 20 m bands. The scene, or its upper left 504 x 504 px, is
judged one scale lower, as `s2pipe.evaluate` does (sensor matched, 2 px beside the edges left out), twice: whole, and with the
holes. The loss is the difference of the two SRE over the pixels that were sharpened both times: all of these, and those two
coarse pixels (40 m each) or more from a hole; the mean over the 20 m bands.

Holes: the lines that the exports of five scenes left out (NAME: `seen20` of oscd_NAME_1, repeated over the scene), one line in
50, and blobs 3 to 60 px wide over 10 and 40 % of the scene.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from run_facts import DATA, HERE, SCENES, commit, load_scene, markdown, stated
from scipy import ndimage

import s2pipe
from s2pipe.core.metrics import sre
from s2pipe.core.types import AnyArray
from s2pipe.engine.fit import FitArguments
from s2pipe.inputs.dataarray import as_cube
from s2pipe.methods import get_method
from s2pipe.physics.sensor import Sensor
from s2pipe.quality.evaluation import Candidate, judge
from s2pipe.quality.reduced import reductions

RESULTS = HERE / "results" / "holes.json"

METHODS = ("mtf-resnet", "atprk", "glp")
LINES = ("aguasclaras", "brasilia", "beihai", "mumbai", "dubai")
BLOBS = {"blobs 10 %": 0.1, "blobs 40 %": 0.4}
WIDTHS = (3, 60)
"""Of a blob, in 20 m pixels."""
FAR = 4
"""20 m pixels from a hole: two coarse pixels one scale lower."""
CROP = 2
LARGEST = 504
"""10 m pixels along the edges of a scene."""
LIMITS = {"far": 0.3, "seen": 1.0}
"""Loss in dB that is aimed at, at most."""

Mask = npt.NDArray[np.bool_]


def scenes() -> dict[str, Callable[[], xr.DataTree]]:
    """What reads each of the scenes of the papers and the crops, but the raw ones, and of those of grade A."""
    found = {name: partial(load_scene, name) for name in SCENES if not name.endswith("-raw")}
    table = (DATA / "scenes" / "README.md").read_text()
    for name, grade, offset in re.findall(r"^\| (\w+) \| (\w)[^|]* \|[^|]*\|[^|]*\| (-?\d+)", table, flags=re.MULTILINE):
        if grade == "A":
            found[name] = partial(graded_scene, name, int(offset))
    return found


def upper_left(cube: xr.DataTree) -> xr.DataTree:
    """At most so much of a scene."""
    held = as_cube(cube)
    arrays = {gsd: array[..., : LARGEST * 10 // gsd, : LARGEST * 10 // gsd] for gsd, array in held.arrays.items()}
    return type(held)(arrays, held.encoding).to_tree()


def graded_scene(name: str, offset: int) -> xr.DataTree:
    held = np.load(DATA / "scenes" / f"{name}.npz")
    return s2pipe.from_arrays(held["r10m"], held["r20m"], held["r60m"], offset=offset / 10_000)


def holes(kind: str, shape: tuple[int, int]) -> Mask:
    """Where there is a hole, on the grid of the 20 m bands."""
    rows, columns = shape
    if kind in LINES:
        lines = ~np.load(DATA / "scenes" / f"oscd_{kind}_1.npz")["seen20"]
        tiles = (-(-rows // lines.shape[0]), -(-columns // lines.shape[1]))
        return np.tile(lines, tiles)[:rows, :columns]
    if kind == "lines":
        return np.repeat((np.arange(rows) % 50 == 25)[:, None], columns, axis=1)
    random, y, x = np.random.default_rng(0), *np.ogrid[:rows, :columns]
    mask = np.zeros(shape, dtype=bool)
    largest = min(WIDTHS[1], min(shape) // 2)  # small scenes have room for smaller ones only
    while mask.mean() < BLOBS[kind]:
        radius = np.exp(random.uniform(*np.log([WIDTHS[0] / 2, largest / 2])))
        mask |= (y - random.uniform(0, rows)) ** 2 + (x - random.uniform(0, columns)) ** 2 < radius**2
    return mask


KINDS = (*LINES, "lines", *BLOBS)


def with_holes(cube: xr.DataTree, mask: Mask) -> xr.DataTree:
    """The scene with nodata in all bands where the mask, of 20 m pixels, is true anywhere in the pixel."""
    held, fine = as_cube(cube), mask.repeat(2, axis=0).repeat(2, axis=1)

    def punched(node: xr.DataArray, gsd: int) -> AnyArray:
        ratio = gsd // 10
        where = fine.reshape(fine.shape[0] // ratio, ratio, fine.shape[1] // ratio, ratio).any(axis=(1, 3))
        return np.where(where, held.encoding.nodata, node.values).astype(node.dtype)

    arrays = {gsd: array.copy(data=punched(array, gsd)) for gsd, array in held.arrays.items()}
    return type(held)(arrays, held.encoding).to_tree()


def estimates(cube: xr.DataTree) -> tuple[npt.NDArray[np.float32], dict[str, npt.NDArray[np.float32]]]:
    """The reference, and what each method makes of the scene one scale lower, (band, y, x)."""
    held = as_cube(cube)
    reduced = reductions(held, Sensor(), 20)
    context = FitArguments(sensor=Sensor(), seed=0, device="cpu", precision="float32", progress=lambda *_: None).context()
    candidates = [Candidate(label=name, method=get_method(name)) for name in METHODS]
    found = judge(reduced, candidates, context, crop=CROP, device="cpu", left_out={})
    return reduced[0].reference, {one.label: one.estimate for one in found}


def losses(reference: np.ndarray, whole: np.ndarray, holed: np.ndarray, mask: Mask) -> dict[str, float]:
    """SRE lost in dB, the mean over the bands."""
    height, width = reference.shape[1:]
    far = ndimage.distance_transform_cdt(~mask, metric="chessboard")[:height, :width] > FAR
    inner = np.zeros((height, width), dtype=bool)
    inner[CROP:-CROP, CROP:-CROP] = True
    seen = np.isfinite(whole) & np.isfinite(holed) & inner
    areas = {"far": seen & far, "seen": seen}
    found = {}
    for area, where in areas.items():
        bands = list(zip(reference, whole, holed, where, strict=True))
        if all(p.any() for *_, p in bands):
            found[area] = float(np.mean([sre(r[p], a[p]) - sre(r[p], b[p]) for r, a, b, p in bands]))
    return found


def measure(name: str, cube: xr.DataTree, kinds: Sequence[str]) -> list[dict[str, Any]]:
    reference, whole = estimates(cube)
    rows = []
    for kind in kinds:
        mask = holes(kind, as_cube(cube).arrays[20].shape[-2:])
        if not mask.any():
            continue
        _, holed = estimates(with_holes(cube, mask))
        for method in METHODS:
            rows.append({"scene": name, "holes": kind, "method": method, **losses(reference, whole[method], holed[method], mask)})
    return rows


def render(result: dict[str, Any]) -> str:
    table = pd.DataFrame(result["rows"])
    summary = __doc__.split("\n\n")
    parts = [
        "# What holes cost",
        *(text.replace("\n", " ") for text in summary[2:]),
        f"`python benchmarks/holes.py` on {result['machine']}, {result['date']}, commit {result['commit']}; the scenes: "
        f"{', '.join(dict.fromkeys(table['scene']))}.",
    ]
    for area, title in (("far", "Two coarse pixels or more from a hole"), ("seen", "All pixels that were seen")):
        rows = []
        for kind in dict.fromkeys(table["holes"]):
            cells = [table[(table["holes"] == kind) & (table["method"] == method)][area].dropna() for method in METHODS]
            rows.append([kind, *(f"{cell.mean():.2f} (worst {cell.max():.2f})" for cell in cells)])
        parts += [f"## {title}: dB lost, mean and worst scene", markdown(["holes", *METHODS], rows)]
    return "\n\n".join(parts)


Rows = list[dict[str, Any]]


def measure_and_render(
    doc: str, measure: Callable[[str, xr.DataTree], Rows], render: Callable[[dict[str, Any]], str], results: Path
) -> None:
    """The command line of a benchmark of all scenes: measure each, and write the results and their page."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--render", action="store_true", help="write the page only, from the results there are")
    if not parser.parse_args().render:
        started, rows = commit(), []
        for name, load in scenes().items():
            print(name, flush=True)
            rows += measure(name, load())
            results.write_text(json.dumps(stated(started) | {"rows": rows}, indent=1) + "\n")
    results.with_suffix(".md").write_text(render(json.loads(results.read_text())))


if __name__ == "__main__":
    measure_and_render(__doc__, lambda name, cube: measure(name, upper_left(cube), KINDS), render, RESULTS)
