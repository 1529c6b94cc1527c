"""The Zarr store: what a sharpened array or a cube looks like on disk or in a bucket, written once and read back equal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import rioxarray  # noqa: F401 - registers the `.rio` accessor
import xarray as xr
from dask.base import tokenize
from dask.delayed import Delayed

from s2pipe.core.bands import GSDS, node_name
from s2pipe.core.cube import DIMS
from s2pipe.core.errors import InputError, StoreError
from s2pipe.store.differences import COMPLETE, VERSION, WRITTEN
from s2pipe.store.layout import CHUNKS, VARIABLE, datasets_of, storable_attrs
from s2pipe.store.location import Place, StoreLike, locate, open_node, store_errors
from s2pipe.store.lock import hold
from s2pipe.store.permission import check_place, groups_present, results_in
from s2pipe.store.writer import (
    Keep,
    Plan,
    begin,
    chunk_table,
    go_on,
    is_result,
    may_go_on,
    node_names,
    open_dataset,
)


def to_zarr(
    data: xr.DataArray | xr.DataTree,
    store: StoreLike,
    *,
    group: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    refit: bool = False,
    shards: bool = True,
    compute: bool = True,
) -> Delayed | None:
    """Write a sharpened array or a cube to a Zarr v3 store, exactly as its numbers stand.

    One shard holds one dask chunk and is cut into inner chunks of one date, one band and about 366 px. Dask chunks of which
    no shard can be made (the edges before the last one are unequal) are rechunked to the largest of them; data in memory is cut
    into chunks of 18.3 km. Coordinates are read at once, pixels only when computed. The store is marked as incomplete until its
    last chunk is written, and says which are. One process at a time writes a group: it holds a lock there meanwhile.

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
    resume : bool
        Go on with what s2pipe wrote to this group before, if anything: only chunks that are not there yet are computed and
        written, and dates that the group does not have are added to it, behind those it has. Everything else must be equal.
    refit : bool
        With `resume`, let the attributes ``s2pipe_*`` differ, which tell how the numbers were made. Those of the group stay; the
        group's ledger tells which run wrote a chunk, and how.
    shards : bool
        False writes the inner chunks as plain chunks, for readers that know no shards.
    compute : bool
        False writes the metadata alone and returns the rest of the work, which holds no lock, but fails where another writer
        does, or where the result was replaced meanwhile.

    Returns
    -------
    dask.delayed.Delayed or None
        With ``compute=False``, the work that writes every chunk and then marks the store as complete.

    Raises
    ------
    InputError
        If `data` is neither such an array nor a cube, or holds coordinates or attributes that Zarr cannot store.
    StoreError
        Before anything is computed: if the group exists and neither `overwrite` nor `resume` is True, holds something that
        s2pipe did not write, differs from what shall be resumed, is being written by somebody else, or is where `data` are
        lazily read from; or if the store cannot be written.
    """
    if overwrite and resume:
        raise InputError("overwrite=True and resume=True contradict each other; give one of them")
    if refit and not resume:
        raise InputError("refit=True is for what resume=True goes on with; give both, or neither")
    place = locate(store, group)
    options: Any = {"overwrite": overwrite, "resume": resume, "refit": refit, "shards": shards}
    _prepare(data, place, overwrite=overwrite, resume=resume, shards=shards)  # before a lock is left in the store
    with hold(place) as token:
        work = plan_writing(data, place, **options, token=token if compute else None).work()
        if compute:
            work.compute()
    return None if compute else work


def plan_writing(
    data: xr.DataArray | xr.DataTree,
    place: Place,
    *,
    overwrite: bool,
    resume: bool,
    refit: bool,
    shards: bool,
    keep: Keep = lambda place: None,
    token: str | None = None,
) -> Plan:
    """Make the store ready for `data`, and plan the chunks that it lacks.

    Arguments and errors are those of `to_zarr`; for `keep` and `token` see `writing.begin`.
    """
    datasets, attrs = _prepare(data, place, overwrite=overwrite, resume=resume, shards=shards)
    with store_errors(place, "create"):
        if resume and may_go_on(place, datasets):
            return go_on(place, datasets, refit=refit, keep=keep, token=token)
        return begin(place, datasets, attrs, keep=keep, token=token)


def _prepare(
    data: xr.DataArray | xr.DataTree, place: Place, *, overwrite: bool, resume: bool, shards: bool
) -> tuple[dict[str, xr.Dataset], dict[str, Any]]:
    """The datasets to write and the attributes of the group, once nothing speaks against writing them."""
    datasets = datasets_of(data, shards=shards)
    attrs = storable_attrs(data.attrs, "the cube") if isinstance(data, xr.DataTree) else {}
    check_place(place, overwrite=overwrite, resume=resume)
    _check_sources(place, datasets)
    return datasets, attrs


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
    place = locate(store, group)
    node = _result_at(place)
    if not node.attrs[COMPLETE]:
        raise StoreError(
            f"{place} was not written to its end: it is still being written, or writing it broke off. Wait, or go on with it "
            "(resume=True, or the same command again), or replace it with overwrite=True (--overwrite); xarray.open_zarr shows "
            "what is there, unwritten chunks as nodata"
        )
    with store_errors(place, "read"):
        if VARIABLE in node:
            return _open_array(place, node.attrs[WRITTEN])
        names = node_names(node)
        cube = {name: _open_array(place.below(name), node.attrs[WRITTEN]).to_dataset() for name in names}
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
    place = locate(store, None)
    root = open_node(place)
    if root is None:
        raise StoreError(f"there is no Zarr store at {place.name}")
    return results_in(root, place)


def list_chunks(store: StoreLike, group: str | None = None) -> pd.DataFrame:
    """Which chunks of a result are written, and how, also of one that was not written to its end.

    Parameters
    ----------
    store : str, os.PathLike, zarr.abc.store.Store or obstore store
        As for `to_zarr`.
    group : str, optional
        Group within the store; its root if not given.

    Returns
    -------
    pandas.DataFrame
        A row for each chunk. ``node`` (of a cube: r10m and so on), ``time``, ``bands`` (how many), ``y`` and ``x`` (its first
        row and column, in pixels of the node) say where it is; ``written`` whether it is there; the others what is known of the
        run that wrote it: when it ``started``, ``version`` of s2pipe, ``method``, ``seed``, ``weights_sha256`` and so on.

    Raises
    ------
    StoreError
        If there is no such store or group, s2pipe did not write it, or it has no account of its chunks.
    """
    place = locate(store, group)
    node = _result_at(place)
    with store_errors(place, "read"):
        return pd.concat([chunk_table(place, name) for name in node_names(node)], ignore_index=True)


def _check_sources(place: Place, datasets: Mapping[str, xr.Dataset]) -> None:
    """Refuse data that are read from the group they shall replace: it would be deleted before it is read."""
    node = open_node(place)
    if not is_result(node):
        return
    paths = [place.below(name).path for name in ("", *map(node_name, GSDS))]
    # dask.array.from_array keeps the array itself under such a key, through whatever is done with its chunks later.
    sources = tuple(f"original-{_layer_name(path, node.attrs[WRITTEN])}" for path in paths)
    for dataset in datasets.values():
        if any(isinstance(key, str) and key.startswith(sources) for key in dataset[VARIABLE].data.dask):
            raise StoreError(
                f"the data are read lazily from {place}, which overwriting would delete first; write to another store or group, "
                "or load the data before with .compute()"
            )


# Groups and their marks


def _result_at(place: Place) -> Any:
    """The group of the result at `place`; StoreError where there is none."""
    node = open_node(place)
    if node is None and open_node(place.at("")) is None:
        raise StoreError(f"there is no Zarr store at {place.name}")
    if not is_result(node):
        raise StoreError(f"{place} holds no result of s2pipe; {groups_present(place)}")
    return node


# Back from the store


def _open_array(place: Place, written: str) -> xr.DataArray:
    dataset = open_dataset(place)
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
