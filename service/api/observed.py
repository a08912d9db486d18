"""What every request passes on its way in and out: timed, counted, logged and traced; errors become answers.

ASGI, around the application that app.py builds.
"""

import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping

from fastapi import Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.answers import RANKED, ROUTES, _error, client_gone, ranker_error
from service.errors import RankerError
from service.telemetry import tracing
from service.telemetry.counts import Metrics
from service.telemetry.families import FAMILIES, UNMATCHED, outcome_of
from service.telemetry.logs import RequestLog

log = logging.getLogger("ranker")

SHED = frozenset(FAMILIES["ranker_shed"].labels["reason"])  # kinds of errors
Endpoint = Callable[[Request], Awaitable[Response]]
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}")


class Direct:
    """Answers the POST routes that are asked often past FastAPI's routing and dependencies, which cost more than them.

    (`python -m loadtest.overhead`.) FastAPI still documents these routes, and answers them behind a prefix.
    """

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, Endpoint]):
        self.app, self.endpoints = app, endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self.endpoints.get(scope.get("path", "")) if scope.get("method") == "POST" else None
        if endpoint is None:
            await self.app(scope, receive, send)
            return
        scope["ranker.route"] = scope["path"]
        request = Request(scope, receive)
        try:
            response = await endpoint(request)
        except RankerError as error:
            response = await ranker_error(request, error)
        except ClientDisconnect as error:
            response = await client_gone(request, error)
        await response(scope, receive, send)


class Observed:
    """Times, counts and logs every request, whatever answers it; gives it an id, and its place in a trace."""

    def __init__(self, app: ASGIApp, metrics: Metrics, log: RequestLog, traces: tracing.Tracing | None):
        self.app, self.metrics, self.log, self.traces = app, metrics, log, traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        request_id, traceparent, tracestate = _given(scope)
        trace = self._trace(traceparent, tracestate, begun)
        stages: dict[str, float] = {} if trace is None or trace.stages is None else trace.stages
        status: int | None = None  # until the answer begins
        total_s: float | None = None  # likewise: one figure for header, log and metrics
        scope["ranker.begun"], scope["ranker.stages"], scope["ranker.request_id"] = begun, stages, request_id
        ranks = scope["path"] in RANKED
        if ranks:
            self.metrics.began()

        async def answer(message: Message) -> None:
            nonlocal status, total_s
            if message["type"] == "http.response.start":
                status, total_s = message["status"], time.perf_counter() - begun
                headers = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
                headers.append((b"server-timing", _server_timing(stages, total_s)))
                if trace is not None:
                    headers.append((b"traceresponse", trace.traceresponse.encode()))
                message["headers"] = headers
            await send(message)

        failure: str | None = None
        try:
            await self.app(scope, receive, answer)
        except Exception as error:  # what nobody foresaw: the log gets the traceback, the caller an id to ask about
            failure = type(error).__name__
            log.exception("request %s failed", request_id)
            if status is None:
                said = "something went wrong here; the log knows this request by its id"
                await _error(Request(scope), 500, "internal", said)(scope, receive, answer)
            status = 500  # also where the answer had begun
        finally:
            total_s = time.perf_counter() - begun if total_s is None else total_s
            route = str(scope.get("ranker.route") or getattr(scope.get("route"), "path", ""))
            route = route if route in ROUTES else UNMATCHED
            kind: str | None = scope.get("ranker.error")
            degraded: bool = scope.get("ranker.degraded", False)
            outcome = outcome_of(status or 500, degraded)
            if ranks:
                self.metrics.ended()
            self.metrics.observe(route, outcome, stages if ROUTES.get(route) else {}, total_s, scope.get("ranker.slot"))
            if kind in SHED:
                self.metrics.add("ranker_shed", reason=str(kind))
            if (why := self.log.why(outcome, total_s)) is not None:
                self.log.tell(
                    why,
                    stages,
                    total_s,
                    request_id=request_id,
                    method=scope["method"],
                    route=route,
                    status=status or 500,
                    outcome=outcome,
                    error=failure or kind,
                    trace_id=trace and trace.trace_id,
                    span_id=trace and trace.span_id,
                    user_id=scope.get("ranker.user_id"),
                )
            if trace is not None:
                attributes = {
                    "http.request.method": scope["method"],
                    "http.route": route,
                    "http.response.status_code": status or 500,
                    "ranker.outcome": outcome,
                    "ranker.request_id": request_id,
                }
                trace.end(f"{scope['method']} {route}", outcome == "failed", attributes)

    def _trace(self, traceparent: str | None, tracestate: str | None, begun: float) -> tracing.Trace | None:
        if traceparent is None and self.traces is None:
            return None
        parent = None if traceparent is None else tracing.parsed(traceparent)
        if self.traces is not None:
            return self.traces.begin(parent, tracestate, begun)
        return None if parent is None else tracing.passed_on(parent)


def _given(scope: Scope) -> tuple[str, str | None, str | None]:
    """The caller's X-Request-Id where it is harmless, else a new one; traceparent and tracestate, as they came."""
    request_id = traceparent = tracestate = None
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if request_id is None and _REQUEST_ID.fullmatch(given) and given.isascii():
                request_id = given
        elif name == b"traceparent":
            traceparent = value.decode("latin-1")
        elif name == b"tracestate":
            tracestate = value.decode("latin-1")
    return request_id or os.urandom(16).hex(), traceparent, tracestate


def _server_timing(stages: Mapping[str, float], total_s: float) -> bytes:
    """For the header of that name, which browsers show: milliseconds by stage, and in all."""
    spent = [*stages.items(), ("total", total_s)]
    return ", ".join([f"{name};dur={seconds * 1000:.3f}" for name, seconds in spent]).encode()
