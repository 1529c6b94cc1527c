"""STAC items to a lazy cube: which pixels, through which loader, in one encoding.

Both loaders share one reader, which takes whole windows of the file as they are: nothing is resampled or rescaled, and a file
that is not on the grid its item claims is an error. `sign` is called at each read, so that a token that expires does no harm.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import dask.array as da
import dask.base
import numpy as np
import numpy.typing as npt
import pystac
import rasterio
import rasterio.errors
import rasterio.warp
import rasterio.windows
import xarray as xr
from affine import Affine

from s2pipe.bands import BANDS, GSDS, node_name
from s2pipe.catalogs import BandAsset, check_bbox, find_band_assets, item_datetime, item_epsg, item_tile, without_query
from s2pipe.cube import check_bands, check_cube, make_node
from s2pipe.errors import InputError, ReadError
from s2pipe.lattice import DEFAULT_CHUNK, STEP
from s2pipe.radiometry import PRESENT_ENCODING, SATURATED_DN, ItemRadiometry, resolve_offset, shift_to_present

_log = logging.getLogger(__name__)

Sign = Callable[[str], str]
_T = TypeVar("_T")

_LATTICE_METRES = 60
_SNAP_TOLERANCE = 1e-4  # of a lattice step: a bbox given on the lattice comes back from degrees within micrometres

GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_CONNECTTIMEOUT": "30",
    "GDAL_HTTP_MAX_RETRY": "5",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "VSI_CACHE": "TRUE",
}
"""GDAL's settings at each read; an environment variable of the same name wins."""

_FORGETFUL = {"CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsiaz/:/vsigs/"}
"""GDAL remembers in a process that a file failed; a second attempt with this asks the server again."""


class _HideQueries(logging.Filter):
    """Takes what may be a token out of what rasterio logs of GDAL: an href's query."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = re.sub(r"\?[^\s'\",]*", "?...", record.getMessage()), ()
        return True


for _name in ("rasterio._env", "rasterio._err", "rasterio._io", "rasterio._base"):
    logging.getLogger(_name).addFilter(_HideQueries())


def load(
    items: Iterable[pystac.Item | Mapping[str, Any]],
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
    `s2pipe.errors.ReadError` then.

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
        Who builds the graph; the pixels are the same. Zarr items need neither.
    offset : float, optional
        Reflectance offset of the stored numbers, 0.0 or -0.1, instead of what each item says.
    sign : callable, optional
        Gets an href and returns the one to read, for example ``planetary_computer.sign``; called at each read.

    Returns
    -------
    xarray.DataTree
        Nodes ``r10m``, ``r20m``, ``r60m``, as far as `bands` has any of theirs, each with ``reflectance`` (time, band, y, x)
        uint16: reflectance = DN * 1e-4 - 0.1, 0 is nodata, 65535 is saturated. Sorted by time, with per-date coordinates
        ``item_id``, ``platform``, ``processing_baseline``.

    Raises
    ------
    InputError
        If an argument is not legal; the items are of several tiles (use `s2pipe.group_items`) or repeat a time; an item lacks
        a band, does not tell its offset, or lies elsewhere than the others; or `bbox` does not meet the tile.
    ReadError
        If a Zarr item's coordinates cannot be read.
    """
    names = check_bands(BANDS if bands is None else bands)
    if all(BANDS[name].gsd != 10 for name in names):
        raise InputError(f"bands={', '.join(names)} has no 10 m band; add one of B02, B03, B04, B08, for example B04")
    _check_chunks(chunks)
    if loader not in _LOADERS:
        raise InputError(f"loader={loader!r} is unknown; legal are {', '.join(map(repr, _LOADERS))}")
    scenes = [_scene(item, names, offset, sign) for item in _sorted_items(items)]
    read = _read_zarr if scenes[0].is_zarr else _LOADERS[loader]
    grid = _clip(_common_grid(scenes), bbox)
    _check_lattice(grid, names)
    nodes = {}
    for gsd in GSDS:
        members = tuple(name for name in names if BANDS[name].gsd == gsd)
        if members:
            raw = read(scenes, members, grid, gsd, chunks * 10 // gsd, sign)
            nodes[node_name(gsd)] = _node(_to_present(raw, scenes), members, scenes, grid, gsd)
    return check_cube(xr.DataTree.from_dict(nodes))


def _check_chunks(chunks: int) -> None:
    if not isinstance(chunks, int) or isinstance(chunks, bool):
        raise InputError(f"chunks={chunks!r} must be one whole number of 10 m pixels, for example {DEFAULT_CHUNK}")
    if chunks < 1 or chunks % STEP:
        below = max(chunks // STEP * STEP, STEP)
        raise InputError(
            f"chunks={chunks} must be a multiple of {STEP} (10 m pixels); the nearest legal sizes are {below} and {below + STEP}"
        )


# ---- scenes: what is known of each item ----


@dataclass(frozen=True, kw_only=True)
class _Scene:
    item: pystac.Item
    time: datetime
    assets: dict[str, BandAsset]
    radiometry: ItemRadiometry

    @property
    def is_zarr(self) -> bool:
        return next(iter(self.assets.values())).group is not None


def _sorted_items(items: Iterable[pystac.Item | Mapping[str, Any]]) -> list[pystac.Item]:
    parsed = [_as_item(item) for item in items]
    if not parsed:
        raise InputError("items is empty: search for some with s2pipe.search")
    if len(groups := sorted({f"{item_tile(item)}_{item_epsg(item)}" for item in parsed})) > 1:
        raise InputError(
            f"items are of several tiles or CRSs ({', '.join(groups)}), and nothing is ever warped: "
            "split them with s2pipe.group_items and load each group"
        )
    parsed.sort(key=item_datetime)
    for earlier, later in itertools.pairwise(parsed):
        if item_datetime(earlier) == item_datetime(later):
            raise InputError(
                f"items {earlier.id} and {later.id} have the same time {item_datetime(later).isoformat()}; "
                "keep one of them (s2pipe.search keeps the newest baseline)"
            )
    return parsed


def _as_item(item: pystac.Item | Mapping[str, Any]) -> pystac.Item:
    if isinstance(item, pystac.Item):
        return item
    try:
        return pystac.Item.from_dict(dict(item))
    except (pystac.STACError, pystac.STACTypeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"items holds a {type(item).__name__} that is no STAC item: {type(error).__name__}: {error}") from error


def _scene(item: pystac.Item, names: Sequence[str], offset: float | None, sign: Sign | None) -> _Scene:
    scene = _Scene(
        item=item, time=item_datetime(item), assets=find_band_assets(item, names), radiometry=resolve_offset(item, offset)
    )
    return _with_store_facts(scene, offset, sign) if scene.is_zarr else scene


# ---- grid: which ground ----


@dataclass(frozen=True, kw_only=True)
class _Grid:
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


def _common_grid(scenes: Sequence[_Scene]) -> _Grid:
    grids: dict[_Grid, str] = {}
    for scene in scenes:
        for asset in scene.assets.values():
            if asset.transform is None or asset.shape is None:
                raise InputError(
                    f"item {scene.item.id} does not state the grid of {asset.band}: its asset {asset.key} needs proj:transform "
                    "and proj:shape, or proj:bbox"
                )
            left, top = asset.transform[2], asset.transform[5]
            rows, columns = asset.shape
            grid = _Grid(epsg=asset.epsg, left=left, top=top, right=left + columns * asset.gsd, bottom=top - rows * asset.gsd)
            grids.setdefault(grid, f"{asset.band} of item {scene.item.id}")
    if len(grids) > 1:
        (first, one), (second, other) = list(grids.items())[:2]
        raise InputError(
            f"{one} covers {first.bounds} of EPSG:{first.epsg}, but {other} covers {second.bounds} of EPSG:{second.epsg}; "
            "load only items and bands that cover the same ground"
        )
    return next(iter(grids))


def _clip(tile: _Grid, bbox: Sequence[float] | None) -> _Grid:
    """The part of a tile that `bbox` touches, snapped outward to the lattice that starts at the tile's upper-left corner."""
    if bbox is None:
        return tile
    degrees = check_bbox(bbox)
    try:
        left, bottom, right, top = rasterio.warp.transform_bounds("EPSG:4326", f"EPSG:{tile.epsg}", *degrees, densify_pts=21)
    except rasterio.errors.RasterioError:
        left = bottom = right = top = math.nan  # so far from the UTM zone that it has no place in it
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
            f"{tuple(round(edge, 4) for edge in covered)} (west, south, east, north)"
        )
    return clipped


def _floor(steps: float) -> float:
    return math.floor(steps + _SNAP_TOLERANCE) if math.isfinite(steps) else math.nan


def _check_lattice(grid: _Grid, names: Sequence[str]) -> None:
    coarsest = max(BANDS[name].gsd for name in names)
    if (grid.right - grid.left) % coarsest or (grid.top - grid.bottom) % coarsest:
        raise InputError(
            f"the items cover {grid.right - grid.left:g} x {grid.top - grid.bottom:g} m, which is no multiple of {coarsest} m: "
            "give a bbox inside, or leave out the coarsest bands"
        )


# ---- encoding and labels ----


def _to_present(raw: Any, scenes: Sequence[_Scene]) -> Any:
    """Raw DN moved to the present encoding, date by date; the loaders give one chunk to a date."""
    offsets = [scene.radiometry.offset for scene in scenes]
    if len(set(offsets)) == 1:
        return shift_to_present(raw, offsets[0])
    per_date = da.from_array(np.array(offsets)[:, None, None, None], chunks=1)
    return da.map_blocks(_shift_date, raw, per_date, dtype=np.uint16, meta=np.empty((0,) * 4, np.uint16))


def _shift_date(dn: npt.NDArray[np.uint16], offset: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    shifted: npt.NDArray[np.uint16] = shift_to_present(dn, float(offset.item()))
    return shifted


def _node(array: Any, members: Sequence[str], scenes: Sequence[_Scene], grid: _Grid, gsd: int) -> xr.Dataset:
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
        },
    )


# ---- loaders: (scenes, bands, grid, gsd, chunk edge, sign) -> raw uint16 (time, band, y, x), chunks (1, 1, edge, edge) ----


def _read_stackstac(scenes: Sequence[_Scene], members: Sequence[str], grid: _Grid, gsd: int, edge: int, sign: Sign | None) -> Any:
    import stackstac

    stack = stackstac.stack(
        [_plain_item(scene, members) for scene in scenes],
        assets=list(members),
        epsg=grid.epsg,
        resolution=gsd,
        bounds=grid.bounds,
        snap_bounds=False,
        chunksize=(1, 1, edge, edge),
        dtype=np.dtype(np.uint16),
        fill_value=np.uint16(0),
        rescale=False,
        sortby_date=False,
        xy_coords="center",
        properties=False,
        band_coords=False,
        errors_as_nodata=(),
        reader=partial(_StackstacReader, sign=sign),
    )
    return stack.data


def _read_odc(scenes: Sequence[_Scene], members: Sequence[str], grid: _Grid, gsd: int, edge: int, sign: Sign | None) -> Any:
    try:
        import odc.stac
        from odc.geo.geobox import GeoBox
    except ImportError:
        raise InputError("loader='odc' needs odc-stac: pip install 's2pipe[odc]', or use loader='stackstac'") from None

    data = odc.stac.load(
        [pystac.Item.from_dict(_plain_item(scene, members)) for scene in scenes],
        bands=list(members),
        geobox=GeoBox(grid.shape(gsd), grid.transform(gsd), f"EPSG:{grid.epsg}"),
        chunks={"time": 1, "y": edge, "x": edge},
        dtype="uint16",
        nodata=0,
        groupby="id",
        preserve_original_order=True,
        driver=_OdcDriver(sign),
    )
    return da.stack([data[name].data for name in members], axis=1)


_LOADERS = {"stackstac": _read_stackstac, "odc": _read_odc}


def _plain_item(scene: _Scene, members: Sequence[str]) -> dict[str, Any]:
    """An item that says only what a loader needs, in the words both loaders know.

    The original's own statements are where the traps lie: ``proj:code`` instead of ``proj:epsg``, offsets, wrong transforms.
    """
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/projection/v1.1.0/schema.json"],
        "id": scene.item.id,
        "collection": scene.item.collection_id,
        "bbox": scene.item.bbox,
        "geometry": scene.item.geometry,
        "links": [],
        "properties": {"datetime": scene.time.isoformat().replace("+00:00", "Z")},
        "assets": {
            name: {
                "href": f"{asset.href}#{_label(name, scene.item)}",
                "type": "image/tiff; application=geotiff",
                "roles": ["data"],
                "proj:epsg": asset.epsg,
                "proj:transform": list(asset.transform or ()),
                "proj:shape": list(asset.shape or ()),
            }
            for name, asset in scene.assets.items()
            if name in members
        },
    }


def _label(band: str, item: pystac.Item) -> str:
    """What a read error calls a file. It travels in the href, since a loader hands its reader nothing else."""
    return f"band {band} of item {item.id}"


class _StackstacReader:
    """stackstac's ``Reader`` protocol: one file, on the grid of `spec`."""

    def __init__(self, *, url: str, spec: Any, sign: Sign | None, **_: Any) -> None:
        self._url, self._spec, self._sign = url, spec, sign

    def read(self, window: rasterio.windows.Window) -> npt.NDArray[np.uint16]:
        transform = rasterio.windows.transform(window, self._spec.transform)
        return _read_window(self._url, self._sign, self._spec.epsg, transform, (int(window.height), int(window.width)))

    def close(self) -> None:
        """Nothing stays open between reads."""


class _OdcDriver:
    """odc-loader's ``ReaderDriver`` protocol: files as `_read_window` reads them."""

    md_parser = aux_reader = dask_reader = None

    def __init__(self, sign: Sign | None) -> None:
        self._sign = sign

    def new_load(self, geobox: Any, *, chunks: Any = None) -> None:
        """No state is shared between reads."""

    def finalise_load(self, load_state: Any) -> None:
        """Nothing to put away."""

    def capture_env(self) -> dict[str, str]:
        # part of odc's graph token: loads that sign differently must not share results, or failures
        return {"sign": dask.base.tokenize(self._sign)}

    @contextmanager
    def restore_env(self, env: Any, load_state: Any) -> Iterator[None]:
        yield

    def open(self, src: Any, ctx: Any) -> _OdcReader:
        return _OdcReader(src.uri, self._sign)


@dataclass(frozen=True)
class _OdcReader:
    url: str
    sign: Sign | None

    def read(self, cfg: Any, dst_geobox: Any, *, dst: Any = None, selection: Any = None) -> tuple[Any, npt.NDArray[np.uint16]]:
        height, width = dst_geobox.shape
        pixels = _read_window(self.url, self.sign, dst_geobox.crs.epsg, dst_geobox.transform, (height, width))
        return np.s_[0:height, 0:width], pixels


# ---- reading ----


def _read_window(
    labelled: str, sign: Sign | None, epsg: int, transform: Affine, shape: tuple[int, int]
) -> npt.NDArray[np.uint16]:
    """The pixels of one file on exactly this grid, (y, x); ReadError if they cannot be had."""
    href, _, label = labelled.rpartition("#")

    def read(signed: str) -> npt.NDArray[np.uint16]:
        try:
            return _read_file(signed, epsg, transform, shape, GDAL_OPTIONS)
        except rasterio.errors.RasterioError:
            if not _is_remote(signed):
                raise
            return _read_file(signed, epsg, transform, shape, {**GDAL_OPTIONS, **_FORGETFUL})

    return _guarded(read, href, label, sign)


def _read_file(
    href: str, epsg: int, transform: Affine, shape: tuple[int, int], options: Mapping[str, str]
) -> npt.NDArray[np.uint16]:
    changed = {name: value for name, value in options.items() if name not in os.environ}
    with rasterio.Env(**changed), rasterio.open(href, sharing=False) as file:
        pixels: npt.NDArray[np.uint16] = file.read(1, window=_window_in(file, epsg, transform, shape))
        return pixels


def _is_remote(href: str) -> bool:
    return re.match(r"/vsi|(?!file:)\w+://", href) is not None


def _window_in(file: Any, epsg: int, transform: Affine, shape: tuple[int, int]) -> rasterio.windows.Window:
    """Where the grid lies in the file, in whole pixels."""
    if file.count != 1 or file.dtypes[0] != "uint16":
        raise _Unfit(f"it holds {file.count} bands of {file.dtypes[0]}, not one of uint16 DN")
    column = (transform.c - file.transform.c) / transform.a
    row = (transform.f - file.transform.f) / transform.e
    on_grid = (
        (file.crs is None or file.crs.to_epsg() in (None, epsg))
        and file.transform.almost_equals(Affine(transform.a, 0, file.transform.c, 0, transform.e, file.transform.f), 1e-6)
        and abs(column - round(column)) < 1e-3
        and abs(row - round(row)) < 1e-3
        and round(column) >= 0
        and round(row) >= 0
        and round(row) + shape[0] <= file.height
        and round(column) + shape[1] <= file.width
    )
    if not on_grid:
        raise _Unfit(
            f"the file has {file.height} x {file.width} px of {file.transform.a:g} m from {file.transform.c, file.transform.f} "
            f"in {file.crs}, not on the grid its item states ({transform.a:g} m, EPSG:{epsg})"
        )
    return rasterio.windows.Window(round(column), round(row), shape[1], shape[0])


class _Unfit(Exception):
    """A file that opens but is not what its item says; the message holds no href."""


def _guarded(read: Callable[[str], _T], href: str, label: str, sign: Sign | None) -> _T:
    """What `read` makes of the signed href; whatever goes wrong becomes a ReadError that shows the unsigned one.

    It is raised outside the handlers, because a chained error's text may hold the signed href.
    """
    signed: str | None = None
    try:
        signed = sign(href) if sign else href
        return read(signed)
    except _Unfit as error:
        cause = str(error)
    except Exception as error:  # drivers raise nearly anything on damaged files
        cause = _likely_cause(error) if signed is not None else f"sign= failed with {type(error).__name__}"
    raise ReadError(f"cannot read {label} from {without_query(href)}: {cause}")


_CAUSES = (
    (r"ImportError|ModuleNotFoundError", "a package for this kind of address is not installed, such as s3fs or aiohttp"),
    (r"\b404\b|No such file|does not exist|NoSuchKey|NotFound|FileNotFound|not found", "the file is missing"),
    (
        r"\b40[139]\b|AccessDenied|Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch|AWS_SECRET_ACCESS_KEY|[Cc]redentials",
        "access is forbidden; the href may need signing, give sign=, or set the server's credentials in the environment",
    ),
    (r"\b(?:429|5\d\d)\b", "the server keeps failing although the read was retried; try again later"),
    (r"resolve host|[Cc]onnection|[Tt]imed out|CURL error", "the server cannot be reached; check the network"),
)


def _likely_cause(error: Exception) -> str:
    message = f"{type(error).__name__}: {error}"
    code = re.search(r"(?:HTTP|response|status|code)\D{0,20}\b(\d{3})\b", message)
    stated = f" (HTTP {code[1]})" if code else ""
    for pattern, cause in _CAUSES:
        if re.search(pattern, f"HTTP {code[1]}" if code else message):
            return f"{cause}{stated}"
    return f"the file is truncated, damaged, or of no known format{stated or f' ({type(error).__name__})'}"


# ---- Zarr items ----


@dataclass(frozen=True, kw_only=True)
class _StoreFacts:
    """What only its store knows of a band: its grid, and what its numbers mean."""

    transform: tuple[float, float, float, float, float, float]
    shape: tuple[int, int]
    is_float: bool
    offset: float | None


def _with_store_facts(scene: _Scene, offset: float | None, sign: Sign | None) -> _Scene:
    """The scene with its bands' grids, and its offset as the store states it: its attributes travel with the numbers."""
    facts = {
        name: _guarded(partial(_store_facts, asset), asset.href, _label(name, scene.item), sign)
        for name, asset in scene.assets.items()
    }
    first = next(iter(facts.values()))
    radiometry = scene.radiometry
    if first.is_float:
        # read as reflectance and encoded, so the numbers are in the present encoding whatever they once were
        radiometry = replace(radiometry, offset=PRESENT_ENCODING.offset, reason="the store holds reflectance")
    elif offset is None and first.offset not in (None, radiometry.offset):
        _log.warning(
            "item %s: its store states add_offset %g, which is used, but %s means %g; load(..., offset=) overrides",
            scene.item.id,
            first.offset,
            radiometry.reason,
            radiometry.offset,
        )
        radiometry = replace(radiometry, offset=first.offset, reason="add_offset of the store")
    assets = {
        name: replace(asset, transform=facts[name].transform, shape=facts[name].shape) for name, asset in scene.assets.items()
    }
    return replace(scene, assets=assets, radiometry=radiometry)


def _store_facts(asset: BandAsset, href: str) -> _StoreFacts:
    array, y, x = (_open_array(asset, href, name) for name in (asset.band.lower(), "y", "x"))
    if array.ndim != 2 or array.shape != (y.size, x.size):
        raise _Unfit(f"its array has shape {array.shape}, its coordinates {y.size} and {x.size}")
    if array.dtype not in (np.uint16, np.float32, np.float64):
        raise _Unfit(f"it holds {array.dtype}, not uint16 DN or float reflectance")
    half = asset.gsd / 2
    y_centres, x_centres = np.asarray(y[:2], float), np.asarray(x[:2], float)
    if (np.diff(x_centres) != asset.gsd).any() or (np.diff(y_centres) != -asset.gsd).any() or (x_centres[0] - half) % asset.gsd:
        raise _Unfit(f"its coordinates are not the pixel centres of a north-up {asset.gsd} m grid")
    left, top = float(x_centres[0]) - half, float(y_centres[0]) + half
    return _StoreFacts(
        transform=(float(asset.gsd), 0.0, left, 0.0, float(-asset.gsd), top),
        shape=array.shape,
        is_float=array.dtype.kind == "f",
        offset=array.attrs.get("add_offset"),
    )


def _open_array(asset: BandAsset, href: str, name: str) -> Any:
    import zarr

    if "?" in href:
        raise _Unfit("its signed address has a query, which cannot name a folder; sign Zarr items otherwise")
    return zarr.open_group(href, mode="r")["/".join(part for part in (asset.group, name) if part)]


def _read_zarr(scenes: Sequence[_Scene], members: Sequence[str], grid: _Grid, gsd: int, edge: int, sign: Sign | None) -> Any:
    def lazy(scene: _Scene, name: str) -> Any:
        band = _ZarrBand(asset=scene.assets[name], label=_label(name, scene.item), sign=sign, grid=grid, shape=grid.shape(gsd))
        return da.from_array(band, chunks=edge, name=f"read-zarr-{dask.base.tokenize(band)}", meta=np.empty((0, 0), np.uint16))

    return da.stack([da.stack([lazy(scene, name) for name in members]) for scene in scenes])


@dataclass(frozen=True, kw_only=True)
class _ZarrBand:
    """One band's window of a store, as DN (y, x), for dask to slice."""

    asset: BandAsset
    label: str
    sign: Sign | None
    grid: _Grid
    shape: tuple[int, int]
    dtype = np.dtype(np.uint16)
    ndim = 2

    def __getitem__(self, key: tuple[slice, slice]) -> npt.NDArray[np.uint16]:
        rows, columns = (range(size)[part] for size, part in zip(self.shape, key, strict=True))
        assert self.asset.transform is not None
        below = round((self.asset.transform[5] - self.grid.top) / self.asset.gsd)
        right = round((self.grid.left - self.asset.transform[2]) / self.asset.gsd)

        def read(href: str) -> npt.NDArray[np.uint16]:
            array = _open_array(self.asset, href, self.asset.band.lower())
            numbers = array[below + rows.start : below + rows.stop, right + columns.start : right + columns.stop]
            return _encode(numbers) if numbers.dtype.kind == "f" else numbers

        return _guarded(read, self.asset.href, self.label, self.sign)


def _encode(reflectance: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint16]:
    """DN in the present encoding of reflectance with NaN; unlike `Encoding.encode` it gives saturated pixels their mark back."""
    numbers = np.rint((reflectance.astype(np.float64) - PRESENT_ENCODING.offset) / PRESENT_ENCODING.scale)
    return np.where(np.isnan(numbers), 0, np.clip(numbers, 1, SATURATED_DN)).astype(np.uint16)
