"""Items whose bands are in Zarr stores (ESA's EOPF products and the GeoZarr ones made of them), read by zarr itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dask.array as da
import dask.base
import numpy as np
import numpy.typing as npt

from s2pipe.core.encoding import PRESENT_ENCODING, SATURATED_DN
from s2pipe.core.types import FloatArray
from s2pipe.inputs.grid import Grid, Scene, label
from s2pipe.inputs.items import BandAsset
from s2pipe.inputs.reading import Sign, Unfit, guarded

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _StoreFacts:
    """What only its store states of a band: its grid, and what its numbers mean."""

    transform: tuple[float, float, float, float, float, float]
    shape: tuple[int, int]
    is_float: bool
    offset: float | None


def with_store_facts(scene: Scene, offset: float | None, sign: Sign | None) -> Scene:
    """The scene with its bands' grids, and with the offset that the store states."""
    facts = {
        name: guarded(partial(_store_facts, asset), asset.href, label(name, scene.item), sign)
        for name, asset in scene.assets.items()
    }
    first = next(iter(facts.values()))
    radiometry = scene.radiometry
    if first.is_float:
        # read as reflectance and encoded, so the numbers are in the present encoding whatever they once were
        radiometry = replace(radiometry, offset=PRESENT_ENCODING.offset, reason="the store holds reflectance")
    elif offset is None and first.offset not in (None, radiometry.offset):
        _log.warning(
            "item %s: its store states add_offset %g, which is used, but %s means %g; load(..., offset=) overrides",
            scene.item.id,
            first.offset,
            radiometry.reason,
            radiometry.offset,
        )
        radiometry = replace(radiometry, offset=first.offset, reason="add_offset of the store")
    assets = {
        name: replace(asset, transform=facts[name].transform, shape=facts[name].shape) for name, asset in scene.assets.items()
    }
    return replace(scene, assets=assets, radiometry=radiometry)


def _store_facts(asset: BandAsset, href: str) -> _StoreFacts:
    array, y, x = (_open_array(asset, href, name) for name in (asset.band.lower(), "y", "x"))
    if array.ndim != 2 or array.shape != (y.size, x.size):
        raise Unfit(f"its array has shape {array.shape}, its coordinates {y.size} and {x.size}")
    if array.dtype not in (np.uint16, np.float32, np.float64):
        raise Unfit(f"it holds {array.dtype}, not uint16 DN or float reflectance")
    half = asset.gsd / 2
    y_centres, x_centres = np.asarray(y[:2], float), np.asarray(x[:2], float)
    if (np.diff(x_centres) != asset.gsd).any() or (np.diff(y_centres) != -asset.gsd).any() or (x_centres[0] - half) % asset.gsd:
        raise Unfit(f"its coordinates are not the pixel centres of a north-up {asset.gsd} m grid")
    left, top = float(x_centres[0]) - half, float(y_centres[0]) + half
    return _StoreFacts(
        transform=(float(asset.gsd), 0.0, left, 0.0, float(-asset.gsd), top),
        shape=array.shape,
        is_float=array.dtype.kind == "f",
        offset=array.attrs.get("add_offset"),
    )


def _open_array(asset: BandAsset, href: str, name: str) -> Any:
    import zarr

    if "?" in href:
        raise Unfit("its signed address has a query, which cannot name a folder; sign Zarr items otherwise", argument="sign")
    return zarr.open_group(href, mode="r")["/".join(part for part in (asset.group, name) if part)]


def read_zarr(scenes: Sequence[Scene], members: Sequence[str], grid: Grid, gsd: int, edge: int, sign: Sign | None) -> da.Array:
    def lazy(scene: Scene, name: str) -> da.Array:
        band = _ZarrBand(asset=scene.assets[name], label=label(name, scene.item), sign=sign, grid=grid, shape=grid.shape(gsd))
        name = f"read-zarr-{dask.base.tokenize(band)}"
        pixels: da.Array = da.from_array(band, chunks=edge, name=name, meta=np.empty((0, 0), np.uint16))
        return pixels

    stack: da.Array = da.stack([da.stack([lazy(scene, name) for name in members]) for scene in scenes])
    return stack


@dataclass(frozen=True, kw_only=True)
class _ZarrBand:
    """One band's window of a store, as DN (y, x), for dask to slice."""

    asset: BandAsset
    label: str
    sign: Sign | None
    grid: Grid
    shape: tuple[int, int]
    dtype = np.dtype(np.uint16)
    ndim = 2

    def __getitem__(self, key: tuple[slice, slice]) -> npt.NDArray[np.uint16]:
        rows, columns = (range(size)[part] for size, part in zip(self.shape, key, strict=True))
        assert self.asset.transform is not None
        below = round((self.asset.transform[5] - self.grid.top) / self.asset.gsd)
        right = round((self.grid.left - self.asset.transform[2]) / self.asset.gsd)

        def read(href: str) -> npt.NDArray[np.uint16]:
            array = _open_array(self.asset, href, self.asset.band.lower())
            numbers = array[below + rows.start : below + rows.stop, right + columns.start : right + columns.stop]
            return _encode(numbers) if numbers.dtype.kind == "f" else numbers

        return guarded(read, self.asset.href, self.label, self.sign)


def _encode(reflectance: FloatArray) -> npt.NDArray[np.uint16]:
    """DN in the present encoding of reflectance with NaN; unlike `Encoding.encode` it gives saturated pixels their mark back."""
    numbers = np.rint((reflectance.astype(np.float64) - PRESENT_ENCODING.offset) / PRESENT_ENCODING.scale)
    return np.where(np.isnan(numbers), 0, np.clip(numbers, 1, SATURATED_DN)).astype(np.uint16)
