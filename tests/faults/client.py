"""A caller of the service over plain sockets, which can also hang up at any moment, pipeline and upload slowly."""

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, NamedTuple

PATIENCE_S = 30.0  # without an answer for so long, a request counts as lost


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: Mapping[str, str] = {}  # names and values in lower case

    def json(self) -> Any:
        return json.loads(self.body)


class Lost(Exception):
    """The service closed the connection, or said nothing for PATIENCE_S; the message says which."""


def request(method: str, path: str, body: Any, headers: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """The bytes of a request. `body`: bytes as they are, or what becomes JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: ranker\r\ncontent-type: application/json"
    head += "".join(f"\r\n{name}: {value}" for name, value in headers.items())
    return f"{head}\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content


def post(path: str, body: Any) -> bytes:
    return request("POST", path, body)


class Caller:
    """A connection that is kept alive, and opened again where it is closed."""

    def __init__(self, port: int):
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, path: str, body: Any) -> Answer:
        """The answer to a POST. Raises Lost."""
        await self.send(post(path, body))
        return await self.receive()

    async def get(self, path: str) -> Answer:
        await self.send(f"GET {path} HTTP/1.1\r\nhost: ranker\r\n\r\n".encode())
        return await self.receive()

    async def send(self, data: bytes) -> None:
        hung_up = self._reader is not None and self._reader.at_eof()  # a pool looks before it sends, too
        if hung_up:
            self.hang_up()
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(data)

    async def receive(self) -> Answer:
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._receive()
        except TimeoutError:
            self.hang_up()
            raise Lost(f"no answer within {PATIENCE_S:.0f} s") from None
        except (OSError, asyncio.IncompleteReadError) as error:
            self.hang_up()
            raise Lost(f"the connection was closed before the answer ({type(error).__name__})") from None

    async def _receive(self) -> Answer:
        assert self._reader is not None and self._writer is not None
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if line)
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            self.hang_up()
        return Answer(int(status.split()[1]), body, headers)

    def hang_up(self, *, by_reset: bool = False) -> None:
        if self._writer is not None:
            if by_reset:
                raw = self._writer.get_extra_info("socket")
                with suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._writer.transport.abort()
            else:
                self._writer.close()
            self._writer = None
