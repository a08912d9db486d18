"""Connections that are no caller's: dripped, lying about lengths, garbage, two requests in one. Others must not notice.

What each may cost, and how it is told, is the protocol's (docs/operations.md, Limits). These rows hold the promise:
each connection is answered at most once and closed, within its time, and beside it all others are answered as ever.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.client import serving
from tests.faults.callers.misuse import others
from tests.faults.held import Held
from tests.faults.serving import needed
from tests.faults.world import SETTINGS, World

LIMIT_S, ROOM_S = 2, 4.0  # the service's limits on heads and bodies; a busy machine's on top
AT_ONCE = 20
FEW_LINES = 15
HOST = b"host: ranker\r\n"
RANK = b"POST /rank HTTP/1.1\r\n" + HOST
BODY = b'{"user_id":"nobody","candidates":["i1"]}'
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def length(value: object, *, body: bytes = BODY, more: bytes = b"") -> bytes:
    return RANK + f"content-length: {value}\r\n".encode() + more + b"\r\n" + body


SMUGGLED = b"0\r\n\r\nGET /model HTTP/1.1\r\n" + HOST + b"\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
SMUGGLES = [
    length(len(SMUGGLED), body=SMUGGLED, more=CHUNKED),
    RANK + CHUNKED + f"content-length: {len(SMUGGLED)}\r\n\r\n".encode() + SMUGGLED,
    length(5, more=b"content-length: 40\r\n"),
    RANK + b"transfer-encoding: xchunked\r\n\r\n" + SMUGGLED,
    RANK + b"transfer-encoding : chunked\r\n\r\n" + SMUGGLED,
    length("+40"),
    length(-1),
    length("0x28"),
]
GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),  # a TLS hello
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\0" * 500 + b"\r\n\r\n",
    b"GET /health/live\r\n\r\n",
    b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
    RANK + b"a\0b: c\r\n\r\n",
    bytes(range(256)) * 8 + b"\r\n\r\n",
]
LIES = [length(len(BODY) + 50), length(4 * 2**20 - 1), RANK + CHUNKED + b"\r\nffff\r\n" + BODY]
DRIPS = [RANK + b"content-length: 40\r\n\r\n" + BODY[:3], RANK[:9], b"P", RANK + b"x: " + b"y" * 50]


@dataclass(frozen=True)
class Hostile:
    """A service of its own with short limits; `sends`, each on `AT_ONCE` connections, `drips` a byte at a time."""

    name: str
    does: str
    sends: Sequence[bytes]
    drips: bool = False
    needs: tuple[str, ...] = ("header_timeout_s", "body_timeout_s")
    short: bool = False
    size: int = 1_000
    promises: str = "each connection is answered once at most, by a 4xx, and closed in time; others wait no longer"

    async def run(self, world: World, held: Held, size: int) -> None:
        needed(*self.needs)
        limits = {"header_timeout_s": str(LIMIT_S), "body_timeout_s": str(LIMIT_S)}
        with serving(**(SETTINGS | {"redis_url": world.store.url} | limits)) as service:
            own = World(world.store, world.proxy, service, world.users)
            await own.recovered(held)
            memory, told = own.memory(), len(service.output)
            async with others(own, held):
                talks = [self._talk(own.port, held, text) for text in self.sends for _ in range(AT_ONCE)]
                await asyncio.gather(*talks)
                await asyncio.sleep(0.5)
            grown = (own.memory() - memory) / 2**20
            held.figures |= {"hostile": float(len(talks)), "grown_mb": grown}
            held.promise(grown < 50, "memory grows by less than 50 MB", f"{grown:.0f} MB")
            failed = await own.counted("ranker_requests_total", outcome="failed")
            held.promise(not failed, "no request is counted as failed", f"{failed:.0f} are")
            lines = service.output[told:].splitlines()
            held.promise(len(lines) <= FEW_LINES, f"at most {FEW_LINES} lines of log", f"{len(lines)}: {lines[:3]}")
            held.promise("Traceback" not in service.output, "no traceback in the log", service.output[-600:])
        held.promise_answers()

    async def _talk(self, port: int, held: Held, text: bytes) -> None:
        begun, answer = time.perf_counter(), b""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            if self.drips:
                dripping = asyncio.create_task(_drip(writer, text))
            else:
                writer.write(text)
            async with asyncio.timeout(LIMIT_S + ROOM_S):
                answer = await reader.read()
        except TimeoutError:
            held.promise(False, f"closed within {LIMIT_S + ROOM_S:.0f} s", f"open after {text[:60]!r}")
        except ConnectionError:
            pass  # closed with what it sent unread
        finally:
            if self.drips:
                dripping.cancel()
            writer.close()
        statuses = [int(status) for status in STATUS.findall(answer)]
        held.figures["longest_open_s"] = max(held.figures.get("longest_open_s", 0.0), time.perf_counter() - begun)
        held.promise(len(statuses) <= 1, "one answer at most", f"{statuses} to {text[:80]!r}")
        fine = all(400 <= status < 500 or status == 503 for status in statuses)
        held.promise(fine, "it is refused", f"{statuses} to {text[:80]!r}")


async def _drip(writer: asyncio.StreamWriter, text: bytes) -> None:
    """What is there at once, but for the last bytes, which go on without end."""
    writer.write(text)
    while not writer.is_closing():
        await asyncio.sleep(0.2)
        writer.write(b"y")


HOSTILE = [
    Hostile("drips", "heads and bodies that come a byte at a time and never end", DRIPS, drips=True),
    Hostile("lies about lengths", "bodies shorter than they say", LIES),
    Hostile("garbage", "TLS, HTTP/2, zeros and other noise", GARBAGE, short=True),
    Hostile("smuggles", "two lengths, two encodings: one request to one reader, two to another", SMUGGLES),
]
