"""A request's body: read within its limit and its time, and made plain where it is compressed."""

import asyncio
import time

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.api.gate import Gate
from service.api.http.arrival import ARRIVAL, Arrival
from service.call import Call
from service.errors import BodyTooLarge, SlowUpload
from service.telemetry.counts import Metrics
from service.wire import codings

INLINE = 64 * 1024  # bytes that are made plain on the event loop; the rest off it


async def body_of(call: Call, request: Request, limit: int, metrics: Metrics, gate: Gate) -> bytes:
    """The body, plain, of up to `limit` bytes both as it came and plain.

    Raises UnsupportedEncoding before it is read, BodyTooLarge, MalformedEncoding, SlowUpload, ClientDisconnect.
    """
    coding = codings.coding_of([value for name, value in request.scope["headers"] if name == b"content-encoding"])
    body = await _uploaded(call, request, limit, metrics)
    if coding is None:
        return body
    call.check("parse")
    expanding = codings.Expanding(body, coding, limit)
    if not expanding.go_on(INLINE):
        await asyncio.to_thread(expanding.go_on, limit + 1)
    gate.expanded(len(body), len(expanding.plain))
    return bytes(expanding.plain)


async def _uploaded(call: Call, request: Request, limit: int, metrics: Metrics) -> bytes:
    """The body as it came, read no further than `limit` bytes. Raises BodyTooLarge, SlowUpload, ClientDisconnect.

    What the caller takes for it is not our time: it goes into `upload_s`.
    """
    arrival: Arrival | None = request.scope.get(ARRIVAL)
    if arrival is None or arrival.whole is not None:  # nothing to wait for, or nobody knows
        body = await _read(request, limit)
    else:
        try:
            async with asyncio.timeout(call.left_s()):
                body = await _read(request, limit)
        except TimeoutError:
            # Until now it was the caller's time, and what it took us is not worth telling.
            call.upload_s = time.perf_counter() - call.begun
            told = f"no whole body within {call.upload_s * 1000:.0f} ms"
            raise SlowUpload(f"{told}, which is all that the answer may take") from None
        except ClientDisconnect:
            call.upload_s = time.perf_counter() - call.begun  # likewise
            raise
    if arrival is not None and arrival.whole is not None:
        call.upload_s = arrival.whole - arrival.begun
        if call.upload_s > 0:
            metrics.size("ranker_upload_seconds", call.upload_s)
    return body


async def _read(request: Request, limit: int) -> bytes:
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit:
        raise BodyTooLarge(f"{announced} bytes, at most {limit}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge(f"more than {limit} bytes, at most {limit}")
    return bytes(body)
