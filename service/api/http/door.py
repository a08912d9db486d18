"""The door: one connection, whose reads are stamped with when the kernel had them."""

import asyncio
import socket
import sys
import time
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from service.api.http.arrival import waited_s
from service.api.http.protocol import Http

MOST_BYTES = 64 * 1024  # of one read: what a connection may have waiting here
_buffer = memoryview(bytearray(MOST_BYTES))  # one for all connections: what is read into it is parsed at once


class Door(asyncio.BufferedProtocol):
    """uvicorn's `http` takes it for a protocol class of its own."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._http = Http(config, server_state, app_state, _loop)
        self._http.unseen = self._unseen
        self._socket: socket.socket | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        theirs = transport.get_extra_info("socket")
        if theirs is not None and sys.platform == "linux":
            # The loop's own socket object cannot peek. This one is never closed, only let go of.
            self._socket = socket.socket(theirs.family, theirs.type, theirs.proto, fileno=theirs.fileno())
        self._http.connection_made(cast(asyncio.Transport, transport))

    def connection_lost(self, error: Exception | None) -> None:
        if self._socket is not None:
            self._socket.detach()
            self._socket = None
        self._http.connection_lost(error)

    def get_buffer(self, sizehint: int) -> memoryview:
        now = time.perf_counter()
        self._http.read_at = now if self._socket is None else now - waited_s(self._socket)
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._http.data_received(bytes(_buffer[:nbytes]))

    def eof_received(self) -> None:
        self._http.eof_received()

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()

    def _unseen(self) -> bool:
        try:
            return self._socket is not None and bool(self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:  # nothing there, or it was reset
            return False
