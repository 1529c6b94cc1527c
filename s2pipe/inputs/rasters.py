"""The two loaders, stackstac and odc-stac: items to one lazy array of raw DN for each resolution, by one reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import dask.array as da
import dask.base
import numpy as np
import numpy.typing as npt
import pystac
import rasterio.windows
from dask.blockwise import optimize_blockwise
from dask.delayed import Delayed, delayed

from s2pipe.core.errors import InputError
from s2pipe.inputs.grid import Grid, Scene, label
from s2pipe.inputs.reading import Sign, read_window

if TYPE_CHECKING:
    import stackstac


def _read_stackstac(
    scenes: Sequence[Scene], members: Sequence[str], grid: Grid, gsd: int, edge: int, sign: Sign | None
) -> da.Array:
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
    return _in_one_task_each(stack.data)


def _in_one_task_each(reads: da.Array) -> da.Array:
    """The same array without stackstac's task for each file, which all reads of that file wait for.

    Where there are such tasks, dask orders a graph so that all of a date is read, and held, before much of it is computed.
    """
    for layer in reads.dask.layers.values():
        # stackstac's own, which forbids to fuse its layers
        layer.annotations = {name: value for name, value in (layer.annotations or {}).items() if name != "fuse"} or None
    return da.Array(optimize_blockwise(reads.dask, keys=[reads.name]), reads.name, reads.chunks, meta=reads._meta)


def _read_odc(scenes: Sequence[Scene], members: Sequence[str], grid: Grid, gsd: int, edge: int, sign: Sign | None) -> da.Array:
    try:
        import odc.stac
        from odc.geo.geobox import GeoBox
    except ImportError:
        message = "loader='odc' needs odc-stac: pip install 's2pipe[odc]', or use loader='stackstac'"
        raise InputError(message, argument="loader") from None

    data = odc.stac.load(
        [pystac.Item.from_dict(_plain_item(scene, members)) for scene in scenes],
        bands=list(members),
        geobox=GeoBox(grid.shape(gsd), grid.transform(gsd), f"EPSG:{grid.epsg}"),
        chunks={"time": 1, "y": edge, "x": edge},
        dtype="uint16",
        nodata=0,
        groupby="id",
        preserve_original_order=True,
        driver=cast(Any, _OdcDriver(sign)),
    )
    stack: da.Array = da.stack([data[name].data for name in members], axis=1)
    return stack


LOADERS = {"stackstac": _read_stackstac, "odc": _read_odc}


def _plain_item(scene: Scene, members: Sequence[str]) -> dict[str, object]:
    """An item that states only what a loader needs, in the properties that both loaders understand.

    Loaders go wrong on what the original states besides: ``proj:code`` instead of ``proj:epsg``, offsets, wrong transforms.
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
                "href": f"{asset.href}#{label(name, scene.item)}",
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


class _StackstacReader:
    """stackstac's ``Reader`` protocol: one file, on the grid of `spec`."""

    def __init__(self, *, url: str, spec: stackstac.raster_spec.RasterSpec, sign: Sign | None, **_: object) -> None:
        self._url, self._spec, self._sign = url, spec, sign

    def read(self, window: rasterio.windows.Window) -> npt.NDArray[np.uint16]:
        transform = rasterio.windows.transform(window, self._spec.transform)
        return read_window(self._url, self._sign, self._spec.epsg, transform, (int(window.height), int(window.width)))

    def close(self) -> None:
        """Nothing stays open between reads."""


class _OdcDriver:
    """What odc-loader asks of a ``ReaderDriver`` that has a `dask_reader`: files as `read_window` reads them."""

    md_parser = aux_reader = None

    def __init__(self, sign: Sign | None) -> None:
        # given this, odc-loader too makes no task for each file, see `_in_one_task_each`
        self.dask_reader = _OdcReader(sign=sign)

    def new_load(self, geobox: object, *, chunks: object = None) -> None:
        """No state is shared between reads."""

    def finalise_load(self, load_state: object) -> None:
        """Nothing to put away."""

    def capture_env(self) -> dict[str, str]:
        # part of odc's graph token: loads that sign differently must not share results, or failures
        return {"sign": dask.base.tokenize(self.dask_reader.sign)}


@dataclass(frozen=True, kw_only=True)
class _OdcReader:
    """odc-loader's ``DaskRasterReader`` protocol: of one file, once it is opened."""

    sign: Sign | None
    url: str = ""
    layer_name: str = ""

    def open(self, src: Any, cfg: object, ctx: object, layer_name: str, idx: int) -> _OdcReader:
        return replace(self, url=src.uri, layer_name=layer_name)

    def read(self, dst_geobox: object, *, selection: object = None, idx: tuple[int, ...]) -> Delayed:
        read: Delayed = delayed(_read_for_odc)(self.url, self.sign, dst_geobox, dask_key_name=(self.layer_name, *idx))
        return read


def _read_for_odc(url: str, sign: Sign | None, geobox: Any) -> tuple[tuple[slice, slice], npt.NDArray[np.uint16]]:
    height, width = geobox.shape
    return np.s_[0:height, 0:width], read_window(url, sign, geobox.crs.epsg, geobox.transform, (height, width))
