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
from s2pipe.store.location import Location, StoreLike, locate, open_node, store_errors
from s2pipe.store.lock import hold
from s2pipe.store.permission import check_location, groups_present, results_in
from s2pipe.store.writer import (
    Keep,
    Plan,
    begin,
    can_resume,
    chunk_table,
    is_result,
    node_names,
    open_dataset,
    resume_from,
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
    """Write a sharpened array or a cube to a Zarr v3 store, its numbers unchanged.

    One shard holds one dask chunk and is divided into inner chunks of one date, one band and about 366 px. Dask chunks that
    cannot be shards, because those before the last one differ in size, are rechunked to the largest of them; data in memory are
    divided into chunks of 18.3 km. Coordinates are read at once, pixels only when computed. The group is marked as incomplete
    until its last chunk is written, and states which are. One process at a time writes a group, and holds a lock there meanwhile.
    docs/store_format.md describes what is written.

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
        Resume what s2pipe wrote to this group before, if anything: only chunks that it lacks are computed and written, and dates
        that it lacks are added behind those it has. Everything else must be equal.
    refit : bool
        With `resume`, let the attributes ``s2pipe_*`` differ, which state how the pixels were made. Those of the group stay; the
        group's ledger states which run wrote a chunk, and how.
    shards : bool
        False writes the inner chunks as plain chunks, for readers that do not support shards.
    compute : bool
        False writes the metadata alone and returns the rest of the work. That holds no lock, and fails where another writer
        holds it, or where the result was replaced meanwhile.

    Returns
    -------
    dask.delayed.Delayed or None
        With ``compute=False``, the work that writes every chunk and then marks the group as complete.

    Raises
    ------
    InputError
        If `data` is neither such an array nor a cube, or holds coordinates or attributes that Zarr cannot store.
    StoreError
        Before anything is computed: if the group exists and neither `overwrite` nor `resume` is True, holds something that
        s2pipe did not write, differs from the `data` that are to resume it, is being written by another process, or is where
        `data` are lazily read from; or if the store cannot be written.

    Examples
    --------
    >>> s2pipe.to_zarr(sharp, "sharp.zarr", group="33TWM_32633")  # doctest: +SKIP
    >>> s2pipe.to_zarr(sharp, "sharp.zarr", group="33TWM_32633", resume=True)  # doctest: +SKIP
    """
    if overwrite and resume:
        raise InputError(
            "overwrite=True and resume=True contradict each other; give one of them", argument=("overwrite", "resume")
        )
    if refit and not resume:
        raise InputError("refit=True has a meaning only with resume=True; give both, or neither", argument=("refit", "resume"))
    location = locate(store, group)
    options: Any = {"overwrite": overwrite, "resume": resume, "refit": refit, "shards": shards}
    _prepare(data, location, overwrite=overwrite, resume=resume, shards=shards)  # before a lock is written
    with hold(location) as token:
        work = plan_writing(data, location, **options, token=token if compute else None).work()
        if compute:
            work.compute()
    return None if compute else work


def plan_writing(
    data: xr.DataArray | xr.DataTree,
    location: Location,
    *,
    overwrite: bool,
    resume: bool,
    refit: bool,
    shards: bool,
    keep: Keep = lambda location: None,
    token: str | None = None,
) -> Plan:
    """Make the store ready for `data`, and plan the chunks that it lacks.

    Arguments and errors are those of `to_zarr`; for `keep` and `token` see `writer.begin`.
    """
    datasets, attrs = _prepare(data, location, overwrite=overwrite, resume=resume, shards=shards)
    with store_errors(location, "create"):
        if resume and can_resume(location, datasets):
            return resume_from(location, datasets, refit=refit, keep=keep, token=token)
        return begin(location, datasets, attrs, keep=keep, token=token)


def _prepare(
    data: xr.DataArray | xr.DataTree, location: Location, *, overwrite: bool, resume: bool, shards: bool
) -> tuple[dict[str, xr.Dataset], dict[str, Any]]:
    """The datasets to write and the attributes of the group, once all checks have passed."""
    datasets = datasets_of(data, shards=shards)
    attrs = storable_attrs(data.attrs, "the cube") if isinstance(data, xr.DataTree) else {}
    check_location(location, overwrite=overwrite, resume=resume)
    _check_sources(location, datasets)
    return datasets, attrs


def open_zarr(store: StoreLike, *, group: str | None = None) -> xr.DataArray | xr.DataTree:
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
        If there is no such store or group, s2pipe did not write it, or it is incomplete.

    Examples
    --------
    >>> sharp = s2pipe.open_zarr("sharp.zarr", group="33TWM_32633")  # doctest: +SKIP
    >>> numbers = sharp.sel(band="B05").isel(time=0).values  # doctest: +SKIP
    """
    location = locate(store, group)
    node = _result_at(location)
    if not node.attrs[COMPLETE]:
        raise StoreError(
            f"{location} was not written to its end: it is still being written, or was interrupted. Wait; or resume it by the "
            "same job again, or to_zarr with resume=True; or replace it with overwrite=True. xarray.open_zarr reads what is "
            "written, and the rest as nodata",
            argument=("store", "group"),
        )
    with store_errors(location, "read"):
        if VARIABLE in node:
            return _open_array(location, node.attrs[WRITTEN])
        names = node_names(node)
        cube = {name: _open_array(location.below(name), node.attrs[WRITTEN]).to_dataset() for name in names}
        for name in names:
            cube[name].attrs = _own_attrs(node[name].attrs)
        return xr.DataTree.from_dict({"/": xr.Dataset(attrs=_own_attrs(node.attrs)), **cube})


def list_results(store: StoreLike) -> list[str]:
    """The groups of a store that hold what `to_zarr` wrote, at any depth, incomplete ones too.

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
    location = locate(store, None)
    root = open_node(location)
    if root is None:
        raise StoreError(f"there is no Zarr store at {location.name}", argument="store")
    return results_in(root, location)


def list_chunks(store: StoreLike, *, group: str | None = None) -> pd.DataFrame:
    """Which chunks of a result are written, and how, also of an incomplete one.

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
        row and column, in pixels of the node) state where it is, ``written`` whether the store has it, the others what is known
        of the run that wrote it: when it ``started``, ``version`` of s2pipe, ``method``, ``seed``, ``weights_sha256`` and so on.

    Raises
    ------
    StoreError
        If there is no such store or group, s2pipe did not write it, or it has lost its ledger.

    Examples
    --------
    >>> table = s2pipe.list_chunks("sharp.zarr", group="33TWM_32633")  # doctest: +SKIP
    >>> table["written"].mean()  # doctest: +SKIP
    """
    location = locate(store, group)
    node = _result_at(location)
    with store_errors(location, "read"):
        return pd.concat([chunk_table(location, name) for name in node_names(node)], ignore_index=True)


def _check_sources(location: Location, datasets: Mapping[str, xr.Dataset]) -> None:
    """Refuse data that are read lazily from the group that they are to replace: it would be deleted before it is read."""
    node = open_node(location)
    if not is_result(node):
        return
    paths = [location.below(name).path for name in ("", *map(node_name, GSDS))]
    # dask.array.from_array keeps the array itself under such a key, whatever is done with its chunks later.
    sources = tuple(f"original-{_layer_name(path, node.attrs[WRITTEN])}" for path in paths)
    for dataset in datasets.values():
        if any(isinstance(key, str) and key.startswith(sources) for key in dataset[VARIABLE].data.dask):
            raise StoreError(
                f"the data are read lazily from {location}, which overwriting would delete first; give another store or group, "
                "or load the data before with .compute()",
                argument="data",
            )


# Groups and their marks


def _result_at(location: Location) -> Any:
    """The group of the result at `location`; StoreError where there is none."""
    node = open_node(location)
    if node is None and open_node(location.at("")) is None:
        raise StoreError(f"there is no Zarr store at {location.name}", argument="store")
    if not is_result(node):
        raise StoreError(f"{location} holds no result of s2pipe; {groups_present(location)}", argument=("store", "group"))
    return node


# Back from the store


def _open_array(location: Location, written: str) -> xr.DataArray:
    dataset = open_dataset(location)
    stored = dataset[VARIABLE]
    # Chunked alone: the coordinates that share its dimensions are read at once.
    name = f"{_layer_name(location.path, written)}-{tokenize(location.name)}"
    variable = stored.variable.chunk(dict(zip(DIMS, dataset.attrs[CHUNKS], strict=True)), name=name)
    variable.encoding = {name: value for name, value in stored.encoding.items() if name == "grid_mapping"}
    if "_FillValue" in variable.attrs:
        variable.attrs["_FillValue"] = stored.dtype.type(variable.attrs["_FillValue"])
    return xr.DataArray(variable, coords={name: _read_coord(coord) for name, coord in stored.coords.items()}, name=VARIABLE)


def _layer_name(path: str, written: str) -> str:
    """How the names of dask layers that read the array at `path` begin, however the store is addressed.

    They differ for what was written to one location at different times, as keys that a cluster holds must.
    """
    return f"{VARIABLE}-{tokenize(path, written)}"


def _read_coord(coord: xr.DataArray) -> xr.Variable:
    values = coord.values
    return xr.Variable(coord.dims, np.array(values.tolist(), dtype=str) if values.dtype.kind in "TO" else values, coord.attrs)


def _own_attrs(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a group's attributes without those that `to_zarr` added."""
    added = {VERSION, COMPLETE, WRITTEN, CHUNKS, "zarr_conventions"}
    return {name: value for name, value in attrs.items() if name not in added and not name.startswith(("proj:", "spatial:"))}
