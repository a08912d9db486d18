"""What is no HTTP request that could be answered, and the answer that it gets for all that."""

import http
from collections.abc import Iterable

import httptools
import orjson

from service.api.http.bounds import MOST_HEADERS
from service.api.report import ids_of
from service.errors import BadHttp, HeadTooLarge, RankerError, error_body

_ANSWER = (
    b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n"
    b"x-request-id: %b\r\n%b\r\n%b"
)
_TLS = 0x16  # the first byte of a TLS hello


class Refused(Exception):
    """Raised within the parser, which cannot be left in another way."""

    def __init__(self, error: RankerError):
        super().__init__(str(error))
        self.error = error


def answer_to(error: RankerError, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The whole answer; `headers` are the request's, as far as they are known."""
    request_id, _, _ = ids_of(headers)
    body = orjson.dumps(error_body(error.kind, str(error), request_id))
    again = b"retry-after: 1\r\n" if error.status == 503 else b""
    phrase = http.HTTPStatus(error.status).phrase.encode()
    return _ANSWER % (error.status, phrase, len(body), request_id.encode(), again, body)


def misread(error: httptools.HttpParserError, first: bytes) -> RankerError:
    """What to tell who has sent what the parser refuses; `first`: the bytes that it got at last."""
    cause = error.__context__
    if isinstance(cause, Refused):
        return cause.error
    if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(
        cause, UnicodeError | httptools.HttpParserInvalidURLError
    ):
        raise error  # a fault of ours
    if first[:1] == bytes([_TLS]):
        return BadHttp("a TLS hello; plain HTTP/1.1 is spoken here")
    if first.startswith(b"PRI * HTTP/2"):
        return BadHttp("HTTP/2; HTTP/1.1 is spoken here")
    return BadHttp(f"no HTTP/1.1 request: {cause or error}")


class Head:
    """Of one request, what decides where it ends: anything unusual is refused, since two readers could differ on it."""

    __slots__ = ("chunked", "coding", "hosts", "length")

    def __init__(self) -> None:
        self.hosts = 0
        self.length = 0  # bytes that the body is announced to have
        self.coding: bytes | None = None
        self.chunked = False

    def note(self, name: bytes, value: bytes) -> None:
        """One of the two headers that say where the body ends."""
        if name == b"content-length":
            self.length = int(value)  # the parser has looked at it
        else:
            self.coding = value if self.coding is None else b"twice"

    def check(self, method: bytes, url: bytes, version: str, headers: int) -> None:
        """Raises Refused."""
        if headers > MOST_HEADERS:
            raise Refused(HeadTooLarge(f"{headers} headers, at most {MOST_HEADERS}"))
        if version not in ("1.1", "1.0"):
            raise Refused(BadHttp(f"HTTP/{version}; HTTP/1.1 is allowed"))
        if self.hosts != 1 and (version == "1.1" or self.hosts):
            raise Refused(BadHttp(f"{self.hosts} Host headers, one is allowed"))
        if not url.startswith((b"/", b"http://", b"https://")) or method == b"CONNECT":
            raise Refused(BadHttp(f"{method.decode()} {url[:60].decode('latin-1')}: a path is allowed"))
        if self.coding is not None:
            if self.coding.lower() != b"chunked" or version == "1.0":
                told = self.coding[:60].decode("latin-1")
                raise Refused(BadHttp(f"Transfer-Encoding {told} in HTTP/{version}: `chunked` in HTTP/1.1 is allowed"))
            self.chunked = True
