"""Where a result stands: a group of a Zarr store, on disk or in a bucket, and what to say when it cannot be reached."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import zarr
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, ObjectStore

from s2pipe.core.errors import InputError, S2PipeError, StoreError, redact

StoreLike: TypeAlias = str | os.PathLike[str] | Store | Any
"""A local path, an fsspec URL, a zarr `Store` or an obstore store."""

OWN_GROUP = "s2pipe"
"""Name of the group beside a result's arrays in which stands what is known of its writing."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A group of a store: where a result stands or shall stand. `name` is the store's, free of credentials."""

    store: Store
    path: str
    name: str

    def __str__(self) -> str:
        return f"group {self.path!r} of {self.name}" if self.path else self.name

    def at(self, path: str) -> Place:
        """Another group of the same store."""
        return replace(self, path=path)

    def below(self, name: str) -> Place:
        """What stands in this group under `name`, or this group itself where that is empty."""
        return self.at(f"{self.path}/{name}".strip("/"))


def locate(store: StoreLike, group: str | None) -> Place:
    """The place of `group`, or of the root, in a store; InputError or StoreError where there can be none."""
    path = (group or "").strip("/")
    if any(part in ("", ".", "..") for part in path.split("/")) and path:
        raise InputError(f"group={group!r} is no group name; give names joined by single slashes, such as 'T32TQM'")
    if OWN_GROUP in path.split("/"):
        raise InputError(f"group={group!r}: the name {OWN_GROUP!r} is that of what s2pipe keeps beside a result; give another")
    zarr_store = _zarr_store(store)
    name = str(zarr_store.root) if isinstance(zarr_store, LocalStore) else redact(str(store))
    return Place(store=zarr_store, path=path, name=name)


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


_FULL = re.compile(r"No space left|[Qq]uota *[Ee]xceeded")
_CURE_OF_FULL = (
    ": the disk is full. What was written stays; free some space, and go on (the same job or command again, or resume=True)"
)


@contextmanager
def store_errors(place: Place, action: str) -> Iterator[None]:
    """Turn whatever the storage library raises into a `StoreError`: each has classes of its own, without a common base."""
    try:
        yield
    except S2PipeError:
        raise
    except Exception as error:
        cause = error if isinstance(place.store, LocalStore) else None
        detail = redact(f"{type(error).__name__}: {error}")
        cure = _CURE_OF_FULL if _FULL.search(detail) else ""
        raise StoreError(f"cannot {action} {place} ({detail}){cure}") from cause


def open_node(place: Place) -> Any:
    """Return the zarr Group or Array at `place`, None where there is none."""
    with store_errors(place, "read"):
        try:
            return zarr.open(store=place.store, path=place.path, mode="r")
        except (FileNotFoundError, NotADirectoryError):
            return None
