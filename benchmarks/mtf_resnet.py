"""MTF-ResNet, trained on each scene, beside the best of the methods that train nothing and of the measured peers.

    python benchmarks/mtf_resnet.py           every scene and protocol, some 10 minutes on two cores, and the page
    python benchmarks/mtf_resnet.py --render  the page only, from the results there are

Mean SRE, SAM and ERGAS are those over the bands of 20 m, or of 60 m where it says so, `crop=2`; every method is told the
sensor of the protocol.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from run_facts import HERE, REFERENCE, commit, load_scene, markdown, stated

import s2pipe

RESULTS = HERE / "results" / "mtf_resnet.json"
PAGE = RESULTS.with_suffix(".md")

SCENES = ("iceland", "usa", "T33UUB", "T48QUE")
CELLS = (
    *((scene, protocol, 20) for scene in SCENES for protocol in ("centre", "box", "corner")),
    ("iceland-raw", "corner", 20),
    *((scene, "centre", 60) for scene in SCENES),
)
METHODS = ("mtf-resnet", "atprk", "atprk-sel", "glp", "glp-hpm")


def measure(scene: str, protocol: str, gsd: int) -> list[dict[str, Any]]:
    """One row for each method."""
    table = s2pipe.evaluate(load_scene(scene), list(METHODS), protocol=protocol, gsd=gsd, progress=lambda *_: None)
    overall = table[table["band"] == "all"][["method", "sre_db", "sam_deg", "ergas", "seconds"]]
    return json.loads(
        overall.assign(scene=scene, protocol=protocol, gsd=gsd).to_json(orient="records", double_precision=4)
    )  # fmt: skip


def render(result: dict[str, Any], peers: Path) -> str:
    """The page, in Markdown."""
    return "\n".join(
        [
            "# MTF-ResNet\n",
            f"Written by `python benchmarks/mtf_resnet.py`, whose head says what is measured, on {result['machine']}, "
            f"{result['date']}, commit {result['commit']}. In each cell mean SRE in dB / SAM in degrees / ERGAS.\n",
            table(result, peers),
        ]
    )


def table(result: dict[str, Any], peers: Path) -> str:
    """One row for each scene, protocol and resolution."""
    measured = pd.DataFrame(result["rows"])
    known = pd.read_csv(peers).rename(columns={"msre_db": "sre_db"})
    rows = []
    for scene, protocol, gsd in CELLS:
        here = measured[(measured["scene"] == scene) & (measured["protocol"] == protocol) & (measured["gsd"] == gsd)]
        own, others = here[here["method"] == "mtf-resnet"], here[here["method"] != "mtf-resnet"]
        elsewhere = known[(known["scene"] == scene) & (known["protocol"] == protocol)] if gsd == 20 else known[:0]
        rows.append(
            [
                scene, protocol, f"{gsd} m", _figures(own), f"{own['seconds'].item():.0f}", _best(others), _best(elsewhere),
            ]
        )  # fmt: skip
    header = [
        "scene",
        "protocol",
        "bands",
        "mtf-resnet",
        "its seconds",
        "best here without training",
        "best of measured_peers.csv",
    ]
    return markdown(header, rows)


def _figures(row: pd.DataFrame) -> str:
    return f"{row['sre_db'].item():.2f} / {row['sam_deg'].item():.3f} / {row['ergas'].item():.2f}"


def _best(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "not measured"
    best = rows.loc[[rows["sre_db"].idxmax()]]
    return f"{_figures(best)} ({best['method'].item()})"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--render", action="store_true", help="only render the results there are")
    if not parser.parse_args(arguments).render:
        started, rows = commit(), []
        for cell in CELLS:
            print(*cell, flush=True)
            rows += measure(*cell)
        RESULTS.write_text(json.dumps(stated(started) | {"rows": rows}, indent=1) + "\n")
    PAGE.write_text(render(json.loads(RESULTS.read_text()), REFERENCE / "measured_peers.csv"))


if __name__ == "__main__":
    main()
