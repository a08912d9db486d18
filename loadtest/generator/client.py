"""A lean HTTP/1.1 client: raw asyncio connections, kept alive, one request at a time on each.

A load generator that shares two cores with the service must cost less than the service: httpx takes a millisecond of
CPU a request, this client with its event loop 0.1 ms when busy and 0.3 ms when it sleeps between sends. It talks to the
one address it was given: no proxy from the environment, no redirect, no cookie. A new connection is opened whenever all
others are busy, so that a request never waits for another one's answer; opening it belongs to the response time, as it
does for any caller.

Answers must say where they end (Content-Length or chunked), as all do that keep connections alive.
"""

import asyncio
import re
import ssl
from collections.abc import Callable
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

from loadtest.errors import NoRun

IDLE_S = 1.0  # servers hang up on idle connections, some after 2 s: one that idled longer is not used again
CONNECT_S = 5.0  # for the first connection, and for answers to what is asked before the clock starts
MOST_BYTES = 64 * 2**20  # of one answer
TOLD = (b"server-timing", b"retry-after")  # the headers that an Answer ends in

_URL = re.compile(r"[!-~]+")  # what may stand in a request line and a Host header: printable ASCII, no space


class Address(NamedTuple):
    """Where the service is: its base URL, taken apart. `authority` is what the Host header says.

    `key`: what every request brings along, nothing where it is empty; no message and no report has it.
    """

    tls: bool
    host: str
    port: int
    authority: str
    base: str
    key: str = ""

    def __str__(self) -> str:
        return f"http{'s' * self.tls}://{self.authority}{self.base}"


class Answer(NamedTuple):
    """What came back, and when, in seconds of the loop's clock. `failure` says why there is none (status 0)."""

    at: float
    status: int
    content: bytes
    failure: str | None = None
    server_timing: bytes = b""  # the headers' values
    retry_after: bytes = b""


Done = Callable[[Answer], None]


def parse_url(url: str, key: str = "") -> Address:
    """Raises NoRun for anything but http(s)://host[:port][/base], and for a key that no header can hold."""
    if key and not _URL.fullmatch(key):
        raise NoRun("--key: letters, digits and signs of ASCII are allowed, without spaces")
    allowed = f"--url {url!r}: http://host[:port][/base] or https://... is allowed"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise NoRun(f"{allowed} ({error})") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise NoRun(allowed)
    if parts.query or parts.fragment or "@" in parts.netloc or not _URL.fullmatch(url):
        raise NoRun(f"{allowed}, without user, query, fragment, spaces or letters beyond ASCII")
    tls = parts.scheme == "https"
    return Address(tls, parts.hostname, port or (443 if tls else 80), parts.netloc, parts.path.rstrip("/"), key)


class Client:
    """Connections to one address. Use it within one running loop, and close it there."""

    def __init__(self, address: Address):
        self._address = address
        self._loop = asyncio.get_running_loop()
        self.clock = self._loop.time
        self._peer = address.host
        self._tls = ssl.create_default_context() if address.tls else None
        self._idle: list[_Connection] = []  # the one used last is used next, so that a peak's connections can retire
        self._open: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()

    def message(self, method: str, path: str, content: bytes = b"") -> bytes:
        """A request as it goes over the wire."""
        head = f"{method} {self._address.base}{path} HTTP/1.1\r\nHost: {self._address.authority}\r\n"
        head += "User-Agent: bst-ranker-loadtest\r\nAccept: application/json\r\nAccept-Encoding: identity\r\n"
        if self._address.key:
            head += f"Authorization: Bearer {self._address.key}\r\n"
        if content:
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        return head.encode() + b"\r\n" + content

    async def reach(self) -> None:
        """Opens the first connection; later ones go to the address that answered. Raises NoRun."""
        try:
            connection = await asyncio.wait_for(self._connect(), CONNECT_S)
        except TimeoutError:
            raise NoRun(f"cannot reach {self._address}: no connection within {CONNECT_S:g} s") from None
        except (OSError, UnicodeError) as error:  # UnicodeError: a host name that DNS could not have
            raise NoRun(f"cannot reach {self._address}: {getattr(error, 'strerror', None) or error}") from None
        self._peer = connection.peer()
        self._release(connection)

    async def get(self, path: str) -> Answer:
        return await self.ask("GET", path)

    async def ask(self, method: str, path: str, content: bytes = b"") -> Answer:
        """Raises NoRun when no HTTP answer comes."""
        answered: asyncio.Future[Answer] = self._loop.create_future()

        def done(answer: Answer) -> None:
            if not answered.done():  # the caller has given up
                answered.set_result(answer)

        self.send(self.message(method, path, content), done)
        try:
            answer = await asyncio.wait_for(answered, CONNECT_S)
        except TimeoutError:
            raise NoRun(f"{method} {self._address}{path}: no answer within {CONNECT_S:g} s") from None
        if answer.failure:
            raise NoRun(f"{method} {self._address}{path}: {answer.failure}")
        return answer

    def send(self, message: bytes, done: Done) -> None:
        """Sends at once and calls `done` once, whatever happens."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable(self._loop.time()):
                connection.send(message, done)
                return
        opening = self._loop.create_task(self._connect_and_send(message, done))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def close(self) -> None:
        """Ends every connection; requests on the way fail."""
        for opening in self._opening:
            opening.cancel()
        for connection in self._open:
            connection.abort()
        while self._open or self._opening:
            await asyncio.sleep(0)

    async def _connect(self) -> "_Connection":
        name = self._address.host if self._tls else None
        _, connection = await self._loop.create_connection(
            lambda: _Connection(self._loop, self._open, self._release),
            self._peer,
            self._address.port,
            ssl=self._tls,
            server_hostname=name,
        )
        return connection

    async def _connect_and_send(self, message: bytes, done: Done) -> None:
        try:
            connection = await self._connect()
        except OSError as error:
            done(Answer(self._loop.time(), 0, b"", f"cannot connect: {error.strerror or error}"))
            return
        connection.send(message, done)

    def _release(self, connection: "_Connection") -> None:
        self._idle.append(connection)


class _Connection(asyncio.Protocol):
    """One connection; `release` is called with it whenever it is free for the next request."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, among: set["_Connection"], release: Callable[["_Connection"], None]
    ):
        self._clock = loop.time
        self._among = among
        self._release = release
        self._done: Done | None = None
        self._free_since = loop.time()
        self._chunks: list[bytes] = []
        self._size = 0
        self._whole = self._reusable = False
        self._told = dict.fromkeys(TOLD, b"")
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._among.add(self)

    def peer(self) -> str:
        return str(self._transport.get_extra_info("peername")[0])

    def usable(self, now: float) -> bool:
        """Whether a request can go out here; one that idled too long is closed."""
        if now - self._free_since > IDLE_S:
            self._transport.close()
        return not self._transport.is_closing()

    def send(self, message: bytes, done: Done) -> None:
        self._done = done
        self._transport.write(message)

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        now = self._clock()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(now, f"the answer is not HTTP: {error}")
            return
        if self._size > MOST_BYTES:
            self._fail(now, f"an answer of more than {MOST_BYTES} bytes")
        elif self._whole:
            self._finish(now)

    def connection_lost(self, error: Exception | None) -> None:
        self._among.discard(self)
        if self._done:
            self._fail(self._clock(), "the connection ended before the answer")

    def on_header(self, name: bytes, value: bytes) -> None:  # called by the parser, as are the next two
        if name.lower() in self._told:
            self._told[name.lower()] = value

    def on_body(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)

    def on_message_complete(self) -> None:
        self._whole = self._parser.get_status_code() >= 200  # before it, 1xx only announces the answer
        self._reusable = self._parser.should_keep_alive()  # the parser forgets it once this returns

    def _finish(self, now: float) -> None:
        done, content = self._done, b"".join(self._chunks)
        answer = Answer(now, self._parser.get_status_code(), content, None, *self._told.values())
        self._done, self._chunks, self._size, self._whole, self._told = None, [], 0, False, dict.fromkeys(TOLD, b"")
        if done is None:  # an answer without a request: the next one could not be told from it
            self._transport.abort()
            return
        if self._reusable:
            self._free_since = now
            self._release(self)
        else:
            self._transport.close()
        done(answer)

    def _fail(self, now: float, failure: str) -> None:
        done, self._done = self._done, None
        self._transport.abort()
        if done:
            done(Answer(now, 0, b"", failure))
