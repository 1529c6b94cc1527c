import json
import os
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from refusals import refused
from zarr.storage import MemoryStore

from s2pipe.core.errors import StoreError
from s2pipe.store import lock
from s2pipe.store.location import locate
from s2pipe.store.lock import check_held, hold, refuse_if_held


@pytest.fixture
def location(tmp_path):
    return locate(tmp_path / "a.zarr", "T18SVG")


def file(location):
    return location.store.root / location.path / "s2pipe" / ".lock"


def write(location, **changes):
    """A lock as another process would have left it."""
    stated = {
        "token": "another",
        "host": "elsewhere",
        "processes": "those of elsewhere",
        "pid": 1,
        "started": 0.0,
        "beat": datetime.now(UTC).isoformat(),
    }
    file(location).parent.mkdir(parents=True, exist_ok=True)
    file(location).write_text(json.dumps(stated | changes))


def test_a_second_writer_is_refused_while_the_first_is_alive(location):
    with hold(location):
        with (
            refused("store", "group", kind=StoreError, naming=(location, os.getpid(), socket.gethostname())),
            hold(location),
        ):
            pass
        with refused("store", "group", kind=StoreError):
            refuse_if_held(location)
    refuse_if_held(location)
    assert not file(location).exists()


def test_other_groups_are_free(location):
    with hold(location), hold(location.at("T33UUB")):
        pass


def test_a_failure_within_sets_it_free(location):
    with pytest.raises(ValueError, match="within"), hold(location):
        raise ValueError("within")
    assert not file(location).exists()


def test_the_lock_of_a_dead_process_of_this_machine_is_taken_over_at_once(location):
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    write(location, processes=lock._processes(), pid=int(child.stdout), started=time.time())
    with hold(location):
        pass


def test_a_process_number_used_again_is_no_sign_of_life(location):
    write(location, processes=lock._processes(), pid=os.getpid(), started=1.0)
    with hold(location):
        pass


@pytest.mark.parametrize(("silent", "taken"), [(lock.STALE - 10, False), (lock.STALE + 10, True)])
def test_a_writer_elsewhere_is_dead_when_it_is_silent_for_long(location, silent, taken):
    write(location, beat=(datetime.now(UTC) - timedelta(seconds=silent)).isoformat())
    if taken:
        refuse_if_held(location)
    else:
        with refused("store", "group", kind=StoreError, naming=("elsewhere",)):
            refuse_if_held(location)


def test_a_writer_in_another_container_of_the_same_name_is_not_looked_for_here(location):
    write(location, host=socket.gethostname(), pid=2**22 + 1)
    with refused("store", "group", kind=StoreError):
        refuse_if_held(location)


def test_it_says_that_it_is_alive(location, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
    monkeypatch.setattr(lock, "_now", lambda: datetime.now(UTC).isoformat())
    with hold(location):
        before = json.loads(file(location).read_text())
        time.sleep(0.5)
        after = json.loads(file(location).read_text())
    assert after["beat"] > before["beat"] and after["token"] == before["token"]
    assert not [thread for thread in threading.enumerate() if thread.name == "s2pipe lock"]


def test_whoever_lost_it_is_told_and_leaves_it_alone(location, monkeypatch, caplog):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
    with refused("store", "group", kind=StoreError, naming=("elsewhere",)):  # noqa: SIM117 - raised on leaving
        with hold(location):
            write(location)
            time.sleep(0.3)
    assert "another process has taken over the lock" in caplog.text
    assert json.loads(file(location).read_text())["token"] == "another"


def test_a_lock_that_is_gone_is_lost_and_not_taken_again(location, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
    with refused(kind=StoreError, naming=(location,)):  # noqa: SIM117 - raised on leaving
        with hold(location):
            file(location).unlink()
            time.sleep(0.3)
    assert not file(location).exists()


def test_a_lock_that_cannot_be_read_for_a_moment_is_held(location, monkeypatch):
    monkeypatch.setattr(lock, "SETTLING", 0.1)
    with hold(location) as token:
        content = file(location).read_text()
        file(location).write_text("")
        threading.Timer(0.05, file(location).write_text, [content]).start()
        check_held(location, token)


def test_what_is_no_lock_is_nobodys(location):
    write(location)
    file(location).write_text("{")
    with hold(location):
        pass


@pytest.mark.parametrize("wrong", [{"pid": "a"}, {"pid": None}, {"started": "a"}, {"beat": "9999-12-31T23:59:59-05:00"}])
def test_a_lock_of_wrong_values_is_nobodys(location, wrong):
    write(location, **wrong)
    with hold(location):
        pass


def test_looking_leaves_nothing_behind(tmp_path):
    refuse_if_held(locate(tmp_path / "a.zarr", None))
    memory = MemoryStore()
    refuse_if_held(locate(memory, None))
    assert not list(tmp_path.iterdir()) and not memory._store_dict
