"""The demo: a simulated scene is sharpened from a local catalog into a Zarr store, and compared with its truth."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from rich.console import Console

from s2pipe.core.bands import BANDS, BANDS_BY_GSD, GSDS
from s2pipe.core.encoding import PRESENT_ENCODING
from s2pipe.core.errors import InputError
from s2pipe.core.metrics import sre
from s2pipe.core.types import AnyArray
from s2pipe.inputs.load import load
from s2pipe.inputs.search import search
from s2pipe.jobs.job import sharpen_to_store
from s2pipe.quality.plot import COMPOSITES, save_comparison
from s2pipe.simulation.archive import make_folder, write_scene
from s2pipe.simulation.landscape import SimulatedScene, simulate_scene
from s2pipe.store.zarr_io import open_zarr

METHODS = ("bicubic", "glp", "mtf-resnet")
PAPERS = {"ssc-cnn": 250, "s2sucnn": 2500}
"""Methods whose networks are trained on the scene, and for how many steps."""
DATETIME = "2026-06-21"
CHUNK = 360
"""Chunk edge in 10 m pixels: several chunks even of a small scene, so that the halos are at work."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo wrote, and its scores.

    Attributes
    ----------
    sre : pandas.DataFrame
        Signal to reconstruction error in dB; a row for each sharpened band and ``"mean"``, a column for each method.
    store : Path
        The Zarr store, a group for each method.
    picture : Path
        The PNG.
    """

    sre: pd.DataFrame
    store: Path
    picture: Path


def run_demo(
    folder: str | Path,
    *,
    size: int = 720,
    papers: bool = False,
    steps: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> DemoResult:
    """Simulate a scene, find and load it through its catalog, sharpen it by several methods, and compare them with the truth.

    Parameters
    ----------
    folder : path
        Made if missing; what a demo wrote there before is replaced.
    size : int
        Edge of the scene in 10 m pixels, a multiple of 6; ssc-cnn has too few 60 m patches to train on below 504.
    papers : bool
        Whether to train the networks of two papers, ssc-cnn and s2sucnn, on the scene too.
    steps : int, optional
        Training steps of each of these networks. Default: those of `PAPERS`.
    seed : int
        Random seed of the scene and of the training.
    console : rich.console.Console, optional
        Where each step is reported; default stdout.

    Returns
    -------
    DemoResult

    Raises
    ------
    InputError
        If `size` is not accepted, `steps` are given without `papers`, or `folder` cannot be made.
    """
    if steps is not None and not papers:
        raise InputError(
            f"steps={steps} are of the papers' networks; ask for these with papers=True", argument=("steps", "papers")
        )
    console = console or Console()
    folder = make_folder(folder)
    with _reported(console, f"simulate a scene of {size} x {size} px, and write it as COGs with STAC items"):
        scene = simulate_scene(size, seed=seed)
        catalog = write_scene(scene, folder / "archive", datetime=f"{DATETIME}T10:00:31Z")
    with _reported(console, "search its catalog, and load the bands lazily"):
        items = search(catalog, datetime=DATETIME, max_cloud_cover=20)
        cube = load(items, chunks=min(CHUNK, size))
    store = folder / "sharpened.zarr"
    methods = (*METHODS, *PAPERS) if papers else METHODS
    for method in methods:
        options: dict[str, Any] = {"steps": steps or PAPERS[method]} if method in PAPERS else {}
        with _reported(console, f"sharpen to 10 m by {method}, and write to {store.name}"):
            sharpen_to_store(cube, store, method=method, group=method, seed=seed, overwrite=True, **options)

    # read back from the store, as a user would
    results = {method: _reflectance(open_zarr(store, group=method)) for method in methods}
    table = compare(scene, results)
    picture = folder / "before-after.png"
    _draw(picture, scene, results, table)
    return DemoResult(sre=table, store=store, picture=picture)


@contextmanager
def _reported(console: Console, what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    console.print(f"[green]\u2713[/] {what} [dim]({time.perf_counter() - start:.1f} s)[/]", highlight=False)


def compare(scene: SimulatedScene, results: Mapping[str, xr.DataArray]) -> pd.DataFrame:
    """SRE in dB of each result (band, y, x) in reflectance: a row for each sharpened band and ``"mean"``, a column for each."""
    coarse = [band for gsd in (20, 60) for band in BANDS_BY_GSD[gsd]]
    truth = _label(scene.truth, list(BANDS))
    table = pd.DataFrame(
        {
            name: {band: sre(truth.sel(band=band).values, result.sel(band=band).values) for band in coarse}
            for name, result in results.items()
        }
    )
    table.loc["mean"] = table.mean()
    return table


def _reflectance(result: xr.DataArray | xr.DataTree) -> xr.DataArray:
    """The first date of a stored result in reflectance, in memory."""
    assert isinstance(result, xr.DataArray)
    first = result.isel(time=0)
    return _label(PRESENT_ENCODING.decode(first.values), list(first["band"].values))


def _label(array: AnyArray, bands: Sequence[str]) -> xr.DataArray:
    return xr.DataArray(array, dims=("band", "y", "x"), coords={"band": list(bands)})


def _draw(path: Path, scene: SimulatedScene, results: Mapping[str, xr.DataArray], table: pd.DataFrame) -> None:
    observed = [PRESENT_ENCODING.decode(scene.observed(gsd)).repeat(gsd // 10, axis=1).repeat(gsd // 10, axis=2) for gsd in GSDS]
    bands = [band for gsd in GSDS for band in BANDS_BY_GSD[gsd]]
    images = {"observed": _label(np.concatenate(observed), bands), **results, "truth": _label(scene.truth, list(BANDS))}
    notes = {(name, bands[0]): f"SRE {table.loc[list(bands), name].mean():.1f} dB" for name in results for bands in COMPOSITES}
    save_comparison(path, images, notes=notes, title="Sentinel-2 at 20 m and 60 m, sharpened to 10 m")
