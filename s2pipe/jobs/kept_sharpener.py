"""The fitted Sharpener that a store keeps beside its chunks, so that a job that resumes them uses the same weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any

import numpy as np

from s2pipe.core.bands import BANDS
from s2pipe.core.errors import InputError, StoreError
from s2pipe.engine.fit import FitArguments
from s2pipe.methods import METHODS, Sharpener
from s2pipe.methods.base import TorchSharpener, stated_options
from s2pipe.methods.saving import sharpener_from_bytes, sharpener_to_bytes
from s2pipe.physics.sensor import as_sensor
from s2pipe.store.ledger import Ledger
from s2pipe.store.location import OWN_GROUP, Location, open_group, store_errors

log = logging.getLogger(__name__)

WEIGHTS = "s2pipe_weights_sha256"
"""How a run of the ledger names the weights it used."""


def keep_sharpener(location: Location, sharpener: Sharpener | None) -> None:
    """Write a Sharpener of this package into the group of a result; one from elsewhere cannot be kept."""
    if not isinstance(sharpener, TorchSharpener):
        return
    kept = kept_sharpener(location)
    if isinstance(kept, TorchSharpener) and kept.weights_sha256 == sharpener.weights_sha256:
        return
    content = np.frombuffer(sharpener_to_bytes(sharpener), dtype=np.uint8)
    with store_errors(location, "write to"):
        group = open_group(location.below(OWN_GROUP))
        name = _name(sharpener.weights_sha256)
        about: Any = {"content": "a file as s2pipe.load_sharpener reads it"}
        # a process that was killed while it wrote leaves an array without its numbers
        group.create_array(name, data=content, chunks=content.shape, dimension_names=("byte",), attributes=about, overwrite=True)


def kept_sharpener(location: Location) -> TorchSharpener | None:
    """The Sharpener of the last run that the result at `location` keeps one of; None where it keeps none."""
    with store_errors(location, "read"):
        ledger = Ledger.open(location)
        if ledger is None:
            return None
        names = [_name(run[WEIGHTS]) for run in reversed(ledger.runs) if WEIGHTS in run]
        found: Any = next((ledger.group[name] for name in names if name in ledger.group), None)
        if found is None:
            return None
        content = np.asarray(found[:]).tobytes()
    try:
        return sharpener_from_bytes(content, name=f"what {location} keeps")
    except InputError:
        log.warning("the weights that %s keeps are damaged, or of another version: fitting anew", location)
        return None


def check_same_fit(
    location: Location, kept: TorchSharpener, arguments: FitArguments, *, bands: Sequence[str], available: Sequence[str]
) -> None:
    """StoreError where a fit of these arguments would not have made `kept`, or this cannot make `bands` of those `available`."""
    method, sensor, precision = arguments.recipe(), as_sensor(arguments.sensor), arguments.precision
    options: dict[str, object] = stated_options(method) if is_dataclass(method) else {}
    asked = {"method": method.name, "sensor": sensor.name, "mtf": sensor.mtf, "seed": arguments.random_seed(), **options}
    had = {"method": kept.method, "sensor": kept.sensor.name, "mtf": kept.sensor.mtf, "seed": kept.seed, **kept.options}
    if precision != "auto" and METHODS[kept.method].bfloat16:
        asked["precision"], had["precision"] = precision, kept.precision
    differences = [
        f"{name} was {had.get(name)!r}, not {asked.get(name)!r}" for name in had | asked if had.get(name) != asked.get(name)
    ]
    if differences:
        raise StoreError(
            f"{location} was written by another fit: {'; '.join(differences)}; give another store or group, replace this one "
            "with overwrite=True, or write what it lacks by the new fit with refit=True",
            argument=("overwrite", "refit"),
        )
    if lacking := [band for band in bands if BANDS[band].gsd > 10 and band not in kept.bands_out]:
        raise StoreError(
            f"{location} was written without bands {', '.join(lacking)}; ask for the bands that it has with bands=, give another "
            "store or group, or replace this one with overwrite=True",
            argument=("bands", "overwrite"),
        )
    coarse = any(BANDS[band].gsd > 10 for band in bands)
    if coarse and (missing := [band for band in kept.bands_in if band not in available]):
        raise StoreError(
            f"{location} was written from a scene with bands {', '.join(missing)} too, which the data lack; load them, give "
            "another store or group, replace this one with overwrite=True, or write what it lacks by a new fit with refit=True",
            argument=("data", "overwrite", "refit"),
        )


def _name(sha256: str) -> str:
    return f"sharpener_{sha256[:16]}"
