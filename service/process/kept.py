"""A process that the parent keeps beside the workers: started again should it end, ended with it."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType

from service.telemetry.relay import relayed

log = logging.getLogger("ranker")

AGAIN_S = 1.0  # before another takes a dead one's place: one that cannot live must not fill the log
STOP_S = 0.5


class KeptProcess:
    """A context: inside it the process runs, and another takes its place should it end.

    It ends when its standard input does.
    """

    def __init__(
        self, name: str, program: str, arguments: Sequence[str], unset: Sequence[str] = (), fds: Sequence[int] = ()
    ):
        """`program` is Python, no verb; `unset` are variables that it is to do without."""
        self._name, self._command, self._unset, self._fds = (
            name,
            [sys.executable, "-c", program, *arguments],
            unset,
            fds,
        )
        self._ending = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> "KeptProcess":
        self._start()
        threading.Thread(target=self._watch, name=f"{self._name}-watch", daemon=True).start()
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
        environment = {name: value for name, value in os.environ.items() if name not in self._unset}
        with relayed(self._name) as log_lines:
            self._process = subprocess.Popen(
                self._command,
                env=environment | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"} | log_lines.environment,
                stdin=subprocess.PIPE,  # it ends with it
                stderr=log_lines.stderr,
                pass_fds=self._fds,
                start_new_session=True,  # Ctrl-C reaches the whole group: it is to end last
            )

    def _watch(self) -> None:
        while True:
            code = self._process.wait()
            if self._ending.wait(AGAIN_S):
                return
            log.warning("the %s process ended (%s); another takes its place", self._name, _ended_by(code))
            with self._lock:
                if self._ending.is_set():
                    return
                if self._process.stdin:
                    self._process.stdin.close()
                try:
                    self._start()
                except OSError as error:  # no memory, no descriptors: tried again, since the workers go on
                    log.error("the %s process cannot be started: %s", self._name, error)


def _ended_by(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
