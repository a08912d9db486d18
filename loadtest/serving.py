"""What the benchmarks of serving share: the service as a process, a store with users, a plain connection, memory.

The client is a socket and bytes made beforehand: an HTTP library takes as long for a request as the service does
beside scoring, and its time would be told as the service's.
"""

import argparse
import gc
import json
import os
import platform
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import onnxruntime
import orjson
import redis
from matplotlib.figure import Figure
from tqdm import tqdm

from loadtest.bundles import CACHE, HISTORY, NOW_MS, made_up_users
from loadtest.errors import NoRun
from loadtest.peers import ROOT
from service.backfill import load_users
from service.embedded import EmbeddedStore, EmbeddedStoreError

OUT = ROOT / ".cache" / "bench"
START_S, STOP_S, ANSWER_S = 300.0, 15.0, 60.0  # patience
KEEP, TTL_S = 100, 86_400
STAGES = ("history", "encode", "score", "sort", "total")  # in an answer's timings_ms
USERS = 100  # in the store, each with a full history
MESSAGES = 50  # different ones, asked in turn
IDLE_S = 2.0  # a connection that waited longer is made anew: the service hangs up after five seconds
LIVE, READY = (f"GET /health/{what} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for what in ("live", "ready"))
MIB = 2**20
Person = dict[str, Any]  # as bundles.made_up_users makes them
Found = TypeVar("Found")


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


def recent_users(items: int, rng: np.random.Generator) -> list[Person]:
    """Made-up users whose newest click was made a moment ago."""
    shift_ms = time.time_ns() // 1_000_000 - NOW_MS
    people = made_up_users(USERS, items, rng)
    for person in people:
        person["behaviours"] = [[*what, when + shift_ms] for *what, when in person["behaviours"]]
    return people


class Answer(NamedTuple):
    seconds: float  # from the first byte sent to the last one read
    status: int
    body: bytes


class Connection:
    """One keep-alive connection of HTTP/1.1."""

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port), ANSWER_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held, self._begin, self._end, self._sent = b"", 0, 0, 0.0

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, message: bytes) -> None:
        self._held, self._end = b"", 0
        self._sent = time.perf_counter()
        self.socket.sendall(message)

    def receive(self) -> Answer | None:
        """Reads once; the answer when it is whole. Raises OSError when the service hangs up."""
        piece = self.socket.recv(MIB)
        if not piece:
            raise ConnectionResetError("the service hung up")
        self._held = self._held + piece if self._held else piece
        if not self._end:
            head = self._held.find(b"\r\n\r\n")
            if head < 0:
                return None
            _, _, length = self._held[:head].lower().partition(b"\r\ncontent-length:")
            self._begin = head + 4
            self._end = self._begin + int(length.partition(b"\r\n")[0])
        if len(self._held) < self._end:
            return None
        seconds = time.perf_counter() - self._sent
        return Answer(seconds, int(self._held[9:12]), self._held[self._begin : self._end])

    def ask(self, message: bytes) -> Answer:
        self.send(message)
        while (answer := self.receive()) is None:
            pass
        return answer


class Ranked(NamedTuple):
    """One answered POST /rank: the client's time and the answer's own stages, in milliseconds."""

    client: float
    stages: dict[str, float]


class Caller:
    """A client with one connection that asks its messages in turn. Raises NoRun for an answer that counts nothing."""

    def __init__(self, port: int, messages: Sequence[bytes]):
        self._port, self._messages, self._next = port, messages, 0
        self._connection, self._answered = _taken(port), time.perf_counter()
        try:
            first = self.ask_raw().body
            if (found := orjson.loads(first))["history_length"] != HISTORY or found["unknown_items"]:
                raise NoRun(f"a user with {HISTORY} clicks and known items is answered {first[-200:].decode()}")
        except NoRun:
            self.close()
            raise

    def ask_raw(self) -> Answer:
        message = self._messages[self._next % len(self._messages)]
        self._next += 1
        if time.perf_counter() - self._answered > IDLE_S:
            self.close()
            self._connection = _taken(self._port)
        answer = checked(self._connection.ask(message))
        self._answered = time.perf_counter()
        return answer

    def ask(self) -> Ranked:
        answer = self.ask_raw()
        timings = orjson.loads(answer.body)["timings_ms"]
        return Ranked(1000 * answer.seconds, {name: timings[name] for name in STAGES})

    def several(self, count: int, untimed: int = 0) -> list[float]:
        """Milliseconds of `count` requests, after some that are not told."""
        times = [1000 * self.ask_raw().seconds for _ in range(untimed + count)]
        return times[untimed:]

    def close(self) -> None:
        self._connection.socket.close()


def _taken(port: int) -> Connection:
    """A connection that a worker has already accepted."""
    connection = Connection(port)
    connection.ask(LIVE)
    return connection


def checked(answer: Answer) -> Answer:
    """The answer. Raises NoRun when it is an error, or was made without the user's history."""
    if answer.status != 200 or b'"degraded":[]' not in answer.body:
        raise NoRun(f"POST /rank is answered {answer.status}: {answer.body[-200:].decode(errors='replace')}")
    return answer


def rank_message(user_id: str, candidates: Sequence[str]) -> bytes:
    body = orjson.dumps({"user_id": user_id, "candidates": candidates})
    head = f"POST /rank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def draw(items: int, candidates: int, count: int, rng: np.random.Generator) -> list[tuple[int, list[str]]]:
    """Requests: a user's number, and candidates drawn uniformly over all items."""
    return [
        (int(rng.integers(USERS)), [f"i{number}" for number in rng.integers(items, size=candidates)])
        for _ in range(count)
    ]


def messages(items: int, candidates: int, count: int, rng: np.random.Generator) -> list[bytes]:
    return [rank_message(f"u{user}", ids) for user, ids in draw(items, candidates, count, rng)]


def closed_loop(port: int, asked: Sequence[bytes], clients: int, seconds: float) -> tuple[list[float], float]:
    """`clients` connections, each asking again as soon as it is answered: seconds of every answer, answers a second.

    Raises NoRun.
    """
    times: list[float] = []
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        begun = time.perf_counter()
        for number in range(clients):
            connection = stack.enter_context(Connection(port))
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send(asked[number % len(asked)])
        sent, waiting, until = clients, clients, begun + seconds
        while waiting:
            for key, _ in selector.select(ANSWER_S):
                answer = key.data.receive()
                if answer is None:
                    continue
                times.append(checked(answer).seconds)
                if time.perf_counter() < until:
                    key.data.send(asked[sent % len(asked)])
                    sent += 1
                else:
                    waiting -= 1
    return times, len(times) / (time.perf_counter() - begun)


def take_turns(what: str, rounds: int, sides: Mapping[str, Callable[[], Found]]) -> dict[str, list[Found]]:
    """What each side finds, round by round; every round begins with another side."""
    found: dict[str, list[Found]] = {name: [] for name in sides}
    names = list(sides)
    gc.collect()
    gc.freeze()  # messages and libraries stay: the collector need not walk them while the clock runs
    with tqdm(total=rounds * len(sides), desc=what, unit="round", delay=1, leave=False) as bar:
        for number in range(rounds):
            first = number % len(names)
            for name in (*names[first:], *names[:first]):
                bar.set_postfix_str(name, refresh=False)
                found[name].append(sides[name]())
                bar.update()
    gc.unfreeze()
    return found


def ratio(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """The median over the rounds of the ratio of their medians: what slows a whole round down is in both."""
    return statistics.median(statistics.median(a) / statistics.median(b) for a, b in zip(one, other, strict=True))


def p50(rounds: Sequence[Sequence[float]]) -> float:
    return statistics.median(time for one in rounds for time in one)


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


# ---- commands


def parser(name: str, description: str, sides: bool = True) -> argparse.ArgumentParser:
    """With what all these benchmarks take; those that compare sides on made-up bundles take `--rounds` and `--cache`.

    `--rounds` is None where it is not given.
    """
    made = argparse.ArgumentParser(
        f"python -m loadtest.{name}", description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works: no figures to quote")
    if sides:
        made.add_argument("--rounds", type=positive, help="that all sides take, in turn")
        made.add_argument("--cache", type=Path, default=CACHE, help="where its bundles are kept")
    made.add_argument("--out", type=Path, default=OUT / f"{name}.png", help="of the plot, .png")
    return made


def parse(made: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    given = made.parse_args(arguments)
    if "cache" in given and given.cache.exists() and not given.cache.is_dir():
        made.error(f"--cache {given.cache} is no folder")
    if given.out.suffix != ".png":
        made.error(f"--out {given.out} given, a file that ends in .png is allowed")
    return given


def positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}; integers of at least 1 are allowed")
    return int(text)


def command(name: str, out: Path, measure: Callable[[], tuple[dict[str, Any], str, Figure]]) -> int:
    """Measures, draws, and prints the table and the JSON line: the exit code. SIGTERM ends it as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        figures, table, figure = measure()
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=150)
    except (NoRun, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    print(f"{table}\n{machine()}\nplot: {out}")
    print(json.dumps(_rounded(figures | {"machine": machine(), "plot": str(out)})))
    return 0


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _rounded(one) for key, one in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def machine() -> str:
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return f"{name}, {os.cpu_count()} cores, onnxruntime {onnxruntime.__version__}"
