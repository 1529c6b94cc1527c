"""One 10 m DataArray, made by stackstac from the served items as users make it, is sharpened like the cube."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import stackstac
import xarray as xr
from items import (
    CAMEROON,
    CONVENTIONS,
    EARTH_SEARCH_KEYS,
    GSD,
    OFFSET_APPLIED,
    THAILAND,
    Scene,
    lonlat_bbox,
    native_file,
    read_grid,
)
from rasterio.enums import Resampling
from servers import AssetServer

import s2pipe

KEYS = {
    "earth-search": list(EARTH_SEARCH_KEYS.values()),
    "planetary-computer": list(GSD),
    "cdse": [f"{band}_{gsd}m" for band, gsd in GSD.items()],
}
INSET, EDGE = 600, 3600
"""Metres from the crops' corner, clear of the COGs' marks, and of ground that is stacked: multiples of 60."""

Ground = tuple[float, float, float, float]


def ground_of(cog_dir: Path, scene: Scene) -> tuple[int, Ground]:
    """EPSG code; left, bottom, right, top in metres."""
    grid = read_grid(cog_dir / native_file(scene, "B02"))
    left, top = grid.transform.c + INSET, grid.transform.f - INSET
    return grid.epsg, (left, top - EDGE, left + EDGE, top)


def with_epsg(item: pystac.Item) -> dict[str, Any]:
    """The item as stackstac understands it: pystac moves `proj:epsg` to `proj:code`, which stackstac does not know."""
    plain = item.to_dict(transform_hrefs=False)
    for fields in (plain["properties"], *plain["assets"].values()):
        if "proj:code" in fields:
            fields["proj:epsg"] = int(fields["proj:code"].removeprefix("EPSG:"))
    return plain


def stack(item: pystac.Item, keys: list[str], epsg: int, ground: Ground, **options: Any) -> xr.DataArray:
    return stackstac.stack(
        [with_epsg(item)],
        assets=keys,
        epsg=epsg,
        resolution=10,
        bounds=ground,
        rescale=False,
        dtype=np.dtype("uint16"),
        fill_value=np.uint16(0),
        xy_coords="center",
        chunksize=240,
        errors_as_nodata=(),
        **options,
    )


@pytest.mark.parametrize(
    ("convention", "scene"),
    [
        ("earth-search", THAILAND),
        ("planetary-computer", THAILAND),
        ("cdse", THAILAND),
        ("earth-search", OFFSET_APPLIED),
        ("earth-search", CAMEROON),
        ("planetary-computer", CAMEROON),
        ("cdse", CAMEROON),
    ],
    ids=lambda value: f"{value.tile}-{value.baseline}" if isinstance(value, Scene) else value,
)
def test_equals_the_cube_path(assets: AssetServer, cog_dir: Path, convention: str, scene: Scene) -> None:
    item = pystac.Item.from_dict(CONVENTIONS[convention](scene, cog_dir, assets.url()))
    epsg, ground = ground_of(cog_dir, scene)
    left, bottom, right, top = ground
    bbox = lonlat_bbox(epsg, (left + 25, bottom + 25, right - 25, top - 25))
    stacked = stack(item, KEYS[convention], epsg, ground)
    from_cube = s2pipe.load([item], bbox=bbox, chunks=240).s2.sharpen(method="glp").compute()
    from_array = stacked.s2.sharpen(method="glp").compute()

    assert list(from_array["band"].values) == list(from_cube["band"].values)
    for name in ("time", "y", "x", "item_id"):
        np.testing.assert_array_equal(from_array[name], from_cube[name])
    assert from_array.rio.crs == from_cube.rio.crs
    # what the item says of its DN; the cube's are moved to one encoding
    assert (from_array.dtype, from_array.attrs["add_offset"]) == (np.uint16, 0.0 if scene.moved_on_load else -0.1)
    assert (from_cube.dtype, from_cube.attrs["add_offset"]) == (np.uint16, -0.1)
    array, cube = (result.values * 1e-4 + result.attrs["add_offset"] for result in (from_array, from_cube))
    # DN without an offset cannot say a reflectance below 1e-4, as ringing beside dark water gives here and there
    np.testing.assert_allclose(array, np.maximum(cube, array.min()), rtol=0, atol=1e-4 + 1e-9)
    assert (from_array.sel(band="B05").values != stacked[:, list(GSD).index("B05")].values).mean() > 0.5


@pytest.fixture
def served(assets: AssetServer, cog_dir: Path) -> tuple[pystac.Item, list[str], int, Ground]:
    """Thailand as Earth Search lists it, and how to stack it."""
    item = pystac.Item.from_dict(CONVENTIONS["earth-search"](THAILAND, cog_dir, assets.url()))
    return item, KEYS["earth-search"], *ground_of(cog_dir, THAILAND)


def test_bilinear_resampling_is_refused_with_the_cure(served: tuple[pystac.Item, list[str], int, Ground]) -> None:
    array = stack(*served, resampling=Resampling.bilinear)
    with pytest.raises(s2pipe.InputError, match=r"Resampling\.nearest"):
        array.s2.sharpen(method="glp").compute()


def test_bounds_off_the_lattice_are_refused_with_the_cure(served: tuple[pystac.Item, list[str], int, Ground]) -> None:
    item, keys, epsg, (left, bottom, right, top) = served
    array = stack(item, keys, epsg, (left + 20, bottom, right + 20, top))
    with pytest.raises(s2pipe.InputError, match="bounds that are multiples of 60 m"):
        array.s2.sharpen(method="glp")


def test_corner_coordinates_are_refused_with_the_cure(served: tuple[pystac.Item, list[str], int, Ground]) -> None:
    array = stack(*served)
    array = array.assign_coords(x=array["x"] - 5, y=array["y"] + 5)
    with pytest.raises(s2pipe.InputError, match="xy_coords='center'"):
        array.s2.sharpen(method="glp")
