"""Methods on cubes of other sensors whose bands are all known at the fine scale: the only judge of the fine scale itself.

    python benchmarks/true_reference.py           some 10 minutes on two cores, and the page
    python benchmarks/true_reference.py --render  the page only, from the results there are

Each cube is taken for a scene at 10 m; its 20 m bands are degraded by Sentinel-2's MTF, white noise is added to all bands at the
resolution of each (0.0005 of reflectance, 5 DN; three random seeds, whose mean counts), the methods sharpen them back, and the
SRE of each band is taken over all but four pixels beside the edges. Nothing here was trained on these cubes.

The cubes are in the folder ``truth`` of the data that the tests use, see S2PIPE_DATA in CONTRIBUTING.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from affine import Affine
from run_facts import DATA, HERE, commit, markdown, stated

import s2pipe
from s2pipe.core.cube import Cube, make_node
from s2pipe.core.encoding import Encoding
from s2pipe.core.metrics import sre
from s2pipe.physics.sensor import Sensor

RESULTS = HERE / "results" / "true_reference.json"

METHODS = {
    "mtf-resnet": ("mtf-resnet", "matched"),
    "mtf-resnet, told centre": ("mtf-resnet", "centre"),
    "atprk": ("atprk", "matched"),
    "atprk, told centre": ("atprk", "centre"),
    "glp": ("glp", "matched"),
    "glp, told centre": ("glp", "centre"),
    "supreme": ("supreme", "matched"),
    "bicubic": ("bicubic", "matched"),
}
"""A method and the sensor that it is told. Centre, by which guides are degraded by their own MTF, was the default before."""
NOISE = {0.0: 1, 0.0005: 3}
"""Standard deviation in reflectance, and how many random seeds are tried."""
EDGE = 4
"""Pixels beside each edge that do not count."""

Arrays = dict[int, np.ndarray]
Bands = dict[int, tuple[str, ...]]


def load_truth(path: Path) -> tuple[Arrays, Bands]:
    """The bands of a cube that are 10 m and 20 m bands of Sentinel-2, (band, y, x), all on one grid, and their names."""
    held = np.load(path)
    gsds = (10, 20)
    return {gsd: held[f"truth{gsd}"] for gsd in gsds}, {gsd: tuple(map(str, held[f"bands{gsd}"])) for gsd in gsds}


def observed(truth: Arrays, bands: Bands, noise: float, seed: int) -> xr.DataTree:
    """The cube that the sensor sees."""
    random, encoding, nodes = np.random.default_rng(seed), Encoding.default(np.float32), {}
    for gsd, array in truth.items():
        fine = torch.from_numpy(array)
        seen = fine.numpy() if gsd == 10 else Sensor().degrade(fine, bands[gsd], gsd // 10).numpy()
        noisy = (seen + noise * random.standard_normal(seen.shape)).astype(np.float32)
        nodes[gsd] = make_node(noisy[None], bands[gsd], encoding=encoding, transform=Affine(gsd, 0, 0, 0, -gsd, 0))
    return Cube.checked(nodes, encoding).to_tree()


def measure(path: Path, noise: float, seed: int) -> list[dict[str, Any]]:
    truth, bands = load_truth(path)
    cube = observed(truth, bands, noise, seed)
    inner = slice(EDGE, -EDGE)
    rows = []
    for label, (method, sensor) in METHODS.items():
        result = s2pipe.sharpen(cube, method, bands=bands[20], sensor=sensor, seed=seed, precision="float32").values[0]
        rows += [
            {
                "cube": path.stem,
                "noise": noise,
                "seed": seed,
                "method": label,
                "band": band,
                "sre_db": sre(a[inner, inner], b[inner, inner]),
            }
            for band, a, b in zip(bands[20], truth[20], result, strict=True)
        ]
    return rows


def measure_all() -> None:
    started, rows = commit(), []
    for path in sorted((DATA / "truth").glob("*.npz")):
        for noise, seeds in NOISE.items():
            for seed in range(seeds):
                print(path.stem, noise, seed, flush=True)
                rows += measure(path, noise, seed)
    RESULTS.write_text(json.dumps(stated(started) | {"rows": rows}, indent=1) + "\n")


def means(rows: list[dict[str, Any]], **of: object) -> Mapping[str, float]:
    """SRE by method: the mean over all rows that have these values."""
    chosen = [row for row in rows if all(row[name] == value for name, value in of.items())]
    return {
        method: float(np.mean([row["sre_db"] for row in chosen if row["method"] == method]))
        for method in dict.fromkeys(row["method"] for row in chosen)
    }


def render(result: dict[str, Any]) -> str:
    rows, labels = result["rows"], list(METHODS)
    parts = [
        "# A true fine reference",
        __doc__.split("\n\n")[2].replace("\n", " "),
        f"`python benchmarks/true_reference.py` on {result['machine']}, {result['date']}, commit {result['commit']}.",
    ]
    for noise in NOISE:
        cubes = sorted({row["cube"] for row in rows})
        table = [[cube, *(f"{value:.1f}" for value in means(rows, cube=cube, noise=noise).values())] for cube in cubes]
        parts += [
            f"Mean SRE in dB over the 20 m bands, {'without noise' if not noise else f'noise of {noise:g}'}:",
            markdown(["cube", *labels], table),
        ]
    bands = list(dict.fromkeys(row["band"] for row in rows))
    noisy = max(NOISE)
    table = [[band, *(f"{value:.1f}" for value in means(rows, band=band, noise=noisy).values())] for band in bands]
    parts += [f"Mean SRE in dB over all cubes that have the band, noise of {noisy:g}:", markdown(["band", *labels], table)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--render", action="store_true", help="only render the results there are")
    if not parser.parse_args().render:
        measure_all()
    page = render(json.loads(RESULTS.read_text()))
    RESULTS.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
