"""When a request's bytes were there, and whether its caller still is: uvicorn's HTTP protocol behind a door of ours.

A busy process looks at a socket late: new connections wait to be accepted, and bytes wait for the event loop. The
caller waits meanwhile, so a request's time begins when the kernel had its first byte. The kernel tells by a timestamp
on what it hands out (SO_TIMESTAMPNS, socket(7)), which a connection inherits from the socket that listens, so bytes
that came before it was accepted bear theirs too. asyncio asks a BufferedProtocol for room before it reads: that is
where the stamp is looked at, one byte peeked, 2 µs a read. Where there are no such stamps (other systems, other
servers), a request begins when it is looked at.
"""

import asyncio
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.api.duty import DUTY, Duty
from service.api.stamps import SO_TIMESTAMPNS

ARRIVAL = "ranker.arrival"  # where a request's scope holds its Arrival
TURNSTILE = "ranker.turnstile"  # where the lifespan's state holds what may refuse a request by its head
MOST_BYTES = 256 * 1024  # of one read
LONGEST_LAG_NS = 600 * 10**9  # a longer one is a clock that was set

_TIMESPEC = struct.Struct("qq")
_ROOM = socket.CMSG_SPACE(_TIMESPEC.size)
_buffer = memoryview(bytearray(MOST_BYTES))  # one for all connections: what is read into it is parsed at once


class Arrival:
    """A request's way in. Times are of `time.perf_counter`, in seconds."""

    __slots__ = ("_cycle", "begun", "whole")

    def __init__(self, begun: float) -> None:
        self.begun = begun  # the first byte could be read
        self.whole: float | None = None  # the last one; None until then
        self._cycle: RequestResponseCycle | None = None

    def gone(self) -> bool:
        """Whether the caller has hung up."""
        cycle = self._cycle
        return cycle is not None and (cycle.disconnected or cycle.transport.is_closing())


class Door(asyncio.BufferedProtocol):
    """One connection. uvicorn's `http` takes it for a protocol class of its own."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._http = _Http(config, server_state, app_state, _loop)
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
        self._http.read_at = now if self._socket is None else now - _waited_s(self._socket)
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._http.data_received(bytes(_buffer[:nbytes]))

    def eof_received(self) -> None:
        self._http.eof_received()

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()


# When it arrived, method, path and query, headers → a whole HTTP answer, or None: it is to go on.
Turnstile = Callable[[float, bytes, bytes, list[tuple[bytes, bytes]]], bytes | None]


class _Http(HttpToolsProtocol):
    """uvicorn's, which leaves an Arrival in the scope of each request, and answers at once what is refused."""

    read_at = 0.0  # when the first byte of what is being parsed could be read
    _arrival: Arrival
    asked_at = 0.0  # when the first byte of the newest request came, by time.perf_counter; 0: none yet
    amid_request = False  # a request's first byte has come and its last one has not
    _last = False  # whether the request that is turned away is the connection's last one

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._earlier: list[RequestResponseCycle] = []  # of pipelined requests those before the last

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn tells the last one alone; one that is under way would fail when it answers.
        for cycle in self._earlier:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # uvicorn waits for more without end once the rest of a body has come that was answered before it was read.
        answered = self.cycle is not None and self.cycle.response_complete
        if answered and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._arrival = Arrival(self.read_at)
        self.asked_at, self.amid_request = self.read_at, True
        cast(dict[str, Any], self.scope)[ARRIVAL] = self._arrival

    def on_headers_complete(self) -> None:
        turnstile: Turnstile | None = self.app_state.get(TURNSTILE)
        idle = self.cycle is None or self.cycle.response_complete  # else it is pipelined
        if turnstile is not None and idle and not self.flow.write_paused:  # who does not read waits, as for answers
            answer = turnstile(self._arrival.begun, self.parser.get_method(), self.url, self.headers)
            if answer is not None:
                self._answer(answer)
                return
        if self.cycle is not None and not self.cycle.response_complete:
            self._earlier = [cycle for cycle in self._earlier if not cycle.response_complete] + [self.cycle]
        super().on_headers_complete()
        self._arrival._cycle = self.cycle
        if self._closing():
            for cycle in self._earlier:  # pipelined: the last of them has the last answer
                cycle.keep_alive = True
            self.cycle.keep_alive = False

    def _answer(self, answer: bytes) -> None:
        """Without a task, and without the body: what comes of it is passed over.

        A connection's last request is passed over too before it is closed: to close with bytes unread is a reset, which
        takes the answer from a caller who is still sending. Who asked whether to send the body (Expect) does not send
        it now, and what came next would be taken for it.
        """
        self.cycle = cast(RequestResponseCycle, _ANSWERED)
        one_more = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"  # as uvicorn has it
        self._last = not one_more or self.expect_100_continue or self._closing()
        if self._last:
            answer = answer.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
        self.transport.write(answer)
        self.on_response_complete()
        if self.expect_100_continue:
            self.transport.close()

    def _closing(self) -> bool:
        duty: Duty | None = self.app_state.get(DUTY)
        return duty is not None and duty.closing

    def on_message_complete(self) -> None:
        self._arrival.whole = self.read_at
        self.amid_request = False
        super().on_message_complete()
        if self._last:
            self.transport.close()


class _Answered:
    """In the place of uvicorn's cycle: a request that is answered."""

    response_complete = True
    message_event = asyncio.Event()  # nobody waits for it


_ANSWERED = _Answered()


def _waited_s(connection: socket.socket) -> float:
    """Seconds since the kernel got the byte that is read next; 0 where it does not tell."""
    try:
        _, told, _, _ = connection.recvmsg(1, _ROOM, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:  # nothing there, or a connection that was reset: whoever reads finds out
        return 0.0
    for _, kind, stamp in told:
        if kind == SO_TIMESTAMPNS and len(stamp) == _TIMESPEC.size:
            seconds, ns = _TIMESPEC.unpack(stamp)
            waited_ns = time.time_ns() - (seconds * 10**9 + ns)
            return waited_ns / 1e9 if 0 <= waited_ns <= LONGEST_LAG_NS else 0.0
    return 0.0
