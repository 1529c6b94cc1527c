"""The default method, mtf-resnet, with weights that were trained without the scene, beside the best peers.

    python benchmarks/default_method.py           everything, some 15 minutes on two cores, and the page
    python benchmarks/default_method.py --render  the page only, from the results there are

Mean SRE, SAM and ERGAS over the bands of 20 m, or of 60 m where it says so, `crop=2`; every method is told the sensor of the
protocol, but where it says otherwise. The weights, in benchmarks/weights, are those of
``python workflows/train_weights.py --without SCENE ...``: their names say which scenes they have not seen.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from run_facts import HERE, REFERENCE, commit, load_scene, markdown, stated
from scipy import ndimage
from torch import Tensor

import s2pipe
from s2pipe import Sensor
from s2pipe.core.bands import BANDS, bands_at
from s2pipe.core.metrics import sre
from s2pipe.fitting.sampling import Sample
from s2pipe.fitting.training import train
from s2pipe.inputs.dataarray import as_cube
from s2pipe.methods.base import FitContext, TensorPixels
from s2pipe.methods.classical.pan import mixture
from s2pipe.methods.mtf_resnet.examples import Example
from s2pipe.methods.mtf_resnet.inputs import COARSE, FINE, RATIO, Inputs
from s2pipe.methods.mtf_resnet.pretrained import load_pretrained
from s2pipe.methods.mtf_resnet.recipe import MtfResNet, MtfResNetSharpener
from s2pipe.physics.projection import project
from s2pipe.quality.reduced import reduce_scene

RESULTS = HERE / "results" / "default_method.json"
PAGE = RESULTS.with_suffix(".md")
WEIGHTS = HERE / "weights"

WITHOUT = {
    "iceland": "without-iceland-T43RCP",
    "iceland-raw": "without-iceland-T43RCP",
    "T43RCP L1C": "without-iceland-T43RCP",
    "T43RCP L2A": "without-iceland-T43RCP",
    "usa": "without-usa-bigearthnet",
    "BigEarthNet": "without-usa-bigearthnet",
    "T33UUB": "without-T33UUB-T48QUE",
    "T48QUE": "without-T33UUB-T48QUE",
    "T18SVG": "without-T18SVG",
}
"""Scenes, and the weights that have not seen them."""
TARGETS = {
    ("iceland", "centre"): 34.8, ("iceland", "box"): 34.6, ("iceland", "corner"): 30.0,
    ("usa", "centre"): 37.6, ("usa", "box"): 38.7, ("usa", "corner"): 33.5,
    ("T33UUB", "centre"): 35.0, ("T33UUB", "box"): 35.5, ("T33UUB", "corner"): 30.0,
    ("iceland-raw", "corner"): 33.7,
}  # fmt: skip
"""Mean SRE in dB that was aimed at."""

PROTOCOLS = ("centre", "box", "corner")
CELLS = (
    *((scene, protocol, 20) for scene in WITHOUT if not scene.endswith("-raw") for protocol in PROTOCOLS),
    ("iceland-raw", "corner", 20),
    *((scene, "centre", 60) for scene in ("iceland", "usa", "T33UUB", "T48QUE", "T18SVG")),
)
CLASSICAL = ("atprk", "atprk-sel", "glp", "glp-hpm")

HELD = ("T48QUE", "iceland", "T33UUB")
"""Scenes of the smaller tables."""
MTF_ERRORS = (-0.05, 0.05)
SHIFT = 0.2
"""10 m pixels."""
CEILING_STEPS = 150


def weights_for(scene: str) -> Path:
    return WEIGHTS / f"{WITHOUT[scene]}.safetensors"


def method_for(scene: str) -> MtfResNet:
    return MtfResNet(weights=weights_for(scene))


def scenes_of(name: str) -> list[xr.DataTree]:
    """One scene, or all patches of BigEarthNet."""
    return [load_scene(part) for part in PATCHES] if name == "BigEarthNet" else [load_scene(name)]


PATCHES = tuple(f"BigEarthNet {i}" for i in range(6))


def overall(cubes: Sequence[xr.DataTree], methods: Sequence[Any], **options: Any) -> list[dict[str, Any]]:
    """A row for each method, the mean over several scenes."""
    tables = [s2pipe.evaluate(cube, list(methods), progress=lambda *_: None, **options) for cube in cubes]
    rows = pd.concat([table[table["band"] == "all"] for table in tables])
    if rows["in_sample"].any():
        raise RuntimeError("the weights have seen the scene")
    means = rows.groupby("method", sort=False)[["sre_db", "sam_deg", "ergas", "seconds"]].mean().reset_index()
    return json.loads(means.to_json(orient="records", double_precision=4))


def measure(scene: str, protocol: str, gsd: int) -> list[dict[str, Any]]:
    """One row for each method."""
    rows = overall(scenes_of(scene), [method_for(scene), *CLASSICAL], sensor=protocol, gsd=gsd)
    return [row | {"scene": scene, "protocol": protocol, "gsd": gsd} for row in rows]


class OneRegression(MtfResNetSharpener):
    """One regression for the whole scene, projected onto the observation."""

    def _finer_bands(self, pixels: TensorPixels) -> Tensor:
        assert self.scaling is not None
        r10m, r20m = pixels.reflectance[10], pixels.reflectance[20]
        scaled = mixture(self.scaling.mixtures, (r10m - self.scaling.fine_mean) / self.scaling.fine_scale)
        guess = scaled * self.scaling.coarse_scale + self.scaling.coarse_mean
        return torch.cat([r10m, project(guess, r20m, self.sensor, self.used, RATIO)])


class NoProjection(MtfResNetSharpener):
    """What the network makes of the guess, not projected onto the observation."""

    def _finer_bands(self, pixels: TensorPixels) -> Tensor:
        assert self.scaling is not None
        r10m, r20m = pixels.reflectance[10], pixels.reflectance[20]
        inputs = Inputs.of(r10m, r20m, pixels.known(20), FINE, self.used, self.sensor, self.scaling)
        guess = inputs.guess + self._detail(inputs) * self.scaling.guess_detail[..., None]
        return torch.cat([r10m, self.scaling.image(guess)])


@dataclass(frozen=True, kw_only=True)
class Variant(MtfResNet):
    """The method with another Sharpener, or without its network."""

    sharpener: type[MtfResNetSharpener] = MtfResNetSharpener
    network: bool = True

    def fit(self, sample: Sample, context: FitContext) -> MtfResNetSharpener:
        fitted = super().fit(sample, context)
        return self.sharpener(
            **{each.name: getattr(fitted, each.name) for each in fields(fitted)}
            | {"options": {}}
            | ({} if self.network else {"network": None})
        )


VARIANTS: dict[str, Callable[[Path], MtfResNet]] = {
    "one regression for the scene, projected": lambda weights: Variant(weights=weights, sharpener=OneRegression),
    "a regression for each coarse pixel, projected": lambda weights: Variant(weights=weights, network=False),
    "the same, and the network, not projected": lambda weights: Variant(weights=weights, sharpener=NoProjection),
    "all of it: the default": lambda weights: MtfResNet(weights=weights),
    "the default, 150 steps on the scene": lambda weights: MtfResNet(weights=weights, steps=150),
}


def ablate(scene: str, protocol: str) -> list[dict[str, Any]]:
    cube = load_scene(scene)
    return [
        {"scene": scene, "protocol": protocol, "variant": name, "sre_db": row["sre_db"]}
        for name, make in VARIANTS.items()
        for row in overall([cube], [make(weights_for(scene))], sensor=protocol)
    ]


def shifted(cube: xr.DataTree, pixels: float) -> xr.DataTree:
    """The scene with its 10 m bands moved along both axes."""
    node = cube["r10m"].to_dataset()
    moved = ndimage.shift(node["reflectance"].values.astype(np.float64), (0, 0, pixels, pixels), order=5, mode="mirror")
    numbers = moved.round().clip(1, 65534).astype(node["reflectance"].dtype)
    rest = {name: child.to_dataset() for name, child in cube.children.items()}
    return xr.DataTree.from_dict(rest | {"r10m": node.assign(reflectance=node["reflectance"].copy(data=numbers))})


def mistaken(scene: str) -> list[dict[str, Any]]:
    """What a wrong MTF and a shift cost each method."""
    cube = load_scene(scene)
    cases = {"the truth": (cube, Sensor.named("centre"))}
    for error in MTF_ERRORS:
        mtf = tuple((band.name, band.mtf_nyquist + error) for band in BANDS.values())
        cases[f"MTF {error:+.2f}"] = (cube, Sensor(name="centre", mtf=mtf))
    cases[f"shift {SHIFT} px"] = (shifted(cube, SHIFT), Sensor.named("centre"))
    return [
        {"scene": scene, "case": case, "method": row["method"], "sre_db": row["sre_db"]}
        for case, (data, told) in cases.items()
        for row in overall([data], [method_for(scene), "supreme", *CLASSICAL], sensor="centre", told=told)
    ]


def ceiling(scene: str, protocol: str) -> dict[str, Any]:
    """How good the network is on the right half of a scene once it has learnt from the truth in the left half."""
    sensor = Sensor.named(protocol)
    reduced = reduce_scene(as_cube(load_scene(scene)), sensor, 20)
    sample = Sample.of(reduced.cube, seed=0)
    (window,) = sample.windows
    example = Example.of(window, reduced.reference, sample.bands, COARSE, sensor)
    middle = example.channels.shape[2] // 2
    example = replace(example, corners=example.corners[example.corners[:, 1] + example.edge <= middle])
    recipe = method_for(scene)
    sharpener = s2pipe.fit(reduced.cube, recipe, sensor=sensor, progress=lambda *_: None)
    network = copy.deepcopy(load_pretrained(recipe.weights).network).requires_grad_(True)
    train(
        network, lambda net, step: example.loss(net, np.random.default_rng(step), "cpu", "float32"), steps=CEILING_STEPS,
        learning_rate=1e-3, decay=True, device="cpu", label="ceiling",
    )  # fmt: skip

    def right_half(one: MtfResNetSharpener) -> float:
        result = s2pipe.sharpen(reduced.cube, one, sensor=sensor, bands=COARSE).values[0]
        columns = slice(2 * middle + 8, -2)
        return float(np.mean([sre(a[2:-2, columns], b[2:-2, columns]) for a, b in zip(reduced.reference, result, strict=True)]))

    taught = replace(sharpener, network=network.requires_grad_(False))
    return {"scene": scene, "protocol": protocol, "before": right_half(sharpener), "after": right_half(taught)}


def ceiling_60m(scene: str) -> dict[str, Any]:
    """How good the 60 m bands are with the mixture of finer bands that fits the truth best, projected onto the observation."""
    reduced = reduce_scene(as_cube(load_scene(scene)), Sensor.named("centre"), 60)
    sharpener = s2pipe.fit(reduced.cube, method_for(scene), sensor="centre", progress=lambda *_: None)
    (window,) = Sample.of(reduced.cube, seed=0).windows
    finer, truth = sharpener.finer_bands(window), torch.from_numpy(reduced.reference)
    regressors = torch.cat([torch.ones_like(finer[:1]), finer]).flatten(1).double()
    fitted = torch.linalg.lstsq(regressors.T, truth.flatten(1).T.double()).solution.T
    names = bands_at(sharpener.bands_in, 60)
    best = project(mixture(fitted.float(), finer), torch.from_numpy(window.reflectance[60]), Sensor.named("centre"), names, 6)
    reached = torch.from_numpy(sharpener(window))[-len(names) :]
    inner = (slice(2, -2), slice(2, -2))
    means = [
        float(np.mean([sre(a[inner].numpy(), b[inner].numpy()) for a, b in zip(truth, made, strict=True)]))
        for made in (reached, best)
    ]
    return {"scene": scene, "before": means[0], "after": means[1]}


def table(result: dict[str, Any], peers: Path) -> str:
    """One row for each scene, protocol and resolution."""
    measured = pd.DataFrame(result["rows"])
    known = pd.read_csv(peers).rename(columns={"msre_db": "sre_db"})
    rows = []
    for scene, protocol, gsd in CELLS:
        here = measured[(measured["scene"] == scene) & (measured["protocol"] == protocol) & (measured["gsd"] == gsd)]
        own, others = here[here["method"] == "mtf-resnet"], here[here["method"] != "mtf-resnet"]
        elsewhere = known[(known["scene"] == scene) & (known["protocol"] == protocol)] if gsd == 20 else known[:0]
        best = max(others["sre_db"].max(), elsewhere["sre_db"].max() if len(elsewhere) else -np.inf)
        target = TARGETS.get((scene, protocol)) if gsd == 20 else round(others["sre_db"].max() + 2, 2)
        rows.append(
            [
                scene, protocol, f"{gsd} m", _figures(own), _best(others), _best(elsewhere),
                f"{own['sre_db'].item() - best:+.2f}", "" if target is None else f"{target}",
            ]
        )  # fmt: skip
    columns = "scene, protocol, bands, mtf-resnet, best classical method here, best of measured_peers.csv, ahead in dB, target"
    return markdown(columns.split(", "), rows)


def table_of_variants(result: dict[str, Any]) -> str:
    measured = pd.DataFrame(result["ablation"])
    cells = [(scene, protocol) for scene in HELD for protocol in PROTOCOLS]
    rows = [
        [name, *(f"{_one(measured, variant=name, scene=scene, protocol=protocol)['sre_db']:.2f}" for scene, protocol in cells)]
        for name in VARIANTS
    ]
    return markdown(["", *(f"{scene} {protocol}" for scene, protocol in cells)], rows)


def table_of_mistakes(result: dict[str, Any]) -> str:
    """In each cell what the mistake costs, over the scenes."""
    measured = pd.DataFrame(result["mistakes"]).pivot_table(index="method", columns="case", values="sre_db", sort=False)
    cases = [case for case in measured.columns if case != "the truth"]
    rows = [
        [name, f"{row['the truth']:.2f}", *(f"{row[case] - row['the truth']:+.2f}" for case in cases)]
        for name, row in measured.iterrows()
    ]
    return markdown(["method", "the truth", *cases], rows)


def table_of_ceilings(result: dict[str, Any]) -> str:
    rows = [[row["scene"], row["protocol"], f"{row['before']:.2f}", f"{row['after']:.2f}"] for row in result["ceilings"]]
    return markdown(["right half of", "protocol", "as it comes", "taught the truth of the left half"], rows)


def table_of_ceilings_60m(result: dict[str, Any]) -> str:
    rows = [[row["scene"], f"{row['before']:.2f}", f"{row['after']:.2f}"] for row in result["ceilings_60m"]]
    return markdown(["scene", "mtf-resnet", "the mixture that fits the truth best"], rows)


def _one(rows: pd.DataFrame, **where: str) -> pd.Series:
    for column, value in where.items():
        rows = rows[rows[column] == value]
    (found,) = (row for _, row in rows.iterrows())
    return found


def _figures(row: pd.DataFrame) -> str:
    return f"{row['sre_db'].item():.2f} / {row['sam_deg'].item():.3f} / {row['ergas'].item():.2f}"


def _best(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "not measured"
    best = rows.loc[[rows["sre_db"].idxmax()]]
    return f"{_figures(best)} ({best['method'].item()})"


def render(result: dict[str, Any], peers: Path) -> str:
    """The page, in Markdown."""
    return "\n".join(
        [
            "# The default method\n",
            f"Written by `python benchmarks/default_method.py`, whose head says what is measured, on {result['machine']}, "
            f"{result['date']}, commit {result['commit']}. Weights that have not seen the scene.\n",
            "## Beside the peers\n\nMean SRE in dB / SAM in degrees / ERGAS.\n",
            table(result, peers),
            "## What each part is worth\n\nMean SRE in dB.\n",
            table_of_variants(result),
            f"## What a mistake costs\n\nMean SRE in dB over {', '.join(HELD)}, told the truth, and what is lost where not.\n",
            table_of_mistakes(result),
            f"## How much a scene could teach\n\nMean SRE in dB, after {CEILING_STEPS} steps on the truth itself.\n",
            table_of_ceilings(result),
            "## How much finer bands know of the 60 m bands\n\nMean SRE in dB under centre.\n",
            table_of_ceilings_60m(result),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--render", action="store_true", help="only render the results there are")
    if not parser.parse_args(arguments).render:
        result: dict[str, Any] = {"rows": [], "ablation": [], "mistakes": [], "ceilings": [], "ceilings_60m": []}
        started = commit()
        for cell in CELLS:
            print(*cell, flush=True)
            result["rows"] += measure(*cell)
        for scene in HELD:
            print(scene, flush=True)
            result["mistakes"] += mistaken(scene)
            for protocol in PROTOCOLS:
                result["ablation"] += ablate(scene, protocol)
        for scene in ("iceland", "usa", "T33UUB"):
            result["ceilings"] += [ceiling(scene, "centre"), ceiling(scene, "box")]
        result["ceilings_60m"] = [ceiling_60m(scene) for scene, _, gsd in CELLS if gsd == 60]
        RESULTS.write_text(json.dumps(stated(started) | result, indent=1) + "\n")
    PAGE.write_text(render(json.loads(RESULTS.read_text()), REFERENCE / "measured_peers.csv"))


if __name__ == "__main__":
    main()
