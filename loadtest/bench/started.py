"""A service for the time of a load test: `python -m service` on a free port of the loopback, stopped afterwards.

Its settings are the environment's `RANKER_*` (workers, bundle, store, ...), address and port apart.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from loadtest.errors import NoRun

START_S, STOP_S, ANSWER_S = 120.0, 15.0, 5.0  # patience


@contextmanager
def started(**settings: object) -> Iterator[str]:
    """The URL of a service that is ready; `settings` go before the environment's. Raises NoRun."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = os.environ | {"RANKER_HOST": "127.0.0.1", "RANKER_PORT": str(port)}
    environment |= {f"RANKER_{name.upper()}": str(value) for name, value in settings.items()}
    environment.setdefault("RANKER_LOG_LEVEL", "warning")
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "service"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,  # Ctrl-C reaches the load test alone, which then stops the service
        )
        try:
            deadline = time.monotonic() + START_S
            while not _ready(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    lines = said.read().decode(errors="replace").strip().splitlines()
                    raise NoRun(f"the service did not start: {lines[-1] if lines else 'without a word'}")
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            _stop(process)


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)  # which knows of no proxies
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Asks it to end; what is left of it and its workers after STOP_S, or at a second Ctrl-C, is killed."""
    process.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
