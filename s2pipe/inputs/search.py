"""STAC search over the catalogs that hold Sentinel-2: items from an API or a local file, one per acquisition and tile."""

from __future__ import annotations

import json
import logging
import math
import re
from calendar import monthrange
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, timedelta
from datetime import datetime as Datetime
from numbers import Real
from pathlib import Path

import pystac
import shapely
import shapely.geometry

from s2pipe.core.checks import check_whole
from s2pipe.core.errors import CatalogError, InputError, redact
from s2pipe.core.types import Json
from s2pipe.inputs.items import as_items, group_key, item_datetime, item_tile
from s2pipe.inputs.offsets import processing_baseline, product_name

_log = logging.getLogger(__name__)

CATALOGS: dict[str, str] = {
    "earth-search": "https://earth-search.aws.element84.com/v1",
    "planetary-computer": "https://planetarycomputer.microsoft.com/api/stac/v1",
    "cdse": "https://stac.dataspace.copernicus.eu/v1",
}
"""URL of each STAC API known by name. All of them call the level 2A collection `DEFAULT_COLLECTION`."""

DEFAULT_COLLECTION = "sentinel-2-l2a"

_FETCH_PER_LIMIT = 4
"""Items fetched from an API per item asked for, so that de-duplication still leaves `limit` of them."""

_TIMEOUT_S = 60


# ---- search ----


def search(
    catalog: str | Path,
    *,
    bbox: Sequence[float] | None = None,
    intersects: Json | None = None,
    datetime: str | None = None,
    collection: str | None = None,
    max_cloud_cover: float | None = None,
    limit: int | None = None,
) -> pystac.ItemCollection:
    """Find Sentinel-2 items, one per acquisition and tile.

    Where a catalog lists an acquisition several times (processing baselines, sequence numbers, receiving stations), the newest
    baseline is kept, and of one baseline the newest product; what is dropped is logged.

    Parameters
    ----------
    catalog : str or Path
        ``"earth-search"``, ``"planetary-computer"``, ``"cdse"``, the URL of a STAC API, or a local file: a STAC catalog or
        collection, an item collection, a list of items, or one item.
    bbox : sequence of 4 float, optional
        West, south, east, north in degrees.
    intersects : GeoJSON geometry, optional
        Instead of `bbox`.
    datetime : str, optional
        A moment, a day, a month, a year, or an interval ``"2020-02-01/2020-03"``, ``"../2020"``, ``"2020-02-23/.."``; a date
        as an end of an interval includes the whole of it.
    collection : str, optional
        Default: ``"sentinel-2-l2a"`` for an API, any for a local file.
    max_cloud_cover : float, optional
        In percent; an item that states no cloud cover is left out.
    limit : int, optional
        Maximum number of items to return, in the catalog's own order.

    Returns
    -------
    pystac.ItemCollection

    Raises
    ------
    InputError
        If an argument is malformed, or `catalog` is neither a known name, nor a URL, nor an existing file.
    CatalogError
        If the catalog cannot be reached or read, or nothing matches.

    Examples
    --------
    >>> items = s2pipe.search("earth-search", bbox=(11.4, 47.2, 11.6, 47.3), datetime="2024-07", limit=5)  # doctest: +SKIP
    >>> [item.id for item in items]  # doctest: +SKIP
    """
    area = _area(bbox, intersects)
    interval = _parse_interval(datetime)
    if max_cloud_cover is not None:
        max_cloud_cover = _check_percentage(max_cloud_cover)
    if limit is not None:
        limit = check_whole("limit", limit, least=1)

    url = CATALOGS.get(str(catalog), str(catalog))
    if re.match(r"https?://", url):
        collection = collection or DEFAULT_COLLECTION
        where = {"bbox": bbox, "intersects": shapely.geometry.mapping(area) if intersects is not None else None}
        found: Iterable[pystac.Item] = _search_api(url, where, interval, collection, max_cloud_cover, limit)
        area = None  # a server knows better than a flat polygon test what lies across the antimeridian
    else:
        found = _read_local(catalog)
    matching = (item for item in found if _matches(item, area, interval, collection, max_cloud_cover))
    items = _drop_duplicates(matching)[:limit]
    if not items:
        asked: dict[str, object] = {"bbox": bbox, "intersects": intersects, "datetime": datetime, "collection": collection}
        asked["max_cloud_cover"] = max_cloud_cover
        given = {name: value for name, value in asked.items() if value is not None}
        stated = ", ".join(f"{name}={value}" for name, value in given.items()) or "any item"
        message = f"nothing found in {redact(str(catalog))} for {stated}: widen the search"
        raise CatalogError(message, argument=tuple(given) or "catalog")
    return pystac.ItemCollection(items, clone_items=False)


def check_bbox(bbox: Sequence[float]) -> tuple[float, float, float, float]:
    """`bbox` as four floats if it is west, south, east, north in degrees; else InputError."""
    try:
        west, south, east, north = (float(edge) for edge in bbox)
    except (TypeError, ValueError):
        raise InputError(f"bbox={bbox!r} must be four numbers: west, south, east, north in degrees", argument="bbox") from None
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise InputError(
            f"bbox={bbox!r} must be west < east within -180..180 and south < north within -90..90, in degrees; "
            "split a box that crosses the antimeridian",
            argument="bbox",
        )
    return west, south, east, north


def _area(bbox: Sequence[float] | None, intersects: Json | None) -> shapely.Geometry | None:
    if bbox is not None and intersects is not None:
        raise InputError("bbox and intersects exclude each other: give one of them", argument=("bbox", "intersects"))
    if bbox is not None:
        return shapely.box(*check_bbox(bbox))
    if intersects is None:
        return None
    try:
        area = shapely.geometry.shape(intersects)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError, shapely.errors.ShapelyError):
        area = None
    if area is None or area.is_empty:
        message = "intersects must be a GeoJSON geometry in degrees, with a type and coordinates"
        raise InputError(message, argument="intersects")
    return area


def _check_percentage(max_cloud_cover: object) -> float:
    percentage = float(max_cloud_cover) if isinstance(max_cloud_cover, Real) else math.nan
    if not 0 <= percentage <= 100:
        message = f"max_cloud_cover={max_cloud_cover!r} must be a percentage, a number from 0 to 100"
        raise InputError(message, argument="max_cloud_cover")
    return percentage


_Interval = tuple[Datetime | None, Datetime | None]


def _parse_interval(text: object) -> _Interval:
    if text is None:
        return None, None
    if not isinstance(text, str):
        raise InputError(
            f"datetime={text!r} is a {type(text).__name__}; give text such as '2020-02-23' or '2020-02-01/2020-03-15' "
            "(a date's isoformat())",
            argument="datetime",
        )
    ends = text.split("/")
    if len(ends) > 2:
        raise InputError(f"datetime={text!r} has more than one '/': give one moment or start/end", argument="datetime")
    spans = [_parse_moment(end, text) for end in ends]
    start, end = spans[0][0], spans[-1][1]
    if start and end and start > end:
        raise InputError(f"datetime={text!r} ends before it starts", argument="datetime")
    return start, end


def _parse_moment(end: str, text: str) -> _Interval:
    """First and last moment of a date or time; both None for an open end."""
    if "/" in text and end.strip() in ("", ".."):
        return None, None
    try:
        if re.fullmatch(r"\d{4}(-\d{2}){0,2}", end):
            year, month, day = ([int(part) for part in end.split("-")] + [0, 0])[:3]
            first = Datetime(year, month or 1, day or 1, tzinfo=UTC)
            last_month = month or 12
            last_day = first.replace(month=last_month, day=day or monthrange(year, last_month)[1])
            return first, last_day + timedelta(days=1, microseconds=-1)
        moment = Datetime.fromisoformat(end)
    except ValueError:
        raise InputError(
            f"datetime={text!r} is not understood: give '2020-02-23', '2020-02', '2020-02-23T10:00:00Z' or an interval like "
            "'2020-02-01/2020-03-15', '../2020-03' or '2020-02/..'",
            argument="datetime",
        ) from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment, moment


def _matches(
    item: pystac.Item,
    area: shapely.Geometry | None,
    interval: _Interval,
    collection: str | None,
    max_cloud_cover: float | None,
) -> bool:
    start, end = interval
    moment = item_datetime(item)
    if collection is not None and item.collection_id != collection:
        return False
    if (start and moment < start) or (end and moment > end):
        return False
    if max_cloud_cover is not None and not item.properties.get("eo:cloud_cover", math.inf) <= max_cloud_cover:
        return False
    return area is None or _footprint(item).intersects(area)


def _footprint(item: pystac.Item) -> shapely.Geometry:
    if item.geometry is not None:
        return shapely.geometry.shape(item.geometry)
    return shapely.box(*item.bbox) if item.bbox else shapely.Polygon()


def _search_api(
    url: str,
    where: Json,
    interval: _Interval,
    collection: str,
    max_cloud_cover: float | None,
    limit: int | None,
) -> list[pystac.Item]:
    import pystac_client
    import pystac_client.exceptions
    import requests

    def rfc3339(moment: Datetime | None) -> str:
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else ".."

    try:
        client = pystac_client.Client.open(url, timeout=_TIMEOUT_S)
        # a server that does not know `query` answers with an error or with nothing; the same test runs here afterwards
        ask_clouds = max_cloud_cover is not None and client.conforms_to("QUERY")
        found = client.search(
            collections=[collection],
            **where,
            datetime=f"{rfc3339(interval[0])}/{rfc3339(interval[1])}" if any(interval) else None,
            query={"eo:cloud_cover": {"lte": max_cloud_cover}} if ask_clouds else None,
            max_items=limit * _FETCH_PER_LIMIT if limit else None,
        )
        return list(found.items())
    except pystac_client.exceptions.APIError as error:
        status = getattr(error, "status_code", None)
        problem = f"it answered with HTTP status {status}" if status else "it cannot be reached"
    except requests.RequestException:
        problem = "it cannot be reached"
    except Exception:  # what a client raises on an answer of the wrong form is not agreed
        problem = "its answer is not that of a STAC API with item search"
    # raised out here so that no chained exception carries the URL's query
    raise CatalogError(f"catalog {redact(url)}: {problem}; check the address and the network", argument="catalog")


def _read_local(catalog: str | Path) -> Iterator[pystac.Item]:
    path = Path(catalog)
    if not path.is_file():
        raise InputError(
            f"catalog={redact(str(catalog))!r} is no known catalog ({', '.join(CATALOGS)}), no http(s) URL of a STAC API "
            "and no existing file",
            argument="catalog",
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = content.get("type") if isinstance(content, dict) else None
        if kind in ("Catalog", "Collection"):
            root = (pystac.Collection if kind == "Collection" else pystac.Catalog).from_file(str(path.absolute()))
            for item in root.get_items(recursive=True):
                item.make_asset_hrefs_absolute()
                yield item
            return
        entries = content["features"] if kind == "FeatureCollection" else content if isinstance(content, list) else [content]
        yield from [_local_item(entry, path) for entry in entries]
    except (pystac.STACError, pystac.STACTypeError, OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        detail = redact(f"{type(error).__name__}: {error}")  # the file may link to signed addresses
        raise CatalogError(
            f"catalog {path} is not readable as a STAC catalog, collection, item collection or item: {detail}",
            argument="catalog",
        ) from None


def _local_item(entry: Json, path: Path) -> pystac.Item:
    """Item of a file; its relative hrefs start at the file, not at the address it was once fetched from."""
    links = [link for link in entry.get("links", ()) if link.get("rel") not in ("self", "root", "parent", "collection")]
    item = pystac.Item.from_dict({**entry, "links": links}, href=str(path.absolute()))
    item.make_asset_hrefs_absolute()
    return item


# ---- one item per acquisition and tile ----


def _drop_duplicates(items: Iterable[pystac.Item]) -> list[pystac.Item]:
    by_acquisition: dict[tuple[str, ...], pystac.Item] = {}
    for item in items:
        key = _acquisition(item)
        rival = by_acquisition.get(key)
        if rival is None:
            by_acquisition[key] = item
            continue
        kept, dropped = (item, rival) if _newness(item) > _newness(rival) else (rival, item)
        by_acquisition[key] = kept
        _log.info(
            "dropped %s (baseline %s): the same acquisition as %s (baseline %s), which is kept",
            dropped.id,
            processing_baseline(dropped),
            kept.id,
            processing_baseline(kept),
        )
    return list(by_acquisition.values())


def _acquisition(item: pystac.Item) -> tuple[str, ...]:
    """Platform, sensing time, tile and collection: what all products of one acquisition share.

    The sensing time is the datatake's where the item states it, because two datastrips of one datatake differ by seconds.
    """
    datatake = next((str(item.properties[key]) for key in ("s2:datatake_id", "eopf:datatake_id") if key in item.properties), "")
    sensed = re.search(r"\d{8}T\d{6}", datatake) or re.search(r"_MSIL\d[AC]_(\d{8}T\d{6})_", product_name(item))
    moment = sensed[sensed.lastindex or 0] if sensed else item_datetime(item).strftime("%Y%m%dT%H%M%S")
    platform = str(item.properties.get("platform", "")).lower()
    return platform, moment, item_tile(item) or item.id, item.collection_id or ""


def _newness(item: pystac.Item) -> tuple[str, str, int]:
    """Rank among the products of one acquisition: baseline, then generation time, then sequence number."""
    baseline = processing_baseline(item) or ""
    generated = next(
        (
            str(item.properties[key])
            for key in ("s2:generation_time", "sentinel2:generation_time", "processing:datetime")
            if item.properties.get(key)
        ),
        (re.findall(r"\d{8}T\d{6}", product_name(item)) or [""])[-1],
    )
    sequence = re.search(r"_(\d+)_L[12][AC]$", item.id)  # Earth Search's ids: S2A_12RWT_20240106_0_L2A
    return "" if baseline == "99.99" else baseline, re.sub(r"\D", "", generated)[:14], int(sequence[1]) if sequence else 0


def group_items(items: Iterable[pystac.Item | Json]) -> dict[str, pystac.ItemCollection]:
    """Items by MGRS tile and CRS: each group loads as one cube, because nothing is ever warped.

    Parameters
    ----------
    items : pystac.ItemCollection or iterable of pystac.Item or dict

    Returns
    -------
    dict of str to pystac.ItemCollection
        The key is the tile and the EPSG code, ``"18SVG_32618"``; it serves as the name of a Zarr group.

    Raises
    ------
    InputError
        If `items` is a single item, or one of them is no STAC item or states no tile.
    """
    groups: dict[str, list[pystac.Item]] = {}
    for item in as_items(items):
        if item_tile(item) is None:
            message = f"item {item.id} states no MGRS tile: not in grid:code, s2:mgrs_tile, mgrs:* or its id"
            raise InputError(message, argument="items")
        groups.setdefault(group_key(item), []).append(item)
    return {key: pystac.ItemCollection(members, clone_items=False) for key, members in groups.items()}


def signer_of(catalog: str) -> Callable[[str], str] | None:
    """The function that signs hrefs when they are read, for a catalog that requires it.

    Raises
    ------
    InputError
        If the package that signs is not installed.
    """
    if catalog != "planetary-computer":
        return None
    try:
        import planetary_computer
    except ImportError:
        message = f"catalog={catalog!r} needs planetary-computer: pip install 's2pipe[planetary-computer]'"
        raise InputError(message, argument="catalog") from None
    sign: Callable[[str], str] = planetary_computer.sign
    return sign
