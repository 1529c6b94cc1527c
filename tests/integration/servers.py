"""Real servers on 127.0.0.1: COGs over http with byte ranges, and a STAC API on PostgreSQL and PostGIS."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import ThreadingHTTPServer
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import parse_qs, urlsplit

from RangeHTTPServer import RangeRequestHandler

HOST = "127.0.0.1"


class MissingService(Exception):
    """A program that a server needs is not installed."""


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_until(ready: Callable[[], bool], what: str, timeout: float = 60.0) -> None:
    """Poll `ready` until it is true."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not start within {timeout:.0f} s")
        time.sleep(0.05)


# --- COGs over http -------------------------------------------------------------------------------------------------


Fault = int | Literal["stall", "dribble"]


@dataclass(frozen=True)
class Request:
    """One answered request."""

    path: str
    query: str
    status: int


class AssetServer:
    """The files of a folder over http with byte ranges; faults and access rules are set by path prefix.

    Made by `asset_server`, it lives in a process of its own: GDAL holds the interpreter's lock while it opens a file, so
    that a server in the tests' process could never answer it.
    """

    def __init__(self, folder: Path) -> None:
        self._requests: list[Request] = []
        self._faults: dict[str, tuple[Fault, float]] = {}
        self._cuts: dict[str, int] = {}
        self._protected: list[str] = []
        self._tokens: dict[str, str] = {}
        self._lock = threading.Lock()
        self._httpd = _QuietHTTPServer((HOST, 0), partial(_AssetHandler, assets=self, directory=str(folder)))
        threading.Thread(target=self._httpd.serve_forever, daemon=True).start()

    def url(self) -> str:
        """Address of the folder, without a slash at its end."""
        return f"http://{HOST}:{self._httpd.server_port}"

    def fail(self, prefix: str, fault: Fault, *, times: float = math.inf) -> None:
        """Answer the next `times` requests below `prefix` with a status, or never ("stall"), or byte by byte ("dribble")."""
        with self._lock:
            self._faults[prefix] = (fault, times)

    def faults_left(self) -> float:
        """How many requests are still to fail."""
        with self._lock:
            return sum(times for _, times in self._faults.values())

    def cut(self, prefix: str, size: int) -> None:
        """Announce whole answers below `prefix`, but drop the connection at byte `size` of the file."""
        self._cuts[prefix] = size

    def protect(self, prefix: str) -> None:
        """Answer 403 below `prefix` unless ``?sig=`` holds a live token issued for the very path."""
        self._protected.append(prefix)

    def issue_token(self, path: str) -> str:
        """A token good for `path` until `expire_tokens`."""
        token = secrets.token_hex(16)
        with self._lock:
            self._tokens[token] = path
        return token

    def expire_tokens(self) -> None:
        """End the life of every token issued so far."""
        with self._lock:
            self._tokens.clear()

    def requests(self, prefix: str = "/", status: int | None = None) -> list[Request]:
        """The requests below `prefix` in order, those answered with `status` or all."""
        return [r for r in self._requests if r.path.startswith(prefix) and status in (None, r.status)]

    def record(self, request: Request) -> None:
        """Keep an answered request."""
        self._requests.append(request)

    def fault(self, path: str, query: str) -> Fault | None:
        """What goes wrong with this request, if anything."""
        with self._lock:
            for prefix, (fault, times) in self._faults.items():
                if path.startswith(prefix) and times > 0:
                    self._faults[prefix] = (fault, times - 1)
                    return fault
            if any(path.startswith(prefix) for prefix in self._protected):
                token = parse_qs(query).get("sig", [""])[0]
                if self._tokens.get(token) != path:
                    return 403
        return None

    def end_of(self, path: str) -> float:
        """Byte of the file at which the connection drops."""
        return min((size for prefix, size in self._cuts.items() if path.startswith(prefix)), default=math.inf)


class _Manager(BaseManager):
    pass


_Manager.register("AssetServer", AssetServer)


@contextlib.contextmanager
def asset_server(folder: Path) -> Iterator[AssetServer]:
    """A running `AssetServer`, as a proxy to its process."""
    with _Manager(ctx=multiprocessing.get_context("spawn")) as manager:
        yield manager.AssetServer(folder)


class _QuietHTTPServer(ThreadingHTTPServer):
    request_queue_size = 128  # GDAL opens many connections at once

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client may hang up whenever it likes
            super().handle_error(request, client_address)


class _AssetHandler(RangeRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *args: Any, assets: AssetServer, **kwargs: Any) -> None:
        self.assets = assets
        super().__init__(*args, **kwargs)

    def send_head(self) -> BinaryIO | None:
        where = urlsplit(self.path)
        self.fault = self.assets.fault(where.path, where.query)
        if self.fault in (None, "dribble"):
            return super().send_head()
        if self.fault == "stall":
            self.connection.recv(1)  # returns when the client hangs up
            raise ConnectionAbortedError
        self.send_error(self.fault)
        return None

    def copyfile(self, source: BinaryIO, outputfile: BinaryIO) -> None:
        end = self.assets.end_of(urlsplit(self.path).path)
        start, stop = self.range or (0, None)
        if self.fault == "dribble":
            source.seek(start)
            while byte := source.read(1):  # until the client hangs up
                outputfile.write(byte)
                time.sleep(0.1)
            return
        if math.isinf(end) or (stop is not None and stop < end):
            super().copyfile(source, outputfile)
            return
        source.seek(start)
        outputfile.write(source.read(max(int(end) - start, 0)))
        self.close_connection = True

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        where = urlsplit(self.path)
        self.assets.record(Request(where.path, where.query, int(code)))

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean; `AssetServer.requests` is the log."""


# --- STAC API -------------------------------------------------------------------------------------------------------


def _postgres_programs() -> Path:
    """Folder of initdb and pg_ctl, which Debian keeps off the PATH."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if not folders:
        raise MissingService("PostgreSQL is not installed (Debian: postgresql, postgresql-postgis)")
    return folders[-1].parent


def _unprivileged() -> dict[str, Any]:
    """Arguments of `subprocess.run` to run as a user PostgreSQL accepts: it refuses root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def postgres() -> Iterator[dict[str, str]]:
    """A fresh PostgreSQL server with PostGIS at hand; gives the ``PG*`` variables that lead to it."""
    programs, identity = _postgres_programs(), _unprivileged()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="s2pipe-postgres-", ignore_cleanup_errors=True) as folder:
        if identity:
            os.chown(folder, identity["user"], identity["group"])
        data, log = f"{folder}/data", f"{folder}/log"

        def run(*command: str) -> None:
            done = subprocess.run(
                [str(programs / command[0]), *command[1:]],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # a pipe would stay open in the server
                stderr=subprocess.PIPE if command[0] == "initdb" else subprocess.DEVNULL,
                text=True,
                **identity,
            )
            if done.returncode:
                details = Path(log).read_text() if Path(log).exists() else done.stderr
                raise RuntimeError(f"{command[0]} failed: {details}")

        run("initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        options = f"-p {port} -c listen_addresses={HOST} -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "start", "-w", "-D", data, "-l", log, "-o", options)
        try:
            yield {
                "PGHOST": HOST,
                "PGPORT": str(port),
                "PGUSER": "postgres",
                "PGDATABASE": "postgres",
                "PGPASSWORD": "unused",
            }
        finally:
            run("pg_ctl", "stop", "-w", "-m", "fast", "-D", data)


def _require_postgis(variables: dict[str, str]) -> None:
    import psycopg

    address = f"host={variables['PGHOST']} port={variables['PGPORT']} user=postgres dbname=postgres"
    with psycopg.connect(address) as connection:
        found = connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'postgis'").fetchone()
    if found is None:
        raise MissingService("PostGIS is not installed (Debian: postgresql-postgis)")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


@contextlib.contextmanager
def stac_api(collections: list[dict[str, Any]], items: list[dict[str, Any]]) -> Iterator[str]:
    """The reference STAC API (stac-fastapi on pgstac) that holds `collections` and `items`; gives its address.

    Raises
    ------
    MissingService
        If PostgreSQL or PostGIS is not installed.
    """
    with contextlib.ExitStack() as stack:
        variables = stack.enter_context(postgres())
        _require_postgis(variables)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="s2pipe-stac-api-")))
        environment = {**os.environ, **variables}

        def pypgstac(*arguments: str) -> None:
            command = [sys.executable, "-m", "pypgstac.pypgstac", *arguments]
            done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"pypgstac {arguments[0]} failed: {done.stdout}{done.stderr}")

        pypgstac("migrate")
        for kind, documents in (("collections", collections), ("items", items)):
            (folder / f"{kind}.ndjson").write_text("".join(f"{json.dumps(document)}\n" for document in documents))
            pypgstac("load", kind, f"{kind}.ndjson")

        port = free_port()
        log = stack.enter_context((folder / "api.log").open("w+"))
        application = ["-m", "uvicorn", "--factory", "stac_fastapi.pgstac.app:create_app"]
        server = subprocess.Popen(
            [sys.executable, *application, "--host", HOST, "--port", str(port), "--log-level", "warning"],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        stack.callback(server.wait)
        stack.callback(server.terminate)
        url = f"http://{HOST}:{port}"

        def ready() -> bool:
            if server.poll() is not None:
                log.seek(0)
                raise RuntimeError(f"the STAC API stopped: {log.read()}")
            return _answers(f"{url}/_mgmt/ping")

        wait_until(ready, "the STAC API")
        yield url
