"""The scenes of the papers, and the figure that all their tables give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr

import s2pipe
from s2pipe import Sensor
from s2pipe.methods import Method, get_method
from s2pipe.scene_files import read_scene

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


def mean_sre(scene: xr.DataTree, method: str | Method, protocol: str, *, told: Sensor | None = None, **options: Any) -> float:
    """Over the 20 m bands in dB; `told` is the block-centred sensor by default, whatever the protocol."""
    recipe = get_method(method, **options) if isinstance(method, str) else method
    table = s2pipe.evaluate(scene, [recipe], protocol=protocol, sensor=told or Sensor(), progress=lambda *_: None)
    return float(table.loc[table["band"] == "all", "sre_db"].item())
