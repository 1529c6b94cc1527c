"""STAC items to a lazy cube: every band at its native resolution, in one encoding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import dask.array as da
import numpy as np
import numpy.typing as npt
import pystac
import xarray as xr

from s2pipe.core.bands import BANDS, GSDS, bands_at
from s2pipe.core.checks import check_whole
from s2pipe.core.cube import Cube, check_bands, make_node
from s2pipe.core.encoding import PRESENT_ENCODING
from s2pipe.core.errors import InputError
from s2pipe.core.lattice import DEFAULT_CHUNK, STEP
from s2pipe.core.types import Json
from s2pipe.inputs.grid import Grid, Scene, check_lattice, clip, common_grid, describe, sorted_items
from s2pipe.inputs.offsets import shift_to_present
from s2pipe.inputs.rasters import LOADERS
from s2pipe.inputs.reading import Sign
from s2pipe.inputs.zarr_items import read_zarr, with_store_facts


def load(
    items: Iterable[pystac.Item | Json],
    *,
    bbox: Sequence[float] | None = None,
    bands: Iterable[str] | None = None,
    chunks: int = DEFAULT_CHUNK,
    loader: str = "stackstac",
    offset: float | None = None,
    sign: Sign | None = None,
) -> xr.DataTree:
    """Lazy cube of STAC items: every band at its native resolution, as DN in ESA's present encoding.

    Nothing is read until the cube is computed, except the coordinates of Zarr items. A file that cannot be read raises
    `s2pipe.ReadError` then.

    Parameters
    ----------
    items : pystac.ItemCollection or iterable of pystac.Item or dict
        Of one MGRS tile and CRS, one for each date.
    bbox : sequence of 4 float, optional
        West, south, east, north in degrees; snapped outward to the tile's 60 m lattice. Default: the whole tile.
    bands : iterable of str, optional
        ESA's names, at least one of them of 10 m. Default: all twelve.
    chunks : int
        Chunk edge in 10 m pixels, a multiple of 6; the coarser nodes have the same chunks in metres.
    loader : {"stackstac", "odc"}
        Library that builds the dask graph; the pixels are the same. Zarr items need neither.
    offset : float, optional
        Reflectance offset of the stored numbers, 0.0 or -0.1, instead of what each item says.
    sign : callable, optional
        Gets an href and returns the one to read, for example ``planetary_computer.sign``; called at each read.

    Returns
    -------
    xarray.DataTree
        Nodes ``r10m``, ``r20m``, ``r60m``, as far as `bands` has any of theirs, each with ``reflectance`` (time, band, y, x)
        uint16: reflectance = DN * 1e-4 - 0.1, 0 is nodata, 65535 is saturated. Sorted by time, with per-date coordinates
        ``item_id``, ``platform``, ``processing_baseline``, ``source_offset``.

    Raises
    ------
    InputError
        If an argument is not accepted; the items are of several tiles (use `s2pipe.group_items`) or repeat a time; an item lacks
        a band, does not state its offset, or lies elsewhere than the others; or `bbox` does not meet the tile.
    ReadError
        If a Zarr item's coordinates cannot be read.

    Examples
    --------
    >>> area = (11.4, 47.2, 11.6, 47.3)
    >>> items = s2pipe.search("earth-search", bbox=area, datetime="2024-07", max_cloud_cover=20)  # doctest: +SKIP
    >>> for tile, found in s2pipe.group_items(items).items():  # doctest: +SKIP
    ...     cube = s2pipe.load(found, bbox=area, bands=["B02", "B03", "B04", "B05"])
    """
    names = check_bands(BANDS if bands is None else bands)
    if all(BANDS[name].gsd != 10 for name in names):
        raise InputError(f"bands={', '.join(names)} has no 10 m band; add one of B02, B03, B04, B08", argument="bands")
    chunks = check_chunk_edge(chunks)
    check_loader(loader)
    scenes = [describe(item, names, offset) for item in sorted_items(items)]
    scenes = [with_store_facts(scene, offset, sign) if scene.is_zarr else scene for scene in scenes]
    if len({scene.is_zarr for scene in scenes}) > 1:
        raise InputError("items mix files and Zarr stores; load them apart", argument="items")
    read = read_zarr if scenes[0].is_zarr else LOADERS[loader]
    grid = clip(common_grid(scenes), bbox)
    check_lattice(grid, names)
    nodes = {}
    for gsd in GSDS:
        if members := bands_at(names, gsd):
            raw = read(scenes, members, grid, gsd, chunks * 10 // gsd, sign)
            nodes[gsd] = _node(_to_present(raw, scenes), members, scenes, grid, gsd)
    return Cube.checked(nodes, PRESENT_ENCODING).to_tree()


def check_chunk_edge(chunks: int) -> int:
    """`chunks` as an int if it is a chunk edge that `load` takes; else InputError."""
    chunks = check_whole("chunks", chunks, least=STEP)
    if chunks % STEP:
        below = chunks // STEP * STEP
        raise InputError(
            f"chunks={chunks} must be a multiple of {STEP} (10 m pixels); the nearest accepted are {below} and {below + STEP}",
            argument="chunks",
        )
    return chunks


def check_loader(loader: str) -> None:
    """InputError unless `loader` is one that `load` takes."""
    if loader not in LOADERS:
        raise InputError(f"loader={loader!r} is unknown; give one of {', '.join(map(repr, LOADERS))}", argument="loader")


def _to_present(raw: da.Array, scenes: Sequence[Scene]) -> da.Array:
    """Raw DN moved to the present encoding, date by date; the loaders give one chunk to a date."""
    offsets = [scene.radiometry.offset for scene in scenes]
    if len(set(offsets)) == 1:
        return shift_to_present(raw, offsets[0])
    per_date = da.from_array(np.array(offsets)[:, None, None, None], chunks=1)
    moved: da.Array = da.map_blocks(_shift_date, raw, per_date, dtype=np.uint16, meta=np.empty((0,) * 4, np.uint16))
    return moved


def _shift_date(dn: npt.NDArray[np.uint16], offset: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    return shift_to_present(dn, float(offset.item()))


def _node(array: da.Array, members: Sequence[str], scenes: Sequence[Scene], grid: Grid, gsd: int) -> xr.DataArray:
    times = [np.datetime64(scene.time.replace(tzinfo=None), "ns") for scene in scenes]
    return make_node(
        array,
        members,
        encoding=PRESENT_ENCODING,
        transform=grid.transform(gsd),
        crs=grid.epsg,
        time=np.array(times),
        per_date={
            "item_id": [scene.item.id for scene in scenes],
            "platform": [str(scene.item.properties.get("platform", "")).lower() for scene in scenes],
            "processing_baseline": [scene.radiometry.baseline or "" for scene in scenes],
            "source_offset": [scene.radiometry.offset for scene in scenes],
        },
    )
