"""uvicorn's HTTP protocol on httptools, within bounds: one request at a time, one answer to whatever is no request.

It departs from uvicorn's where a caller could have more than is his: one request is begun at a time (`reading.py`),
trailers never become headers, an upgrade that nobody offers changes nothing, a request that is refused while others are
under way is told so after their answers (`answering.py`), and no timer is set per request (`place.py`, `lobby.py`). It
leaves an Arrival in the scope of each request, and answers at once what the turnstile refuses.
"""

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from service.api.http.arrival import ARRIVAL, Arrival
from service.api.http.bounds import MOST_URL
from service.api.http.place import BODY, HEAD, NONE
from service.api.http.reading import Reading
from service.api.http.refusals import Head, Refused
from service.errors import TooManyConnections, UrlTooLong

TURNSTILE = "ranker.turnstile"  # where the lifespan's state holds what may refuse a request by its head
NOTED = frozenset((b"content-length", b"transfer-encoding"))
FEW = 32  # headers, which need no look

# When it arrived, method, path and query, headers → a whole HTTP answer, or None: it is to go on.
Turnstile = Callable[[float, bytes, bytes, list[tuple[bytes, bytes]]], bytes | None]


class Http(Reading):
    """One connection, by what the parser finds in it."""

    read_at = 0.0  # when the first byte of what is being parsed could be read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if not self.lobby.enter(self):
            most = self.lobby.bounds.connections
            self.refuse(TooManyConnections(f"{most} connections, at most {most} per worker"))

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

    def _arrival_of(self) -> Arrival:
        assert self._arrival is not None
        return self._arrival
