"""A service for the time of a run: `python -m service` on a free port of the loopback; and a look at its processes.

It knows the service by its command and by HTTP alone, so that the load test can start one without torch.
"""

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from loadtest.errors import NoRun, OneCore

START_S, STOP_S, ANSWER_S = 300.0, 15.0, 5.0  # patience


@dataclass
class Service:
    """A running service; `ready_s` is the time from its start to /health/ready's 200."""

    port: int
    pid: int
    ready_s: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def bare_environment() -> dict[str, str]:
    """Ours without its RANKER_*: a benchmark measures the same service whatever its caller has set."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RANKER_")}


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """No two of them the same: all are taken until the last is found."""
    with ExitStack() as taken:
        sockets = [taken.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@contextmanager
def service(
    environment: Mapping[str, str] | None = None,
    cpus: set[int] | None = None,
    checkout: Path | None = None,
    **settings: object,
) -> Iterator[Service]:
    """A service that is ready, on these cores alone where any are named; it is stopped on leaving. Raises NoRun.

    `settings` go before `environment`, which is by default the bare one. `checkout`: whose service, ours by default.
    """
    if environment is None:
        environment = bare_environment()
        # A busy machine makes no answer fast and degraded, and none late.
        settings = {"history_timeout_ms": 1_000, "timeout_ms": 10_000} | settings
    if checkout is not None:
        environment = {**environment, "PYTHONPATH": str(checkout)}
    port = free_port()
    settings |= {"host": "127.0.0.1", "port": port}
    named = {f"RANKER_{name.upper()}": str(value) for name, value in settings.items()}
    with tempfile.TemporaryFile() as output:
        begun = time.perf_counter()
        with on(cpus):
            process = subprocess.Popen(
                [sys.executable, "-m", "service"],
                cwd=checkout,  # `-m` looks there first
                env={"RANKER_LOG_LEVEL": "warning", **environment, **named},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches the run alone, which then stops the service
            )
        try:
            while not ready(port):
                if process.poll() is not None or time.perf_counter() - begun > START_S:
                    output.seek(0)
                    lines = output.read().decode(errors="replace").strip().splitlines()
                    raise NoRun(f"the service did not start: {lines[-1] if lines else 'without a word'}")
                time.sleep(0.002)
            yield Service(port, process.pid, time.perf_counter() - begun)
        finally:
            _stop(process)


def ready(port: int) -> bool:
    """Whether the service on that port says so."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)  # which knows of no proxies
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Asks it to end, without waiting for balancers; what is left after STOP_S, or at a second Ctrl-C, is killed."""
    process.send_signal(signal.SIGINT)
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def output_of(process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    """What a process has written to its pipes once it has ended; whoever no longer waits for it kills it."""
    try:
        return await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@contextmanager
def on(cpus: set[int] | None) -> Iterator[None]:
    """This thread, and what it starts inside, runs on these cores alone; without any nothing changes."""
    if not cpus:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def two_cores() -> tuple[set[int], set[int]]:
    """One core for a service and one for what loads it. Raises OneCore."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        raise OneCore(
            f"{len(cores) or 'no'} core to choose from; two are needed, one for the service and one for its load"
        )
    return {cores[-1]}, {cores[0]}


# ---- a look at processes: Linux


def tree(pid: int) -> set[int]:
    """The process and all below it. Raises NoRun where there is no /proc."""
    pairs = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            head, tail = path.read_text().rsplit(")", 1)
            pairs.append((int(head.split(" ", 1)[0]), int(tail.split()[1])))
    if not pairs:
        raise NoRun("processes and their memory are read from /proc: Linux is needed")
    below, parents = {pid}, {pid}
    while parents:
        parents = {child for child, parent in pairs if parent in parents}
        below |= parents
    return below


def pss(pid: int) -> int:
    """Bytes that a process tree holds; a page that n processes share counts 1/n in each. Raises NoRun."""
    return sum(_of_each(pid, _pss))


def descriptors(pid: int) -> int:
    """Files and sockets that a process tree has open. Raises NoRun."""
    return sum(_of_each(pid, lambda one: len(list(Path(f"/proc/{one}/fd").iterdir()))))


def _pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])


def _of_each(pid: int, look: Callable[[int], int]) -> Iterator[int]:
    """A look at each process of a tree; those below that have just ended are passed over. Raises NoRun."""
    for one in tree(pid):
        try:
            yield look(one)
        except (OSError, StopIteration):  # a process that nobody has waited for yet has no memory
            if one == pid:
                raise NoRun(f"process {pid} has ended") from None


def holder(client: socket.socket, running: Service) -> int:
    """The process of the service at the other end of a connection. Raises NoRun."""
    ours = f":{client.getsockname()[1]:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inode = next(row[9] for row in rows if row[1].endswith(f":{running.port:04X}") and row[2].endswith(ours))
    for pid in tree(running.pid):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if os.readlink(descriptor) == f"socket:[{inode}]":
                    return pid
    raise NoRun("a connection that no process of the service holds")
