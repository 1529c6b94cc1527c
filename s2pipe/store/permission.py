"""Whether a result may be written to a location: checked before anything is read or fitted."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rioxarray  # noqa: F401 - registers the `.rio` accessor
import zarr
from zarr.buffer import default_buffer_prototype
from zarr.storage import LocalStore, StorePath

from s2pipe.core.errors import StoreError
from s2pipe.store.location import Location, StoreLike, locate, open_node, store_errors, sync
from s2pipe.store.lock import refuse_if_held
from s2pipe.store.writer import LEFTOVER, is_result, members


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
        Whether it may be resumed.

    Raises
    ------
    InputError
        If `store` or `group` names no location at all.
    StoreError
        If the group exists and neither is True, holds something that s2pipe did not write, or is being written by another
        process; or if the store cannot be written.
    """
    location = locate(store, group)
    refuse_if_held(location)
    check_location(location, overwrite=overwrite, resume=resume)


# Checks before writing


def check_location(location: Location, *, overwrite: bool, resume: bool) -> None:
    """Refuse a location that cannot be written as is asked for; see `to_zarr`."""
    _check_parents(location)
    _check_group(location, overwrite=overwrite, resume=resume)
    _check_writable(location)


def _check_parents(location: Location) -> None:
    parts = location.path.split("/") if location.path else []
    for depth in range(len(parts)):
        parent = location.at("/".join(parts[:depth]))
        node = open_node(parent)
        if isinstance(node, zarr.Array) or is_result(node):
            raise StoreError(
                f"{parent} is itself a result or an array, in which group {location.path!r} cannot be created; give another "
                "store or group",
                argument=("store", "group"),
            )
        if node is not None and node.metadata.zarr_format != 3:
            raise StoreError(
                f"{parent} is Zarr v{node.metadata.zarr_format}, and s2pipe writes Zarr v3; give another store", argument="store"
            )


def _check_group(location: Location, *, overwrite: bool, resume: bool) -> None:
    node = open_node(location)
    if node is None:
        return
    if is_result(node):
        if not (overwrite or resume):
            raise StoreError(
                f"{location} exists; give another store or group, resume this one with resume=True, or replace it with "
                "overwrite=True",
                argument=("overwrite", "resume"),
            )
        return
    with store_errors(location, "list"):
        empty = isinstance(node, zarr.Group) and not members(node)
    if not empty:
        raise StoreError(
            f"{location} holds what s2pipe did not write to it, and is not replaced; give another store or group; "
            f"{groups_present(location)}",
            argument=("store", "group"),
        )


def _check_writable(location: Location) -> None:
    store = location.store
    if store.read_only or not (store.supports_writes and store.supports_deletes):
        raise StoreError(f"{location.name} is a store that cannot be written or cleared; give another", argument="store")
    if isinstance(store, LocalStore):
        _check_folder(store.root)
        return
    with store_errors(location, "write to"):
        sync(_write_and_delete(StorePath(store, f".s2pipe-write-test-{uuid.uuid4().hex}")))


def _check_folder(root: Path) -> None:
    try:
        folder = root if root.exists() else root.parent
        if not folder.is_dir():
            raise StoreError(
                f"{root} cannot be created: {folder} is not an existing folder; create it, or give another store",
                argument="store",
            )
        with tempfile.TemporaryFile(dir=folder):
            pass
        others = [path for path in root.iterdir() if not LEFTOVER.search(path.name)] if folder == root else []
        if others and not (root / "zarr.json").exists():
            raise StoreError(
                f"{root} is a folder of other files, which s2pipe does not touch; give another store", argument="store"
            )
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{root} cannot be written: {error.strerror}; give another store", argument="store") from error


async def _write_and_delete(key: StorePath) -> None:
    await key.set(default_buffer_prototype().buffer.from_bytes(b"s2pipe"))
    await key.delete()


def groups_present(location: Location) -> str:
    paths = results_in(open_node(location.at("")), location)
    return f"groups present: {', '.join(map(repr, paths))}" if paths else "the store holds no results of s2pipe"


def results_in(root: Any, location: Location) -> list[str]:
    with store_errors(location, "list"):
        return sorted(_result_paths(root)) if isinstance(root, zarr.Group) else []


def _result_paths(group: zarr.Group) -> Iterator[str]:
    if is_result(group):
        yield group.path or "/"
        return
    for _, child in members(group):
        if isinstance(child, zarr.Group):
            yield from _result_paths(child)
