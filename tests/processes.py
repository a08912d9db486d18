"""Processes that tests start: each is stopped with all that it started, and leaves no process, port or folder behind.

What a test starts inherits a mark in its environment, and so does everything below, whatever session it is in: the
embedded store detaches itself, and a worker may outlive a parent that was killed. Linux tells who bears the mark;
elsewhere a process and its group are still stopped.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import NamedTuple, TypeVar
from uuid import uuid4

import pytest

ROOT = Path(__file__).parents[1]
PATIENCE_S, STOP_S, RUN_S = 60, 20, 240
FOLDERS = ("ranker-metrics-", "ranker-store-")  # what a service makes beside its bundle
MARK = "STARTED_BY_TEST"


def wait_until(holds: Callable[[], object], what: object = "waited too long") -> None:
    """Returns as soon as it holds; fails with `what` after PATIENCE_S. The one sleep of the tests that waits.

    It looks again after a twentieth of the time that it has waited: what is waited for needs the processor too.
    """
    began = time.monotonic()
    while not holds():
        waited = time.monotonic() - began
        assert waited < PATIENCE_S, str(what)
        time.sleep(min(max(0.01, waited / 20), 0.2))


class Born(NamedTuple):
    """A process, whatever later gets its number."""

    pid: int
    ticks: int


def _processes() -> dict[Born, int]:
    """Every process that has not ended, and its parent's number."""
    table = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            state, parent, *rest = path.read_text().rpartition(")")[2].split()
            if state != "Z":
                table[Born(int(path.parent.name), int(rest[17]))] = int(parent)
    return table


def cmdline(pid: int) -> bytes:
    """Words with zero bytes between; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Offspring:
    """All that was started inside `offspring()`."""

    def __init__(self) -> None:
        self.mark = uuid4().hex
        self.folders: set[Path] = set()
        self._sockets: set[str] = set()
        self._known: set[Born] = set()

    def pids(self) -> set[int]:
        """Processes that run: those with the mark, all below them, and what was one of them and runs on without.

        A Redis writes its title over its environment. What has ended and nobody has asked about does not run.
        """
        table = _processes()
        bearers = {one for one in table if self._marked(one.pid)}
        found, parents = bearers | self._known & set(table), bearers
        while parents:
            parents = {one for one in table if table[one] in {parent.pid for parent in parents}} - found
            found |= parents
        self._known |= found
        return {one.pid for one in found}

    def _marked(self, pid: int) -> bool:
        try:
            return f"{MARK}={self.mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # it has just ended, or is another user's
            return False

    def look(self) -> None:
        """Takes down which folders and sockets they hold: what must be gone when they are."""
        for pid in self.pids():
            held = [*Path(f"/proc/{pid}/fd").glob("*"), Path(f"/proc/{pid}/cwd")]
            for link in held:
                with suppress(OSError):
                    target = Path(os.readlink(link))
                    self._sockets |= {target.name} if target.name.startswith("socket:") else set()
                    self.folders |= {one for one in (target, *target.parents) if one.name.startswith(FOLDERS)}

    def ports(self) -> set[int]:
        """On which any of them has been seen to listen and somebody still does."""
        lines = [line.split() for name in ("tcp", "tcp6") for line in _lines(Path("/proc/net") / name)[1:]]
        listening = {f"socket:[{row[9]}]": int(row[1].rpartition(":")[2], 16) for row in lines if row[3] == "0A"}
        return {port for socket, port in listening.items() if socket in self._sockets}

    def kill(self) -> None:
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def check(self) -> None:
        try:
            wait_until(lambda: not self.pids(), "processes are left")
        finally:
            self.kill()
        assert not self.ports(), f"somebody listens on {self.ports()}"
        left = [folder for folder in self.folders if folder.exists()]
        assert not left, f"left behind: {left}"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@contextmanager
def offspring() -> Iterator[Offspring]:
    """For what is started inside by whatever function: it must be gone at the end, and is killed if the test fails."""
    resource_tracker.ensure_running()  # multiprocessing's, which lives as long as the tests do
    children = Offspring()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(MARK, children.mark)
        environment.delenv("RANKER_REAL_LOGS", raising=False)  # the tests' own: a service would call it no setting
        try:
            yield children
        except BaseException:
            children.kill()
            raise
        children.check()


class Running:
    """A process, all that it starts, and what it has said so far on both streams."""

    def __init__(self, process: "subprocess.Popen[str]", children: Offspring):
        self.process, self.children = process, children
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __str__(self) -> str:
        return self.output

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout:  # to its end: that of all that write to it
            for line in self.process.stdout:
                self.output += line

    def ended(self) -> int:
        """Its exit code, once it has ended and all its output is read."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def kill(self) -> None:
        """SIGKILL, which leaves it no time to clear away."""
        self.children.look()
        self.process.kill()
        self.ended()

    def stop(self) -> None:
        killed = self.process.poll() == -signal.SIGKILL
        if self.process.returncode is None:
            self.children.look()
            self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if killed:  # it could not clear away; the next start would
            for folder in self.children.folders:
                shutil.rmtree(folder, ignore_errors=True)


Process = TypeVar("Process", bound=Running)


@contextmanager
def started(
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    kind: type[Process] = Running,  # type: ignore[assignment]
) -> Iterator[Process]:
    """`python` with these arguments, in a session of its own; it is stopped on leaving, if it has not ended before."""
    with ExitStack() as stack:
        children = stack.enter_context(offspring())
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env={**(os.environ if environment is None else environment), MARK: children.mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        running = kind(process, children)
        stack.callback(running.stop)
        yield running


def finished(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """`python` with these arguments, to its end; with more in its environment than we have."""
    with offspring():
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=RUN_S
        )
