"""The pictures of docs/default_method.md.

    python benchmarks/default_pictures.py

The first shows T33UUB one scale lower, sharpened by weights that have not seen it, and its truth; the others show water of T18SVG
and clouds of T33NZA at full resolution, where the default method must not be trusted.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from default_method import method_for
from run_facts import DATA, HERE, load_scene

import s2pipe
from s2pipe.inputs.files import read_scene
from s2pipe.quality.plot import save_comparison

FOLDER = HERE.parent / "docs"
EDGE = 96
METHODS = ("bicubic", "glp", "mtf-resnet")
BAND = "B12"


def darkest_part(cube: xr.DataTree, *, edge: int = EDGE) -> dict[str, slice]:
    """Where the near infrared is darkest: water."""
    fine = cube["r10m"]["reflectance"].isel(time=0).sel(band="B08").values.astype(float)
    rows, columns = (size // edge for size in fine.shape)
    means = fine[: rows * edge, : columns * edge].reshape(rows, edge, columns, edge).mean(axis=(1, 3))
    top, left = (int(place) * edge for place in np.unravel_index(means.argmin(), means.shape))
    return {"y": slice(top, top + edge), "x": slice(left, left + edge)}


def sharpened(cube: xr.DataTree, part: dict[str, slice]) -> dict[str, xr.DataArray]:
    """A part of a scene as observed, pixels repeated, and by each method."""
    observed = cube["r20m"]["reflectance"].isel(time=0).sel(band=[BAND])
    images = {"observed": observed.isel({axis: np.arange(span.start, span.stop) // 2 for axis, span in part.items()})}
    for method in METHODS:
        images[method] = s2pipe.sharpen(cube, method, bands=[BAND]).isel(time=0, **part)
    return {
        name: xr.DataArray(image.values.astype(float), dims=("band", "y", "x"), coords={"band": [BAND]})
        for name, image in images.items()
    }


def main() -> None:
    s2pipe.evaluate(
        load_scene("T33UUB"), ["bicubic", "glp", "atprk", method_for("T33UUB")], plot=FOLDER / "default_method.png",
        progress=lambda *_: None,
    )  # fmt: skip
    water = load_scene("T18SVG")
    save_comparison(
        FOLDER / "default_method_water.png", sharpened(water, darkest_part(water)), composites=[(BAND,)], edge=EDGE,
        title="Water (T18SVG): the noise of the 20 m band is sharpened with it",
    )  # fmt: skip
    cloud = read_scene(DATA / "crops" / "majortom_L2A_T33NZA_20220706_N0400_cloudy", offset=-0.1).cube
    whole = {"y": slice(0, cloud["r10m"].sizes["y"]), "x": slice(0, cloud["r10m"].sizes["x"])}
    save_comparison(
        FOLDER / "default_method_cloud.png", sharpened(cloud, whole), composites=[(BAND,)], edge=EDGE,
        title="Clouds (T33NZA): bands see them from different angles",
    )  # fmt: skip


if __name__ == "__main__":
    main()
