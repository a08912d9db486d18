"""Callers that mean harm, or know no better: slow, huge, half, hung, garbage. They are bounded in number.

    python -m loadtest.bench.hostile PORT SECONDS

Prints one JSON line: how many connections of each kind there were, and how each ended.
"""

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from loadtest.machine import allow_connections

HOST = "127.0.0.1"
RANK = b"POST /rank/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
LARGE = b"GET /docs-assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
GARBAGE = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(400),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    RANK + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /model HTTP/1.1\r\nHost: x\r\n\r\n",
    RANK + b"Content-Length: +4\r\n\r\nnull",
    RANK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    RANK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    RANK + b"Content-Length: 4000000\r\n\r\n" + b"[" * 4_000_000,
)
Pieces = AsyncIterator[bytes]


async def _at_once(*pieces: bytes) -> Pieces:
    for piece in pieces:
        yield piece


async def _dripping(head: bytes) -> Pieces:
    yield head
    while True:
        await asyncio.sleep(1)
        yield b"a"


@dataclass(frozen=True)
class Kind:
    """`callers` at once; each sends, waits for the end, rests `rest_s` and comes again."""

    name: str
    callers: int
    send: Callable[[], Pieces]
    rest_s: float = 0.5
    reads: bool = True


KINDS = (
    Kind("silent", 200, lambda: _at_once()),
    Kind("half heads", 400, lambda: _at_once(b"POST /rank HTTP/1.1\r\nHo")),
    Kind("dripping heads", 200, lambda: _dripping(b"GET /rank HTTP/1.1\r\nHost: x\r\nA: ")),
    Kind("half bodies", 50, lambda: _at_once(RANK + b"Content-Length: 1000000\r\n\r\n" + b" " * 100_000)),
    Kind("dripping bodies", 50, lambda: _dripping(RANK + b"Content-Length: 1000000\r\n\r\n[")),
    Kind("huge heads", 2, lambda: _at_once(b"GET / HTTP/1.1\r\nA: ", *[b"a" * 2**20] * 20), 2),
    Kind("huge bodies", 2, lambda: _at_once(RANK + b"Content-Length: 20971520\r\n\r\n", *[b" " * 2**20] * 20), 2),
    Kind("garbage", 4, lambda: _at_once(random.choice(GARBAGE))),
    Kind(
        "unread",
        20,
        lambda: _at_once(LARGE * 20),
        reads=False,
    ),
    Kind("idle", 300, lambda: _at_once(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")),
)


async def _one(kind: Kind, port: int, ends: Counter[str]) -> None:
    """A connection, until the other side ends it; told by its last status, or by how it ended without one."""
    reader, writer = await asyncio.open_connection(HOST, port)

    async def send() -> None:
        async for piece in kind.send():
            writer.write(piece)
            await writer.drain()
        if not kind.reads:
            await asyncio.Event().wait()

    sending = asyncio.create_task(send())
    received = b""
    try:
        if kind.reads:
            while piece := await reader.read(65536):
                received = (received + piece)[-65536:] if received else piece
        else:
            reader._transport.pause_reading()  # type: ignore[attr-defined]  # streams have no other way not to read
            await sending
        ends[received[9:12].decode(errors="replace") if received.startswith(b"HTTP/") else "closed"] += 1
    except OSError:
        ends["reset"] += 1
    except asyncio.CancelledError:
        ends["still open"] += 1
        raise
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.transport.abort()


async def _again(kind: Kind, port: int, until: float, ends: Counter[str]) -> None:
    await asyncio.sleep(random.random() * min(1.0, kind.rest_s * 2))
    while time.monotonic() < until:
        try:
            async with asyncio.timeout(until - time.monotonic()):
                await _one(kind, port, ends)
                await asyncio.sleep(kind.rest_s)
        except TimeoutError:
            return
        except OSError:
            ends["no connection"] += 1
            await asyncio.sleep(kind.rest_s)


async def run(port: int, seconds: float) -> dict[str, dict[str, int]]:
    """How the connections of each kind ended."""
    ends: dict[str, Counter[str]] = {kind.name: Counter() for kind in KINDS}
    until = time.monotonic() + seconds
    await asyncio.gather(*(_again(kind, port, until, ends[kind.name]) for kind in KINDS for _ in range(kind.callers)))
    return {name: dict(counted) for name, counted in ends.items()}


def main() -> None:
    port, seconds = sys.argv[1:]
    os.nice(19)  # it may share its core with who measures
    allow_connections(sum(kind.callers for kind in KINDS))
    print(json.dumps(asyncio.run(run(int(port), float(seconds)))))


if __name__ == "__main__":
    main()
