"""All Sentinel-2 bands at 10 m: from a STAC search to a sharpened Zarr store.

The public names are loaded when first used, so that importing s2pipe is quick and imports no torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from s2pipe import accessor as accessor  # registers .s2
from s2pipe.core.errors import CatalogError, InputError, ReadError, S2PipeError, StoreError

if TYPE_CHECKING:
    from s2pipe.engine.sharpening import fit, sharpen
    from s2pipe.inputs.arrays import from_arrays
    from s2pipe.inputs.load import load
    from s2pipe.inputs.search import group_items, search
    from s2pipe.jobs.job import sharpen_to_store
    from s2pipe.jobs.tiles import sharpen_tiles
    from s2pipe.methods import list_methods
    from s2pipe.methods.saving import load_sharpener, save_sharpener
    from s2pipe.physics.sensor import Sensor
    from s2pipe.quality.consistency import measure_consistency
    from s2pipe.quality.evaluation import evaluate
    from s2pipe.quality.registration import measure_geometry, measure_registration, repair_registration
    from s2pipe.store.zarr_io import list_chunks, open_zarr, to_zarr

__version__ = version("s2pipe")

__all__ = [
    "CatalogError",
    "InputError",
    "ReadError",
    "S2PipeError",
    "Sensor",
    "StoreError",
    "evaluate",
    "fit",
    "from_arrays",
    "group_items",
    "list_chunks",
    "list_methods",
    "load",
    "load_sharpener",
    "measure_consistency",
    "measure_geometry",
    "measure_registration",
    "open_zarr",
    "repair_registration",
    "save_sharpener",
    "search",
    "sharpen",
    "sharpen_tiles",
    "sharpen_to_store",
    "to_zarr",
]

_HOME = {
    "Sensor": "physics.sensor",
    "evaluate": "quality.evaluation",
    "fit": "engine.sharpening",
    "from_arrays": "inputs.arrays",
    "group_items": "inputs.search",
    "list_chunks": "store.zarr_io",
    "list_methods": "methods",
    "load": "inputs.load",
    "load_sharpener": "methods.saving",
    "measure_consistency": "quality.consistency",
    "measure_geometry": "quality.registration",
    "measure_registration": "quality.registration",
    "open_zarr": "store.zarr_io",
    "repair_registration": "quality.registration",
    "save_sharpener": "methods.saving",
    "search": "inputs.search",
    "sharpen": "engine.sharpening",
    "sharpen_tiles": "jobs.tiles",
    "sharpen_to_store": "jobs.job",
    "to_zarr": "store.zarr_io",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 's2pipe' has no attribute {name!r}")
    value = getattr(import_module(f"s2pipe.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
