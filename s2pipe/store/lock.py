"""One writer at a time: a lock in the store beside the result, which its holder renews; a stale one is replaced."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from zarr.abc.buffer import Buffer
from zarr.buffer import default_buffer_prototype
from zarr.errors import ContainsGroupError
from zarr.storage import FsspecStore, StorePath

from s2pipe.core.errors import StoreError
from s2pipe.store.location import OWN_GROUP, Location, open_group, store_errors, sync

log = logging.getLogger(__name__)

NAME = ".lock"
HEARTBEAT = 10.0
"""Seconds between two renewals."""
STALE = 60.0
"""Seconds without a renewal after which a lock from another machine is stale; on this machine its process is looked up."""
SETTLING = 0.3
"""Seconds after which a lock is read again, where two writers may both seem to have taken it."""
CLOCK = 5.0
"""Seconds by which the start of one process may differ between two readings when the clock is set."""


@dataclass(frozen=True, kw_only=True)
class _Holder:
    """Who writes.

    `beat` is when the lock was last renewed; `processes` see `_processes`; `started` is when its process began, which
    distinguishes it from a later one of the same number.
    """

    token: str
    host: str
    processes: str
    pid: int
    started: float
    beat: str

    @classmethod
    def here(cls) -> _Holder:
        pid = os.getpid()
        started = psutil.Process(pid).create_time()
        return cls(
            token=uuid.uuid4().hex,
            host=socket.gethostname(),
            processes=_processes(),
            pid=pid,
            started=started,
            beat=_now(),
        )

    def is_alive(self) -> bool:
        if self.processes == _processes():
            try:
                process = psutil.Process(self.pid)
                same = abs(process.create_time() - self.started) < CLOCK
                return bool(same and process.status() != psutil.STATUS_ZOMBIE)
            except psutil.NoSuchProcess:
                return False
        silent = datetime.now(UTC) - datetime.fromisoformat(self.beat).astimezone(UTC)
        return silent.total_seconds() < STALE


def _processes() -> str:
    """Identifies the system whose process numbers are meant: a machine, or one of its containers, which may share a host name."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # only Linux has them
        return socket.gethostname()


@contextmanager
def hold(location: Location) -> Iterator[str]:
    """Be the only writer of a result within the block, which gets the token that identifies it to `check_held`.

    The store and the group are created where they do not exist.

    Raises
    ------
    StoreError
        On entering, if another writer holds the lock; on leaving, if another has taken it over.
    """
    own = _Holder.here()
    refuse_if_held(location)
    with store_errors(location, "lock"):
        with suppress(ContainsGroupError):  # another writer created it at the same time
            open_group(location.at(""), mode="a")  # a folder that holds a lock alone would be no store
        _take(location, own)
        check_held(location, own.token)
        open_group(location.below(OWN_GROUP), mode="a")
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(location, own, done), name="s2pipe lock", daemon=True)
    beating.start()
    try:
        yield own.token
        check_held(location, own.token)
    finally:
        done.set()
        beating.join()
        _release(location, own)


def _take(location: Location, own: _Holder) -> None:
    """Write a lock where there is none, or a stale one; of two that come at once, one finds the other's afterwards."""
    stale = sync(_key(location).exists())
    if stale:
        if _read(location) is None:  # unreadable, or being renewed
            time.sleep(SETTLING)
            refuse_if_held(location)
        sync(_key(location).delete())
    sync(_key(location).set_if_not_exists(_content(own)))
    if stale or isinstance(location.store, FsspecStore):  # its set_if_not_exists looks first, and then writes
        time.sleep(SETTLING)


def refuse_if_held(location: Location) -> None:
    """StoreError where another writer holds the lock of this result."""
    holder = _read(location)
    if holder is not None and holder.is_alive():
        raise _held(location, holder)


def check_held(location: Location, token: str) -> None:
    """StoreError unless the holder of this token still has the lock of this result: another may have considered it stale."""
    with suppress(StoreError):
        if _token_at(location) == token:
            return
    time.sleep(SETTLING)  # some stores hold nothing for a moment while a key is replaced
    holder = _read(location)
    if holder is None:
        raise StoreError(
            f"{location} is no longer locked by this process: its lock is gone. Another process may have considered it stale, "
            "written, and ended; so nothing more is written here. The same job again resumes it"
        )
    if holder.token != token:
        raise _held(location, holder)


def _token_at(location: Location) -> str | None:
    holder = _read(location)
    return None if holder is None else holder.token


def _held(location: Location, holder: _Holder) -> StoreError:
    return StoreError(
        f"{location} is being written by process {holder.pid} on {holder.host}, which renewed its lock at {holder.beat}; wait "
        f"until it has ended, or give another store or group. If that machine is gone, the lock is free after {STALE:.0f} s",
        argument=("store", "group"),
    )


def _beat(location: Location, own: _Holder, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT):
        try:
            if _token_at(location) != own.token:
                log.error("another process has taken over the lock of %s; this one writes no more", location)
                return
            _write(location, replace(own, beat=_now()))
        except Exception as error:  # the store may fail now and not the next time
            log.warning("cannot renew the lock of %s: %s", location, type(error).__name__)


def _release(location: Location, own: _Holder) -> None:
    try:
        if _token_at(location) == own.token:
            sync(_key(location).delete())
    except Exception as error:  # it will become stale
        log.warning("cannot remove the lock of %s: %s", location, type(error).__name__)


def _read(location: Location) -> _Holder | None:
    found: Any = None
    with store_errors(location, "read the lock of"), suppress(FileNotFoundError, NotADirectoryError):
        # read-only, because zarr creates the folder of a store that it opens to write
        found = sync(StorePath(location.store.with_read_only(True), _key(location).path).get())
    if found is None:
        return None
    try:
        holder = _Holder(**json.loads(found.to_bytes()))
        datetime.fromisoformat(holder.beat).astimezone(UTC)
        return replace(holder, pid=abs(int(holder.pid)), started=float(holder.started))
    except (TypeError, ValueError, OverflowError):  # not half a lock, as stores write a key at once; nobody renews it
        return None


def _write(location: Location, holder: _Holder) -> None:
    sync(_key(location).set(_content(holder)))


def _content(holder: _Holder) -> Buffer:
    return default_buffer_prototype().buffer.from_bytes(json.dumps(asdict(holder)).encode())


def _key(location: Location) -> StorePath:
    return location.below(OWN_GROUP).node / NAME


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
