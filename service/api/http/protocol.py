"""uvicorn's HTTP protocol on httptools, within bounds: one request at a time, one answer to whatever is no request.

It departs from uvicorn's where a caller could have more than is his: what comes is parsed up to the end of one request
(uvicorn begins all that a read holds), trailers never become headers, an upgrade that nobody offers changes nothing, a
request that is refused while others are under way is told so after their answers, and no timer is set per request
(`lobby.py`). It leaves an Arrival in the scope of each request, and answers at once what the turnstile refuses.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.api.arrival import ARRIVAL, Arrival
from service.api.duty import DUTY, Duty
from service.api.http.bounds import FRAMING, MOST_PASSED_OVER, MOST_URL
from service.api.http.lobby import LOBBY, Lobby, Queue
from service.api.http.refusals import Head, Refused, answer_to, misread
from service.errors import BadHttp, HeadTooLarge, RankerError, TooManyConnections, UrlTooLong

TURNSTILE = "ranker.turnstile"  # where the lifespan's state holds what may refuse a request by its head
NONE, HEAD, BODY = range(3)  # what of a request is being read
NOTED = frozenset((b"content-length", b"transfer-encoding"))
FEW = 32  # headers, which need no look
END = b"\r\n\r\n"  # of a head, and of a chunked body
CHUNKED_SLICE = 512  # bytes of a chunked body that are read before the next is looked for

# When it arrived, method, path and query, headers → a whole HTTP answer, or None: it is to go on.
Turnstile = Callable[[float, bytes, bytes, list[tuple[bytes, bytes]]], bytes | None]


class Http(HttpToolsProtocol):
    """One connection; a lobby.Connection."""

    read_at = 0.0  # when the first byte of what is being parsed could be read
    deaf = False  # whether what comes is passed over
    counts = False
    received = 0
    unseen: Callable[[], bool]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.lobby: Lobby = app_state.get(LOBBY) or app_state.setdefault(LOBBY, Lobby())
        self.queue: Queue | None = None
        self._duty: Duty | None = app_state.get(DUTY)
        self._earlier: list[RequestResponseCycle] = []  # of pipelined requests those before the last
        self._arrival: Arrival | None = None
        self._head = Head()
        self._reading = NONE
        self._head_bytes = self._body_bytes = 0  # as they came, framing and all
        self._held = 0  # of the lobby's bytes
        self._rest = b""  # what came after a request that waits for its turn
        self._last = False  # whether the request that is read is the connection's last one
        self._turned_away = False
        self._refusal: bytes | None = None  # that waits for earlier requests' answers

    # ---- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if not self.lobby.enter(self):
            most = self.lobby.bounds.connections
            self.refuse(TooManyConnections(f"{most} connections, at most {most} per worker"))

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn tells the last one alone; one that is under way would fail when it answers.
        for cycle in self._earlier:
            _gone(cycle)
        self._release()
        self.lobby.leave(self)
        del self.unseen  # it holds the door, which holds this
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._place()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._place()

    def ours(self) -> bool:
        return self.flow.read_paused

    def close(self) -> None:
        self.lobby.leave(self)
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # its answer has been waiting for as long
        else:
            self.transport.close()

    def abort(self) -> None:
        self.lobby.leave(self)
        self.transport.abort()

    def _place(self) -> None:
        """Into the queue of what it is waited for."""
        lobby = self.lobby
        if self.queue is lobby.leaving or not self.counts:
            return
        if self.flow.write_paused:
            lobby.move(self, lobby.unread)
        elif self._reading == BODY:
            lobby.move(self, lobby.bodies)
        elif self._busy() or self.flow.read_paused:
            lobby.move(self, None)
        elif self._reading == HEAD:
            lobby.move(self, lobby.heads)
        elif self.queue is not lobby.silent or self._arrival is not None:
            lobby.move(self, lobby.idle)

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # ---- what comes

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            self._pass_over(len(data))
            return
        if self._rest:
            self._rest += data
            self.flow.pause_reading()
            return
        self._read(data)

    def _read(self, data: bytes) -> None:
        """Parses it, slice by slice: one holds no more than one request's end."""
        at, size = 0, len(data)
        try:
            while at < size:
                if self.pipeline:
                    self._rest = data[at:]
                    self.flow.pause_reading()
                    break
                end = self._slice(data, at, size)
                piece = data[at:end]
                at = end
                before = self._reading
                try:
                    self.parser.feed_data(piece)
                except httptools.HttpParserUpgrade:
                    self._go_on_as_before()
                if self.deaf:
                    return
                if before == BODY and self._reading == BODY:
                    self._check_body(len(piece))
                elif self._reading != BODY and before != BODY:
                    self._check_head(len(piece))
        except httptools.HttpParserError as error:
            self.refuse(misread(error, piece))
            return
        if self._reading != NONE or self.queue is not None or not self._busy():  # else it waits for us, as a rule
            self._place()

    def _slice(self, data: bytes, at: int, size: int) -> int:
        """Where the slice that begins `at` ends."""
        if self._reading != BODY:
            end = data.find(END, at) + len(END)
            most = at + self.lobby.bounds.header_bytes - self._head_bytes
            return min(size if end < len(END) else end, most)
        if self._head.chunked:
            end = data.find(END, at + CHUNKED_SLICE) + len(END)
            return size if end < len(END) else end
        return min(size, at + self._head.length - self.received)

    def _check_head(self, more: int) -> None:
        self._head_bytes += more
        most = self.lobby.bounds.header_bytes
        if self._head_bytes >= most:
            self.refuse(HeadTooLarge(f"a head of more than {most} bytes, at most {most}"))

    def _check_body(self, more: int) -> None:
        if self.cycle.response_complete:
            self._pass_over(more)
            return
        self._body_bytes += more
        framing = self._body_bytes - self.received
        if self._head.chunked and framing > FRAMING * self.received + self.lobby.bounds.header_bytes:
            self.refuse(BadHttp(f"{framing} bytes of chunks' sizes, extensions and trailers around {self.received}"))
            return
        more, self._held = self.received - self._held, self.received
        self.lobby.hold(more)

    def _pass_over(self, count: int) -> None:
        self._body_bytes += count
        if self._body_bytes > MOST_PASSED_OVER:
            self.abort()

    def _release(self) -> None:
        self.lobby.hold(-self._held)
        self._held = 0

    def _go_on_as_before(self) -> None:
        """An upgrade is not offered here, so it is ignored; the parser has ended, and one like it takes its place.

        A body would have been taken for what follows the upgrade: the new parser is told of it by a head of its own.
        """
        reading, head = self._reading, self._head
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        if reading == BODY:
            framing = b"Transfer-Encoding: chunked" if head.chunked else b"Content-Length: %d" % head.length
            muted = self._reading = -1
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + END)
            assert self._reading == muted
            self._reading = BODY

    # ---- the parser's callbacks

    def on_message_begin(self) -> None:
        if self._reading < 0:
            return
        super().on_message_begin()
        if self.queue is not self.lobby.unread:
            self.lobby.move(self, None)  # its time begins anew, also where it follows another without a pause
        self._reading = HEAD
        self._head = Head()
        self.received = self._body_bytes = 0
        self._arrival = Arrival(self.read_at)
        self.scope[ARRIVAL] = self._arrival  # type: ignore[literal-required]

    def on_url(self, url: bytes) -> None:
        if self._reading < 0:
            return
        self.url += url
        if len(self.url) > MOST_URL:
            raise Refused(UrlTooLong(f"a URL of more than {MOST_URL} bytes, at most {MOST_URL}"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading != HEAD:  # a trailer
            return
        name = name.lower()
        self.headers.append((name, value))
        if name == b"host":
            self._head.hosts += 1
        elif name in NOTED:
            self._head.note(name, value)
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        if self._reading < 0:
            return
        parser, head = self.parser, self._head
        method, version = parser.get_method(), parser.get_http_version()
        if head.hosts != 1 or version != "1.1" or self.url[:1] != b"/" or head.coding or len(self.headers) > FEW:
            head.check(method, self.url, version, len(self.headers))
        self._reading, self._head_bytes = BODY, 0
        self._last = version == "1.0" or not parser.should_keep_alive()  # as uvicorn has it
        self._turned_away = False
        turnstile: Turnstile | None = self.app_state.get(TURNSTILE)
        idle = not self._busy()  # else it is pipelined
        if turnstile is not None and idle and not self.flow.write_paused:  # who does not read waits, as for answers
            answer = turnstile(self._arrival_of().begun, method, self.url, self.headers)
            if answer is not None:
                self._answer(answer)
                return
        if not idle:
            self._earlier = [cycle for cycle in self._earlier if not cycle.response_complete] + [self.cycle]
        super().on_headers_complete()
        self._arrival_of().cycle = self.cycle
        if self._closing():
            for cycle in self._earlier:  # pipelined: the last of them has the last answer
                cycle.keep_alive = True
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """uvicorn's, and counted."""
        self.received += len(body)
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self._reading < 0 or (self.parser.should_upgrade() and (self._head.chunked or self._head.length)):
            return
        self._reading = NONE
        self._arrival_of().whole = self.read_at
        if self._held:
            self._release()
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()
        if self._last:
            self.deaf = True  # whatever follows is no request
            self._body_bytes = 0
            if self._turned_away:
                self.transport.close()
            self._place()

    @property
    def asked_at(self) -> float:
        """When the first byte of the newest request came, by time.perf_counter; 0: none yet."""
        return 0.0 if self._arrival is None else self._arrival.begun

    @property
    def amid_request(self) -> bool:
        """Whether a request's first byte has come and its last one has not."""
        return self._reading != NONE

    def _closing(self) -> bool:
        return self._duty is not None and self._duty.closing

    def _arrival_of(self) -> Arrival:
        assert self._arrival is not None
        return self._arrival

    # ---- what goes

    def _answer(self, answer: bytes) -> None:
        """Without a task, and without the body: what comes of it is passed over.

        A connection's last request is passed over too before it is closed: to close with bytes unread is a reset, which
        takes the answer from a caller who is still sending. Who asked whether to send the body (Expect) does not send
        it now, and what came next would be taken for it.
        """
        self.cycle = cast(RequestResponseCycle, _ANSWERED)
        self._turned_away = True
        self._last = self._last or self.expect_100_continue or self._closing()
        if self._last:
            answer = answer.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
        self.transport.write(answer)
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """uvicorn's, without its timer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            if self.transport.get_write_buffer_size():
                self.lobby.move(self, self.lobby.unread)
            return
        if self.expect_100_continue and self._reading == BODY:
            self._hang_up()  # it may never send the body
            return
        if self._rest:  # before the next request's task, whose body is in it: it would seem to be slow in coming
            self.loop.call_soon(self._go_on)
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._refusal is not None:
            self._say(self._refusal)
            return
        if not self._rest:
            if self.flow.read_paused:
                self.flow.resume_reading()
            if self._reading == NONE and self.cycle.response_complete:
                self._forget()
        self._place()

    def _go_on(self) -> None:
        data, self._rest = self._rest, b""
        if self.transport.is_closing() or self.deaf:
            return
        self.flow.resume_reading()
        self._read(data)

    def _forget(self) -> None:
        """What an answered request leaves behind is some kilobytes, for as long as the connection is kept."""
        self.cycle = self.scope = self.headers = None  # type: ignore[assignment]
        self._earlier.clear()

    def refuse(self, error: RankerError) -> None:
        """One answer, after those of the requests before it, and the end of the connection."""
        self.lobby.tell(error.kind)
        self.deaf, self._rest, self._body_bytes = True, b"", 0
        self._release()
        broken = self.cycle if self._reading == BODY and self._busy() else None
        if self._reading == BODY and (broken is None or broken.response_started):
            self.abort()  # it has its answer, or a part of it
            return
        if broken is not None:
            _gone(broken)
            broken.response_complete = True  # the task that has it learns that the caller is gone
        answer = answer_to(error, self.headers or ())
        if broken is not None and self.pipeline:
            self.pipeline.pop()
        elif broken is not None or not self._busy():
            self._say(answer)
            return
        self._refusal = answer
        self.lobby.move(self, None)

    def _say(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)
            self._hang_up()

    def _hang_up(self) -> None:
        """No more answers, and no more requests; the rest is passed over for a moment."""
        self.deaf, self._body_bytes = True, 0
        self.cycle = cast(RequestResponseCycle, _ANSWERED)
        self.flow.resume_reading()
        self.transport.write_eof()
        self.lobby.linger(self)


def _gone(cycle: RequestResponseCycle) -> None:
    cycle.disconnected = True
    cycle.message_event.set()


class _Answered:
    """In the place of uvicorn's cycle: a request that is answered."""

    response_complete = True
    message_event = asyncio.Event()  # nobody waits for it


_ANSWERED = _Answered()
