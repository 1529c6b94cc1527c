"""Whether a result may be written to a location: checked before anything is read or fitted."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rioxarray  # noqa: F401 - registers the `.rio` accessor
import zarr
from zarr.abc.store import Store
from zarr.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from s2pipe.core.errors import StoreError
from s2pipe.store.location import Place, StoreLike, locate, open_node, store_errors
from s2pipe.store.lock import refuse_if_held
from s2pipe.store.writer import (
    LEFTOVER,
    is_result,
    members,
)


def check_store(store: StoreLike, *, group: str | None = None, overwrite: bool = False, resume: bool = False) -> None:
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
    resume : bool
        Whether it may be gone on with.

    Raises
    ------
    InputError
        If `store` or `group` names no place at all.
    StoreError
        If the group exists and neither is True, holds something that s2pipe did not write, or is being written by somebody else;
        or if the store cannot be written.
    """
    place = locate(store, group)
    refuse_if_held(place)
    check_place(place, overwrite=overwrite, resume=resume)


# Checks before writing


def check_place(place: Place, *, overwrite: bool, resume: bool) -> None:
    """Refuse a place that cannot be written as is asked for; see `to_zarr`."""
    _check_parents(place)
    _check_group(place, overwrite=overwrite, resume=resume)
    _check_writable(place)


def _check_parents(place: Place) -> None:
    parts = place.path.split("/") if place.path else []
    for depth in range(len(parts)):
        parent = place.at("/".join(parts[:depth]))
        node = open_node(parent)
        if isinstance(node, zarr.Array) or is_result(node):
            raise StoreError(f"{parent} is itself a result or an array and takes no group {place.path!r}; choose another store")
        if node is not None and node.metadata.zarr_format != 3:
            raise StoreError(f"{parent} is Zarr v{node.metadata.zarr_format}, s2pipe writes Zarr v3; choose another store")


def _check_group(place: Place, *, overwrite: bool, resume: bool) -> None:
    node = open_node(place)
    if node is None:
        return
    if is_result(node):
        if not (overwrite or resume):
            raise StoreError(
                f"{place} exists; choose another store or group, go on with this one with resume=True, or replace it with "
                "overwrite=True (--overwrite)"
            )
        return
    with store_errors(place, "list"):
        empty = isinstance(node, zarr.Group) and not members(node)
    if not empty:
        raise StoreError(f"{place} holds what s2pipe did not write to it and is not replaced; {groups_present(place)}")


def _check_writable(place: Place) -> None:
    store = place.store
    if store.read_only or not (store.supports_writes and store.supports_deletes):
        raise StoreError(f"{place.name} is a store that cannot be written or cleared; choose another")
    if isinstance(store, LocalStore):
        _check_folder(store.root)
        return
    with store_errors(place, "write to"):
        sync(_write_and_delete(store, f".s2pipe-write-test-{uuid.uuid4().hex}"))


def _check_folder(root: Path) -> None:
    try:
        folder = root if root.exists() else root.parent
        if not folder.is_dir():
            raise StoreError(f"{root} cannot be created: {folder} is not an existing folder; create it or choose another store")
        with tempfile.TemporaryFile(dir=folder):
            pass
        others = [path for path in root.iterdir() if not LEFTOVER.search(path.name)] if folder == root else []
        if others and not (root / "zarr.json").exists():
            raise StoreError(f"{root} is a folder of other files, which s2pipe does not touch; choose another store")
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{root} cannot be written: {error.strerror}; choose another store") from error


async def _write_and_delete(store: Store, key: str) -> None:
    await store.set(key, default_buffer_prototype().buffer.from_bytes(b"s2pipe"))
    await store.delete(key)


def groups_present(place: Place) -> str:
    paths = results_in(open_node(place.at("")), place)
    return f"groups present: {', '.join(map(repr, paths))}" if paths else "the store holds no results of s2pipe"


def results_in(root: Any, place: Place) -> list[str]:
    with store_errors(place, "list"):
        return sorted(_result_paths(root)) if isinstance(root, zarr.Group) else []


def _result_paths(group: zarr.Group) -> Iterator[str]:
    if is_result(group):
        yield group.path or "/"
        return
    for _, child in members(group):
        if isinstance(child, zarr.Group):
            yield from _result_paths(child)
