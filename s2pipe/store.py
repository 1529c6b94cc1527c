"""The Zarr store: what a sharpened array or a cube looks like on disk or in a bucket, written once and read back equal."""

from __future__ import annotations

import json
import math
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import rioxarray  # noqa: F401 - registers the `.rio` accessor
import xarray as xr
import zarr
from dask.base import tokenize
from dask.delayed import Delayed, delayed
from zarr.abc.store import Store
from zarr.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, ObjectStore

from s2pipe.bands import GSDS, node_name
from s2pipe.cube import DIMS
from s2pipe.errors import InputError, S2PipeError, StoreError, redact
from s2pipe.lattice import DEFAULT_CHUNK
from s2pipe.radiometry import Encoding

StoreLike: TypeAlias = str | os.PathLike[str] | Store | Any
"""A local path, an fsspec URL, a zarr `Store` or an obstore store."""

VARIABLE = "reflectance"

COMPLETE = "s2pipe_complete"
VERSION = "s2pipe_version"
WRITTEN = "s2pipe_written"
CHUNKS = "s2pipe_chunks"

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


def to_zarr(
    data: xr.DataArray | xr.DataTree,
    store: StoreLike,
    *,
    group: str | None = None,
    overwrite: bool = False,
    shards: bool = True,
    compute: bool = True,
) -> Delayed | None:
    """Write a sharpened array or a cube to a Zarr v3 store, exactly as its numbers stand.

    One shard holds one dask chunk and is cut into inner chunks of one date, one band and about 366 px. Dask chunks of which
    no shard can be made (the edges before the last one are unequal) are rechunked to the largest of them; data in memory is cut
    into chunks of 18.3 km. Coordinates are read at once, pixels only when computed. The store is marked as incomplete until its
    last chunk is written.

    Parameters
    ----------
    data : xarray.DataArray or xarray.DataTree
        Array (time, band, y, x) of integers or floats, or a cube (nodes r10m, r20m, r60m with one variable ``reflectance``).
    store : str, os.PathLike, zarr.abc.store.Store or obstore store
        Local path (its parent folder must exist), fsspec URL such as ``s3://bucket/name.zarr``, or an opened store.
    group : str, optional
        Group within the store; its root if not given.
    overwrite : bool
        Replace what s2pipe wrote to this group before. Other groups, and what s2pipe did not write, are never deleted.
    shards : bool
        False writes the inner chunks as plain chunks, for readers that know no shards.
    compute : bool
        False writes the metadata alone and returns the rest of the work.

    Returns
    -------
    dask.delayed.Delayed or None
        With ``compute=False``, the work that writes every chunk and then marks the store as complete.

    Raises
    ------
    InputError
        If `data` is neither such an array nor a cube, or holds coordinates or attributes that Zarr cannot store.
    StoreError
        Before anything is computed: if the group exists and `overwrite` is False, holds something that s2pipe did not write, or
        is where `data` are lazily read from; or if the store cannot be written.
    """
    datasets = _datasets(data, shards=shards)
    attrs = _storable_attrs(data.attrs, "the cube") if isinstance(data, xr.DataTree) else {}
    place = _locate(store, group)
    _check(place, overwrite=overwrite)
    _check_sources(place, datasets)
    with _store_errors(place, "create"):
        _create_group(place, attrs)
        written = [
            dataset.to_zarr(
                place.store, group=_join(place.path, node), mode="a", zarr_format=3, consolidated=False, compute=False
            )
            for node, dataset in datasets.items()
        ]
    finished: Delayed = delayed(_mark_complete)(place.store, place.path, written)
    if not compute:
        return finished
    finished.compute()
    return None


def open_zarr(store: StoreLike, group: str | None = None) -> xr.DataArray | xr.DataTree:
    """Open what `to_zarr` wrote: the same numbers, coordinates and attributes, lazy, in the chunks in which they were written.

    Parameters
    ----------
    store : str, os.PathLike, zarr.abc.store.Store or obstore store
        As for `to_zarr`.
    group : str, optional
        Group within the store; its root if not given.

    Returns
    -------
    xarray.DataArray or xarray.DataTree
        The array (time, band, y, x) or the cube. Numbers are raw, in the dtype written; ``scale_factor``, ``add_offset`` and
        ``_FillValue`` are attributes.

    Raises
    ------
    StoreError
        If there is no such store or group, s2pipe did not write it, or it was not written to its end.
    """
    place = _locate(store, group)
    node = _open_node(place)
    if node is None and _open_node(replace(place, path="")) is None:
        raise StoreError(f"there is no Zarr store at {place.name}")
    if not _is_result(node):
        raise StoreError(f"{place} holds no result of s2pipe; {_groups_present(place)}")
    if not node.attrs[COMPLETE]:
        raise StoreError(
            f"{place} was not written to its end: it is still being written, or writing it broke off. Wait, or write it again "
            "with overwrite=True (--overwrite); xarray.open_zarr shows what is there, unwritten chunks as nodata"
        )
    with _store_errors(place, "read"):
        if VARIABLE in node:
            return _open_array(place, node.attrs[WRITTEN])
        names = [name for name in map(node_name, GSDS) if name in node]
        places = {name: replace(place, path=_join(place.path, name)) for name in names}
        cube = {name: _open_array(places[name], node.attrs[WRITTEN]).to_dataset() for name in names}
        for name in names:
            cube[name].attrs = _own_attrs(node[name].attrs)
        return xr.DataTree.from_dict({"/": xr.Dataset(attrs=_own_attrs(node.attrs)), **cube})


def list_results(store: StoreLike) -> list[str]:
    """The groups of a store that hold what `to_zarr` wrote, at any depth, also what was not written to its end.

    Parameters
    ----------
    store : str, os.PathLike, zarr.abc.store.Store or obstore store
        As for `to_zarr`.

    Returns
    -------
    list of str
        In alphabetical order, as `open_zarr` takes them; ``"/"`` is the store's root. Empty if there are none.

    Raises
    ------
    StoreError
        If there is no such store, or it cannot be read.
    """
    place = _locate(store, None)
    root = _open_node(place)
    if root is None:
        raise StoreError(f"there is no Zarr store at {place.name}")
    return _results_in(root, place)


def check_store(store: StoreLike, *, group: str | None = None, overwrite: bool = False) -> None:
    """Check that `to_zarr` can write to `group` of `store`, as it does itself before it computes anything.

    Writability is tried out with a file that is removed at once.

    Parameters
    ----------
    store : str, os.PathLike, zarr.abc.store.Store or obstore store
        As for `to_zarr`.
    group : str, optional
        Group within the store; its root if not given.
    overwrite : bool
        Whether what s2pipe wrote to this group before may be replaced.

    Raises
    ------
    InputError
        If `store` or `group` names no place at all.
    StoreError
        If the group exists and `overwrite` is False, holds something that s2pipe did not write, or the store cannot be written.
    """
    _check(_locate(store, group), overwrite=overwrite)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A group of a store: where a result stands or shall stand. `name` is the store's, free of credentials."""

    store: Store
    path: str
    name: str

    def __str__(self) -> str:
        return f"group {self.path!r} of {self.name}" if self.path else self.name


def _locate(store: StoreLike, group: str | None) -> _Place:
    path = (group or "").strip("/")
    if any(part in ("", ".", "..") for part in path.split("/")) and path:
        raise InputError(f"group={group!r} is no group name; give names joined by single slashes, such as 'T32TQM'")
    zarr_store = _zarr_store(store)
    name = str(zarr_store.root) if isinstance(zarr_store, LocalStore) else redact(str(store))
    return _Place(store=zarr_store, path=path, name=name)


def _zarr_store(store: StoreLike) -> Store:
    if isinstance(store, Store):
        return store
    if not isinstance(store, (str, os.PathLike)):
        try:
            return ObjectStore(store)
        except (ImportError, TypeError):
            raise InputError(f"store is a {type(store).__name__}; give a path, a URL, a zarr Store or an obstore store") from None
    text = os.fspath(store).removeprefix("file://")
    if not text:
        raise InputError("store is empty; give a path or a URL")
    if "://" not in text:
        return LocalStore(Path(text).absolute())
    try:
        return FsspecStore.from_url(text)
    except (ImportError, ValueError) as error:
        raise StoreError(redact(f"store {text} cannot be reached: {error}")) from None


def _join(path: str, name: str) -> str:
    return f"{path}/{name}".strip("/")


@contextmanager
def _store_errors(place: _Place, action: str) -> Iterator[None]:
    """Turn whatever the storage library raises into a `StoreError`: each has classes of its own, without a common base."""
    try:
        yield
    except S2PipeError:
        raise
    except Exception as error:
        cause = error if isinstance(place.store, LocalStore) else None
        detail = redact(f"{type(error).__name__}: {error}")
        raise StoreError(f"cannot {action} {place} ({detail})") from cause


# Checks before writing


def _check(place: _Place, *, overwrite: bool) -> None:
    _check_parents(place)
    _check_group(place, overwrite=overwrite)
    _check_writable(place)


def _check_parents(place: _Place) -> None:
    parts = place.path.split("/") if place.path else []
    for depth in range(len(parts)):
        parent = replace(place, path="/".join(parts[:depth]))
        node = _open_node(parent)
        if isinstance(node, zarr.Array) or _is_result(node):
            raise StoreError(f"{parent} is itself a result or an array and takes no group {place.path!r}; choose another store")
        if node is not None and node.metadata.zarr_format != 3:
            raise StoreError(f"{parent} is Zarr v{node.metadata.zarr_format}, s2pipe writes Zarr v3; choose another store")


def _check_group(place: _Place, *, overwrite: bool) -> None:
    node = _open_node(place)
    if node is None:
        return
    if not overwrite:
        raise StoreError(f"{place} exists; choose another store or group, or replace this one with overwrite=True (--overwrite)")
    if _is_result(node):
        return
    with _store_errors(place, "list"):
        empty = isinstance(node, zarr.Group) and node.nmembers() == 0
    if not empty:
        raise StoreError(f"{place} holds what s2pipe did not write to it and is not replaced; {_groups_present(place)}")


def _check_sources(place: _Place, datasets: Mapping[str, xr.Dataset]) -> None:
    """Refuse data that are read from the group they shall replace: it would be deleted before it is read."""
    node = _open_node(place)
    if not _is_result(node):
        return
    paths = [_join(place.path, name) for name in ("", *map(node_name, GSDS))]
    # dask.array.from_array keeps the array itself under such a key, through whatever is done with its chunks later.
    sources = tuple(f"original-{_layer_name(path, node.attrs[WRITTEN])}" for path in paths)
    for dataset in datasets.values():
        if any(isinstance(key, str) and key.startswith(sources) for key in dataset[VARIABLE].data.dask):
            raise StoreError(
                f"the data are read lazily from {place}, which overwriting would delete first; write to another store or group, "
                "or load the data before with .compute()"
            )


def _check_writable(place: _Place) -> None:
    store = place.store
    if store.read_only or not (store.supports_writes and store.supports_deletes):
        raise StoreError(f"{place.name} is a store that cannot be written or cleared; choose another")
    if isinstance(store, LocalStore):
        _check_folder(store.root)
        return
    with _store_errors(place, "write to"):
        sync(_write_and_delete(store, f".s2pipe-write-test-{uuid.uuid4().hex}"))


def _check_folder(root: Path) -> None:
    try:
        folder = root if root.exists() else root.parent
        if not folder.is_dir():
            raise StoreError(f"{root} cannot be created: {folder} is not an existing folder; create it or choose another store")
        with tempfile.TemporaryFile(dir=folder):
            pass
        if folder == root and not (root / "zarr.json").exists() and any(root.iterdir()):
            raise StoreError(f"{root} is a folder of other files, which s2pipe does not touch; choose another store")
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{root} cannot be written: {error.strerror}; choose another store") from error


async def _write_and_delete(store: Store, key: str) -> None:
    await store.set(key, default_buffer_prototype().buffer.from_bytes(b"s2pipe"))
    await store.delete(key)


# Groups and their marks


def _open_node(place: _Place) -> Any:
    """Return the zarr Group or Array at `place`, None where there is none."""
    with _store_errors(place, "read"):
        try:
            return zarr.open(store=place.store, path=place.path, mode="r")
        except (FileNotFoundError, NotADirectoryError):
            return None


def _is_result(node: Any) -> bool:
    return isinstance(node, zarr.Group) and COMPLETE in node.attrs


def _groups_present(place: _Place) -> str:
    paths = _results_in(_open_node(replace(place, path="")), place)
    return f"groups present: {', '.join(map(repr, paths))}" if paths else "the store holds no results of s2pipe"


def _results_in(root: Any, place: _Place) -> list[str]:
    with _store_errors(place, "list"):
        return sorted(_result_paths(root)) if isinstance(root, zarr.Group) else []


def _result_paths(group: zarr.Group) -> Iterator[str]:
    if _is_result(group):
        yield group.path or "/"
        return
    for _, child in group.groups():
        yield from _result_paths(child)


def _create_group(place: _Place, attrs: Mapping[str, Any]) -> None:
    """Create the group, empty and marked as incomplete, in place of the result that may stand there."""
    existing = _open_node(place)
    if _is_result(existing):
        # Deleting takes time and may break off: what is left by then must not look complete.
        zarr.open_group(store=place.store, path=place.path, mode="r+").update_attributes({COMPLETE: False})
    zarr.create_group(
        store=place.store,
        path=place.path,
        overwrite=existing is not None,
        zarr_format=3,
        attributes={**attrs, **_marks()},
    )


def _marks() -> dict[str, Any]:
    return {VERSION: version("s2pipe"), WRITTEN: datetime.now(UTC).isoformat(), COMPLETE: False}


def _mark_complete(store: Store, path: str, written: list[Any]) -> None:
    """Mark the group as complete; dask calls this once everything `written` stands for is done."""
    zarr.open_group(store=store, path=path, mode="r+").update_attributes({COMPLETE: True})


# From data to datasets that xarray writes as they are


def _datasets(data: xr.DataArray | xr.DataTree, *, shards: bool) -> dict[str, xr.Dataset]:
    """Return the datasets to write, by the group under the result's own in which each stands."""
    if isinstance(data, xr.DataTree):
        return {
            name: _dataset(node[VARIABLE], chunk=DEFAULT_CHUNK_METRES // gsd, shards=shards).assign_attrs(
                _storable_attrs(node.attrs, f"node {name}")
            )
            for gsd, name, node in _cube_nodes(data)
        }
    if not isinstance(data, xr.DataArray):
        raise InputError(f"data is a {type(data).__name__}; give a DataArray {DIMS} or a cube (DataTree)")
    dataset = _dataset(data, chunk=DEFAULT_CHUNK_METRES // GSDS[0], shards=shards)
    return {"": dataset.assign_attrs(_marks())}


def _cube_nodes(tree: xr.DataTree) -> list[tuple[int, str, xr.Dataset]]:
    legal = {node_name(gsd): gsd for gsd in GSDS}
    strangers = [name for name in (*tree.children, *tree.data_vars) if name not in legal]
    if strangers or node_name(GSDS[0]) not in tree.children:
        raise InputError(f"data is no cube: it must have {node_name(GSDS[0])} and may have {list(legal)[1:]}; extra: {strangers}")
    nodes = [(legal[name], name, node.to_dataset()) for name, node in tree.children.items()]
    for _, name, node in nodes:
        if list(node.data_vars) != [VARIABLE] or tree[name].children:
            raise InputError(f"node {name} must hold one variable {VARIABLE!r} and no nodes; it holds {list(tree[name])}")
    return nodes


def _dataset(array: xr.DataArray, *, chunk: int, shards: bool) -> xr.Dataset:
    """Dataset of `array` with everything in `encoding` that makes xarray store its numbers as they are.

    `chunk` is the edge in pixels of the chunks of data in memory.
    """
    if array.dims != DIMS or 0 in array.shape:
        raise InputError(f"data has dimensions {dict(array.sizes)}; give {DIMS}, none of them empty (see transpose, expand_dims)")
    encoding = Encoding.from_attrs(array.dtype, array.attrs)
    array, conventions = _georeference(array)
    rechunked, shard = _align_chunks(array.variable, chunk)
    inner = (1, 1, _inner_edge(shard[2]), _inner_edge(shard[3]))
    dataset = array.to_dataset(name=VARIABLE).drop_encoding()
    dataset = dataset.assign_coords({name: _storable_coord(name, coord) for name, coord in dataset.coords.items()})
    dataset[VARIABLE] = rechunked
    variable = dataset[VARIABLE]
    variable.attrs = _storable_attrs(array.attrs, VARIABLE)
    variable.encoding = {"chunks": inner, "fill_value": array.dtype.type(encoding.nodata)}
    if shards:
        variable.encoding["shards"] = shard
    if array.rio.grid_mapping in array.coords:
        variable.encoding["grid_mapping"] = variable.attrs.pop("grid_mapping", array.rio.grid_mapping)
    for values in dataset.variables.values():
        if "_FillValue" not in values.attrs:
            # Otherwise xarray adds one to floats, and what is read has an attribute more than what was written.
            values.encoding["_FillValue"] = None
    return dataset.assign_attrs({**conventions, CHUNKS: [1, *shard[1:]]})


def _storable_coord(name: Any, coord: xr.DataArray) -> xr.Variable:
    """`coord` with strings as objects, which Zarr stores as ``string``: numpy's fixed-width strings have no Zarr v3 type."""
    values = coord.values
    if values.dtype.kind in "UTO":
        values = values.astype(object)
        if not all(isinstance(value, str) for value in values.flat):
            raise InputError(f"coordinate {name!r} holds objects that Zarr cannot store; drop it with data.drop_vars({name!r})")
    return xr.Variable(coord.dims, values, _storable_attrs(coord.attrs, f"coordinate {name!r}"))


def _storable_attrs(attrs: Mapping[Any, Any], owner: str) -> dict[str, Any]:
    plain = {name: value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value for name, value in attrs.items()}
    unstorable = [name for name, value in plain.items() if not _is_json(value)]
    if unstorable:
        raise InputError(f"attributes {unstorable} of {owner} cannot be stored as JSON; drop or convert them")
    return plain


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _georeference(array: xr.DataArray) -> tuple[xr.DataArray, dict[str, Any]]:
    """`array` with the GeoTransform of its coordinates, and its georeference as GeoZarr's group attributes.

    The coordinates lead, because a GeoTransform stays behind when the array is cut.
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
    return variable.chunk(unaligned), (1, *(unaligned.get(dim) or edge or 1 for dim, edge in edges.items()))


def _shard_edge(chunks: tuple[int, ...]) -> int | None:
    """Edge of shards that every chunk covers whole ones of, if there is one; only the last chunk may be of any size."""
    edge = chunks[0]
    return edge if edge and all(chunk and chunk % edge == 0 for chunk in chunks[:-1]) else None


def _inner_edge(edge: int) -> int:
    """Return the divisor of a shard's `edge` that comes closest to `INNER_EDGE` in proportion."""
    divisors = (divisor for divisor in range(1, edge + 1) if edge % divisor == 0)
    return min(divisors, key=lambda divisor: abs(math.log(divisor / INNER_EDGE)))


# Back from the store


def _open_array(place: _Place, written: str) -> xr.DataArray:
    dataset: xr.Dataset = xr.open_zarr(
        place.store, group=place.path, zarr_format=3, consolidated=False, mask_and_scale=False, decode_coords="all", chunks=None
    )
    stored = dataset[VARIABLE]
    # Chunked alone: the coordinates that share its dimensions are read at once.
    name = f"{_layer_name(place.path, written)}-{tokenize(place.name)}"
    variable = stored.variable.chunk(dict(zip(DIMS, dataset.attrs[CHUNKS], strict=True)), name=name)
    variable.encoding = {name: value for name, value in stored.encoding.items() if name == "grid_mapping"}
    if "_FillValue" in variable.attrs:
        variable.attrs["_FillValue"] = stored.dtype.type(variable.attrs["_FillValue"])
    return xr.DataArray(variable, coords={name: _read_coord(coord) for name, coord in stored.coords.items()}, name=VARIABLE)


def _layer_name(path: str, written: str) -> str:
    """How the names of dask layers that read the array at `path` begin, however the store is addressed.

    They tell apart what was written to one place at different times, as keys held on a cluster must.
    """
    return f"{VARIABLE}-{tokenize(path, written)}"


def _read_coord(coord: xr.DataArray) -> xr.Variable:
    values = coord.values
    return xr.Variable(coord.dims, np.array(values.tolist(), dtype=str) if values.dtype.kind in "TO" else values, coord.attrs)


def _own_attrs(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group's attributes without those that `to_zarr` added."""
    added = {VERSION, COMPLETE, WRITTEN, CHUNKS, "zarr_conventions"}
    return {name: value for name, value in attrs.items() if name not in added and not name.startswith(("proj:", "spatial:"))}
