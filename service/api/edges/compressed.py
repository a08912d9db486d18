"""Answers compressed where the caller asks for it and it pays. ASGI, around the routes.

Only whole answers with status 200, from a size on: what is refused stays as it is, and costs nothing.
"""

import asyncio
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.answers import CALL
from service.call import Call
from service.wire import codings

INLINE = 16 * 1024  # bytes that are compressed on the event loop; more would hold it for over 0.2 ms
WORTH = 0.9  # of its size: what is not smaller than that goes as it is
TEXTS = (b"application/json", b"application/openmetrics-text", b"text/")
VARY = (b"vary", b"Accept-Encoding")


class Compressed:
    """`least`: bytes from which on an answer is worth it."""

    def __init__(self, app: ASGIApp, least: int):
        self.app, self._least = app, least

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head: Message | None = None  # held back until the size is known

        async def answer(message: Message) -> None:
            nonlocal head
            if message["type"] == "http.response.start":
                head = message
                return
            if head is not None:
                started, head = head, None
                body = message.get("body", b"")
                if len(body) >= self._least and started["status"] == 200 and not message.get("more_body", False):
                    message = {**message, "body": await self._shorter(scope, started, body)}
                await send(started)
            await send(message)

        await self.app(scope, receive, answer if scope["type"] == "http" else send)

    async def _shorter(self, scope: Scope, started: Message, body: bytes) -> bytes:
        """The body as it goes out; `started` gets the headers that say so."""
        headers = list(started["headers"])
        names = dict(headers)
        if b"content-encoding" in names or not names.get(b"content-type", b"").startswith(TEXTS):
            return body
        started["headers"] = [*headers, VARY]
        coding = codings.chosen(field(scope["headers"], b"accept-encoding"))
        if coding is None:
            return body
        begun = time.perf_counter()
        shorter = (
            codings.compressed(coding, body)
            if len(body) <= INLINE
            else await asyncio.to_thread(codings.compressed, coding, body)
        )
        call: Call | None = scope.get(CALL)
        if call is not None and "serialise" in call.stages:
            call.spent("serialise", time.perf_counter() - begun)
        if len(shorter) > len(body) * WORTH:
            return body
        kept = [one for one in headers if one[0] != b"content-length"]
        sized = (b"content-length", b"%d" % len(shorter))
        started["headers"] = [*kept, sized, (b"content-encoding", coding.encode()), VARY]
        return shorter


def field(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    """All of that name, as one."""
    return b",".join(value for one, value in headers if one == name)
