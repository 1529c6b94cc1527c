"""What is known of the items of a cube before anything is read: assets, encoding, and the ground they cover."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import pystac
import rasterio.errors
import rasterio.warp
from affine import Affine

from s2pipe.core.bands import BANDS
from s2pipe.core.errors import InputError
from s2pipe.core.types import Json
from s2pipe.inputs.items import BandAsset, as_items, find_band_assets, group_key, item_datetime
from s2pipe.inputs.offsets import ItemRadiometry, resolve_offset
from s2pipe.inputs.search import check_bbox

_LATTICE_METRES = 60
_SNAP_TOLERANCE = 1e-4  # of a lattice step: a bbox given on the lattice comes back from degrees within micrometres


@dataclass(frozen=True, kw_only=True)
class Scene:
    item: pystac.Item
    time: datetime
    assets: dict[str, BandAsset]
    radiometry: ItemRadiometry

    @property
    def is_zarr(self) -> bool:
        return next(iter(self.assets.values())).group is not None


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Edges of the cube in metres of a CRS."""

    epsg: int
    left: float
    bottom: float
    right: float
    top: float

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        return self.left, self.bottom, self.right, self.top

    def transform(self, gsd: int) -> Affine:
        return Affine(gsd, 0, self.left, 0, -gsd, self.top)

    def shape(self, gsd: int) -> tuple[int, int]:
        return round((self.top - self.bottom) / gsd), round((self.right - self.left) / gsd)


def sorted_items(items: Iterable[pystac.Item | Json]) -> list[pystac.Item]:
    parsed = as_items(items)
    if not parsed:
        raise InputError("items is empty: search for some with s2pipe.search", argument="items")
    if len(groups := sorted({group_key(item) for item in parsed})) > 1:
        raise InputError(
            f"items are of several tiles or CRSs ({', '.join(groups)}), and nothing is ever warped: "
            "split them with s2pipe.group_items and load each group",
            argument="items",
        )
    parsed.sort(key=item_datetime)
    for earlier, later in itertools.pairwise(parsed):
        if item_datetime(earlier) == item_datetime(later):
            raise InputError(
                f"items {earlier.id} and {later.id} have the same time {item_datetime(later).isoformat()}; "
                "keep one of them (s2pipe.search keeps the newest baseline)",
                argument="items",
            )
    return parsed


def describe(item: pystac.Item, names: Sequence[str], offset: float | None) -> Scene:
    """The bands of an item and what their numbers mean; `offset` overrides what the item states."""
    return Scene(
        item=item, time=item_datetime(item), assets=find_band_assets(item, names), radiometry=resolve_offset(item, offset)
    )


def common_grid(scenes: Sequence[Scene]) -> Grid:
    grids: dict[Grid, str] = {}
    for scene in scenes:
        for asset in scene.assets.values():
            if asset.transform is None or asset.shape is None:
                raise InputError(
                    f"item {scene.item.id} does not state the grid of {asset.band}: its asset {asset.key} needs proj:transform "
                    "and proj:shape, or proj:bbox",
                    argument="items",
                )
            left, top = asset.transform[2], asset.transform[5]
            rows, columns = asset.shape
            grid = Grid(epsg=asset.epsg, left=left, top=top, right=left + columns * asset.gsd, bottom=top - rows * asset.gsd)
            grids.setdefault(grid, f"{asset.band} of item {scene.item.id}")
    if len(grids) > 1:
        (first, one), (second, other) = list(grids.items())[:2]
        raise InputError(
            f"{one} covers {first.bounds} of EPSG:{first.epsg}, but {other} covers {second.bounds} of EPSG:{second.epsg}; "
            "load only items and bands that cover the same ground",
            argument=("items", "bands"),
        )
    return next(iter(grids))


def clip(tile: Grid, bbox: Sequence[float] | None) -> Grid:
    """The part of a tile that `bbox` touches, snapped outward to the lattice that starts at the tile's upper-left corner."""
    if bbox is None:
        return tile
    degrees = check_bbox(bbox)
    try:
        left, bottom, right, top = rasterio.warp.transform_bounds("EPSG:4326", f"EPSG:{tile.epsg}", *degrees, densify_pts=21)
    except rasterio.errors.RasterioError:
        left = bottom = right = top = math.nan  # so far from the UTM zone that it has no coordinates in it
    step = _LATTICE_METRES
    clipped = replace(
        tile,
        left=max(tile.left, tile.left + step * _floor((left - tile.left) / step)),
        top=min(tile.top, tile.top - step * _floor((tile.top - top) / step)),
        right=min(tile.right, tile.left + step * -_floor((tile.left - right) / step)),
        bottom=max(tile.bottom, tile.top - step * -_floor((bottom - tile.top) / step)),
    )
    if not (clipped.left < clipped.right and clipped.bottom < clipped.top):
        covered = rasterio.warp.transform_bounds(f"EPSG:{tile.epsg}", "EPSG:4326", *tile.bounds)
        raise InputError(
            f"bbox={tuple(degrees)} does not meet the items' tile, which covers "
            f"{tuple(round(edge, 4) for edge in covered)} (west, south, east, north)",
            argument="bbox",
        )
    return clipped


def _floor(steps: float) -> float:
    return math.floor(steps + _SNAP_TOLERANCE) if math.isfinite(steps) else math.nan


def check_lattice(grid: Grid, names: Sequence[str]) -> None:
    coarsest = max(BANDS[name].gsd for name in names)
    if (grid.right - grid.left) % coarsest or (grid.top - grid.bottom) % coarsest:
        raise InputError(
            f"the items cover {grid.right - grid.left:g} x {grid.top - grid.bottom:g} m, which is no multiple of {coarsest} m: "
            "give a bbox inside, or leave out the coarsest bands",
            argument=("bbox", "bands"),
        )


def label(band: str, item: pystac.Item) -> str:
    """How a read error names a file. It is passed on within the href, since a loader hands its reader nothing else."""
    return f"band {band} of item {item.id}"
