"""What the published figures of S2Sharp and SSSS on raw Iceland need: their settings varied, under corner.

    python benchmarks/classical_settings.py           everything, some 15 minutes on two cores, and the page
    python benchmarks/classical_settings.py --render  the page only, from the results there are

Mean SRE is that over the six 20 m bands, `crop=2`. Rows that say *picked with the reference* show what a setting can give at
most; nothing in the package is chosen so.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from run_facts import HERE, commit, load_scene, markdown, stated
from scipy import optimize

import s2pipe
from s2pipe import Sensor
from s2pipe.inputs.dataarray import as_cube
from s2pipe.methods import Method, Sharpener
from s2pipe.methods.classical.s2sharp import S2sharp, S2sharpSharpener
from s2pipe.methods.classical.ssss import ONE_DN, Ssss
from s2pipe.methods.classical.subspace import SubspaceSharpener
from s2pipe.methods.classical.supreme import ROUGHNESS_COSTS, Supreme
from s2pipe.quality.evaluation import score
from s2pipe.quality.reduced import reduce_scene

RESULTS = HERE / "results" / "classical_settings.json"
PAGE = RESULTS.with_suffix(".md")
PUBLISHED = {"s2sharp": 26.48, "ssss": 27.52}
"""S2SUCNN, Table III (doi:10.1109/JSTARS.2021.3092286)."""

LAMBDAS = np.logspace(-4, -1, 7)
SEARCHES = 60
"""Figures computed while all seven costs are searched for."""


def rows() -> Iterator[tuple[str, str, str, float]]:
    """Method, what it is told, its setting, and the figure."""
    reduced = reduce_scene(as_cube(load_scene("iceland-raw")), Sensor.named("corner"), 20)
    centre, corner = Sensor.named("centre"), Sensor.named("corner")

    def sre(method: Method | Sharpener, told: Sensor) -> float:
        table = score(reduced, [method], told=told, progress=lambda *_: None)
        return float(table.loc[table["band"] == "all", "sre_db"].item())

    yield "s2sharp", "centre", "default", sre(S2sharp(), centre)
    yield "s2sharp", "corner", "default", sre(S2sharp(), corner)
    for cycles in (1, 2, 5, 10):
        yield "s2sharp", "centre", f"lambda 0.005, {cycles} cycles", sre(S2sharp(smoothness=0.005, iterations=cycles), centre)

    fitted, start = (s2pipe.fit(reduced.cube, method, sensor=centre) for method in (S2sharp(smoothness=0.005), Supreme()))
    assert isinstance(fitted, S2sharpSharpener) and isinstance(start, SubspaceSharpener)
    held = replace(fitted, subspace=start.subspace)

    def with_costs(costs: np.ndarray) -> float:
        return sre(replace(held, costs=torch.from_numpy(costs).float()), centre)

    costs = np.array(ROUGHNESS_COSTS)
    yield "s2sharp", "centre", "F held at its start, lambda 0.005", with_costs(0.005 * costs)
    for label, power in (("q", 1), ("the square of q", 2)):
        figures = {value: with_costs(value * costs**power) for value in LAMBDAS}
        best = max(figures, key=lambda value: figures[value])
        yield "s2sharp", "centre", f"F held, {label}, lambda {best:.2g} picked with the reference", figures[best]
    found = optimize.minimize(
        lambda logs: -with_costs(np.exp(logs)), np.log(best * costs**2), method="Nelder-Mead", options={"maxfev": SEARCHES}
    )
    yield "s2sharp", "centre", f"F held, all seven lambda q picked with the reference in {SEARCHES} looks", -found.fun

    yield "ssss", "centre", "default", sre(Ssss(), centre)
    yield "ssss", "corner", "default, distances in DN", sre(Ssss(), corner)
    yield "ssss", "corner", "distances in reflectance", sre(Ssss(similarity=0.1 / ONE_DN), corner)
    yield "ssss", "corner", "next to no graph", sre(Ssss(similarity=1e-6), corner)


def render(result: dict[str, Any]) -> str:
    """The page, in Markdown."""
    return "\n".join(
        [
            "# The settings of S2Sharp and SSSS on raw Iceland, corner\n",
            "Mean SRE in dB over the six 20 m bands, `crop=2`; written by `python benchmarks/classical_settings.py`, whose head "
            f"says what is measured, on {result['machine']}, {result['date']}, commit {result['commit']}.\n",
            table(result),
        ]
    )


def table(result: dict[str, Any]) -> str:
    """The figures, beside the published ones."""
    cells = [[method, told, setting, f"{sre:.2f}", f"{PUBLISHED[method]:.2f}"] for method, told, setting, sre in result["rows"]]
    return markdown(["method", "told", "setting", "here", "published"], cells)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--render", action="store_true", help="only render the results there are")
    if not parser.parse_args(arguments).render:
        started, measured = commit(), []
        for row in rows():
            print(*row, flush=True)
            measured.append(row)
        RESULTS.write_text(json.dumps(stated(started) | {"rows": measured}, indent=1) + "\n")
    PAGE.write_text(render(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
