"""A request's time begins when its bytes were there, however late they are looked at; and what uvicorn's protocol makes
of callers who hang up. On a real server, whose loop the tests hold."""

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import uvicorn

from service.api.arrival import ARRIVAL, TURNSTILE, Arrival, Door
from service.api.stamps import stamped
from tests.processes import wait_until

PATIENCE_S = 30
CLOCKS_S = 0.002  # two clocks are compared


class Server:
    """A server whose application answers with what it was sent, and tells of each request's arrival."""

    address: Any
    loop: asyncio.AbstractEventLoop
    config: uvicorn.Config

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.finished = 0
        self.answer: bytes | None = None  # the turnstile's
        self.turned_away = 0
        self._held, self._free = threading.Event(), threading.Event()
        self._under_way = asyncio.Event()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            scope["state"][TURNSTILE] = self.turnstile
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
            return
        if scope["path"] == "/hold":  # the loop itself, and all that comes meanwhile
            self._held.set()
            self._free.wait(PATIENCE_S)
        self.arrivals.append(scope[ARRIVAL])
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if scope["path"] == "/wait":
            await self._under_way.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})
        self.finished += 1

    def turnstile(self, *_: Any) -> bytes | None:
        self.turned_away += self.answer is not None
        return self.answer

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, PATIENCE_S)

    @contextmanager
    def loop_held(self) -> Iterator[None]:
        with self.connect() as one:
            one.sendall(request("/hold"))
            self._held.wait(PATIENCE_S)
            try:
                yield
            finally:
                self._free.set()
            one.recv(1000)

    def let_all_go(self) -> None:
        self.loop.call_soon_threadsafe(self._under_way.set)


def request(path: str, body: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stamped(listener)
        made.address = listener.getsockname()
        config = made.config = uvicorn.Config(
            made.app, interface="asgi3", loop="uvloop", http=cast(Any, Door), ws="none", log_config=None
        )
        running = uvicorn.Server(config)

        async def serve() -> None:
            made.loop = asyncio.get_running_loop()
            await running.serve([listener])

        thread = threading.Thread(target=lambda: asyncio.Runner(loop_factory=config.get_loop_factory()).run(serve()))
        thread.start()
        try:
            wait_until(lambda: running.started)
            yield made
        finally:
            made._free.set()
            made.let_all_go()
            running.should_exit = True
            thread.join()


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps what comes in")


@on_linux
def test_what_waits_to_be_accepted_or_read_has_begun_when_its_bytes_came(server: Server) -> None:
    with server.connect() as known, socket.socket() as fresh:
        known.sendall(request("/first"))
        known.recv(1000)
        with server.loop_held():
            spans = []
            for one in (known, fresh):
                if one is fresh:
                    fresh.connect(server.address)
                before = time.perf_counter()
                one.sendall(request("/late"))
                spans.append((before, time.perf_counter()))
        for one in (known, fresh):
            assert one.recv(1000).startswith(b"HTTP/1.1 200")
    _, held, *late = server.arrivals
    for arrival, (before, after) in zip(sorted(late, key=lambda a: a.begun), spans, strict=True):
        assert before - CLOCKS_S <= arrival.begun <= after + CLOCKS_S
        assert arrival.whole == arrival.begun > held.begun


@on_linux
def test_the_callers_own_upload_is_told_apart(server: Server) -> None:
    head, tail = request("/slow", b"x" * 100)[:80], request("/slow", b"x" * 100)[80:]
    with server.connect() as one:
        before = time.perf_counter()
        one.sendall(head)
        wait_until(lambda: server.arrivals, "the head was not read")
        sent = time.perf_counter()
        one.sendall(tail)
        one.recv(1000)
    [arrival] = server.arrivals
    assert arrival.whole is not None
    assert before - CLOCKS_S <= arrival.begun < sent - 0 <= arrival.whole + CLOCKS_S


@pytest.mark.parametrize("requests", [1, 3])
def test_who_hangs_up_is_known_and_fails_nothing(
    server: Server, requests: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Of pipelined requests too, of which uvicorn tells the last alone."""
    with server.connect() as one:
        one.sendall(request("/wait", b"body") * requests)
        wait_until(lambda: server.arrivals)
        assert not server.arrivals[0].gone()
    wait_until(lambda: server.arrivals[0].gone(), "nobody noticed that the caller hung up")
    server.let_all_go()
    wait_until(lambda: server.finished)
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


REFUSAL = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\nno"
CLOSING = REFUSAL.replace(b"Requests\r\n", b"Requests\r\nconnection: close\r\n")


def everything(one: socket.socket) -> bytes:
    """What comes until the other side closes. Raises where it resets."""
    return b"".join(iter(lambda: one.recv(1000), b""))


def test_what_is_turned_away_by_its_head_costs_no_task_and_keeps_the_connection(server: Server) -> None:
    body = b"x" * 300_000
    with server.connect() as one:
        server.answer = REFUSAL
        one.sendall(request("/rank", body)[:200])
        assert one.recv(1000) == REFUSAL  # before the body is there
        server.answer = None
        one.sendall(request("/rank", body)[200:])  # passed over
        one.sendall(request("/rank", b"hello"))
        answer = one.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"hello")
        server.answer = REFUSAL
        one.sendall(request("/rank").replace(b"Host: x", b"Connection: close"))
        assert everything(one) == CLOSING
    assert len(server.arrivals) == 1


@pytest.mark.parametrize("old, new", [(b"Host: x", b"Connection: close"), (b"HTTP/1.1", b"HTTP/1.0")])
def test_whose_last_request_is_turned_away_while_it_is_sent_gets_the_answer_and_no_reset(
    server: Server, old: bytes, new: bytes
) -> None:
    server.answer = REFUSAL
    whole = request("/rank", b"x" * 3_000_000).replace(old, new)
    with server.connect() as one:
        one.sendall(whole[:200])
        wait_until(lambda: server.turned_away)
        one.sendall(whole[200:])
        assert everything(one) == CLOSING


def test_who_asks_whether_to_send_the_body_and_is_turned_away_is_hung_up_on(server: Server) -> None:
    """What came next on the connection would be taken for the body."""
    server.answer = REFUSAL
    with server.connect() as one:
        one.sendall(request("/rank", b"x" * 100).replace(b"Host: x", b"Expect: 100-continue")[:-100])
        assert everything(one) == CLOSING


def test_who_was_turned_away_and_then_sent_the_body_is_not_waited_for_without_end(server: Server) -> None:
    server.answer, server.config.timeout_keep_alive = REFUSAL, 1
    whole = request("/rank", b"x" * 3000)
    with server.connect() as one:
        one.sendall(whole[:200])
        wait_until(lambda: server.turned_away)
        one.sendall(whole[200:])
        assert everything(one) == REFUSAL


def test_who_does_not_read_that_he_is_turned_away_is_not_read_either(server: Server) -> None:
    server.answer = REFUSAL + b" " * 10_000
    many = request("/rank") * 1000
    with server.connect() as one:
        one.settimeout(0.5)
        with pytest.raises(TimeoutError):
            for _ in range(1000):
                one.sendall(many)
        assert server.turned_away < 5000, "answers that nobody reads pile up"
