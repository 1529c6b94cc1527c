"""The scenes of the papers, and the figure that all their tables give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr
from scenes import with_chunks

import s2pipe
from s2pipe import Sensor
from s2pipe.core.metrics import sre
from s2pipe.inputs.files import read_scene
from s2pipe.methods import Method, get_method

FILES = {
    "iceland-raw": "iceland.mat",
    "usa-raw": "usa.mat",
    "iceland": "iceland.mat",
    "usa": "usa.mat",
    "T33UUB": "S2A_MSIL1C_20170527_T33UUB.mat",
}


def paper_scene(data_dir: Path, name: str) -> xr.DataTree:
    """Iceland and USA are misregistered, and called raw so; else they are repaired."""
    cube = read_scene(data_dir / "papers" / FILES[name]).cube
    return s2pipe.repair_registration(cube) if name in ("iceland", "usa") else cube


def sre_between_cuts(data_dir: Path, method: str) -> float:
    """Of a corner of Iceland sharpened in two chunks against the same in one, in dB."""
    scene = paper_scene(data_dir, "iceland")
    corner = xr.DataTree.from_dict(
        {name: node.to_dataset().isel(y=slice(node.sizes["y"] * 120 // 408), x=slice(node.sizes["x"] * 240 // 408))
         for name, node in scene.children.items()}
    )  # fmt: skip
    sharpener = s2pipe.fit(corner, method, progress=lambda *_: None)
    one, two = (
        s2pipe.sharpen(with_chunks(corner, 120, width), sharpener, bands=["B05", "B12"]).compute().values for width in (240, 120)
    )
    return float(sre(one.ravel(), two.ravel()))


def mean_sre(scene: xr.DataTree, method: str | Method, protocol: str, *, told: Sensor | None = None, **options: Any) -> float:
    """Over the 20 m bands in dB; `told` is the sensor "centre" by default, whatever the protocol."""
    recipe = get_method(method, **options) if isinstance(method, str) else method
    table = s2pipe.evaluate(scene, [recipe], sensor=protocol, told=told or Sensor.named("centre"), progress=lambda *_: None)
    return float(table.loc[table["band"] == "all", "sre_db"].item())
