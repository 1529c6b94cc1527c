"""The papers' tables, as published and under honest protocols, and the comparison that was not published.

    python benchmarks/published_tables.py                 what is missing, in the order below, then the tables
    python benchmarks/published_tables.py --only NAME ... these runs, or all whose names begin so
    python benchmarks/published_tables.py --render        the tables only, from the results there are
    python benchmarks/published_tables.py --list          all runs, and which have results

    --minutes M           end the long run of S2SUCNN after so many minutes, whose result is then marked incomplete

Every run leaves one JSON file in results/published_tables/. One that was interrupted is resumed from its checkpoints in --work,
but for those with a budget, which start anew.
The data are those of `S2PIPE_DATA`. No run chooses anything by the reference; where a figure was picked with it, as published
ones were, it is called the best step seen.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
from published_report import load_results, render
from run_facts import DATA, HERE, REFERENCE, commit, load_scene, stated

import s2pipe
from s2pipe import Sensor
from s2pipe.core.bands import BANDS_BY_GSD
from s2pipe.engine.fit import FitArguments, fit_sample
from s2pipe.fitting.sampling import Sample
from s2pipe.fitting.training import HELD_OUT_EVERY
from s2pipe.inputs.dataarray import as_cube
from s2pipe.inputs.files import read_scene
from s2pipe.methods import Method, Sharpener, get_method
from s2pipe.methods.learned.lower_scale import LowerScaleCnn, LowerScaleSharpener, patch_places
from s2pipe.methods.learned.pairs import Pair
from s2pipe.methods.learned.s2sucnn import S2sucnn, S2sucnnSharpener
from s2pipe.quality.evaluation import score
from s2pipe.quality.reduced import Reduced, reduce_scene

RESULTS = HERE / "results" / "published_tables"

BUDGET_CORE_SECONDS = 360
"""Of the comparison with equal budgets: three minutes on two cores, counted as time of the cores, for each network and scene."""
BUDGET_SEGMENT = 100
"""Steps between two checks of the budget, and between two points of the curve of s2sucnn."""

DEADLINE = math.inf
"""Of the long run, on the monotonic clock; `--minutes` sets it."""

COMPARED = ("iceland", "usa", "T33UUB", "T48QUE")
PAIRS = {"coastal": "papers/coastalA_cell_RR.mat", "reykjavik": "papers/reykjavik_cell_RR.mat"}
PAIRS_SENSOR = Sensor.named("box")
"""Degrading the reference of Coastal by it gives the pair's 20 m bands to 78 dB; by the other two, at most 36 dB."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the list: `measure` gives its rows."""

    name: str
    what: str
    measure: Callable[[Path], list[dict[str, Any]]]
    steps: int | None = None
    """Of a run that `--minutes` can end before its last step."""


def quiet(*_: Any) -> None:
    """No progress bar in a log; the runs print what they have."""


def told(label: str, done: int, total: int, loss: float | None) -> None:
    if done % 100 == 0:
        print(f"  {label}: step {done} of {total}, loss {loss:.3e}", flush=True)


def fitted(sample: Sample, method: Method, sensor: Sensor, checkpoint: Path | None, progress: Any = told) -> Sharpener:
    arguments = FitArguments(sensor=sensor, progress=progress, checkpoint=checkpoint)
    return fit_sample(sample, method, arguments.context())


def rows_of(table: pd.DataFrame, **facts: Any) -> list[dict[str, Any]]:
    return json.loads(table.assign(**facts).to_json(orient="records", double_precision=6))


# S2SUCNN's Table III: raw Iceland, corner


def in_sample_on_scene(scene: str, protocol: str, method: Method, checkpoint: Path) -> list[dict[str, Any]]:
    """The papers' way: trained on the very pair it is scored on."""
    cube, sensor = load_scene(scene), Sensor.named(protocol)
    start = time.perf_counter()
    sample = replace(Sample.of(as_cube(cube), seed=0), gsds=(20,))
    sharpener = fitted(sample, method, sensor, checkpoint)
    seconds = time.perf_counter() - start
    table = score(reduce_scene(as_cube(cube), sensor, 20), [sharpener], told=sensor)
    return rows_of(table, seconds=seconds, steps=method.steps)


def honest_on_scene(scene: str, protocol: str, method: Method, checkpoint: Path) -> list[dict[str, Any]]:
    """Trained one scale lower than it is scored on, as on a scene whose reference nobody has."""
    sensor = Sensor.named(protocol)
    reduced = reduce_scene(as_cube(load_scene(scene)), sensor, 20)
    start = time.perf_counter()
    sample = replace(Sample.of(reduced.cube, seed=0), gsds=(20,))
    sharpener = fitted(sample, method, sensor, checkpoint)
    seconds = time.perf_counter() - start
    return rows_of(score(reduced, [sharpener], told=sensor), seconds=seconds, steps=method.steps)


def s2sucnn_curve(scene: str, protocol: str, method: S2sucnn, checkpoint: Path) -> list[dict[str, Any]]:
    """The whole schedule, scored every so many steps: the last step, and the best one by the reference."""
    sensor = Sensor.named(protocol)
    reduced = reduce_scene(as_cube(load_scene(scene)), sensor, 20)
    sample = replace(Sample.of(reduced.cube, seed=0), gsds=(20,))
    rows = []
    for table, facts in curve(reduced, sample, method, sensor, checkpoint):
        rows += rows_of(table, **facts)
        if time.monotonic() > DEADLINE:
            break
    return rows


def curve(
    reduced: Reduced, sample: Sample, method: S2sucnn, sensor: Sensor, checkpoint: Path
) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
    """The table of the weights at every `HELD_OUT_EVERY` steps, and what is known of that step without the reference.

    A curve that was interrupted is resumed from its checkpoint and its own file. Seconds are those of the cores.
    """
    kept = checkpoint / "curve.json"
    done: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else []
    for entry in done:
        yield pd.DataFrame(entry["table"]), entry["facts"]
    seconds = done[-1]["facts"]["seconds_so_far"] if done else 0.0
    first = done[-1]["facts"]["step"] if done else 0
    for step in range(first + HELD_OUT_EVERY, method.steps + HELD_OUT_EVERY, HELD_OUT_EVERY):
        step = min(step, method.steps)
        start = time.process_time()
        sharpener = fitted(sample, replace(method, steps=step), sensor, checkpoint, quiet)
        seconds += time.process_time() - start
        assert isinstance(sharpener, S2sucnnSharpener)
        present, held_out = state_in(checkpoint / "s2sucnn.safetensors", sharpener)
        table = score(reduced, [present], told=sensor)
        facts = {"step": step, "kept_step": sharpener.kept_step, "best_held_out": held_out, "seconds_so_far": seconds}
        sre = table.loc[table["band"] == "all", "sre_db"].item()
        print(f"  step {step}: {sre:.2f} dB, kept {sharpener.kept_step}, {seconds:.0f} core seconds", flush=True)
        done.append({"table": rows_of(table), "facts": facts})
        kept.write_text(json.dumps(done))
        yield table, facts


def state_in(path: Path, sharpener: S2sucnnSharpener) -> tuple[S2sucnnSharpener, float | None]:
    """The sharpener with the weights of the checkpoint's last step, whatever was kept, and the best held-out loss so far."""
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {name.removeprefix("network."): file.get_tensor(name) for name in file.keys() if name.startswith("network.")}  # noqa: SIM118
        best_loss = file.metadata().get("best_loss")  # there is none where nothing is held out
    network = copy.deepcopy(sharpener.network)
    network.load_state_dict(tensors)
    return replace(sharpener, network=network), None if best_loss is None else float(best_loss)


# SSC-CNN's Table 1: pairs that came degraded, with their reference


def load_pair(name: str) -> tuple[Reduced, dict[int, np.ndarray]]:
    scene = read_scene(DATA / PAIRS[name])
    encoding = as_cube(scene.cube).encoding
    lower = {gsd: encoding.decode(np.asarray(array.data[0])) for gsd, array in as_cube(scene.cube).arrays.items() if gsd <= 20}
    cube = as_cube(s2pipe.from_arrays(lower[10], lower[20]))
    return Reduced(
        cube=cube, reference=encoding.decode(scene.references[20]), gsd=20, sensor="box", scored=BANDS_BY_GSD[20]
    ), lower


def in_sample_on_pair(name: str, method: LowerScaleCnn, checkpoint: Path) -> list[dict[str, Any]]:
    reduced, lower = load_pair(name)
    usable = np.ones(reduced.reference.shape[1:], dtype=bool)
    pairs = [Pair(lower=lower, observed=reduced.reference, usable=usable)]
    start = time.perf_counter()
    network = method.train_on_pairs(
        pairs,
        patch_places(pairs),
        20,
        FitArguments(sensor=PAIRS_SENSOR, progress=told, checkpoint=checkpoint).context(),
    )
    bands = reduced.cube.bands
    sharpener = LowerScaleSharpener(
        method=method.name, options={}, seed=0, sensor=PAIRS_SENSOR, bands_in=bands[10] + bands[20], bands_out=bands[20],
        halo=method.halo((20,), PAIRS_SENSOR), networks={20: network},
    )  # fmt: skip
    seconds = time.perf_counter() - start
    table = score(reduced, [sharpener], told=PAIRS_SENSOR)
    return rows_of(table, seconds=seconds, in_sample=True, steps=method.steps)


def honest_on_pair(name: str, method: LowerScaleCnn, checkpoint: Path) -> list[dict[str, Any]]:
    reduced, _ = load_pair(name)
    start = time.perf_counter()
    sharpener = fitted(replace(Sample.of(reduced.cube, seed=0), gsds=(20,)), method, PAIRS_SENSOR, checkpoint)
    seconds = time.perf_counter() - start
    return rows_of(score(reduced, [sharpener], told=PAIRS_SENSOR), seconds=seconds, steps=method.steps)


# The comparison with equal budgets


def within_budget(scene: str, protocol: str, name: str, checkpoint: Path) -> list[dict[str, Any]]:
    """As many steps as the budget allows, with the package's defaults otherwise; for s2sucnn also the curve on the way.

    What was used of the budget is not in a checkpoint, so an interrupted run starts anew.
    """
    shutil.rmtree(checkpoint)
    sensor = Sensor.named(protocol)
    reduced = reduce_scene(as_cube(load_scene(scene)), sensor, 20)
    sample = replace(Sample.of(reduced.cube, seed=0), gsds=(20,))
    rows: list[dict[str, Any]] = []
    used, steps, sharpener = 0.0, 0, None
    while used < BUDGET_CORE_SECONDS:
        steps += BUDGET_SEGMENT
        start = time.process_time()
        method = get_method(name, steps=steps)
        sharpener = fitted(sample, method, sensor, checkpoint, quiet)
        used += time.process_time() - start
        if isinstance(sharpener, S2sucnnSharpener):
            present, held_out = state_in(checkpoint / "s2sucnn.safetensors", sharpener)
            table = score(reduced, [present], told=sensor)
            facts = {"step": steps, "kept_step": sharpener.kept_step, "best_held_out": held_out, "seconds_so_far": used}
            rows += rows_of(table[table["band"] == "all"], **facts)
        print(f"  {steps} steps, {used:.0f} core seconds", flush=True)
    assert sharpener is not None
    return rows + rows_of(score(reduced, [sharpener], told=sensor), seconds=used, steps=steps)


def untrained(scene: str, protocol: str, checkpoint: Path) -> list[dict[str, Any]]:
    """The methods that need no training, for comparison."""
    sensor = Sensor.named(protocol)
    reduced = reduce_scene(as_cube(load_scene(scene)), sensor, 20)
    return rows_of(score(reduced, [get_method("bicubic"), get_method("glp")], told=sensor))


def all_runs() -> list[Run]:
    """The full list, in the order of what matters most."""
    # 200 epochs of the 24 x 24 patches of a 204 or 210 px image, 30 x 30 of a 256 px one, in batches of 64 or 48
    iceland = get_method("ssc-cnn", steps=1800)
    return [
        Run(
            name="table3/ssc-cnn/in-sample",
            what="ssc-cnn, raw Iceland, corner, trained on the pair it is scored on, 1800 steps",
            measure=lambda work: in_sample_on_scene("iceland-raw", "corner", iceland, work),
        ),
        Run(
            name="table3/ssc-cnn/one-scale-lower",
            what="ssc-cnn, raw Iceland, corner, trained one scale lower, 1800 steps",
            measure=lambda work: honest_on_scene("iceland-raw", "corner", iceland, work),
        ),
        *table1("coastal", "ssc-cnn", 1800),
        *comparison("centre"),
        *table1("coastal", "resnet", 2400),
        *table1("reykjavik", "ssc-cnn", 3000),
        *table1("reykjavik", "resnet", 3800),
        *comparison("box"),
        *comparison("corner"),
        Run(
            name="table3/s2sucnn",
            what="s2sucnn, raw Iceland, corner, whole image at every step, 10 010 steps",
            measure=lambda work: s2sucnn_curve(
                "iceland-raw", "corner", S2sucnn(steps=10_010, patch=None, variant="reduced", held_out=0), work
            ),
            steps=10_010,
        ),
    ]


def table1(pair: str, name: str, steps: int) -> list[Run]:
    """A network on one of SSC-CNN's pairs, trained both ways."""
    method: Any = get_method(name, steps=steps)
    return [
        Run(
            name=f"table1/{pair}/{name}/in-sample",
            what=f"{name}, {pair.capitalize()}, trained on the pair it is scored on, {steps} steps",
            measure=lambda work: in_sample_on_pair(pair, method, work),
        ),
        Run(
            name=f"table1/{pair}/{name}/one-scale-lower",
            what=f"{name}, {pair.capitalize()}, trained one scale lower, {steps} steps",
            measure=lambda work: honest_on_pair(pair, method, work),
        ),
    ]


def comparison(protocol: str) -> list[Run]:
    """Every network on every scene under one protocol, with equal budgets."""
    runs = []
    for scene in COMPARED:
        runs.append(
            Run(
                name=f"comparison/{protocol}/{scene}/untrained",
                what=f"bicubic and GLP, {scene}, {protocol}",
                measure=lambda work, scene=scene: untrained(scene, protocol, work),
            )
        )
        runs += [
            Run(
                name=f"comparison/{protocol}/{scene}/{name}",
                what=f"{name}, {scene}, {protocol}, {BUDGET_CORE_SECONDS} core seconds",
                measure=lambda work, scene=scene, name=name: within_budget(scene, protocol, name, work),
            )
            for name in ("s2sucnn", "ssc-cnn", "resnet")
        ]
    return runs


def is_done(run: Run) -> bool:
    return result_path(run).exists() and json.loads(result_path(run).read_text())["complete"]


def result_path(run: Run) -> Path:
    return RESULTS / f"{run.name.replace('/', '-')}.json"


def execute(run: Run, work: Path) -> None:
    print(f"{run.name}: {run.what}", flush=True)
    started = commit()
    checkpoint = work / run.name.replace("/", "-")
    checkpoint.mkdir(parents=True, exist_ok=True)
    rows = run.measure(checkpoint)
    facts = {"name": run.name, "what": run.what} | stated(started)
    complete = run.steps is None or rows[-1]["step"] == run.steps
    result_path(run).write_text(json.dumps(facts | {"complete": complete, "rows": rows}, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="runs whose names begin so, in this order")
    parser.add_argument("--work", type=Path, default=Path("published-tables-work"), help="folder of checkpoints")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end the long run after so many")
    parser.add_argument("--render", action="store_true", help="only render the results there are")
    parser.add_argument("--list", action="store_true", help="list the runs")
    options = parser.parse_args(arguments)
    runs = [run for name in options.only for run in all_runs() if run.name.startswith(name)]
    global DEADLINE
    DEADLINE = time.monotonic() + 60 * options.minutes
    if options.list:
        for run in runs:
            print(f"{'done   ' if is_done(run) else 'missing'} {run.name}: {run.what}")
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not options.render:
        for run in runs:
            if not is_done(run):
                execute(run, options.work)
    names = [run.name for run in all_runs()]
    page = render(names, load_results(names, RESULTS), REFERENCE / "measured_peers.csv")
    RESULTS.with_suffix(".md").write_text(page)


if __name__ == "__main__":
    main()
