"""What a STAC item states: when, where, and which asset holds each band at its native resolution.

Every convention in use (Earth Search, Planetary Computer, CDSE, EOPF Zarr, stactools) ends in the same `BandAsset`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime as Datetime

import pystac

from s2pipe.core.bands import BAND_BY_KEY, BANDS, node_name
from s2pipe.core.errors import InputError, redact
from s2pipe.core.types import Json
from s2pipe.inputs.offsets import product_name

_TILE_METRES = 109_800


def as_items(items: Iterable[pystac.Item | Json]) -> list[pystac.Item]:
    """The items as pystac's; each may come as its dict.

    Raises
    ------
    InputError
        If `items` is a single item, or one of them is no STAC item.
    """
    if isinstance(items, (pystac.Item, Mapping)) or not isinstance(items, Iterable):
        raise InputError(f"items is a single {type(items).__name__}; give a list of items, for example [item]", argument="items")
    return [_as_item(item) for item in items]


def _as_item(item: pystac.Item | Json) -> pystac.Item:
    if isinstance(item, pystac.Item):
        return item
    try:
        return pystac.Item.from_dict(dict(item))
    except (pystac.STACError, pystac.STACTypeError, AttributeError, KeyError, TypeError, ValueError) as error:
        detail = redact(f"{type(error).__name__}: {error}")
        message = f"items holds a {type(item).__name__} that is no STAC item: {detail}"
        raise InputError(message, argument="items") from None


def item_datetime(item: pystac.Item) -> Datetime:
    """Sensing time of an item, in UTC.

    Raises
    ------
    InputError
        If the item states none.
    """
    moment = item.datetime or item.common_metadata.start_datetime
    if moment is None:
        raise InputError(f"item {item.id} states no datetime", argument="items")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def item_tile(item: pystac.Item) -> str | None:
    """MGRS tile of an item, ``"18SVG"``, ``"01WCR"``; None if it states none."""
    fields = item.properties
    zone = fields.get("mgrs:utm_zone", fields.get("sentinel:utm_zone"))
    square = fields.get("mgrs:grid_square", fields.get("sentinel:grid_square"))
    band = fields.get("mgrs:latitude_band", fields.get("sentinel:latitude_band"))
    statements = (
        fields.get("grid:code", ""),
        fields.get("s2:mgrs_tile", ""),
        f"{zone}{band}{square}" if zone and band and square else "",
        *re.findall(r"_(T?\d{1,2}[C-X][A-Z]{2})(?=_|$)", f"{product_name(item)}_{item.id}"),
    )
    for stated in statements:
        if found := re.fullmatch(r"(?:MGRS-|T)?(\d{1,2})([C-X][A-Z]{2})", stated):
            return f"{int(found[1]):02d}{found[2]}"
    return None


def item_epsg(item: pystac.Item) -> int | None:
    """EPSG code of an item's bands: their own, else the item's, else the UTM zone of its tile; None if it states none."""
    codes = {_epsg(asset.extra_fields) for key, asset in item.assets.items() if _band_of_key(key)} - {None}
    if len(codes) == 1:
        return codes.pop()
    if stated := _epsg(item.properties):
        return stated
    tile = item_tile(item)
    return utm_epsg(tile) if tile else None


def utm_epsg(tile: str) -> int:
    """EPSG code of the UTM zone of an MGRS tile, ``"18SVG"``: 32618; latitude bands from N on are northern."""
    return (32600 if tile[2] >= "N" else 32700) + int(tile[:2])


def group_key(item: pystac.Item) -> str:
    """Tile and EPSG code of an item, ``"18SVG_32618"``: what all items of one cube share."""
    return f"{item_tile(item)}_{item_epsg(item)}"


def _epsg(fields: Json) -> int | None:
    if code := re.fullmatch(r"EPSG:(\d+)", str(fields.get("proj:code", ""))):
        return int(code[1])
    return int(fields["proj:epsg"]) if fields.get("proj:epsg") else None


@dataclass(frozen=True, kw_only=True)
class BandAsset:
    """The asset of an item that holds one band at its native resolution.

    Attributes
    ----------
    band : str
        ESA's name, ``"B02"``.
    key : str
        Key of the asset.
    href : str
        Absolute where the item states its own address; unsigned.
    gsd : int
        Native ground sampling distance in metres.
    epsg : int
        EPSG code of the CRS.
    transform : tuple of 6 float or None
        Affine (a, b, c, d, e, f) from pixel corners to metres; None where only the file knows.
    shape : tuple of 2 int or None
        Rows and columns; None where only the file knows.
    group : str or None
        None for a raster file. For Zarr, the group below `href` that holds the band's array: ``""``, ``"r10m"``.
    """

    band: str
    key: str
    href: str
    gsd: int
    epsg: int
    transform: tuple[float, float, float, float, float, float] | None
    shape: tuple[int, int] | None
    group: str | None


def find_band_assets(item: pystac.Item, bands: Iterable[str] | None = None) -> dict[str, BandAsset]:
    """Asset of each band at its native resolution, in any catalog's convention.

    Resampled copies of a band (CDSE's ``B02_20m``, EOPF's ``B01_20m``) are never taken. Earth Search's ``blue-jp2`` neither:
    its pixels are encoded differently from those of ``blue``, which the item's flags describe.

    Parameters
    ----------
    item : pystac.Item
    bands : iterable of str, optional
        ESA's names; default all twelve.

    Returns
    -------
    dict of str to BandAsset
        In the order of `bands`.

    Raises
    ------
    InputError
        If the item lacks any of the bands, or states no CRS.
    """
    wanted = list(BANDS if bands is None else bands)
    found = {name: _find(item, name) for name in wanted}
    missing = [name for name, key_and_group in found.items() if key_and_group is None]
    if missing:
        raise InputError(
            f"item {item.id} has no native asset for {', '.join(missing)}; it has {', '.join(item.assets)}: "
            "leave these bands out of bands",
            argument=("items", "bands"),
        )
    return {name: _band_asset(item, name, *key_and_group) for name, key_and_group in found.items() if key_and_group is not None}


def _find(item: pystac.Item, band: str) -> tuple[str, str | None] | None:
    """Key of a band's asset, and its Zarr group."""
    gsd = BANDS[band].gsd
    for key, asset in item.assets.items():
        if _is_zarr(asset) and band in _stated_bands(asset):
            if asset.href.rstrip("/").endswith(f"/{node_name(gsd)}"):
                return key, ""
            if asset.href.rstrip("/").endswith("/reflectance"):
                return key, node_name(gsd)
    for key, asset in item.assets.items():
        if BAND_BY_KEY.get(key) == band and not _is_zarr(asset) and _is_native(asset, gsd):
            return key, None
    return None


def _is_zarr(asset: pystac.Asset) -> bool:
    return (asset.media_type or "").startswith("application/vnd.zarr") or ".zarr" in asset.href


def _stated_bands(asset: pystac.Asset) -> set[str]:
    return {str(band.get("name", "")).upper() for band in asset.extra_fields.get("bands", ())}


def _band_of_key(key: str) -> bool:
    return key in BAND_BY_KEY or key == "reflectance"


def _is_native(asset: pystac.Asset, gsd: int) -> bool:
    """Whether an asset holds a band at the instrument's own resolution: by its sampling role, else by its stated resolution."""
    roles = asset.roles or []
    sampling = [role for role in roles if role.startswith("sampling:")]
    if sampling:
        return "sampling:original" in sampling
    fields = asset.extra_fields
    stated = {fields.get("gsd"), *(abs(size) for size in fields.get("proj:transform", ())[:1])} - {None}
    return not stated or gsd in stated


def _band_asset(item: pystac.Item, band: str, key: str, group: str | None) -> BandAsset:
    asset = item.assets[key]
    gsd = BANDS[band].gsd
    epsg = _epsg(asset.extra_fields) or item_epsg(item)
    if epsg is None:
        raise InputError(f"item {item.id} states no CRS: it has no proj:code, proj:epsg or MGRS tile", argument="items")
    transform, shape = _grid(item, asset, gsd) if group is None else (None, None)
    return BandAsset(
        band=band,
        key=key,
        href=asset.get_absolute_href() or asset.href,
        gsd=gsd,
        epsg=epsg,
        transform=transform,
        shape=shape,
        group=group,
    )


def _grid(
    item: pystac.Item, asset: pystac.Asset, gsd: int
) -> tuple[tuple[float, float, float, float, float, float] | None, tuple[int, int] | None]:
    """Transform and shape of a band's file, with the band's own pixel size.

    An asset's ``proj:bbox`` is preferred: in some archives the pixel size in ``proj:transform`` is that of another asset.
    """
    fields = asset.extra_fields
    if bbox := fields.get("proj:bbox"):
        left, bottom, right, top = bbox
        rows, columns = (top - bottom) / gsd, (right - left) / gsd
    elif (stated := fields.get("proj:transform", item.properties.get("proj:transform"))) and (
        shape := fields.get("proj:shape", item.properties.get("proj:shape"))
    ):
        left, top = stated[2], stated[5]
        pixel = gsd if shape[0] * gsd == _TILE_METRES else abs(stated[0])
        rows, columns = (count * pixel / gsd for count in shape)
    else:
        return None, None
    if rows % 1 or columns % 1:
        return None, None
    return (float(gsd), 0.0, float(left), 0.0, float(-gsd), float(top)), (int(rows), int(columns))
