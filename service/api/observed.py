"""What every request passes on its way in and out: timed, counted, logged and traced.

ASGI, around the routes (application.py). Here a request gets its Call.
"""

import logging
import time
from collections.abc import Mapping, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.answers import CALL, error_response, refusal
from service.api.edges.cors import Cors
from service.api.edges.prefix import Prefix
from service.api.gate import Gate
from service.api.http.arrival import ARRIVAL, Arrival
from service.api.report import Report, ids_of, server_timing
from service.call import Call
from service.errors import OF_KEYS, RankerError
from service.telemetry import tracing
from service.telemetry.counts import Metrics
from service.telemetry.families import UNMATCHED

log = logging.getLogger("ranker")

INTERNAL = "something went wrong here; the log knows this request by its id"


class Observed:
    """Lets in, times, counts and logs every request, whatever answers it; gives it an id, and its place in a trace.

    `routes`: the stages of each route's requests, by path. `bulk`: the paths of those that rank, and whether many
    requests at once.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Mapping[str, Sequence[str]],
        bulk: Mapping[str, bool],
        gate: Gate,
        metrics: Metrics,
        report: Report,
        traces: tracing.Tracing | None,
        prefix: Prefix,
        cors: Cors | None = None,
    ):
        self.app, self.routes, self.bulk, self.gate = app, routes, bulk, gate
        self.metrics, self.report, self.traces = metrics, report, traces
        self.prefix, self.cors = prefix or None, cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        now = time.perf_counter()
        arrival: Arrival | None = scope.get(ARRIVAL)
        begun = now if arrival is None else arrival.begun
        request_id, traceparent, tracestate = ids_of(scope["headers"])
        trace = self._trace(traceparent, tracestate, begun)
        call = Call(request_id, begun)
        if arrival is not None:
            call.gone = arrival.gone
            self.metrics.size("ranker_arrival_lag_seconds", now - begun)
        if trace is not None and trace.stages is not None:
            call.stages = trace.stages
        scope[CALL] = call
        status: int | None = None  # until the answer begins
        total_s: float | None = None  # likewise: one figure for header, log and metrics
        path = scope["path"] if self.prefix is None else self.prefix.place(scope)
        bulk = self.bulk.get(path) if scope["method"] == "POST" else None
        ranks = False

        async def answer(message: Message) -> None:
            nonlocal status, total_s
            if message["type"] == "http.response.start":
                status, total_s = message["status"], call.spent_s()
                self.gate.leave(call, status == 200)  # now: a caller who does not read makes nobody else wait
                headers = [*message.get("headers", []), (b"x-request-id", call.id.encode())]
                headers.append((b"server-timing", server_timing(call.stages, total_s)))
                if trace is not None:
                    headers.append((b"traceresponse", trace.traceresponse.encode()))
                if self.cors is not None:
                    headers += self.cors.of(scope["headers"])
                message["headers"] = headers
            await send(message)

        failure: str | None = None
        try:
            call.key = self.gate.guard.admit(scope["method"], path, scope["headers"], count=True)
            if bulk is not None:
                ranks = True
                self.metrics.began()
                self.gate.enter(call, scope["headers"], bulk, arrival is None or arrival.whole is not None)
            await self.app(scope, receive, answer)
        except RankerError as error:  # before the body was read; it never is
            await refusal(call, error)(scope, receive, answer)
        except Exception as error:  # what nobody foresaw: the log gets the traceback, the caller an id to ask about
            failure = type(error).__name__
            log.exception("request %s failed", call.id)
            if status is None:
                response = error_response(call, RankerError.status, RankerError.kind, INTERNAL)
                await response(scope, receive, answer)
            status = 500  # also where the answer had begun
        finally:
            total_s = call.spent_s() if total_s is None else total_s
            if ranks:
                self.metrics.ended()
                self.gate.leave(call, False)  # where no answer was begun
            route = path if ranks else self._route(scope, path)
            self.report.tell(call, scope["method"], route, status or 500, total_s, failure, trace)

    def _route(self, scope: Scope, path: str) -> str:
        if scope[CALL].error not in OF_KEYS:  # else as a rule before a route was looked for
            path = getattr(scope.get("route"), "path", "").replace(":rest}", "}")
        return path if path in self.routes else UNMATCHED

    def _trace(self, traceparent: str | None, tracestate: str | None, begun: float) -> tracing.Trace | None:
        if traceparent is None and self.traces is None:
            return None
        parent = None if traceparent is None else tracing.parsed(traceparent)
        if self.traces is not None:
            return self.traces.begin(parent, tracestate, begun)
        return None if parent is None else tracing.passed_on(parent)
