"""What an item says of itself: tile, CRS, time, and where every catalog keeps each band."""

import datetime as dt
from pathlib import Path
from typing import Any

import pystac
import pytest
from refusals import refused

from s2pipe import search
from s2pipe.core.bands import BANDS
from s2pipe.inputs.items import find_band_assets, item_datetime, item_epsg, item_tile, utm_epsg
from s2pipe.inputs.offsets import resolve_offset


@pytest.mark.parametrize(
    ("item_id", "properties", "tile"),
    [
        ("x", {"grid:code": "MGRS-18SVG"}, "18SVG"),
        ("x", {"grid:code": "MGRS-1WCR"}, "01WCR"),
        ("x", {"s2:mgrs_tile": "06VVN"}, "06VVN"),
        ("x", {"mgrs:utm_zone": 1, "mgrs:latitude_band": "W", "mgrs:grid_square": "CR"}, "01WCR"),
        ("x", {"sentinel:utm_zone": 17, "sentinel:latitude_band": "S", "sentinel:grid_square": "PR"}, "17SPR"),
        ("S2A_MSIL2A_20200223T032739_N0500_R018_T48QUE_20230924T183543", {}, "48QUE"),
        ("S2A_12RWT_20240106_0_L2A", {}, "12RWT"),
        ("S2A_OPER_MSI_L2A_TL_2APS_20230602T025701_A041483_T01WCR", {}, "01WCR"),
        ("S2A_MSIL2A_20200223T032739_R018_20230924T183543", {}, None),
    ],
)
def test_the_tile_of_each_catalog(item_id: str, properties: dict[str, Any], tile: str | None) -> None:
    item = pystac.Item(item_id, None, None, dt.datetime(2020, 1, 1, tzinfo=dt.UTC), properties)
    assert item_tile(item) == tile
    if tile:
        assert item_epsg(item) == 32600 + int(tile[:2]), "the tile's UTM zone where no CRS is stated"


def test_southern_tiles_are_in_southern_zones() -> None:
    item = pystac.Item("x", None, None, dt.datetime(2020, 1, 1, tzinfo=dt.UTC), {"grid:code": "MGRS-36MYH"})
    assert item_epsg(item) == 32736


# ---- the real items, one by one ----

COLORS = {
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
NAMES = {band: band for band in COLORS}
SAFE_NAMES = {
    "B01": "B01_60m",
    "B02": "B02_10m",
    "B03": "B03_10m",
    "B04": "B04_10m",
    "B05": "B05_20m",
    "B06": "B06_20m",
    "B07": "B07_20m",
    "B08": "B08_10m",
    "B8A": "B8A_20m",
    "B09": "B09_60m",
    "B11": "B11_20m",
    "B12": "B12_20m",
}
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
SR_GROUPS = {band: f"SR_{gsd}m" for band, gsd in GSD.items()}
REFLECTANCE = dict.fromkeys(COLORS, "reflectance")

# file, item, asset keys, tile, EPSG code, upper-left corner (None: in the store), baseline, offset
REAL_ITEMS: list[tuple[str, str, dict[str, str], str, int, tuple[int, int] | None, str, float]] = [
    (
        "cdse_v1_1_L2A_N0500_FeatureCollection",
        "S2B_MSIL2A_20200322T074609_N0500_R135_T36NYH_20230612T214223",
        SAFE_NAMES,
        "36NYH",
        32636,
        (699960, 300000),
        "05.00",
        -0.1,
    ),
    (
        "cdse_v1_1_L2A_N0512_FeatureCollection",
        "S2C_MSIL2A_20260527T014651_N0512_R017_T55WFR_20260527T042005",
        SAFE_NAMES,
        "55WFR",
        32655,
        (600000, 7600020),
        "05.12",
        -0.1,
    ),
    (
        "earthsearch_v0_L2A_cogs_S2A_17SPR_20221106_boa_offset_applied",
        "S2A_17SPR_20221106_0_L2A",
        NAMES,
        "17SPR",
        32617,
        (600000, 3600000),
        "04.00",
        0.0,
    ),
    (
        "earthsearch_v1_L1C_FeatureCollection",
        "S2B_27VWK_20240206_0_L1C",
        COLORS,
        "27VWK",
        32627,
        (499980, 7000020),
        "05.10",
        -0.1,
    ),
    (
        "earthsearch_v1_L2A_S2A_12RWT_20240106_0_L2A",
        "S2A_12RWT_20240106_0_L2A",
        COLORS,
        "12RWT",
        32612,
        (499980, 3300000),
        "05.10",
        0.0,
    ),
    (
        "earthsearch_v1_L2A_S2A_29RKH_20200219",
        "S2A_29RKH_20200219_0_L2A",
        COLORS,
        "29RKH",
        32629,
        (199980, 2800020),
        "02.14",
        0.0,
    ),
    (
        "earthsearch_v1_L2A_S2B_33TWM_20230820_0_L2A",
        "S2B_33TWM_20230820_0_L2A",
        COLORS,
        "33TWM",
        32633,
        (499980, 5200020),
        "05.09",
        0.0,
    ),
    (
        "eopf_explorer_geozarr_L2A_T26WME_20260316_N0512",
        "S2C_MSIL2A_20260316T142941_N0512_R139_T26WME_20260316T174811",
        REFLECTANCE,
        "26WME",
        32626,
        None,
        "05.12",
        -0.1,
    ),
    (
        "eopf_explorer_geozarr_L2A_T31TFL_20250831",
        "S2A_MSIL2A_20250831T103701_N0511_R008_T31TFL_20250831T145420",
        REFLECTANCE,
        "31TFL",
        32631,
        None,
        "05.11",
        -0.1,
    ),
    (
        "eopf_samples_L2A_T32TNQ_20251113_N0511",
        "S2A_MSIL2A_20251113T102311_N0511_R065_T32TNQ_20251113T142515",
        SR_GROUPS,
        "32TNQ",
        32632,
        None,
        "05.11",
        -0.1,
    ),
    (
        "planetarycomputer_L2A_T06VVN_20190629_N0212",
        "S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531",
        NAMES,
        "06VVN",
        32606,
        (399960, 6800040),
        "02.12",
        0.0,
    ),
    (
        "planetarycomputer_L2A_stac_geoparquet",
        "S2B_MSIL2A_20240419T095549_R122_T47XML_20240419T123458",
        NAMES,
        "47XML",
        32647,
        (399960, 9100020),
        "05.10",
        -0.1,
    ),
    (
        "planetarycomputer_L2A_stac_geoparquet",
        "S2B_MSIL2A_20240419T095549_R122_T47XMJ_20240419T122756",
        NAMES,
        "47XMJ",
        32647,
        (399960, 8900040),
        "05.10",
        -0.1,
    ),
    (
        "planetarycomputer_L2A_stac_geoparquet",
        "S2B_MSIL2A_20240419T095549_R122_T46XES_20240419T123824",
        NAMES,
        "46XES",
        32646,
        (499980, 9200040),
        "05.10",
        -0.1,
    ),
    (
        "planetarycomputer_L2A_stac_geoparquet",
        "S2B_MSIL2A_20240419T095549_R122_T46XER_20240419T124342",
        NAMES,
        "46XER",
        32646,
        (499980, 9100020),
        "05.10",
        -0.1,
    ),
    (
        "planetarycomputer_L2A_two_items_FeatureCollection",
        "S2B_MSIL2A_20240825T173909_R098_T13TDE_20240825T215747",
        NAMES,
        "13TDE",
        32613,
        (399960, 4500000),
        "05.11",
        -0.1,
    ),
    (
        "planetarycomputer_L2A_two_items_FeatureCollection",
        "S2A_MSIL2A_20240823T174901_R141_T13TDE_20240824T013055",
        NAMES,
        "13TDE",
        32613,
        (399960, 4500000),
        "05.11",
        -0.1,
    ),
    (
        "stactools_roda_jp2_L2A_T01WCR_20230602",
        "S2A_OPER_MSI_L2A_TL_2APS_20230602T025701_A041483_T01WCR",
        COLORS,
        "01WCR",
        32601,
        (300000, 7600020),
        "05.09",
        -0.1,
    ),
]
SHAPE = {10: (10980, 10980), 20: (5490, 5490), 60: (1830, 1830)}


@pytest.mark.parametrize(
    ("file", "item_id", "keys", "tile", "epsg", "corner", "baseline", "offset"), REAL_ITEMS, ids=[row[1] for row in REAL_ITEMS]
)
def test_every_band_of_every_real_item(
    data_dir: Path,
    file: str,
    item_id: str,
    keys: dict[str, str],
    tile: str,
    epsg: int,
    corner: tuple[int, int] | None,
    baseline: str,
    offset: float,
) -> None:
    [item] = [item for item in search(data_dir / "stac" / f"{file}.json") if item.id == item_id]
    assets = find_band_assets(item)
    assert list(assets) == list(BANDS)
    for band, asset in assets.items():
        assert (asset.band, asset.key, asset.gsd, asset.epsg) == (band, keys[band], GSD[band], epsg)
        if corner is None:
            assert (asset.transform, asset.shape) == (None, None)
            assert asset.group == ("" if keys is SR_GROUPS else f"r{GSD[band]}m")
            if keys is SR_GROUPS:
                assert asset.href.endswith(f"/measurements/reflectance/r{GSD[band]}m")
        else:
            assert asset.transform == (GSD[band], 0, corner[0], 0, -GSD[band], corner[1])
            assert asset.shape == SHAPE[GSD[band]]
            assert asset.group is None
            assert band in Path(asset.href).name
    assert item_tile(item) == tile
    assert item_epsg(item) == epsg
    radiometry = resolve_offset(item)
    assert (radiometry.baseline, radiometry.offset) == (baseline, offset)


def test_the_table_lists_every_real_item(data_dir: Path) -> None:
    listed = {(row[0], row[1]) for row in REAL_ITEMS}
    assert listed == {(path.stem, item.id) for path in (data_dir / "stac").glob("*.json") for item in search(path)}


# ---- assets that mislead ----


def real_item(data_dir: Path, file: str) -> pystac.Item:
    return next(iter(search(data_dir / "stac" / f"{file}.json")))


def test_resampled_copies_are_not_taken_for_a_missing_native_asset(data_dir: Path) -> None:
    item = real_item(data_dir, "cdse_v1_1_L2A_N0512_FeatureCollection")
    for key in ("B02_10m", "B01_60m", "B11_20m"):
        del item.assets[key]
    with refused("items", "bands", naming=(item.id, "B01, B02, B11", "B02_20m")):
        find_band_assets(item)
    assert list(find_band_assets(item, ["B09", "B03"])) == ["B09", "B03"]


def test_without_roles_the_native_resolution_decides(data_dir: Path) -> None:
    item = real_item(data_dir, "cdse_v1_1_L2A_N0500_FeatureCollection")
    for asset in item.assets.values():
        asset.roles = None
    assert {band: asset.key for band, asset in find_band_assets(item).items()} == SAFE_NAMES


def test_a_wrong_pixel_size_in_the_transform_is_put_right(data_dir: Path) -> None:
    for file, key in (("cdse_v1_1_L2A_N0500_FeatureCollection", "B09_60m"), ("earthsearch_v1_L2A_S2A_29RKH_20200219", "nir09")):
        item = real_item(data_dir, file)
        right = find_band_assets(item, ["B09"])["B09"]
        left, top = item.assets[key].extra_fields["proj:transform"][2::3][:2]
        item.assets[key].extra_fields["proj:transform"] = [20, 0, left, 0, -20, top]
        assert find_band_assets(item, ["B09"])["B09"] == right


def test_jp2_beside_the_cogs_is_never_taken(data_dir: Path) -> None:
    item = real_item(data_dir, "earthsearch_v1_L2A_S2A_29RKH_20200219")
    del item.assets["blue"]
    with refused("items", "bands", naming=("B02", "blue-jp2")):
        find_band_assets(item)


def test_a_band_at_another_resolution_under_its_own_name_is_refused() -> None:
    item = pystac.Item("x", None, None, dt.datetime(2020, 1, 1, tzinfo=dt.UTC), {})
    item.assets = {"B05": pystac.Asset("B05.tif", extra_fields={"gsd": 10, "proj:transform": [10, 0, 0, 0, -10, 0]})}
    with refused("items", "bands", naming=("B05",)):
        find_band_assets(item, ["B05"])


def test_datetime_is_utc() -> None:
    east = dt.timezone(dt.timedelta(hours=2))
    item = pystac.Item("x", None, None, dt.datetime(2020, 2, 23, 12, tzinfo=east), {})
    assert item_datetime(item) == dt.datetime(2020, 2, 23, 10, tzinfo=dt.UTC)


@pytest.mark.parametrize(("tile", "epsg"), [("18SVG", 32618), ("01CCV", 32701), ("60NZF", 32660), ("36MZE", 32736)])
def test_the_zone_of_a_tile(tile: str, epsg: int) -> None:
    assert utm_epsg(tile) == epsg
