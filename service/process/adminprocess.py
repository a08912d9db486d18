"""The admin process as its parent sees it: started before the workers, started again should it end, ended last."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Literal

from service.telemetry.relay import relayed

log = logging.getLogger("ranker")

AGAIN_S = 1.0  # before another takes a dead one's place: one that cannot live must not fill the log
STOP_S = 0.5
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
    bounds: dict[str, float]  # of connections: the fields of http.bounds.Bounds


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
        self.end()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def end(self) -> None:
        """Does not wait for it."""
        with self._lock:
            if not self._ending.is_set():
                self._ending.set()
                assert self._process.stdin
                self._process.stdin.close()

    def _start(self) -> None:
        told = json.dumps(asdict(self._task))
        # It needs no store, whose URL may hold a password; nor a pool of numpy's threads.
        environment = {name: value for name, value in os.environ.items() if name != "RANKER_REDIS_URL"}
        with relayed("admin") as log_lines:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(self._listener.fileno()), told],
                env=environment | {"OPENBLAS_NUM_THREADS": "1"} | log_lines.environment,
                stdin=subprocess.PIPE,  # it ends with it
                stderr=log_lines.stderr,
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
                if self._process.stdin:
                    self._process.stdin.close()
                try:
                    self._start()
                except OSError as error:  # no memory, no descriptors: tried again, since the workers go on
                    log.error("the admin process cannot be started: %s", error)


def _ended_by(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
