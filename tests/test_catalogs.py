"""Search in local files, de-duplication, grouping, and where every catalog keeps each band."""

import datetime as dt
import json
import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pystac
import pytest

from s2pipe.bands import BANDS
from s2pipe.catalogs import find_band_assets, group_items, item_datetime, item_epsg, item_tile, search
from s2pipe.errors import CatalogError, InputError
from s2pipe.radiometry import resolve_offset

COLLECTION = "sentinel-2-l2a"


def make_item(
    item_id: str,
    *,
    when: str = "2020-02-23T10:00:00Z",
    box: tuple[float, float, float, float] = (10.0, 45.0, 11.0, 46.0),
    tile: str = "32TNQ",
    collection: str = COLLECTION,
    **properties: Any,
) -> dict[str, Any]:
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": item_id,
        "collection": collection,
        "bbox": list(box),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "links": [{"rel": "self", "href": "https://elsewhere.example/items/x"}],
        "properties": {
            "datetime": when,
            "platform": "sentinel-2a",
            "grid:code": f"MGRS-{tile}",
            "proj:epsg": 32632,
            "eo:cloud_cover": 5.0,
            **{key.replace("__", ":"): value for key, value in properties.items()},
        },
        "assets": {"blue": {"href": "./B02.tif", "type": "image/tiff"}},
    }


ITEMS = [
    make_item("february", when="2020-02-23T10:00:00Z", eo__cloud_cover=5.0),
    make_item("march", when="2020-03-04T10:00:00.500Z", eo__cloud_cover=50.0),
    make_item("east", when="2020-03-31T23:59:59Z", box=(12.0, 45.0, 13.0, 46.0), tile="33TUL", eo__cloud_cover=20.0),
    make_item("level-1c", when="2021-01-01T00:00:00Z", collection="sentinel-2-l1c"),
]


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": ITEMS}))
    return path


def ids(items: pystac.ItemCollection) -> list[str]:
    return [item.id for item in items]


# ---- local files ----


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, ["february", "march", "east", "level-1c"]),
        ({"bbox": (10.9, 45.1, 11.5, 45.2)}, ["february", "march", "level-1c"]),
        ({"bbox": (9.0, 44.0, 14.0, 47.0)}, ["february", "march", "east", "level-1c"]),
        ({"intersects": {"type": "Point", "coordinates": [12.5, 45.5]}}, ["east"]),
        ({"datetime": "2020-02-23"}, ["february"]),
        ({"datetime": "2020-03"}, ["march", "east"]),
        ({"datetime": "2020"}, ["february", "march", "east"]),
        ({"datetime": "2020-02-23T10:00:00Z"}, ["february"]),
        ({"datetime": "2020-02-23T11:00:00+01:00"}, ["february"]),
        ({"datetime": "2020-02-24/2020-03-30"}, ["march"]),
        ({"datetime": "2020-02/2020-03-31"}, ["february", "march", "east"]),
        ({"datetime": "../2020-03-04"}, ["february", "march"]),
        ({"datetime": "2020-03-05/.."}, ["east", "level-1c"]),
        ({"datetime": "2020-03-04T10:00:00.5Z/2020-03-04T10:00:00.5Z"}, ["march"]),
        ({"collection": "sentinel-2-l1c"}, ["level-1c"]),
        ({"max_cloud_cover": 20}, ["february", "east", "level-1c"]),
        ({"max_cloud_cover": 0.5, "datetime": ".."}, None),
        ({"limit": 2}, ["february", "march"]),
        ({"bbox": (10, 45, 11, 46), "datetime": "2020-03", "max_cloud_cover": 60, "collection": COLLECTION}, ["march"]),
    ],
)
def test_local_items_are_filtered(catalog: Path, arguments: dict[str, Any], expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(InputError, match="datetime"):
            search(catalog, **arguments)
    else:
        assert ids(search(catalog, **arguments)) == expected


@pytest.mark.parametrize("shape", ["list", "item", "feature collection", "catalog", "collection"])
def test_every_kind_of_local_file(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "here.json"
    if shape in ("catalog", "collection"):
        extent = pystac.Extent(pystac.SpatialExtent([[-180, -90, 180, 90]]), pystac.TemporalExtent([[None, None]]))
        root: Any = pystac.Catalog("root", "root")
        if shape == "collection":
            root = pystac.Collection("root", "root", extent)
        child = pystac.Catalog("child", "child")
        root.add_child(child)
        child.add_item(pystac.Item.from_dict({**ITEMS[0], "links": []}))
        root.normalize_and_save(str(tmp_path), pystac.CatalogType.SELF_CONTAINED)
        path = tmp_path / f"{shape}.json"
    else:
        one = ITEMS[:1]
        content = {"list": one, "item": one[0], "feature collection": {"type": "FeatureCollection", "features": one}}
        path.write_text(json.dumps(content[shape]))
    [item] = search(str(path), bbox=(10, 45, 11, 46))
    assert item.id == "february"
    assert Path(find_band_assets(item, ["B02"])["B02"].href).is_relative_to(tmp_path), "a relative href starts at the file"


@pytest.mark.parametrize(
    "arguments",
    [
        {"bbox": (10, 45, 11)},
        {"bbox": (11, 45, 10, 46)},
        {"bbox": (10, 46, 11, 45)},
        {"bbox": (10, 45, 11, 91)},
        {"bbox": ("a", 45, 11, 46)},
        {"bbox": (float("nan"), 45, 11, 46)},
        {"bbox": 7},
        {"bbox": (10, 45, 11, 46), "intersects": {"type": "Point", "coordinates": [12.5, 45.5]}},
        {"intersects": {"type": "Nonsense"}},
        {"intersects": {"type": "Polygon", "coordinates": []}},
        {"datetime": "yesterday"},
        {"datetime": "2020-13"},
        {"datetime": "2020-02-30"},
        {"datetime": "2020/2021/2022"},
        {"datetime": "2021/2020"},
        {"datetime": ""},
        {"max_cloud_cover": 101},
        {"max_cloud_cover": -1},
        {"limit": 0},
    ],
)
def test_malformed_arguments_are_named(catalog: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        search(catalog, **arguments)
    assert list(arguments)[-1] in str(caught.value)


def test_an_unknown_catalog_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'earth-serch'.*earth-search, planetary-computer, cdse"):
        search("earth-serch")


@pytest.mark.parametrize("content", ["", "{", "7", "{}", '{"type": "FeatureCollection"}', '[{"type": "Feature"}]', '["x"]'])
def test_a_file_that_is_no_stac_is_a_catalog_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(CatalogError, match=r"broken\.json"):
        search(path)


def test_a_catalog_with_a_missing_item_is_a_catalog_error(tmp_path: Path) -> None:
    root = pystac.Catalog("root", "root")
    root.add_item(pystac.Item.from_dict({**ITEMS[0], "links": []}))
    root.normalize_and_save(str(tmp_path), pystac.CatalogType.SELF_CONTAINED)
    (tmp_path / "february" / "february.json").unlink()
    with pytest.raises(CatalogError, match=r"catalog\.json"):
        search(tmp_path / "catalog.json")


def test_an_empty_result_repeats_what_was_asked(catalog: Path) -> None:
    with pytest.raises(CatalogError) as caught:
        search(catalog, bbox=(0, 0, 1, 1), datetime="2020", max_cloud_cover=10)
    assert all(part in str(caught.value) for part in ("items.json", "bbox=(0, 0, 1, 1)", "datetime=2020", "max_cloud_cover=10"))


# ---- servers that fail ----


class _Failing(BaseHTTPRequestHandler):
    answers: ClassVar = {"/500": (500, "SECRET"), "/html": (200, "<html>"), "/json": (200, '{"a": 1}')}

    def do_GET(self) -> None:
        status, text = self.answers[self.path.split("?")[0]]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def failing_server() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Failing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "stated"), [("500", "HTTP status 500"), ("html", "catalog"), ("json", "not that of a STAC API")]
)
def test_a_server_that_is_no_stac_api_is_a_catalog_error(failing_server: str, path: str, stated: str) -> None:
    with pytest.raises(CatalogError, match=stated) as caught:
        search(f"{failing_server}/{path}?token=SECRET")
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_an_unreachable_server_is_a_catalog_error() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(CatalogError, match="cannot be reached") as caught:
        search(f"http://user:SECRET@127.0.0.1:{port}/v1?token=SECRET", bbox=(0, 0, 1, 1))
    assert "SECRET" not in str(caught.value)
    assert caught.value.__context__ is None


# ---- one item per acquisition and tile ----


def found(tmp_path: Path, *items: dict[str, Any], **arguments: Any) -> list[str]:
    path = tmp_path / "duplicates.json"
    path.write_text(json.dumps(list(items)))
    return ids(search(path, **arguments))


def test_the_newest_baseline_is_kept_and_the_rest_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    datatake = "GS2A_20200223T100000_024344_N"
    kept = found(
        tmp_path,
        make_item("old", s2__processing_baseline="02.14", s2__datatake_id=f"{datatake}02.14"),
        make_item("new", s2__processing_baseline="05.00", s2__datatake_id=f"{datatake}05.00"),
        make_item("middle", s2__processing_baseline="03.01", s2__datatake_id=f"{datatake}03.01"),
        make_item("test", s2__processing_baseline="99.99", s2__datatake_id=f"{datatake}99.99"),
    )
    assert kept == ["new"]
    for dropped in ("old", "middle", "test"):
        assert any(f"dropped {dropped} " in record.getMessage() for record in caplog.records)


def test_of_one_baseline_the_newest_generation_is_kept_then_the_sequence(tmp_path: Path) -> None:
    later = {"s2__processing_baseline": "05.00", "s2__generation_time": "2023-06-02T00:00:00Z"}
    earlier = {"s2__processing_baseline": "05.00", "s2__generation_time": "2023-06-01T23:00:00.123Z"}
    assert found(tmp_path, make_item("a", **later), make_item("b", **earlier)) == ["a"]
    assert found(tmp_path, make_item("a", **earlier), make_item("b", **later)) == ["b"]
    assert found(tmp_path, make_item("S2A_32TNQ_20200223_1_L2A"), make_item("S2A_32TNQ_20200223_0_L2A")) == [
        "S2A_32TNQ_20200223_1_L2A"
    ]


def test_two_receiving_stations_and_two_datastrips_are_one_acquisition(tmp_path: Path) -> None:
    name = "S2A_MSIL2A_20200223T100000_N0500_R037_T32TNQ_2020022{}T120000"
    kept = found(
        tmp_path,
        make_item("first", when="2020-02-23T10:00:04Z", s2__product_uri=name.format(3)),
        make_item("second", when="2020-02-23T10:00:16Z", s2__product_uri=name.format(4)),
    )
    assert kept == ["second"]


def test_other_tiles_platforms_times_and_collections_are_no_duplicates(tmp_path: Path) -> None:
    items = [
        make_item("one"),
        make_item("tile", tile="32TPQ"),
        make_item("platform", platform="sentinel-2b"),
        make_item("time", when="2020-02-23T10:00:05Z"),
        make_item("collection", collection="sentinel-2-l1c"),
    ]
    assert found(tmp_path, *items) == ["one", "tile", "platform", "time", "collection"]


def test_limit_counts_what_is_left(tmp_path: Path) -> None:
    assert found(tmp_path, make_item("a"), make_item("b"), make_item("c", tile="32TPQ"), limit=2) == ["a", "c"]


# ---- groups ----


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


def test_items_group_by_tile_and_crs(catalog: Path) -> None:
    groups = group_items(search(catalog, datetime="2020"))
    assert {key: ids(members) for key, members in groups.items()} == {
        "32TNQ_32632": ["february", "march"],
        "33TUL_32632": ["east"],
    }


def test_an_item_without_a_tile_cannot_be_grouped() -> None:
    with pytest.raises(InputError, match="lonely states no MGRS tile"):
        group_items([pystac.Item("lonely", None, None, dt.datetime(2020, 1, 1, tzinfo=dt.UTC), {})])


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
    with pytest.raises(InputError, match=r"B01, B02, B11; it has .*B02_20m"):
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
    with pytest.raises(InputError, match=r"no native asset for B02; it has .*blue-jp2"):
        find_band_assets(item)


def test_a_band_at_another_resolution_under_its_own_name_is_refused() -> None:
    item = pystac.Item.from_dict(make_item("x"))
    item.assets = {"B05": pystac.Asset("B05.tif", extra_fields={"gsd": 10, "proj:transform": [10, 0, 0, 0, -10, 0]})}
    with pytest.raises(InputError, match="B05"):
        find_band_assets(item, ["B05"])


def test_datetime_is_utc() -> None:
    item = pystac.Item.from_dict(make_item("x", when="2020-02-23T12:00:00+02:00"))
    assert item_datetime(item) == dt.datetime(2020, 2, 23, 10, tzinfo=dt.UTC)
