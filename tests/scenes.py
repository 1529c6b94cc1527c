"""Small cubes for the tests of several modules."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from scipy import ndimage

import s2pipe
from s2pipe.core.bands import BANDS_BY_GSD, GSDS
from s2pipe.core.pixels import Pixels


def random_arrays(
    height: int, width: int, *, dates: int = 1, seed: int = 0, low: int = 1200, high: int = 9000
) -> list[np.ndarray]:
    """DN (time, band, y, x) at 10, 20 and 60 m: correlated noise, so that methods have something to learn."""
    rng = np.random.default_rng(seed)
    arrays = []
    for gsd, bands in BANDS_BY_GSD.items():
        shape = (dates, len(bands), height * 10 // gsd, width * 10 // gsd)
        noise = ndimage.gaussian_filter(rng.normal(size=shape), sigma=(0, 0, 1, 1), mode="nearest")
        scaled = (noise - noise.min()) / max(np.ptp(noise), 1e-9)
        arrays.append((low + scaled * (high - low)).astype(np.uint16))
    return arrays


def pixels_of(*arrays: np.ndarray) -> Pixels:
    """What a Sharpener is called with, of reflectance (band, y, x) that is valid everywhere, finest first."""
    reflectance = dict(zip(GSDS, arrays, strict=False))
    return Pixels(reflectance=reflectance, valid={gsd: np.ones(array.shape, bool) for gsd, array in reflectance.items()})


def random_cube(height: int = 120, width: int = 96, *, dates: int = 1, seed: int = 0, **options: Any) -> xr.DataTree:
    """A cube of `random_arrays` on a real UTM grid."""
    times = np.datetime64("2024-06-01", "ns") + np.arange(dates) * np.timedelta64(5, "D")
    return s2pipe.from_arrays(
        *random_arrays(height, width, dates=dates, seed=seed),
        **{"crs": "EPSG:32633", "transform": (10, 0, 300000, 0, -10, 4000020), "time": times, "offset": -0.1} | options,
    )


def with_chunks(cube: xr.DataTree, y: int | tuple[int, ...], x: int | tuple[int, ...]) -> xr.DataTree:
    """The cube with its 10 m node chunked; the others are left as they are, since the 10 m node decides."""
    fine = cube["r10m"].to_dataset().chunk({"time": 1, "y": y, "x": x})
    rest = {name: cube[name].to_dataset() for name in cube.children if name != "r10m"}
    return xr.DataTree.from_dict({"r10m": fine, **rest})


def as_one_array(cube: xr.DataTree) -> xr.DataArray:
    """The cube as one 10 m DataArray, coarse pixels repeated, as a nearest resampling gives it."""
    fine = cube["r10m"]["reflectance"]
    parts = [fine]
    for gsd in (20, 60):
        if f"r{gsd}m" in cube.children:
            coarse = cube[f"r{gsd}m"]["reflectance"]
            data = coarse.values.repeat(gsd // 10, axis=2).repeat(gsd // 10, axis=3)
            coords = {name: fine[name] for name in ("time", "y", "x", "spatial_ref") if name in fine.coords}
            parts.append(xr.DataArray(data, dims=fine.dims, coords=coords | {"band": coarse["band"].values}, attrs=coarse.attrs))
    return xr.concat(parts, "band", combine_attrs="override")


def with_numbers(cube: xr.DataTree, **numbers: Any) -> xr.DataTree:
    """The cube with other arrays (time, band, y, x) in the nodes named."""
    replaced = {}
    for name in cube.children:
        dataset = cube[name].to_dataset()
        replaced[name] = dataset.assign(
            reflectance=dataset["reflectance"].copy(data=numbers.get(name, dataset["reflectance"].data))
        )
    return xr.DataTree.from_dict(replaced)
