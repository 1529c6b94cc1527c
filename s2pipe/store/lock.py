"""One writer at a time: a lock in the store beside the result, with a heartbeat; a stale one is taken over."""

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
import zarr
from zarr.abc.buffer import Buffer
from zarr.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.errors import ContainsGroupError
from zarr.storage import FsspecStore

from s2pipe.core.errors import StoreError
from s2pipe.store.location import OWN_GROUP, Place, store_errors

log = logging.getLogger(__name__)

NAME = ".lock"
HEARTBEAT = 10.0
"""Seconds between two signs of life."""
STALE = 60.0
"""Seconds without one after which a writer on another machine is taken for dead; one on this machine is looked for."""
SETTLING = 0.3
"""Seconds after which a lock is looked at again, where two writers may both have thought that they wrote it."""
CLOCK = 5.0
"""Seconds by which the beginning of one process may be told differently when the clock is set."""


@dataclass(frozen=True, kw_only=True)
class _Holder:
    """Who writes.

    `beat` is when it last said so; `processes` see `_processes`; `started` when its process began, which tells it from a later
    one of the same number.
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
    """Tells apart where the same number is another process: machines, and containers of one, which may have one host name."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # only Linux has them
        return socket.gethostname()


@contextmanager
def hold(place: Place) -> Iterator[str]:
    """Be the only writer of a result within the block, which gets the token that `check_held` knows it by.

    The store and the group are made where they are not there yet.

    Raises
    ------
    StoreError
        If another writer is alive, on entering; or has taken the lock over, on leaving.
    """
    own = _Holder.here()
    refuse_if_held(place)
    with store_errors(place, "lock"):
        with suppress(ContainsGroupError):  # of another writer, who came at the same time
            zarr.open_group(store=place.store, mode="a", zarr_format=3)  # a folder of nothing but a lock would be nobody's
        _take(place, own)
        check_held(place, own.token)
        zarr.open_group(store=place.store, path=place.below(OWN_GROUP).path, mode="a", zarr_format=3)
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(place, own, done), name="s2pipe lock", daemon=True)
    beating.start()
    try:
        yield own.token
        check_held(place, own.token)
    finally:
        done.set()
        beating.join()
        _release(place, own)


def _take(place: Place, own: _Holder) -> None:
    """Write a lock where there is none, or a stale one; of two that come at once, one finds the other's afterwards."""
    stale = sync(place.store.exists(_key(place)))
    if stale:
        if _read(place) is None:  # no lock, or one that is being renewed
            time.sleep(SETTLING)
            refuse_if_held(place)
        sync(place.store.delete(_key(place)))
    sync(place.store.set_if_not_exists(_key(place), _content(own)))
    if stale or isinstance(place.store, FsspecStore):  # which looks first, and then writes
        time.sleep(SETTLING)


def refuse_if_held(place: Place) -> None:
    """StoreError where a writer of this result is alive."""
    holder = _read(place)
    if holder is not None and holder.is_alive():
        raise _held(place, holder)


def check_held(place: Place, token: str) -> None:
    """StoreError unless whoever has this token still holds the lock of this result: another may have taken him for dead."""
    with suppress(StoreError):
        if _token_at(place) == token:
            return
    time.sleep(SETTLING)  # some stores have nothing for a moment where a key is written again
    holder = _read(place)
    if holder is None:
        raise StoreError(
            f"{place} is no longer locked by this process: its lock is gone. Another may have taken it for dead, written, "
            "and ended; so nothing more is written here. The same job again writes what is lacking"
        )
    if holder.token != token:
        raise _held(place, holder)


def _token_at(place: Place) -> str | None:
    holder = _read(place)
    return None if holder is None else holder.token


def _held(place: Place, holder: _Holder) -> StoreError:
    return StoreError(
        f"{place} is being written by process {holder.pid} on {holder.host}, which last said so at {holder.beat}; wait until it "
        f"has ended, or write to another store or group. Where that machine is gone, the lock is free after {STALE:.0f} s"
    )


def _beat(place: Place, own: _Holder, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT):
        try:
            if _token_at(place) != own.token:
                log.error("another process has taken over the lock of %s; this one writes no more", place)
                return
            _write(place, replace(own, beat=_now()))
        except Exception as error:  # what the store fails with now, it may not the next time
            log.warning("cannot renew the lock of %s: %s", place, type(error).__name__)


def _release(place: Place, own: _Holder) -> None:
    try:
        if _token_at(place) == own.token:
            sync(place.store.delete(_key(place)))
    except Exception as error:  # it will be stale
        log.warning("cannot remove the lock of %s: %s", place, type(error).__name__)


def _read(place: Place) -> _Holder | None:
    found: Any = None
    with store_errors(place, "read the lock of"), suppress(FileNotFoundError, NotADirectoryError):
        # read-only, because zarr makes the folder of a store that it opens to write
        found = sync(place.store.with_read_only(True).get(_key(place), default_buffer_prototype()))
    if found is None:
        return None
    try:
        holder = _Holder(**json.loads(found.to_bytes()))
        datetime.fromisoformat(holder.beat).astimezone(UTC)
        return replace(holder, pid=abs(int(holder.pid)), started=float(holder.started))
    except (TypeError, ValueError, OverflowError):  # no store writes half a key; whatever this is, nobody renews it
        return None


def _write(place: Place, holder: _Holder) -> None:
    sync(place.store.set(_key(place), _content(holder)))


def _content(holder: _Holder) -> Buffer:
    return default_buffer_prototype().buffer.from_bytes(json.dumps(asdict(holder)).encode())


def _key(place: Place) -> str:
    return f"{place.below(OWN_GROUP).path}/{NAME}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
