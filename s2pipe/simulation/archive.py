"""A scene as an archive: COGs and their STAC items in a static catalog."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pystac

from s2pipe.core.bands import BANDS, BANDS_BY_GSD, GSDS
from s2pipe.core.encoding import PRESENT_ENCODING
from s2pipe.core.errors import InputError
from s2pipe.core.types import Json
from s2pipe.inputs.items import utm_epsg
from s2pipe.inputs.search import DEFAULT_COLLECTION
from s2pipe.simulation.landscape import ObservedScene


def write_scene(
    scene: ObservedScene,
    folder: str | Path,
    *,
    datetime: str = "2026-06-21T10:00:31Z",
    tile: str = "33TWM",
    origin: tuple[int, int] = (540000, 5160000),
    cloud_cover: float = 0.0,
    baseline: str = "05.11",
) -> Path:
    """Write a scene as COGs with a STAC item in the convention of Earth Search v1, and add it to the folder's local catalog.

    Parameters
    ----------
    scene : ObservedScene
        Such as `simulate_scene` and `enlarge_scene` give.
    folder : path
        Made if missing. Call again with another `datetime` or `tile` to have several items in one catalog.
    datetime : str
        Time of acquisition, RFC 3339, UTC.
    tile : str
        MGRS tile; its zone gives the CRS.
    origin : (int, int)
        Easting and northing of the upper-left corner in metres, multiples of 60.
    cloud_cover : float
        Percent, as the item states it.
    baseline : str
        Processing baseline, as the item states it. The DN are in the encoding of 04.00 and later.

    Returns
    -------
    Path
        The local catalog, ``catalog.json``. An item collection with the same items, ``items.json``, lies beside it.

    Raises
    ------
    InputError
        If `origin` is off the 60 m lattice, or `folder` cannot be made.
    """
    if any(corner % 60 for corner in origin):
        raise InputError(f"origin={origin}: give multiples of 60 m, the lattice of all Sentinel-2 grids", argument="origin")
    folder = make_folder(folder)
    time = dt.datetime.fromisoformat(datetime).astimezone(dt.UTC)
    item_id = f"S2A_{tile}_{time:%Y%m%d}_0_L2A"
    # pystac puts an item's file here too, so that it lies beside its assets.
    assets = folder / DEFAULT_COLLECTION / item_id
    assets.mkdir(parents=True, exist_ok=True)
    epsg = utm_epsg(tile)
    for gsd in GSDS:
        for band, dn in zip(BANDS_BY_GSD[gsd], scene.observed(gsd), strict=True):
            _write_cog(assets / f"{band}.tif", dn, gsd=gsd, epsg=epsg, origin=origin)

    item = _item(
        item_id,
        time=time,
        tile=tile,
        epsg=epsg,
        origin=origin,
        size=scene.r10m.shape[-1],
        properties={"eo:cloud_cover": cloud_cover, "s2:processing_baseline": baseline},
    )
    for key, asset in _assets(scene, origin, assets).items():
        item.add_asset(key, asset)
    catalog = _open_catalog(folder)
    collection = next(iter(catalog.get_children()))
    if collection.get_item(item_id) is not None:
        collection.remove_item(item_id)
    collection.add_item(item)
    catalog.normalize_hrefs(str(folder))
    items = pystac.ItemCollection([each.full_copy() for each in collection.get_items()])
    for each in items:
        each.make_asset_hrefs_absolute()
    items.save_object(str(folder / "items.json"))
    catalog.make_all_asset_hrefs_relative()
    catalog.save(catalog_type=pystac.CatalogType.SELF_CONTAINED)
    return folder / "catalog.json"


def make_folder(folder: str | Path) -> Path:
    """The absolute path of `folder`, made if missing; InputError if it cannot be."""
    path = Path(folder).resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"folder {path} cannot be made: {error.strerror}; give another", argument="folder") from None
    return path


def _write_cog(path: Path, dn: npt.NDArray[np.uint16], *, gsd: int, epsg: int, origin: tuple[int, int]) -> None:
    import rasterio

    profile = {
        "driver": "COG",
        "count": 1,
        "dtype": "uint16",
        "nodata": PRESENT_ENCODING.nodata,
        "height": dn.shape[0],
        "width": dn.shape[1],
        "crs": f"EPSG:{epsg}",
        "transform": rasterio.Affine(gsd, 0, origin[0], 0, -gsd, origin[1]),
        "compress": "deflate",
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(dn, 1)


def _item(
    item_id: str,
    *,
    time: dt.datetime,
    tile: str,
    epsg: int,
    origin: tuple[int, int],
    size: int,
    properties: Json,
) -> pystac.Item:
    from rasterio.warp import transform

    left, top = origin
    right, bottom = left + 10 * size, top - 10 * size
    lon, lat = transform(f"EPSG:{epsg}", "EPSG:4326", [left, right, right, left, left], [top, top, bottom, bottom, top])
    stamp = f"{time:%Y-%m-%dT%H:%M:%S.%fZ}"
    number = str(properties["s2:processing_baseline"])
    return pystac.Item(
        id=item_id,
        geometry={"type": "Polygon", "coordinates": [[list(corner) for corner in zip(lon, lat, strict=True)]]},
        bbox=[min(lon), min(lat), max(lon), max(lat)],
        datetime=time,
        properties={
            "created": stamp,
            "updated": stamp,
            "platform": "sentinel-2a",
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "proj:code": f"EPSG:{epsg}",
            "grid:code": f"MGRS-{tile}",
            "s2:product_type": "S2MSI2A",
            "s2:datatake_id": f"GS2A_{time:%Y%m%dT%H%M%S}_000001_N{number}",
            "s2:generation_time": stamp,
            "s2:sequence": "0",
            "earthsearch:boa_offset_applied": False,
            **properties,
        },
        stac_extensions=[
            "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
            "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
            "https://stac-extensions.github.io/grid/v1.0.0/schema.json",
        ],
    )


def _assets(scene: ObservedScene, origin: tuple[int, int], folder: Path) -> dict[str, pystac.Asset]:
    return {
        BANDS[name].keys[0]: pystac.Asset(
            href=str(folder / f"{name}.tif"),
            media_type=pystac.MediaType.COG,
            roles=["data", "reflectance"],
            extra_fields={
                "gsd": gsd,
                "proj:shape": list(scene.observed(gsd).shape[1:]),
                "proj:transform": [gsd, 0, origin[0], 0, -gsd, origin[1]],
                "raster:bands": [
                    {
                        "nodata": 0,
                        "data_type": "uint16",
                        "spatial_resolution": gsd,
                        "scale": PRESENT_ENCODING.scale,
                        "offset": PRESENT_ENCODING.offset,
                    }
                ],
            },
        )
        for gsd in GSDS
        for name in BANDS_BY_GSD[gsd]
    }


def _open_catalog(folder: Path) -> pystac.Catalog:
    """The folder's catalog with its one collection, read or made."""
    path = folder / "catalog.json"
    if path.exists():
        return pystac.Catalog.from_file(str(path))
    catalog = pystac.Catalog(id="simulated", description="Simulated Sentinel-2 scenes with known truth")
    extent = pystac.Extent(
        pystac.SpatialExtent([[-180.0, -90.0, 180.0, 90.0]]),
        pystac.TemporalExtent([[dt.datetime(2015, 6, 23, tzinfo=dt.UTC), None]]),
    )
    catalog.add_child(
        pystac.Collection(id=DEFAULT_COLLECTION, description="Simulated Sentinel-2 Level-2A", extent=extent, license="Apache-2.0")
    )
    return catalog
