"""What every request passes on its way in and out: timed, counted, logged and traced.

ASGI, around the application that app.py builds. Here a request gets its Call.
"""

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.answers import CALL, error_response
from service.call import Call
from service.errors import SHED, RankerError
from service.telemetry import tracing
from service.telemetry.counts import Metrics
from service.telemetry.families import UNMATCHED, outcome_of
from service.telemetry.logs import RequestLog

log = logging.getLogger("ranker")

INTERNAL = "something went wrong here; the log knows this request by its id"
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class Observed:
    """Times, counts and logs every request, whatever answers it; gives it an id, and its place in a trace.

    `routes`: the stages of each route's requests, by path; those with stages rank.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Mapping[str, Sequence[str]],
        metrics: Metrics,
        log: RequestLog,
        traces: tracing.Tracing | None,
    ):
        self.app, self.routes, self.metrics, self.log, self.traces = app, routes, metrics, log, traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        request_id, traceparent, tracestate = _headers(scope)
        trace = self._trace(traceparent, tracestate, begun)
        call = Call(request_id, begun)
        if trace is not None and trace.stages is not None:
            call.stages = trace.stages
        scope[CALL] = call
        status: int | None = None  # until the answer begins
        total_s: float | None = None  # likewise: one figure for header, log and metrics
        ranks = bool(self.routes.get(scope["path"]))
        if ranks:
            self.metrics.began()

        async def answer(message: Message) -> None:
            nonlocal status, total_s
            if message["type"] == "http.response.start":
                status, total_s = message["status"], time.perf_counter() - begun
                headers = [*message.get("headers", []), (b"x-request-id", call.id.encode())]
                headers.append((b"server-timing", _server_timing(call.stages, total_s)))
                if trace is not None:
                    headers.append((b"traceresponse", trace.traceresponse.encode()))
                message["headers"] = headers
            await send(message)

        failure: str | None = None
        try:
            await self.app(scope, receive, answer)
        except Exception as error:  # what nobody foresaw: the log gets the traceback, the caller an id to ask about
            failure = type(error).__name__
            log.exception("request %s failed", call.id)
            if status is None:
                response = error_response(call, RankerError.status, RankerError.kind, INTERNAL)
                await response(scope, receive, answer)
            status = 500  # also where the answer had begun
        finally:
            total_s = time.perf_counter() - begun if total_s is None else total_s
            if ranks:
                self.metrics.ended()
            self._tell(call, scope, status or 500, total_s, failure, trace)

    def _tell(
        self, call: Call, scope: Scope, status: int, total_s: float, failure: str | None, trace: tracing.Trace | None
    ) -> None:
        path = getattr(scope.get("route"), "path", "")
        route = path if path in self.routes else UNMATCHED
        outcome = outcome_of(status, bool(call.degraded))
        self.metrics.observe(route, outcome, call.stages if self.routes.get(route) else {}, total_s, call.slot)
        if call.error in SHED:
            self.metrics.add("ranker_shed", reason=call.error)
        if (why := self.log.why(outcome, total_s)) is not None:
            self.log.tell(
                why,
                call.stages,
                total_s,
                request_id=call.id,
                method=scope["method"],
                route=route,
                status=status,
                outcome=outcome,
                error=failure or call.error,
                trace_id=trace and trace.trace_id,
                span_id=trace and trace.span_id,
                user_id=call.user_id,
            )
        if trace is not None:
            attributes = {
                "http.request.method": scope["method"],
                "http.route": route,
                "http.response.status_code": status,
                "ranker.outcome": outcome,
                "ranker.request_id": call.id,
            }
            trace.end(f"{scope['method']} {route}", outcome == "failed", attributes)

    def _trace(self, traceparent: str | None, tracestate: str | None, begun: float) -> tracing.Trace | None:
        if traceparent is None and self.traces is None:
            return None
        parent = None if traceparent is None else tracing.parsed(traceparent)
        if self.traces is not None:
            return self.traces.begin(parent, tracestate, begun)
        return None if parent is None else tracing.passed_on(parent)


def _headers(scope: Scope) -> tuple[str, str | None, str | None]:
    """The caller's X-Request-Id where it is harmless, else a new one; traceparent and tracestate, as they came."""
    request_id = traceparent = tracestate = None
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            if request_id is None and _REQUEST_ID.fullmatch(text):
                request_id = text
        elif name == b"traceparent":
            traceparent = value.decode("latin-1")
        elif name == b"tracestate":
            tracestate = value.decode("latin-1")
    return request_id or os.urandom(16).hex(), traceparent, tracestate


def _server_timing(stages: Mapping[str, float], total_s: float) -> bytes:
    """For the header of that name, which browsers show: milliseconds by stage, and in all."""
    spent = [*stages.items(), ("total", total_s)]
    return ", ".join([f"{name};dur={seconds * 1000:.3f}" for name, seconds in spent]).encode()
