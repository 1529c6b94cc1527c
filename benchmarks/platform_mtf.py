"""Do the MTFs of Sentinel-2A and 2B differ by more than they can be told from scenes? Measured against the 10 m bands.

    python benchmarks/platform_mtf.py            two minutes on one core
    python benchmarks/platform_mtf.py --render   the page only, from the results there are

A 20 m band is regressed on the 10 m bands as a block-centred sensor of some MTF would degrade them, on what of both is finer than
the mean of 5 x 5 pixels of 20 m; its MTF is the one that leaves least. So it is relative to the 10 m bands, whose own is not
undone, and where they say little of a band it says little of the MTF.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from run_facts import HERE, SCENES, commit, load_scene, markdown, stated
from scipy.optimize import minimize_scalar
from torch import Tensor

from s2pipe import Sensor
from s2pipe.core.bands import BANDS
from s2pipe.fitting.sampling import Sample
from s2pipe.inputs.dataarray import as_cube
from s2pipe.methods.mtf_resnet.inputs import COARSE, RATIO

RESULTS = HERE / "results" / "platform_mtf.json"
PAGE = RESULTS.with_suffix(".md")

PLATFORMS = {
    "T18SVG": "S2A",  # of January 2016, before the launch of S2B; the others say so in their names
    "T33UUB": "S2A",
    "T48QUE": "S2B",
    "T43RCP L1C": "S2B",
    **{name: place.rsplit("/", 1)[1][:3] for name, place in SCENES.items() if name.startswith("BigEarthNet")},
}
ACCEPTED = (0.05, 0.7)
SURROUNDINGS = 5


def detail(images: Tensor) -> npt.NDArray[np.float32]:
    """(pixel, band): images without the mean of each pixel's surroundings, but for their edges."""
    means = F.avg_pool2d(images[None], SURROUNDINGS, stride=1, padding=SURROUNDINGS // 2)[0]
    inner = (images - means)[:, SURROUNDINGS:-SURROUNDINGS, SURROUNDINGS:-SURROUNDINGS]
    result: npt.NDArray[np.float32] = inner.flatten(1).T.numpy()
    return result


def unexplained(mtf: float, band: str, pieces: list[tuple[Tensor, Tensor]]) -> float:
    """Share of a 20 m band's detail that no mixture of the 10 m bands, degraded with this MTF, explains."""
    sensor = Sensor(mtf=((band, mtf),))
    degraded = np.concatenate([detail(sensor.degrade(fine, [band] * len(fine), RATIO)) for fine, _ in pieces])
    observed = np.concatenate([detail(coarse) for _, coarse in pieces])
    _, (rest,), *_ = np.linalg.lstsq(degraded, observed[:, 0], rcond=None)
    return float(rest / (observed**2).sum())


def measure(scene: str) -> list[dict[str, Any]]:
    sample = Sample.of(as_cube(load_scene(scene)), seed=0)
    windows = [part for window in sample.windows if (part := window.crop_to_multiple(12)) is not None]
    rows = []
    for band in COARSE:
        place = sample.bands[20].index(band)
        pieces = [
            (torch.from_numpy(window.reflectance[10]), torch.from_numpy(window.reflectance[20][place : place + 1]))
            for window in windows
        ]
        best = minimize_scalar(unexplained, bounds=ACCEPTED, args=(band, pieces), method="bounded", options={"xatol": 1e-3})
        rows.append({"scene": scene, "platform": PLATFORMS[scene], "band": band, "mtf": best.x, "unexplained": best.fun})
    return rows


def render(result: dict[str, Any]) -> str:
    return (
        "# The MTFs of S2A and S2B, as the scenes tell them\n\n"
        "Written by `python benchmarks/platform_mtf.py`; see there for what is measured. In brackets the share that stays "
        f"unexplained.\n\nOn {result['machine']}, {result['date']}, commit {result['commit']}.\n\n"
        f"{table_of_scenes(result)}\n{table(result)}"
    )


def table_of_scenes(result: dict[str, Any]) -> str:
    cells = {(row["scene"], row["band"]): f"{row['mtf']:.2f} ({row['unexplained']:.0%})" for row in result["rows"]}
    rows = [[scene, platform, *(cells[scene, band] for band in COARSE)] for scene, platform in PLATFORMS.items()]
    return markdown(["scene", "platform", *COARSE], rows)


def table(result: dict[str, Any]) -> str:
    """Mean over the scenes of a platform, give or take their standard deviation."""

    def told(platform: str, band: str) -> str:
        values = [row["mtf"] for row in result["rows"] if (row["platform"], row["band"]) == (platform, band)]
        return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"

    rows = [[band, f"{BANDS[band].mtf_nyquist:.2f}", told("S2A", band), told("S2B", band)] for band in COARSE]
    return markdown(["band", "used", "S2A", "S2B"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--render", action="store_true")
    if not parser.parse_args().render:
        started = commit()
        rows = [row for scene in PLATFORMS for row in measure(scene)]
        RESULTS.write_text(json.dumps(stated(started) | {"rows": rows}, indent=1) + "\n")
    PAGE.write_text(render(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
