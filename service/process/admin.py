"""/health and /metrics on a port of their own, by a process that load on the workers does not reach.

It reads the workers' counts, as any of them does, and imports neither a model nor what runs one. `python -m service`
starts it before the workers, starts it again should it end, and ends it last. When its parent is gone, it ends itself.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import orjson
import uvicorn

from service.access.guard import Guard
from service.access.keyring import KNOWN, Keyring, Watch, keyring
from service.access.keys import METRICS as SCRAPE
from service.access.keys import OPEN
from service.errors import MethodNotAllowed, NotFound, RankerError, error_body
from service.process.child import end_with
from service.telemetry import logs
from service.telemetry.form import Form
from service.telemetry.reader import Reader

log = logging.getLogger("ranker")

LIVE, READY, METRICS = PATHS = ("/health/live", "/health/ready", "/metrics")
AGAIN_S = 1.0  # before another takes a dead one's place: one that cannot live must not fill the log
STOP_S = 2.0
_PROGRAM = "import sys; from service.process.admin import main; main(sys.argv[1:])"  # no verb: others need not start it


@dataclass(frozen=True)
class Task:
    """What the admin process is told, as JSON."""

    folder: str  # of the workers' counts
    workers: int  # that there should be
    routes: dict[str, list[str]]  # and what follows: the form of these counts, see Form
    reasons: list[str]
    budgets_s: list[float]
    log_level: str
    log_format: Literal["text", "json"]
    keys_file: str | None  # keys themselves come by the environment, which others cannot read as they can arguments
    metrics_open: bool


class AdminProcess:
    """A context: inside it the process listens on `listener`, and another takes its place should it end."""

    def __init__(self, listener: socket.socket, task: Task):
        self._listener, self._task = listener, task
        self._ending = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> "AdminProcess":
        self._start()
        threading.Thread(target=self._watch, name="admin-watch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._ending.set()
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        told = json.dumps(asdict(self._task))
        # It needs no store, whose URL may hold a password; nor a pool of numpy's threads.
        environment = {name: value for name, value in os.environ.items() if name != "RANKER_REDIS_URL"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(os.getpid()), str(self._listener.fileno()), told],
            env=environment | {"OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            pass_fds=[self._listener.fileno()],
            start_new_session=True,  # Ctrl-C reaches the whole group: it is to end last
        )

    def _watch(self) -> None:
        while True:
            code = self._process.wait()
            if self._ending.wait(AGAIN_S):
                return
            log.warning("the admin process ended (%s); another takes its place", _ended_by(code))
            with self._lock:
                if self._ending.is_set():
                    return
                try:
                    self._start()
                except OSError as error:  # no memory, no descriptors: tried again, since the workers go on
                    log.error("the admin process cannot be started: %s", error)


def _ended_by(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class Admin:
    """The ASGI application: three paths, each answered from the workers' records."""

    def __init__(self, reader: Reader, workers: int, ring: Keyring | None, metrics_open: bool):
        self._reader, self._workers = reader, workers
        scopes = {("GET", LIVE): OPEN, ("GET", READY): OPEN, ("GET", METRICS): SCRAPE}
        self._guard = Guard(ring, scopes, metrics_open)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            self._guard.admit(scope["method"], scope["path"], scope["headers"], count=True)
            status, content, headers = self._answer(scope["method"], scope["path"])
        except RankerError as error:
            status, content, headers = _refused(error)
        fields = {"content-type": "application/json", "content-length": str(len(content))} | headers
        raw = [(name.encode(), value.encode()) for name, value in fields.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": content})

    def _answer(self, method: str, path: str) -> tuple[int, bytes, dict[str, str]]:
        allowed = f"{method} {path} is not there; allowed: GET {', '.join(PATHS)}"
        if path not in PATHS:
            raise NotFound(allowed)
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
    headers = {"allow": "GET"} if isinstance(error, MethodNotAllowed) else dict(error.headers())
    return error.status, orjson.dumps(error_body(error.kind, str(error), os.urandom(16).hex())), headers


def main(arguments: Sequence[str]) -> None:
    """Serves until it is told to stop or its parent is gone. `arguments`: parent's id, listening descriptor, Task."""
    parent, descriptor, told = arguments
    end_with(int(parent))
    task = Task(**json.loads(told))
    logs.configure(task.log_level, task.log_format)
    keys_file = None if task.keys_file is None else Path(task.keys_file)
    ring = keyring(os.environ.get("RANKER_KEYS"), keys_file, os.environ.get(KNOWN))
    Watch(ring).start()
    reader = Reader(Path(task.folder), Form(task.routes, task.reasons, task.budgets_s))
    config = uvicorn.Config(
        Admin(reader, task.workers, ring, task.metrics_open),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again after an orderly shutdown
    uvicorn.Server(config).run([socket.socket(fileno=int(descriptor))])
