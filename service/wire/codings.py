"""Bodies compressed by gzip and zstd: which an answer gets, and what came in made plain again, within a limit.

Both release the interpreter lock while they work. Light: the admin process imports it too.
"""

import sys
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from service.errors import BodyTooLarge, MalformedEncoding, UnsupportedEncoding

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd

ZSTD, GZIP = OFFERED = ("zstd", "gzip")  # the first is taken where a caller likes both alike: it is the quicker one
ALLOWED = ", ".join(OFFERED)
PLAIN = "identity"
_ALIASES = {"x-gzip": GZIP}  # RFC 9110, 8.4.1.3

PIECE = 64 * 1024  # bytes that are fed, and that come out, at once
LONGEST = 256  # bytes of an Accept-Encoding that is remembered
WINDOW_LOG = 23  # 8 MiB: more no decoder need allow (RFC 9659), and a frame could ask for gigabytes
MEMBERS = 64  # compressed ones in one body, one after another: each costs a decoder
GZIP_LEVEL, ZSTD_LEVEL = 1, 1  # an answer's time counts; higher levels take several times longer for a tenth less


# ---- answers


def chosen(accept: bytes) -> str | None:
    """The coding that an Accept-Encoding likes best of those that we have; None: plain."""
    return _remembered(accept) if len(accept) <= LONGEST else _chosen(accept)


def _chosen(accept: bytes) -> str | None:
    weights: dict[str, float] = {}
    for part in accept.decode("latin-1").lower().split(","):
        name, _, parameters = part.partition(";")
        name = name.strip()
        weights[_ALIASES.get(name, name)] = _weight(parameters)
    others = weights.get("*", 0.0)
    best = max(OFFERED, key=lambda coding: weights.get(coding, others))  # of equals the first
    weight = weights.get(best, others)
    return best if weight > 0 and weight >= weights.get(PLAIN, 0.0) else None


_remembered = lru_cache(256)(_chosen)


def _weight(parameters: str) -> float:
    name, _, value = parameters.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return min(1.0, max(0.0, float(value)))
    except ValueError:  # no number: not asked for, rather than an answer that cannot be read
        return 0.0


def compressed(coding: str, content: bytes) -> bytes:
    if coding == GZIP:
        return zlib.compress(content, GZIP_LEVEL, wbits=31)
    return bytes(zstd.compress(content, ZSTD_LEVEL))


# ---- requests


def coding_of(values: list[bytes]) -> str | None:
    """The one coding that a request's Content-Encoding headers name; None: plain. Raises UnsupportedEncoding."""
    if not values:
        return None
    names = [name.strip() for value in values for name in value.decode("latin-1").lower().split(",")]
    codings = [_ALIASES.get(name, name) for name in names if name not in ("", PLAIN)]
    if len(codings) > 1:
        raise UnsupportedEncoding(f"Content-Encoding: {', '.join(names)[:80]}: one at most, of {ALLOWED}", ALLOWED)
    if codings and codings[0] not in OFFERED:
        raise UnsupportedEncoding(f"Content-Encoding: {codings[0][:80]}: allowed are {ALLOWED}, or none", ALLOWED)
    return codings[0] if codings else None


class Expanding:
    """A compressed body on its way to plain, of up to `limit` bytes; no more than that is ever made."""

    def __init__(self, body: bytes, coding: str, limit: int):
        self._coding, self._limit = coding, limit
        self._pieces = _pieces(body, coding)
        self.plain = bytearray()

    def go_on(self, up_to: int) -> bool:
        """Until `up_to` bytes or more are plain, or all is: whether it is. Raises BodyTooLarge, MalformedEncoding."""
        while len(self.plain) < up_to:
            try:
                piece = next(self._pieces, None)
            except (zlib.error, zstd.ZstdError) as error:
                raise MalformedEncoding(f"the body is no {self._coding}: {error}") from None
            if piece is None:
                return True
            self.plain += piece
            if len(self.plain) > self._limit:
                raise BodyTooLarge(f"more than {self._limit} bytes once decompressed, at most {self._limit}")
        return False


def _pieces(body: bytes, coding: str) -> Iterator[bytes]:
    """What it holds, up to PIECE bytes at a time; a body may be several compressed ones, one after another."""
    if not body:
        raise MalformedEncoding(f"the body is empty, which is no {coding}")
    at, members = 0, 0
    while at < len(body):
        members += 1
        if members > MEMBERS:
            raise MalformedEncoding(f"the body is more than {MEMBERS} {coding} parts in a row: compress it as one")
        decoder = _DECODERS[coding]()
        while not decoder.eof:
            feed = b""
            if decoder.needs_input:
                if at >= len(body):
                    raise MalformedEncoding(f"the {coding} body ends too early, after {len(body)} bytes")
                feed = body[at : at + PIECE]
                at += len(feed)
            yield decoder.decompress(feed, PIECE)
        at -= len(decoder.unused_data)


class _Gzip:
    """zlib's decoder, as zstd's is asked."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)
        self._full = False

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._full and not self._decoder.unconsumed_tail

    def decompress(self, feed: bytes, most: int) -> bytes:
        piece = self._decoder.decompress(self._decoder.unconsumed_tail + feed, most)
        self._full = len(piece) == most  # then there may be more of it
        return piece


def _zstd() -> Any:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})


_DECODERS: dict[str, Callable[[], Any]] = {GZIP: _Gzip, ZSTD: _zstd}
