"""How a result is laid out in Zarr: chunks, shards, fill value, georeference; datasets that xarray writes unchanged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import rioxarray  # noqa: F401 - registers the `.rio` accessor
import xarray as xr

from s2pipe.core.bands import GSDS, node_name
from s2pipe.core.cube import DIMS
from s2pipe.core.encoding import Encoding
from s2pipe.core.errors import InputError
from s2pipe.core.lattice import DEFAULT_CHUNK

VARIABLE = "reflectance"

CHUNKS = "s2pipe_chunks"
"""The attribute of a group that states the dask chunks in which its array was written, (time, band, y, x)."""

DEFAULT_CHUNK_METRES = 10 * DEFAULT_CHUNK
"""Edge of a chunk of data that comes without chunks."""

INNER_EDGE = 366
"""Edge in pixels that the chunks inside a shard come as close to as the shard's edge allows."""

GEOZARR_CONVENTIONS = [
    {
        "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "name": "proj:",
        "description": "Coordinate reference system information for geospatial data",
        "spec_url": "https://github.com/zarr-conventions/geo-proj/blob/v1/README.md",
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/geo-proj/refs/tags/v1/schema.json",
    },
    {
        "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
        "name": "spatial:",
        "description": "Spatial coordinate information",
        "spec_url": "https://github.com/zarr-conventions/spatial/blob/v1/README.md",
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v1/schema.json",
    },
]


def datasets_of(data: xr.DataArray | xr.DataTree, *, shards: bool) -> dict[str, xr.Dataset]:
    """Return the datasets to write, by the group below the result's own that each goes to."""
    if isinstance(data, xr.DataTree):
        return {
            name: _dataset(node[VARIABLE], chunk=DEFAULT_CHUNK_METRES // gsd, shards=shards).assign_attrs(
                storable_attrs(node.attrs, f"node {name}")
            )
            for gsd, name, node in _cube_nodes(data)
        }
    if not isinstance(data, xr.DataArray):
        raise InputError(f"data is a {type(data).__name__}; give a DataArray {DIMS} or a cube (DataTree)", argument="data")
    return {"": _dataset(data, chunk=DEFAULT_CHUNK_METRES // GSDS[0], shards=shards)}


def _cube_nodes(tree: xr.DataTree) -> list[tuple[int, str, xr.Dataset]]:
    accepted = {node_name(gsd): gsd for gsd in GSDS}
    extra = [name for name in (*tree.children, *tree.data_vars) if name not in accepted]
    if extra or node_name(GSDS[0]) not in tree.children:
        raise InputError(
            f"data is no cube: it must have {node_name(GSDS[0])} and may have {list(accepted)[1:]}; extra: {extra}",
            argument="data",
        )
    nodes = [(accepted[name], name, node.to_dataset()) for name, node in tree.children.items()]
    for _, name, node in nodes:
        if list(node.data_vars) != [VARIABLE] or tree[name].children:
            raise InputError(
                f"node {name} must hold one variable {VARIABLE!r} and no nodes; it holds {list(tree[name])}", argument="data"
            )
    return nodes


def _dataset(array: xr.DataArray, *, chunk: int, shards: bool) -> xr.Dataset:
    """Dataset of `array` with everything in `encoding` that makes xarray store its numbers as they are.

    `chunk` is the edge in pixels of the chunks of data in memory.
    """
    if array.dims != DIMS or 0 in array.shape:
        raise InputError(
            f"data has dimensions {dict(array.sizes)}; give {DIMS}, none of them empty (see transpose, expand_dims)",
            argument="data",
        )
    # Not by the index: pandas fills its hash table on first use, and another thread that asks meanwhile finds it empty.
    if "time" in array.coords and np.unique(array["time"].values).size < array.sizes["time"]:
        raise InputError("two of the dates given are the same; a store holds each date once: drop one of them", argument="data")
    encoding = Encoding.from_attrs(array.dtype, array.attrs)
    array, conventions = _georeference(array)
    rechunked, shard = _align_chunks(array.variable, chunk)
    inner = (1, 1, _inner_edge(shard[2]), _inner_edge(shard[3]))
    dataset = array.to_dataset(name=VARIABLE).drop_encoding()
    dataset = dataset.assign_coords({name: _storable_coord(name, coord) for name, coord in dataset.coords.items()})
    dataset[VARIABLE] = rechunked
    variable = dataset[VARIABLE]
    variable.attrs = storable_attrs(array.attrs, VARIABLE)
    variable.encoding = {"chunks": inner, "fill_value": array.dtype.type(encoding.nodata)}
    if shards:
        variable.encoding["shards"] = shard
    if array.rio.grid_mapping in array.coords:
        variable.encoding["grid_mapping"] = variable.attrs.pop("grid_mapping", array.rio.grid_mapping)
    for values in dataset.variables.values():
        if "_FillValue" not in values.attrs:
            # Otherwise xarray adds one to floats, and what is read has one attribute more than what was written.
            values.encoding["_FillValue"] = None
    return dataset.assign_attrs({**conventions, CHUNKS: [1, *shard[1:]]})


def _storable_coord(name: Any, coord: xr.DataArray) -> xr.Variable:
    """`coord` with strings as objects, which Zarr stores as ``string``: numpy's fixed-width strings have no Zarr v3 type."""
    values = coord.values
    if values.dtype.kind in "UTO":
        values = values.astype(object)
        if not all(isinstance(value, str) for value in values.flat):
            raise InputError(
                f"coordinate {name!r} holds objects that Zarr cannot store; drop it with data.drop_vars({name!r})",
                argument="data",
            )
    # Otherwise xarray chooses the unit that these dates need, and dates that are added later may need a finer one.
    encoding = {"units": "nanoseconds since 1970-01-01", "dtype": "int64"} if values.dtype.kind == "M" else None
    return xr.Variable(coord.dims, values, storable_attrs(coord.attrs, f"coordinate {name!r}"), encoding)


def storable_attrs(attrs: Mapping[Any, Any], owner: str) -> dict[str, Any]:
    plain = {name: value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value for name, value in attrs.items()}
    unstorable = [name for name, value in plain.items() if not _is_json(value)]
    if unstorable:
        raise InputError(f"attributes {unstorable} of {owner} cannot be stored as JSON; drop or convert them", argument="data")
    return plain


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _georeference(array: xr.DataArray) -> tuple[xr.DataArray, dict[str, Any]]:
    """`array` with the GeoTransform of its coordinates, and its georeference as GeoZarr's group attributes.

    The coordinates are used, because the GeoTransform of an array is not updated when the array is cut.
    """
    crs = array.rio.crs
    if crs is None:
        return array, {}
    transform = array.rio.transform(recalc=True)
    authority = crs.to_authority()
    projection = {"proj:code": ":".join(authority)} if authority else {"proj:wkt2": crs.to_wkt(version="WKT2_2019")}
    return array.rio.write_transform(transform), {
        "zarr_conventions": GEOZARR_CONVENTIONS,
        **projection,
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": [array.sizes["y"], array.sizes["x"]],
        "spatial:transform": list(transform)[:6],
        "spatial:bbox": list(array.rio.bounds(recalc=True)),
    }


def _align_chunks(variable: xr.Variable, chunk: int) -> tuple[xr.Variable, tuple[int, ...]]:
    """`variable` in dask chunks that cover whole shards, and the shape of these shards (1, band, y, x)."""
    if variable.chunks is None:
        variable = variable.chunk({"time": 1, "band": -1, "y": chunk, "x": chunk})
    chunks = dict(zip(DIMS, variable.chunks or (), strict=True))
    edges = {dim: _shard_edge(chunks[dim]) for dim in DIMS[1:]}
    unaligned = {dim: max(chunks[dim]) for dim, edge in edges.items() if edge is None}
    return variable.chunk({"time": 1, **unaligned}), (1, *(unaligned.get(dim) or edge or 1 for dim, edge in edges.items()))


def _shard_edge(chunks: tuple[int, ...]) -> int | None:
    """Edge of shards that every chunk covers whole ones of, if there is one; only the last chunk may be of any size."""
    edge = chunks[0]
    return edge if edge and all(chunk and chunk % edge == 0 for chunk in chunks[:-1]) else None


def _inner_edge(edge: int) -> int:
    """Return the divisor of a shard's `edge` that comes closest to `INNER_EDGE` in proportion."""
    divisors = (divisor for divisor in range(1, edge + 1) if edge % divisor == 0)
    return min(divisors, key=lambda divisor: abs(math.log(divisor / INNER_EDGE)))
