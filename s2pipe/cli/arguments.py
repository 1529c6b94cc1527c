"""From the options typed to the arguments of the library."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2pipe.core.bands import BANDS, node_name
from s2pipe.core.errors import InputError

if TYPE_CHECKING:
    import xarray as xr
    from distributed.security import Security

    from s2pipe.core.types import AnyArray
    from s2pipe.inputs.files import SceneFile
    from s2pipe.methods import Sharpener

from s2pipe.cli.console import counted


def options_given(**options: int | str | None) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def method_or_weights(given: str, **options: Any) -> str | Sharpener:
    """As `name_or_weights`, but a name must be that of a method that has these options."""
    from s2pipe.methods import get_method

    chosen = name_or_weights(given)
    if isinstance(chosen, str):
        get_method(chosen, **options)
    return chosen


def name_or_weights(given: str) -> str | Sharpener:
    """The Sharpener in the file that `given` is the path of; else `given`, a method's name."""
    from s2pipe.core.tensor_files import SUFFIX
    from s2pipe.methods import METHODS
    from s2pipe.methods.saving import load_sharpener
    from s2pipe.quality.evaluation import ALL

    if given.endswith(SUFFIX) or (given not in (*METHODS, ALL) and Path(given).is_file()):
        return load_sharpener(given)
    return given


def number_or_word(given: str | None) -> float | str | None:
    """A number as such; what is none is left for the library to judge."""
    try:
        return None if given is None else float(given)
    except ValueError:
        return given


def reference_of(scene: SceneFile, gsd: int) -> AnyArray | None:
    """What the scene holds to be compared with results for its bands of `gsd`."""
    if scene.references and gsd not in scene.references:
        held = ", ".join(f"{own} m" for own in scene.references)
        raise InputError(f"{scene.name} holds references for its bands of {held} only; give that", argument="gsd")
    return scene.references.get(gsd)


def parse_bands(given: list[str] | None) -> tuple[str, ...] | None:
    from s2pipe.core.cube import check_bands

    if not given:
        return None
    return check_bands(name for part in given for name in map(str.strip, part.split(",")) if name)


def bands_to_load(wanted: tuple[str, ...] | None, method: str | Sharpener) -> list[str] | None:
    """Every band at the resolutions asked for and finer: methods use them all; and what a Sharpener was fitted with."""
    if wanted is None:
        return None
    used = (*wanted, *(() if isinstance(method, str) else method.bands_in))
    coarsest = max(BANDS[band].gsd for band in used)
    return [band.name for band in BANDS.values() if band.gsd <= coarsest]


@contextmanager
def cluster_at(address: str | None, security: Security | None = None) -> Iterator[None]:
    """The dask cluster at `address`, a local one, or none."""
    if address is None:
        yield
        return
    from s2pipe.engine.clusters import connect, local_cluster

    with local_cluster() if address == "local" else connect(address, security):
        yield


def extent_of(cube: xr.DataTree) -> str:
    fine = cube[node_name(10)]["reflectance"]
    return f"{fine.sizes['y']} x {fine.sizes['x']} px at 10 m, {counted(fine.sizes['time'], 'date')}"


def store_size(store: str) -> str:
    files = [path for path in Path(store).rglob("*") if path.is_file()]
    return f"{sum(path.stat().st_size for path in files) / 1e6:.1f} MB, " if files else ""


def check_weights_path(path: Path, overwrite: bool) -> None:
    """Refuse what cannot be written before a long training, not after it."""
    from s2pipe.core.tensor_files import SUFFIX

    if path.suffix != SUFFIX:
        raise InputError(f"--out {path} must end in {SUFFIX}")
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise InputError(f"--out {path}: {path.parent} is no folder that can be written to")
    if path.exists() and not (overwrite and path.is_file()):
        raise InputError(f"--out {path} exists; give another, or --overwrite to replace a file")


def make_checkpoint_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--checkpoint {folder} cannot be made: {error.strerror}") from None
