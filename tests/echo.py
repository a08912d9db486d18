"""A server on a real socket whose application tells what it was sent: for tests of the protocol before it."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import uvicorn

from service.api.http.arrival import ARRIVAL, Arrival
from service.api.http.bounds import Bounds
from service.api.http.door import Door
from service.api.http.lobby import LOBBY, Lobby
from service.api.http.protocol import TURNSTILE
from service.api.http.stamps import stamped
from tests.processes import wait_until

PATIENCE_S = 30


class Server:
    """A server whose application answers with what it was sent, and tells of each request's arrival."""

    address: Any
    loop: asyncio.AbstractEventLoop
    config: uvicorn.Config

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.arrivals: list[Arrival] = []
        self.whole: list[bool] = []  # of each request: whether all of it had come when the application got it
        self.bodies: list[tuple[str, bytes]] = []  # of whole requests, with their paths
        self.reasons: list[str] = []  # of refusals and closings
        self.lobby = Lobby(bounds, self.reasons.append)
        self.finished = 0
        self.answer: bytes | None = None  # the turnstile's
        self.turned_away = 0
        self._held, self._free = threading.Event(), threading.Event()
        self._under_way = asyncio.Event()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            scope["state"] |= {TURNSTILE: self.turnstile, LOBBY: self.lobby}
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
            return
        if scope["path"] == "/hold":  # the loop itself, and all that comes meanwhile
            self._held.set()
            self._free.wait(PATIENCE_S)
        self.arrivals.append(scope[ARRIVAL])
        self.whole.append(scope[ARRIVAL].whole is not None)
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body, more = body + message.get("body", b""), message.get("more_body", False)
        else:
            self.bodies.append((scope["path"], body))
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


@contextmanager
def echoing(bounds: Bounds | None = None) -> Iterator[Server]:
    """A server that runs in a thread; its default bounds are the service's."""
    made = Server(bounds)
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


def everything(one: socket.socket) -> bytes:
    """What comes until the other side closes. Raises where it resets."""
    return b"".join(iter(lambda: one.recv(1000), b""))
