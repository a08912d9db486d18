"""/health and /metrics on a port of their own, by a process that load on the workers does not reach.

It reads the workers' counts, as any of them does, and imports neither a model nor what runs one. Its connections have
the workers' limits. It ends when its standard input does: its parent's end, or its parent's wish. It passes SIGTERM
over, which systemd sends to every process of a unit at once, since it is to tell of the others' end.
"""

import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import orjson
import uvicorn

from service.access.guard import Guard
from service.access.keyring import KNOWN, Keyring, Watch, keyring
from service.access.keys import METRICS as SCRAPE
from service.access.keys import OPEN
from service.api.http.bounds import Bounds
from service.api.http.door import Door
from service.api.http.lobby import LOBBY, Lobby
from service.errors import MethodNotAllowed, NotFound, RankerError, error_body
from service.process.adminprocess import Task
from service.telemetry import logs
from service.telemetry.form import Form
from service.telemetry.reader import Reader
from service.wire import codings

log = logging.getLogger("ranker")

ALLOW = "GET, HEAD, OPTIONS"
LIVE, READY, METRICS = PATHS = ("/health/live", "/health/ready", "/metrics")


class Admin:
    """The ASGI application: three paths, each answered from the workers' records."""

    def __init__(self, reader: Reader, workers: int, ring: Keyring | None, metrics_open: bool):
        self._reader, self._workers = reader, workers
        scopes = {("GET", LIVE): OPEN, ("GET", READY): OPEN, ("GET", METRICS): SCRAPE}
        self._guard = Guard(ring, scopes, metrics_open)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        method, path = scope["method"], scope["path"]
        try:
            self._guard.admit(method, path, scope["headers"], count=True)
            status, content, headers = self._answer("GET" if method == "HEAD" else method, path)
            if path == METRICS and method in ("GET", "HEAD"):
                content, headers = _shorter(content, headers, scope["headers"])
        except RankerError as error:
            status, content, headers = _refused(error)
        fields = {"content-type": "application/json", "content-length": str(len(content))} | headers
        raw = [(name.encode(), value.encode()) for name, value in fields.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else content})

    def _answer(self, method: str, path: str) -> tuple[int, bytes, dict[str, str]]:
        allowed = f"{method} {path} is not there; allowed: GET {', '.join(PATHS)}"
        if path not in PATHS:
            raise NotFound(allowed)
        if method == "OPTIONS":
            return 200, b"", {"allow": ALLOW}
        if method != "GET":
            raise MethodNotAllowed(allowed)
        if path == METRICS:
            content, media_type = self._reader.render()
            return 200, content, {"content-type": media_type}
        health = self._reader.health(self._workers)
        well = health.live if path == LIVE else health.ready
        body = health.body(path.rpartition("/")[2], well)
        return 200 if well else 503, orjson.dumps(body), {}


def _refused(error: RankerError) -> tuple[int, bytes, dict[str, str]]:
    headers = {"allow": ALLOW} if isinstance(error, MethodNotAllowed) else dict(error.headers())
    return error.status, orjson.dumps(error_body(error.kind, str(error), os.urandom(16).hex())), headers


def _shorter(
    content: bytes, headers: dict[str, str], asked: Iterable[tuple[bytes, bytes]]
) -> tuple[bytes, dict[str, str]]:
    """Compressed where the caller asks for it, as Prometheus does."""
    coding = codings.chosen(b",".join(value for name, value in asked if name == b"accept-encoding"))
    headers = headers | {"vary": "Accept-Encoding"}
    if coding is None:
        return content, headers
    return codings.compressed(coding, content), headers | {"content-encoding": coding}


def main(arguments: Sequence[str]) -> None:
    """Serves until its standard input ends. `arguments`: listening descriptor, Task."""
    descriptor, told = arguments
    task = Task(**json.loads(told))
    logs.configure(task.log_level, task.log_format)
    keys_file = None if task.keys_file is None else Path(task.keys_file)
    ring = keyring(os.environ.get("RANKER_KEYS"), keys_file, os.environ.get(KNOWN))
    Watch(ring).start()
    reader = Reader(Path(task.folder), Form(task.routes, task.reasons, task.budgets_s))
    config = uvicorn.Config(
        Admin(reader, task.workers, ring, task.metrics_open),
        loop="uvloop",
        http=cast(Any, Door),  # as of the workers, whose limits hold here too
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    server = Serving(config, Lobby(Bounds(**cast(Any, task.bounds)).afforded(others=0)))

    def watch() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
    server.run([socket.socket(fileno=int(descriptor))])


class Serving(uvicorn.Server):
    """uvicorn's, whose connections meet in a lobby: it tells the log of those that it refuses, and counts none."""

    def __init__(self, config: uvicorn.Config, lobby: Lobby):
        super().__init__(config)
        self._lobby = lobby

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.lifespan.state[LOBBY] = self._lobby
        await super().startup(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(one, signal.SIG_IGN)
        yield
