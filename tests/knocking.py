"""Clients that knock without end on new connections, and kept ones, while a service stops or is replaced."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

BODY = json.dumps({"user_id": "u1", "candidates": ["i1", "i2"]}).encode()
HEAD = b"POST /rank HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
RANK = HEAD % len(BODY)
PAUSE_S = 0.005  # after an answer: what starts beside it needs the core too


class Knocking:
    """What became of each request: `ok`, another status, `refused` (no connection), or `lost` (one, and no answer)."""

    def __init__(self, url: str) -> None:
        self.host, self.port = str(urlsplit(url).hostname), int(urlsplit(url).port or 0)
        self.counts: Counter[str] = Counter()
        self.examples: list[str] = []  # of what is lost
        self.stop = threading.Event()

    async def _knock(self, kept: bool) -> None:
        """Requests on one connection after another: one on each, or as many as it is kept for."""
        while not self.stop.is_set():
            try:
                reader, writer = await asyncio.open_connection(self.host, self.port)
            except OSError as error:
                self.counts["refused" if isinstance(error, ConnectionRefusedError) else "lost"] += 1
                await asyncio.sleep(0.02)
                continue
            while await self._ask(reader, writer, b"" if kept else b"connection: close\r\n") and not self.stop.is_set():
                await asyncio.sleep(PAUSE_S)
            writer.close()
            await asyncio.sleep(PAUSE_S)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, more: bytes) -> bool:
        """Whether the connection is good for another request."""
        head = b""
        try:
            writer.write(RANK + more + b"\r\n" + BODY)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await asyncio.wait_for(reader.readexactly(length), 20)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.counts["lost"] += 1
            self.examples.append(f"{error!r} after {head[:60]!r}")
            return False
        status = head.split()[1].decode()
        self.counts["ok" if status == "200" else status] += 1
        return b"connection: close" not in head.lower()

    def _run(self, new: int, kept: int) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*(self._knock(False) for _ in range(new)), *(self._knock(True) for _ in range(kept)))

        asyncio.run(all_of_them())


@contextmanager
def knocking(url: str, new: int = 4, kept: int = 4) -> Iterator[Knocking]:
    one = Knocking(url)
    thread = threading.Thread(target=one._run, args=(new, kept))
    thread.start()
    try:
        yield one
    finally:
        one.stop.set()
        thread.join(60)
        assert not thread.is_alive()
