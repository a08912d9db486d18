"""A TCP door before a store on a Unix socket, and the ways in which it can misbehave.

The proxy lives in a thread of its own, so that it goes on whatever its caller waits for. How it behaves is a `Way`:
`become` changes it for new connections and for those that are open. `accepted` and `asked` count what reached it.
"""

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import hiredis

_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER of no seconds: close sends a reset


@dataclass(eq=False)
class Wire:
    """One connection of a client, and the proxy's own to the store where there is one."""

    client: asyncio.StreamWriter
    store: asyncio.StreamWriter | None = None
    commands: hiredis.Reader = field(default_factory=hiredis.Reader)

    def reset(self) -> None:
        """Ends it as a crashed peer does: by a reset, without a word."""
        raw: socket.socket = self.client.get_extra_info("socket")
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.client.transport.abort()


class Way:
    """How the proxy behaves: honestly, unless a method says otherwise."""

    listens = True

    async def accept(self, wire: Wire) -> None:
        pass

    async def ask(self, wire: Wire, data: bytes) -> None:
        if wire.store is None:
            wire.reset()  # as the kernel does where no server listens
        else:
            wire.store.write(data)

    async def reply(self, wire: Wire, data: bytes) -> None:
        wire.client.write(data)


class Refuses(Way):
    """Nobody listens, and what was open is reset."""

    listens = False


class ResetsAtOnce(Way):
    async def accept(self, wire: Wire) -> None:
        wire.reset()

    async def ask(self, wire: Wire, data: bytes) -> None:
        wire.reset()


class ResetsWhenAsked(Way):
    """Takes the connection and the request, then resets."""

    async def ask(self, wire: Wire, data: bytes) -> None:
        wire.reset()


class ResetsMidReply(Way):
    async def reply(self, wire: Wire, data: bytes) -> None:
        wire.client.write(data[: len(data) // 2])
        await asyncio.sleep(0.001)  # a reset discards what the peer has not read
        wire.reset()


class Hole(Way):
    """Takes everything and answers nothing."""

    async def ask(self, wire: Wire, data: bytes) -> None:
        pass

    async def reply(self, wire: Wire, data: bytes) -> None:
        pass


class HalfAReply(Way):
    """The first half of each reply comes, the second never."""

    async def reply(self, wire: Wire, data: bytes) -> None:
        wire.client.write(data[: len(data) // 2])
        while not wire.client.is_closing():
            await asyncio.sleep(0.01)


class Drips(Way):
    """A byte at a time."""

    def __init__(self, pause_s: float):
        self.pause_s = pause_s

    async def reply(self, wire: Wire, data: bytes) -> None:
        for at in range(len(data)):
            if wire.client.is_closing():
                return
            wire.client.write(data[at : at + 1])
            await asyncio.sleep(self.pause_s)


class Late(Way):
    """Each reply comes so many seconds later, drawn between the two."""

    def __init__(self, least_s: float, most_s: float | None = None, seed: int = 0):
        self.least_s, self.most_s, self._draw = least_s, least_s if most_s is None else most_s, random.Random(seed)

    async def reply(self, wire: Wire, data: bytes) -> None:
        await asyncio.sleep(self._draw.uniform(self.least_s, self.most_s))
        wire.client.write(data)


class Says(Way):
    """Answers every command itself, always with these bytes; the store is not asked."""

    def __init__(self, reply: bytes):
        self.answer = reply

    async def ask(self, wire: Wire, data: bytes) -> None:
        wire.commands.feed(data)
        while (command := wire.commands.gets()) is not False:
            handshake = command[0].upper() in (b"AUTH", b"HELLO", b"CLIENT", b"SELECT")
            wire.client.write(b"+OK\r\n" if handshake else self.answer)


class SaysMore(Way):
    """The true reply, and at once one more that nobody asked for."""

    def __init__(self, more: bytes):
        self.more = more

    async def reply(self, wire: Wire, data: bytes) -> None:
        wire.client.write(data + self.more)


class Proxy:
    """A context: inside it the store at `path`, a Unix socket, is also at 127.0.0.1 and `port`."""

    def __init__(self, path: Path):
        self._path = path
        self._server: asyncio.Server
        self.way = Way()
        self.accepted = self.asked = 0

    def __enter__(self) -> "Proxy":
        self._wires: dict[Wire, asyncio.Task[None]] = {}
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), name="proxy")
        self._thread.start()
        started.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def become(self, way: Way) -> None:
        """Behaves so from now on, on open connections too."""
        self._call(self._become(way))

    def cut(self) -> None:
        """Resets every open connection."""
        self._call(self._cut())

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _become(self, way: Way) -> None:
        before, self.way = self.way, way
        if before.listens and not way.listens:
            self._server.close()
            await self._cut()
        elif way.listens and not before.listens:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def _cut(self) -> None:
        for wire in self._wires:
            wire.reset()

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        started.set()
        await self._stop.wait()
        self._server.close()
        tasks = list(self._wires.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        wire = Wire(writer)
        self._wires[wire] = task
        pumps: list[asyncio.Task[None]] = []
        try:
            with suppress(OSError, asyncio.CancelledError):  # either side went first, or all is over
                await self.way.accept(wire)
                answers = None
                with suppress(OSError):  # no server listens
                    answers, wire.store = await asyncio.open_unix_connection(str(self._path))
                pumps.append(asyncio.create_task(self._pump(reader, wire, asks=True)))
                if answers is not None:
                    pumps.append(asyncio.create_task(self._pump(answers, wire, asks=False)))
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            writer.close()
            if wire.store is not None:
                wire.store.close()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._wires.pop(wire, None)

    async def _pump(self, source: asyncio.StreamReader, wire: Wire, *, asks: bool) -> None:
        while data := await source.read(65536):
            if asks:
                self.asked += 1
                await self.way.ask(wire, data)
            else:
                await self.way.reply(wire, data)
        if not asks and isinstance(self.way, Hole):
            await asyncio.Event().wait()  # a store that has ended behind a hole is a hole still
