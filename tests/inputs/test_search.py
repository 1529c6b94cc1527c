"""Search in local files, de-duplication and grouping."""

import datetime as dt
import json
import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pystac
import pytest
from refusals import refused

from s2pipe.core.errors import CatalogError, InputError
from s2pipe.inputs.items import find_band_assets
from s2pipe.inputs.search import group_items, search

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
        ({"limit": np.int64(2), "max_cloud_cover": np.float32(60)}, ["february", "march"]),
        ({"bbox": (10, 45, 11, 46), "datetime": "2020-03", "max_cloud_cover": 60, "collection": COLLECTION}, ["march"]),
    ],
)
def test_local_items_are_filtered(catalog: Path, arguments: dict[str, Any], expected: list[str] | None) -> None:
    if expected is None:
        with refused("datetime"):
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
        {"datetime": dt.date(2020, 2, 23)},
        {"datetime": ("2020-02-01", "2020-03-01")},
        {"max_cloud_cover": -1},
        {"max_cloud_cover": "20"},
        {"max_cloud_cover": float("nan")},
        {"limit": 0},
        {"limit": "2"},
        {"limit": 2.0},
    ],
)
def test_malformed_arguments_are_named(catalog: Path, arguments: dict[str, Any]) -> None:
    with refused(*arguments, naming=(list(arguments)[-1],)):
        search(catalog, **arguments)


def test_an_unknown_catalog_is_refused_with_the_known_ones() -> None:
    with refused("catalog", naming=("'earth-serch'", "earth-search, planetary-computer, cdse")):
        search("earth-serch")


def test_an_unknown_catalog_is_named_without_its_secrets() -> None:
    with pytest.raises(InputError) as caught:
        search("htps://me:SECRET@catalog.example/v1?token=SECRET")
    assert caught.value.arguments == ("catalog",)
    assert "'htps://catalog.example/v1'" in str(caught.value)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "7", "{}", '{"type": "FeatureCollection"}', '[{"type": "Feature"}]', '["x"]'])
def test_a_file_that_is_no_stac_is_a_catalog_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content)
    with refused("catalog", kind=CatalogError, naming=(path,)):
        search(path)


def test_a_catalog_with_a_missing_item_is_a_catalog_error(tmp_path: Path) -> None:
    root = pystac.Catalog("root", "root")
    root.add_item(pystac.Item.from_dict({**ITEMS[0], "links": []}))
    root.normalize_and_save(str(tmp_path), pystac.CatalogType.SELF_CONTAINED)
    (tmp_path / "february" / "february.json").unlink()
    with refused("catalog", kind=CatalogError, naming=(tmp_path / "catalog.json",)):
        search(tmp_path / "catalog.json")


def test_an_empty_result_repeats_what_was_asked(catalog: Path) -> None:
    asked = {"bbox": (0, 0, 1, 1), "datetime": "2020", "max_cloud_cover": 10}
    stated = [f"{name}={value}" for name, value in asked.items()]
    with refused(*asked, kind=CatalogError, naming=("items.json", *stated)):
        search(catalog, **asked)


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
    assert caught.value.arguments == ("catalog",)
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_an_unreachable_server_is_a_catalog_error() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(CatalogError, match="cannot be reached") as caught:  # which tells it from a wrong answer
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


def test_items_group_by_tile_and_crs(catalog: Path) -> None:
    groups = group_items(search(catalog, datetime="2020"))
    assert {key: ids(members) for key, members in groups.items()} == {
        "32TNQ_32632": ["february", "march"],
        "33TUL_32632": ["east"],
    }


def test_items_to_group_may_be_dicts() -> None:
    groups = group_items(ITEMS[:3])
    assert {key: ids(members) for key, members in groups.items()} == {
        "32TNQ_32632": ["february", "march"],
        "33TUL_32632": ["east"],
    }


def test_a_single_item_is_no_list_to_group() -> None:
    for single in (ITEMS[0], pystac.Item.from_dict(ITEMS[0])):
        with refused("items", naming=(type(single).__name__,)):
            group_items(single)  # type: ignore[arg-type]
    with refused("items", naming=("dict",)):
        group_items([{"a": 1}])


def test_an_item_without_a_tile_cannot_be_grouped() -> None:
    with refused("items", naming=("lonely",)):
        group_items([pystac.Item("lonely", None, None, dt.datetime(2020, 1, 1, tzinfo=dt.UTC), {})])
