"""How fast the default method is, and how near to what the machine can do; beside the networks of DSen2 and S2SUCNN.

    python benchmarks/default_speed.py           some 10 minutes on two cores, and the page
    python benchmarks/default_speed.py --render  the page only, from the results there are

A chunk is 1830 x 1830 px at 10 m with its halo, 366 x 366 px for the peers' networks, whose weights are random, which makes them
no slower. Its figure is the median of three, for each megapixel of the chunk without its halo, so that the halo is paid for. The
machine's peak is that of a product of two square matrices of 2048, in the network's precision, in the same run. A tile is 10980 x
10980 px; its chunks are made when they are needed and its results thrown away, so that only the computing is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from methods_speed import LARGE, REPEATS, SMALL, all_valid, chunk, fitted, measure_tile, timed
from run_facts import HERE, commit, markdown, stated
from torch import nn

from s2pipe.core.precision import choose_precision, computing_in
from s2pipe.methods.base import placed
from s2pipe.methods.mtf_resnet.inputs import CHANNELS, COARSE, FINE, RATIO, Inputs
from s2pipe.methods.mtf_resnet.recipe import MtfResNetSharpener
from s2pipe.networks.dsen2 import Dsen2Network
from s2pipe.networks.mtf_resnet import BLOCKS, FEATURES
from s2pipe.networks.s2sucnn import S2sucnnNetwork
from s2pipe.physics.misfit import Known

RESULTS = HERE / "results" / "default_speed.json"
PAGE = RESULTS.with_suffix(".md")


def median(work: Callable[[], Any]) -> float:
    work()
    return statistics.median(timed(work) for _ in range(REPEATS))


def multiply_adds() -> float:
    """Of the network, for each 10 m pixel."""
    channels = CHANNELS * FEATURES + 2 * BLOCKS * FEATURES**2 + FEATURES * RATIO**2 * len(COARSE)
    return 9 * channels / RATIO**2


def peak() -> float:
    """GFLOP/s of a product of matrices, in the precision of the networks."""
    matrix = torch.rand(2048, 2048, dtype=getattr(torch, choose_precision("auto", "cpu")))
    return 2 * 2048**3 / median(lambda: matrix @ matrix) / 1e9


def default() -> dict[str, float]:
    """Seconds a megapixel of the default method and its parts."""
    sharpener, fit_seconds = fitted("mtf-resnet")
    assert isinstance(sharpener, MtfResNetSharpener) and sharpener.scaling is not None
    arrays = chunk(LARGE, sharpener.halo)
    fine, coarse = (torch.from_numpy(array) for array in arrays[:2])
    pixels = all_valid(dict(zip((10, 20, 60), arrays, strict=True)))
    with torch.inference_mode():
        known = Known.everywhere(fine, coarse)
        inputs = Inputs.of(fine, coarse, known, FINE, sharpener.used, sharpener.sensor, sharpener.scaling)
        seconds = {
            "all": median(lambda: sharpener(pixels)),
            "guess": median(lambda: Inputs.of(fine, coarse, known, FINE, sharpener.used, sharpener.sensor, sharpener.scaling)),
            "network": median(lambda: sharpener._detail(inputs)),
        }
    padded = fine.shape[1] * fine.shape[2]
    work = 2 * multiply_adds() * padded / 1e9
    return {
        **{f"{name}_s_per_megapixel": value * 1e6 / LARGE**2 for name, value in seconds.items()},
        "network_gflops": work / seconds["network"],
        "fit_s": fit_seconds,
    }


def network_alone(network: nn.Module, *images: torch.Tensor) -> float:
    """Seconds a megapixel of a network on a chunk without a halo."""
    network = placed(network, "cpu").eval()
    with torch.inference_mode(), computing_in(choose_precision("auto", "cpu"), torch.device("cpu")):
        return median(lambda: network(*images)) * 1e6 / SMALL**2


def peers() -> dict[str, float]:
    """Seconds a megapixel of the networks of DSen2, for the 20 m bands, and of S2SUCNN, for all."""
    fine, coarse, coarsest = (torch.rand(1, count, SMALL // ratio, SMALL // ratio) for count, ratio in ((4, 1), (6, 2), (2, 6)))
    return {
        "DSen2": network_alone(Dsen2Network(6, 4, features=128, blocks=6), torch.rand(1, 10, SMALL, SMALL)),
        "S2SUCNN": network_alone(S2sucnnNetwork({10: 4, 20: 6, 60: 2}, "full"), fine, coarse, coarsest),
    }


def render(result: dict[str, Any]) -> str:
    """The page, in Markdown."""
    own, network = result["default"], result["default"]["network_s_per_megapixel"]
    rows = [
        ["mtf-resnet, all bands", f"{own['all_s_per_megapixel']:.2f}", f"{1 / own['all_s_per_megapixel']:.2f}"],
        ["of this the network", f"{network:.2f}", f"{1 / network:.2f}"],
        ["and the guess", f"{own['guess_s_per_megapixel']:.2f}", f"{1 / own['guess_s_per_megapixel']:.2f}"],
        *([f"{name}'s network alone", f"{seconds:.2f}", f"{1 / seconds:.3f}"] for name, seconds in result["peers"].items()),
    ]
    share = own["network_gflops"] / result["peak_gflops"]
    ratios = " and ".join(f"{seconds / network:.0f} times that of {name}" for name, seconds in result["peers"].items())
    return "\n".join(
        [
            "# The speed of the default method\n",
            f"Written by `python benchmarks/default_speed.py`, whose head says what is measured, on {result['machine']}, "
            f"{result['date']}, commit {result['commit']}.\n",
            markdown(["", "s a megapixel", "megapixels a second"], rows),
            f"The network does {result['multiply_adds']:.0f} multiply-adds for each 10 m pixel, in {result['precision']} here. "
            f"It reaches {own['network_gflops']:.0f} GFLOP/s, {share:.0%} of what a product of matrices reaches; "
            f"its speed is {ratios}. A fit takes {own['fit_s']:.1f} s.\n",
            f"The 20 m bands of a whole tile take {result['tile']['seconds']:.0f} s, in {result['tile']['memory_mb']:.0f} MB.\n",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--render", action="store_true", help="only render the results there are")
    if not parser.parse_args(arguments).render:
        result: dict[str, Any] = {
            **stated(commit()),
            "precision": choose_precision("auto", "cpu"),
            "multiply_adds": multiply_adds(),
            "peak_gflops": peak(),
            "default": default(),
            "peers": peers(),
            "tile": measure_tile("mtf-resnet"),
        }
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.write_text(render(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
