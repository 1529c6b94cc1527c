"""The default method at full scale, on real scenes, where nobody holds the answer: what can be asked of a result all the same.

    python benchmarks/full_scale.py           some 15 minutes on two cores, and the page
    python benchmarks/full_scale.py --render  the page only, from the results there are

**Noise**: white noise of 4 DN (B05 to B8A) or 2 DN (the others) is added to the coarse bands alone, and the scene is fitted and
sharpened again. Its gain is the standard deviation of the difference of the two results, over what was added, in the calmest 5 %
of blocks of 8 x 8 coarse pixels (by the variance of the 10 m bands, minus their 5 x 5 mean).

**Detail**: the slope of sharpened B8A on B08, both minus their 5 x 5 mean, over the same slope between the observed B8A and B08
degraded by the operator of B8A.

**Residual**: what was observed minus the degraded result, over the noise that the fit measured: mean square, and mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import xarray as xr
from affine import Affine
from holes import measure_and_render
from run_facts import HERE, markdown
from scipy import ndimage

import s2pipe
from s2pipe.core.bands import BANDS
from s2pipe.core.cube import Cube, make_node
from s2pipe.core.encoding import Encoding
from s2pipe.inputs.dataarray import as_cube
from s2pipe.methods.mtf_resnet.recipe import MtfResNetSharpener
from s2pipe.physics.sensor import Sensor

RESULTS = HERE / "results" / "full_scale.json"

ADDED = {band: 4e-4 if band in ("B05", "B06", "B07", "B8A") else 2e-4 for band in BANDS}
"""Standard deviation in reflectance."""
BLOCK = 8
CALM_SHARE = 0.05
EDGE = 4
"""Coarse pixels beside the edges that do not count."""

Image = npt.NDArray[np.float64]


def reflectance_of(cube: xr.DataTree) -> dict[int, npt.NDArray[np.float32]]:
    held = as_cube(cube)
    return {gsd: held.encoding.decode(array.values[0]) for gsd, array in held.arrays.items()}


def cube_of(arrays: dict[int, npt.NDArray[np.float32]], bands: dict[int, tuple[str, ...]]) -> xr.DataTree:
    encoding = Encoding.default(np.float32)
    nodes = {}
    for gsd, array in arrays.items():
        grid = Affine(gsd, 0, 0, 0, -gsd, 0)
        nodes[gsd] = make_node(array[None], bands[gsd], encoding=encoding, transform=grid)
    return Cube.checked(nodes, encoding).to_tree()


def sharpened(cube: xr.DataTree) -> tuple[dict[str, Image], MtfResNetSharpener]:
    sharpener = s2pipe.fit(cube, "mtf-resnet", precision="float32", progress=lambda *_: None)
    assert isinstance(sharpener, MtfResNetSharpener)
    result = s2pipe.sharpen(cube, sharpener).compute()
    images = {str(band): image.astype(np.float64) for band, image in zip(result["band"].values, result.values[0], strict=True)}
    return images, sharpener


def high_pass(image: Image) -> Image:
    return image - ndimage.uniform_filter(image, 5, mode="mirror")


def calm_blocks(fine: npt.NDArray[np.float32], ratio: int) -> npt.NDArray[np.bool_]:
    """On the 10 m grid, the calmest blocks."""
    detail = np.stack([high_pass(band.astype(np.float64)) for band in fine])
    edge = BLOCK * ratio
    rows, columns = (size // edge for size in fine.shape[1:])
    cut = detail[:, : rows * edge, : columns * edge].reshape(len(fine), rows, edge, columns, edge)
    variance = (cut.var(axis=(2, 4)) / detail.var(axis=(1, 2))[:, None, None]).sum(axis=0)
    chosen = variance <= np.sort(variance.ravel())[max(int(variance.size * CALM_SHARE), 1) - 1]
    mask = np.zeros(fine.shape[1:], dtype=bool)
    mask[: rows * edge, : columns * edge] = chosen.repeat(edge, axis=0).repeat(edge, axis=1)
    return mask


def slope(image: Image, on: Image) -> float:
    return float((image * on).sum() / (on * on).sum())


def inner(image: Any, pixels: int) -> Any:
    return image[..., pixels:-pixels, pixels:-pixels]


def measure(name: str, tree: xr.DataTree) -> list[dict[str, Any]]:
    held = as_cube(tree)
    bands, arrays = held.bands, reflectance_of(tree)
    random = np.random.default_rng(0)
    noisy = {
        gsd: array
        if gsd == 10
        else (array + np.array([ADDED[band] for band in bands[gsd]])[:, None, None] * random.standard_normal(array.shape)).astype(
            np.float32
        )
        for gsd, array in arrays.items()
    }
    result, sharpener = sharpened(cube_of(arrays, bands))
    again, _ = sharpened(cube_of(noisy, bands))
    levels = {band: model.noise for band, model in zip(sharpener.used, sharpener.models or (), strict=True)}
    levels |= {band: model.noise for band, model in zip(bands.get(60, ()), sharpener.models_60m or (), strict=True)}
    rows = []
    for gsd, names in bands.items():
        ratio = gsd // 10
        calm = calm_blocks(arrays[10], ratio) if gsd > 10 else None
        for row, band in enumerate(names):
            if gsd == 10 or band not in result:
                continue
            seen = Sensor().degrade(torch.from_numpy(result[band])[None], [band], ratio)[0].numpy()
            residual = inner(arrays[gsd][row] - seen, EDGE)
            found = {
                "scene": name,
                "band": band,
                "gain": float((again[band] - result[band])[calm].std() / ADDED[band]),
                "noise": levels.get(band, float("nan")),
                "residual": float(np.sqrt((residual**2).mean())),
                "bias": float(residual.mean()),
            }
            if band == "B8A":
                guide = arrays[10][bands[10].index("B08")].astype(np.float64)
                low = Sensor().matched_to([band]).degrade(torch.from_numpy(guide)[None], ["B08"], ratio)[0].numpy()
                fine, coarse = (
                    slope(inner(high_pass(a), EDGE * 2), inner(high_pass(b), EDGE * 2))
                    for a, b in ((result[band], guide), (arrays[gsd][row].astype(np.float64), low))
                )
                found["slope"] = fine / coarse
            rows.append(found)
    return rows


HEADER = (
    "band", "noise gain, mean (largest)", "noise, DN, median (scenes without)", "residual, mean square, median (largest)",
    "residual, mean, median (largest)",
)  # fmt: skip


def render(result: dict[str, Any]) -> str:
    table = pd.DataFrame(result["rows"])
    table["square"] = (table["residual"] / table["noise"]) ** 2
    table["mean"] = (table["bias"] / table["noise"]).abs()
    rows = []
    for band in dict.fromkeys(table["band"]):
        every = table[table["band"] == band]
        own = every[every["noise"] > 0]
        rows.append(
            [
                band,
                f"{every['gain'].mean():.2f} ({every['gain'].max():.2f})",
                f"{own['noise'].median() * 1e4:.1f} ({len(every) - len(own)} of {len(every)})",
                f"{own['square'].median():.2f} ({own['square'].max():.2f})",
                f"{own['mean'].median():.3f} ({own['mean'].max():.3f})",
            ]
        )
    slopes = table["slope"].dropna()
    spread = f"{slopes.min():.3f} to {slopes.max():.3f}"
    parts = [
        "# The default method at full scale",
        *(text.replace("\n", " ") for text in __doc__.split("\n\n")[2:]),
        f"`python benchmarks/full_scale.py` on {result['machine']}, {result['date']}, commit {result['commit']}.",
        f"Slope of B8A on B08, over that at 20 m: {slopes.mean():.3f} in the mean of {len(slopes)} scenes, {spread}.",
        markdown(list(HEADER), rows),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    measure_and_render(__doc__, measure, render, RESULTS)
