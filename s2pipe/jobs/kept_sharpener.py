"""The fitted Sharpener that a store keeps beside its chunks, so that whoever goes on with them uses the same weights."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from s2pipe.core.bands import BANDS
from s2pipe.core.errors import InputError, StoreError
from s2pipe.core.tensor_files import SUFFIX
from s2pipe.methods import METHODS, Method, Sharpener
from s2pipe.methods.base import TorchSharpener, stated_options
from s2pipe.methods.saving import load_sharpener, save_sharpener
from s2pipe.physics.sensor import Sensor
from s2pipe.store.ledger import Ledger
from s2pipe.store.location import OWN_GROUP, Place, store_errors

log = logging.getLogger(__name__)

WEIGHTS = "s2pipe_weights_sha256"
"""How a run of the ledger names the weights it used."""


def keep_sharpener(place: Place, sharpener: Sharpener | None) -> None:
    """Write a Sharpener of this package into the group of a result; one from elsewhere cannot be kept."""
    if not isinstance(sharpener, TorchSharpener):
        return
    kept = kept_sharpener(place)
    if isinstance(kept, TorchSharpener) and kept.weights_sha256 == sharpener.weights_sha256:
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"sharpener{SUFFIX}"
        save_sharpener(sharpener, file)
        content = np.frombuffer(file.read_bytes(), dtype=np.uint8)
    with store_errors(place, "write to"):
        group = zarr.open_group(store=place.store, path=place.below(OWN_GROUP).path, mode="r+")
        name = _name(sharpener.weights_sha256)
        about: Any = {"content": "a file as s2pipe.load_sharpener reads it"}
        # what was killed while it wrote left an array without its numbers
        group.create_array(name, data=content, chunks=content.shape, dimension_names=("byte",), attributes=about, overwrite=True)


def kept_sharpener(place: Place) -> Sharpener | None:
    """The Sharpener of the last run that began to write the result at `place`; None where none is kept."""
    with store_errors(place, "read"):
        ledger = Ledger.open(place)
        if ledger is None:
            return None
        names = [_name(run[WEIGHTS]) for run in reversed(ledger.runs) if WEIGHTS in run]
        found: Any = next((ledger.group[name] for name in names if name in ledger.group), None)
        if found is None:
            return None
        content = np.asarray(found[:]).tobytes()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"sharpener{SUFFIX}"
        file.write_bytes(content)
        try:
            return load_sharpener(file)
        except InputError:
            log.warning("the weights that %s keeps are damaged, or of another version: fitting anew", place)
            return None


def check_same_fit(
    place: Place, kept: Sharpener, method: Method, *, sensor: Sensor, seed: int, precision: str, bands: Sequence[str]
) -> None:
    """StoreError where a fit by this method would not be what made `kept`, or that does not make one of these `bands`."""
    assert isinstance(kept, TorchSharpener)  # no other is kept
    name = getattr(method, "name", type(method).__name__)  # a recipe from elsewhere needs none
    options: dict[str, Any] = stated_options(method) if is_dataclass(method) else {}
    asked = {"method": name, "sensor": sensor.name, "mtf": sensor.mtf, "seed": seed, **options}
    had = {"method": kept.method, "sensor": kept.sensor.name, "mtf": kept.sensor.mtf, "seed": kept.seed, **kept.options}
    if precision != "auto" and METHODS[kept.method].bfloat16:
        asked["precision"], had["precision"] = precision, kept.precision
    differences = [
        f"{name} was {had.get(name)!r}, not {asked.get(name)!r}" for name in had | asked if had.get(name) != asked.get(name)
    ]
    if differences:
        raise StoreError(
            f"{place} was written by another fit: {'; '.join(differences)}. Write to another store or group, replace this one "
            "with overwrite=True (--overwrite), or write what it lacks by the new fit with refit=True (--refit)"
        )
    if lacking := [band for band in bands if BANDS[band].gsd > 10 and band not in kept.bands_out]:
        raise StoreError(
            f"{place} was written without bands {', '.join(lacking)}. Ask for the bands that it has with bands=, write to "
            "another store or group, or replace this one with overwrite=True (--overwrite)"
        )


def _name(sha256: str) -> str:
    return f"sharpener_{sha256[:16]}"
