"""Where a result is stored: a group of a Zarr store, on disk or in a bucket, and what to say when it cannot be reached."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import zarr
from zarr.abc.store import Store

# no public function of zarr waits for what a store does: https://github.com/zarr-developers/zarr-python/issues/3637
from zarr.core.sync import sync as sync
from zarr.storage import FsspecStore, LocalStore, ObjectStore, StorePath

from s2pipe.core.errors import InputError, S2PipeError, StoreError, redact

StoreLike: TypeAlias = str | os.PathLike[str] | Store | Any
"""A local path, an fsspec URL, a zarr `Store` or an obstore store."""

OWN_GROUP = "s2pipe"
"""Name of the group beside a result's arrays that holds what is known of its writing."""


@dataclass(frozen=True, kw_only=True)
class Location:
    """A group of a store: where a result is stored, or is to be.

    Attributes
    ----------
    node : zarr.storage.StorePath
        The store, and the path of the group in it.
    name : str
        Of the store, free of credentials.
    """

    node: StorePath
    name: str

    @property
    def store(self) -> Store:
        return self.node.store

    @property
    def path(self) -> str:
        return self.node.path

    def __str__(self) -> str:
        return f"group {self.path!r} of {self.name}" if self.path else self.name

    def at(self, path: str) -> Location:
        """Another group of the same store."""
        return replace(self, node=StorePath(self.store, path))

    def below(self, name: str) -> Location:
        """What this group holds under `name`, or this group itself where that is empty."""
        return replace(self, node=self.node / name)


def locate(store: StoreLike, group: str | None) -> Location:
    """The location of `group`, or of the root, in a store; InputError or StoreError where there can be none."""
    path = (group or "").strip("/")
    if any(part in ("", ".", "..") for part in path.split("/")) and path:
        raise InputError(
            f"group={group!r} is no group name; give names joined by single slashes, such as 'T32TQM'", argument="group"
        )
    if OWN_GROUP in path.split("/"):
        raise InputError(
            f"group={group!r}: the name {OWN_GROUP!r} is that of what s2pipe keeps beside a result; give another",
            argument="group",
        )
    zarr_store = _zarr_store(store)
    name = str(zarr_store.root) if isinstance(zarr_store, LocalStore) else redact(str(store))
    return Location(node=StorePath(zarr_store, path), name=name)


def _zarr_store(store: StoreLike) -> Store:
    if isinstance(store, Store):
        return store
    if not isinstance(store, (str, os.PathLike)):
        try:
            return ObjectStore(store)
        except (ImportError, TypeError):
            raise InputError(
                f"store is a {type(store).__name__}; give a path, a URL, a zarr Store or an obstore store", argument="store"
            ) from None
    text = os.fspath(store).removeprefix("file://")
    if not text:
        raise InputError("store is empty; give a path or a URL", argument="store")
    if "://" not in text:
        return LocalStore(Path(text).absolute())
    try:
        return FsspecStore.from_url(text)
    except (ImportError, ValueError) as error:
        raise StoreError(redact(f"store {text} cannot be reached: {error}"), argument="store") from None


_FULL = re.compile(r"No space left|[Qq]uota *[Ee]xceeded")
_CURE_OF_FULL = ": the disk is full. What was written stays; free some space, and resume: the same job again, or resume=True"


@contextmanager
def store_errors(location: Location, action: str) -> Iterator[None]:
    """Turn whatever the storage library raises into a `StoreError`: each has classes of its own, without a common base."""
    try:
        yield
    except S2PipeError:
        raise
    except Exception as error:
        cause = error if isinstance(location.store, LocalStore) else None
        detail = redact(f"{type(error).__name__}: {error}")
        cure = _CURE_OF_FULL if _FULL.search(detail) else ""
        raise StoreError(f"cannot {action} {location} ({detail}){cure}", argument="store") from cause


def open_node(location: Location) -> Any:
    """Return the zarr Group or Array at `location` to read, None where there is none."""
    with store_errors(location, "read"):
        try:
            # the store itself, because zarr makes the folder of a StorePath even to read it
            return zarr.open(store=location.store, path=location.path, mode="r")
        except (FileNotFoundError, NotADirectoryError):
            return None


def open_group(location: Location, *, mode: Literal["r+", "a"] = "r+") -> zarr.Group:
    """The zarr Group at `location` to write into; "a" creates it where there is none."""
    return zarr.open_group(store=location.node, mode=mode, zarr_format=3)
