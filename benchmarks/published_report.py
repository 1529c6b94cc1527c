"""Renders what benchmarks/published_tables.py left in results/published_tables/ as one page of tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from run_facts import markdown

BANDS = ("B05", "B06", "B07", "B8A", "B11", "B12")

# Mean SRE in dB as printed in S2SUCNN's Table III (doi:10.1109/JSTARS.2021.3092286) and in SSC-CNN's Table 1
# (doi:10.1109/IGARSS39084.2020.9323614)
PUBLISHED = {
    "table3/ssc-cnn": 30.53,
    "table3/s2sucnn": 31.68,
    "table1/coastal/ssc-cnn": 33.92,
    "table1/coastal/resnet": 30.40,
    "table1/reykjavik/ssc-cnn": 28.03,
    "table1/reykjavik/resnet": 26.67,
}
PUBLISHED_BEST = f"Published: {PUBLISHED['table3/s2sucnn']:.2f} dB, the best of 10 010 steps seen with the reference"
NOT_RUN = "not run"

Result = dict[str, Any]


def render(names: Sequence[str], results: dict[str, Result], peers: Path) -> str:
    """The page, in Markdown: `names` of all runs in their order, `results` by name of those that have any."""
    parts = [
        "# The papers' tables, measured here\n",
        "Mean SRE in dB over the six 20 m bands, `crop=2`. Written by `python benchmarks/published_tables.py`, which lists what "
        "was not run; docs/evaluation.md tells what each protocol measures.\n",
        "## As published, and honest\n",
        _table(_published_rows(results)),
        "*In-sample*: trained on the very pair it is scored on. *One scale lower*: trained on that pair degraded once more, as a "
        "user must, who has no reference.\n",
        _s2sucnn_part(results.get("table3/s2sucnn")),
        *_comparison_parts(names, results, peers),
        "## Stopping without a reference\n",
        "S2SUCNN keeps the weights that meet held-out coarse pixels best, looked at every 25 steps; the reference shows "
        "afterwards, every 100 steps, what that cost against the best step anyone could have picked.\n",
        _table(_stopping_rows(results)),
        "## Runs\n",
        _table(_run_rows(names, results)),
    ]
    return "\n".join(parts)


def _table(rows: Iterable[dict[str, str]]) -> str:
    rows = list(rows)
    return markdown(list(rows[0]), [list(row.values()) for row in rows]) if rows else f"{NOT_RUN}\n"


def _final(result: Result | None) -> pd.DataFrame | None:
    """The rows of the last look, by band."""
    if result is None:
        return None
    table = pd.DataFrame(result["rows"])
    return table.groupby("band").tail(1).set_index("band")


def _mean(result: Result | None) -> str:
    table = _final(result)
    return NOT_RUN if table is None else f"{table.loc['all', 'sre_db']:.2f}"


def _published_rows(results: dict[str, Result]) -> Iterable[dict[str, str]]:
    for name, figure in PUBLISHED.items():
        if name == "table3/s2sucnn":
            continue
        ways = {way: results.get(f"{name}/{way}") for way in ("in-sample", "one-scale-lower")}
        scene = "raw Iceland, corner" if name.startswith("table3") else name.split("/")[1].capitalize()
        yield {
            "table": "S2SUCNN, III" if name.startswith("table3") else "SSC-CNN, 1",
            "scene": scene,
            "network": name.split("/")[-1],
            "published": f"{figure:.2f}",
            "in-sample, here": _mean(ways["in-sample"]),
            "one scale lower, here": _mean(ways["one-scale-lower"]),
        }


def _s2sucnn_part(result: Result | None) -> str:
    title = "## S2SUCNN on raw Iceland, corner, the whole image at every step\n"
    if result is None:
        return f"{title}\n{PUBLISHED_BEST}. Here: {NOT_RUN}.\n"
    table = pd.DataFrame(result["rows"])
    curve = table[table["band"] == "all"].set_index("step")["sre_db"]
    state = "complete" if result["complete"] else f"ended at step {curve.index[-1]} of 10 010, not complete"
    looks = sorted({*curve.index[curve.index % 250 == 0], curve.index[-1], curve.idxmax()})
    return "\n".join(
        [
            title,
            f"{PUBLISHED_BEST}. Here, {state}: best step seen "
            f"{curve.max():.2f} dB (step {curve.idxmax()}), last step {curve.iloc[-1]:.2f} dB.\n",
            _table([{"step": str(step), "mean SRE dB": f"{curve[step]:.2f}"} for step in looks]),
        ]
    )


def _comparison_parts(names: Sequence[str], results: dict[str, Result], peers: Path) -> Iterable[str]:
    measured = pd.read_csv(peers) if peers.exists() else None
    yield "## The comparison that was not published\n"
    yield (
        "Every network has 360 core seconds (three minutes on two cores) for each scene, and the package's defaults otherwise; "
        "Iceland and USA are repaired. Mean SRE dB / SAM degrees / ERGAS.\n"
    )
    for protocol in ("centre", "box", "corner"):
        scenes = dict.fromkeys(name.split("/")[2] for name in names if name.startswith(f"comparison/{protocol}/"))
        rows = []
        for method in ("bicubic", "glp", "s2sucnn", "ssc-cnn", "resnet"):
            row = {"method": method}
            for scene in scenes:
                kind = "untrained" if method in ("bicubic", "glp") else method
                row[scene] = _three_figures(results.get(f"comparison/{protocol}/{scene}/{kind}"), method)
            rows.append(row)
        if measured is not None:
            rows.append(
                {"method": "best of reference/measured_peers.csv"} | {s: _best_peer(measured, protocol, s) for s in scenes}
            )
        yield f"### {protocol}\n"
        yield _table(rows)


def _three_figures(result: Result | None, method: str) -> str:
    if result is None:
        return NOT_RUN
    table = pd.DataFrame(result["rows"])
    row = table[(table["band"] == "all") & (table["method"] == method)].iloc[-1]
    steps = f" ({row['steps']:.0f} steps)" if "steps" in row and pd.notna(row["steps"]) else ""
    return f"{row['sre_db']:.2f} / {row['sam_deg']:.3f} / {row['ergas']:.2f}{steps}"


def _best_peer(measured: pd.DataFrame, protocol: str, scene: str) -> str:
    rows = measured[(measured["protocol"] == protocol) & (measured["scene"] == scene)]
    if rows.empty:
        return "not measured"
    best = rows.loc[rows["msre_db"].idxmax()]
    return f"{best['msre_db']:.2f} / {best['sam_deg']:.3f} / {best['ergas']:.2f} ({best['method']})"


def _stopping_rows(results: dict[str, Result]) -> Iterable[dict[str, str]]:
    for name, result in results.items():
        if not (name.startswith("comparison/") and name.endswith("/s2sucnn")):
            continue
        table = pd.DataFrame(result["rows"])
        curve = table[(table["band"] == "all") & table["step"].notna()].set_index("step")["sre_db"]
        kept = table[(table["band"] == "all") & table["step"].isna()].iloc[-1]["sre_db"]
        yield {
            "scene": name.split("/")[2],
            "protocol": name.split("/")[1],
            "steps": f"{curve.index[-1]:.0f}",
            "kept step": f"{table['kept_step'].dropna().iloc[-1]:.0f}",
            "its SRE dB": f"{kept:.2f}",
            "last step's": f"{curve.iloc[-1]:.2f}",
            "best step's": f"{curve.max():.2f} (step {curve.idxmax():.0f})",
            "lost by the rule, dB": f"{curve.max() - kept:.2f}",
        }


def _run_rows(names: Sequence[str], results: dict[str, Result]) -> Iterable[dict[str, str]]:
    for name in names:
        result = results.get(name)
        if result is None:
            yield {"run": name, "seconds": NOT_RUN, "machine": "", "date": "", "commit": ""}
            continue
        last = result["rows"][-1]
        seconds = last.get("seconds_so_far") or last["seconds"]
        yield {
            "run": name if result["complete"] else f"{name} (incomplete)",
            "seconds": f"{seconds:.0f}",
            "machine": result["machine"],
            "date": result["date"],
            "commit": result["commit"],
        }


def load_results(names: Sequence[str], folder: Path) -> dict[str, Result]:
    """The results there are, by name, in the order of `names`."""
    paths = {name: folder / f"{name.replace('/', '-')}.json" for name in names}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
