"""A plain client of POST /rank for benchmarks: messages made beforehand, one connection after another, a closed loop.

It is a socket and bytes: an HTTP library takes as long for a request as the service does beside scoring, and its time
would be told as the service's.
"""

import selectors
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import orjson

from loadtest.bench.processes import Service, holder
from loadtest.bench.users import HISTORY, STORED
from loadtest.errors import NoRun

STAGES = ("history", "encode", "score", "sort", "total")  # in an answer's timings_ms
MESSAGES = 50  # different ones, asked in turn
ANSWER_S = 60.0  # patience
LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
IDLE_S = 2.0  # a connection that waited longer is made anew: the service hangs up after five seconds
MIB = 2**20


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
    """One connection that asks its messages in turn. Raises NoRun for an answer that must not be timed."""

    def __init__(self, port: int, messages: Sequence[bytes], clicks: int = HISTORY):
        self._port, self._messages, self._next = port, messages, 0
        self._connection, self._answered = connect(port), time.perf_counter()
        try:
            first = self.ask_raw().body
            if (answer := orjson.loads(first))["history_length"] != clicks or answer["unknown_items"]:
                raise NoRun(f"a user with {clicks} clicks and known items is answered {first[-200:].decode()}")
        except NoRun:
            self.close()
            raise

    def ask_raw(self) -> Answer:
        message = self._messages[self._next % len(self._messages)]
        self._next += 1
        if time.perf_counter() - self._answered > IDLE_S:
            self.close()
            self._connection = connect(self._port)
        answer = checked(self._connection.ask(message))
        self._answered = time.perf_counter()
        return answer

    def ask(self) -> Ranked:
        answer = self.ask_raw()
        timings = orjson.loads(answer.body)["timings_ms"]
        return Ranked(1000 * answer.seconds, {name: timings[name] for name in STAGES})

    def several(self, count: int, untimed: int = 0) -> list[float]:
        """Milliseconds of `count` requests, after `untimed` ones."""
        times = [1000 * self.ask_raw().seconds for _ in range(untimed + count)]
        return times[untimed:]

    def close(self) -> None:
        self._connection.socket.close()


def connect(port: int) -> Connection:
    """A connection that a worker has already accepted."""
    connection = Connection(port)
    connection.ask(LIVE)
    return connection


def connect_each(running: Service, workers: int) -> list[Connection]:
    """A connection to every worker: which of them takes one is the kernel's choice. Raises NoRun."""
    by_worker: dict[int, Connection] = {}
    for _ in range(1000):
        connection = connect(running.port)
        worker = holder(connection.socket, running)
        if worker in by_worker:
            connection.socket.close()
        else:
            by_worker[worker] = connection
        if len(by_worker) == workers:
            return list(by_worker.values())
    raise NoRun(f"{len(by_worker)} of {workers} workers take connections")


def checked(answer: Answer) -> Answer:
    """The answer. Raises NoRun when it is an error, or was made without the user's history."""
    if answer.status != 200 or b'"degraded":[]' not in answer.body:
        raise NoRun(f"POST /rank is answered {answer.status}: {answer.body[-200:].decode(errors='replace')}")
    return answer


def rank_message(user_id: str, candidates: Sequence[str]) -> bytes:
    return message("/rank", {"user_id": user_id, "candidates": candidates})


def message(path: str, content: object) -> bytes:
    body = orjson.dumps(content)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def draw(items: int, candidates: int, count: int, rng: np.random.Generator) -> list[tuple[int, list[str]]]:
    """Requests: a stored user's number, and candidates drawn uniformly over all items."""
    return [
        (int(rng.integers(STORED)), [f"i{number}" for number in rng.integers(items, size=candidates)])
        for _ in range(count)
    ]


def rank_messages(items: int, candidates: int, count: int, rng: np.random.Generator) -> list[bytes]:
    return [rank_message(f"u{user}", ids) for user, ids in draw(items, candidates, count, rng)]


def closed_loop(port: int, messages: Sequence[bytes], clients: int, seconds: float) -> tuple[list[float], float]:
    """`clients` connections, each asking again as soon as it is answered: seconds of every answer, answers per second.

    Raises NoRun.
    """
    times: list[float] = []
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        begun = time.perf_counter()
        for number in range(clients):
            connection = stack.enter_context(Connection(port))
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send(messages[number % len(messages)])
        sent, waiting, until = clients, clients, begun + seconds
        while waiting:
            for key, _ in selector.select(ANSWER_S):
                answer = key.data.receive()
                if answer is None:
                    continue
                times.append(checked(answer).seconds)
                if time.perf_counter() < until:
                    key.data.send(messages[sent % len(messages)])
                    sent += 1
                else:
                    waiting -= 1
    return times, len(times) / (time.perf_counter() - begun)
