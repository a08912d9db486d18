"""A service and a store for the time of a benchmark, and what their processes hold. Linux."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import orjson
import redis

from loadtest.bench.caller import Connection, Person, _taken
from loadtest.errors import NoRun
from loadtest.peers import ROOT
from service.backfill import load_users
from service.store.embedded import EmbeddedStore, EmbeddedStoreError

START_S, STOP_S = 300.0, 15.0  # patience
KEEP, TTL_S = 100, 86_400
READY = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass
class Service:
    """A running `python -m service`; `ready_s` is the time from its start to /health/ready's 200."""

    port: int
    pid: int
    ready_s: float


@contextmanager
def service(bundle: Path, store_url: str, cpus: set[int] | None = None, **settings: object) -> Iterator[Service]:
    """The service with that bundle and store on a free port, stopped on leaving; on `cpus` alone, where given.

    Raises NoRun.
    """
    port = _free_port()
    given: dict[str, object] = {"bundle": bundle, "redis_url": store_url, "port": port, "log_level": "warning"}
    given |= {"history_timeout_ms": 1_000}  # on a busy machine no answer becomes a fast, degraded one
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RANKER_")}
    environment |= {f"RANKER_{name.upper()}": str(value) for name, value in (given | settings).items()}
    with tempfile.TemporaryFile() as said:
        begun = time.perf_counter()
        with on(cpus):
            process = subprocess.Popen(
                [sys.executable, "-m", "service"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,  # Ctrl-C reaches the benchmark alone, which then stops the service
            )
        try:
            while not _ready(port):
                if process.poll() is not None or time.perf_counter() - begun > START_S:
                    said.seek(0)
                    lines = said.read().decode(errors="replace").strip().splitlines()
                    raise NoRun(f"the service did not start: {lines[-1] if lines else 'without a word'}")
                time.sleep(0.002)
            yield Service(port, process.pid, time.perf_counter() - begun)
        finally:
            _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ready(port: int) -> bool:
    try:
        with Connection(port) as connection:
            return connection.ask(READY).status == 200
    except OSError:
        return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Asks it to end; what is left of it and its workers after STOP_S, or at a second Ctrl-C, is killed."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def on(cpus: set[int] | None) -> Iterator[None]:
    """This thread, and what it starts inside, runs on these cores alone; without any given nothing changes."""
    if not cpus:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def store(people: Sequence[Person]) -> Iterator[str]:
    """The URL of an embedded store that holds these users. Raises NoRun."""
    try:
        with EmbeddedStore() as embedded:
            load_users(map(orjson.dumps, people), embedded.url, keep=KEEP, ttl_s=TTL_S)
            yield embedded.url
    except (EmbeddedStoreError, redis.RedisError) as error:
        raise NoRun(str(error)) from None


# ---- processes: Linux


def tree(pid: int) -> set[int]:
    """The process and all below it. Raises NoRun where there is no /proc."""
    pairs = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            head, tail = path.read_text().rsplit(")", 1)
            pairs.append((int(head.split(" ", 1)[0]), int(tail.split()[1])))
    if not pairs:
        raise NoRun("processes and their memory are read from /proc: Linux is needed")
    found, parents = {pid}, {pid}
    while parents:
        parents = {child for child, parent in pairs if parent in parents}
        found |= parents
    return found


def pss(pid: int) -> int:
    """Bytes that a process tree holds; a page that n processes share counts 1/n in each. Raises NoRun."""
    total = 0
    for one in tree(pid):
        lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        total += 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return total


def connect_each(running: Service, workers: int) -> list[Connection]:
    """A connection to every worker: which of them takes one is the kernel's choice. Raises NoRun."""
    found: dict[int, Connection] = {}
    for _ in range(1000):
        connection = _taken(running.port)
        owner = _owner(connection, running)
        if owner in found:
            connection.socket.close()
        else:
            found[owner] = connection
        if len(found) == workers:
            return list(found.values())
    raise NoRun(f"{len(found)} of {workers} workers take connections")


def _owner(connection: Connection, running: Service) -> int:
    """The process at the other end."""
    ours = f":{connection.socket.getsockname()[1]:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inode = next(row[9] for row in rows if row[1].endswith(f":{running.port:04X}") and row[2].endswith(ours))
    for pid in tree(running.pid):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if os.readlink(descriptor) == f"socket:[{inode}]":
                    return pid
    raise NoRun("a connection that no process of the service holds")
