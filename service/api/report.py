"""What is told of an answered request, whoever answered it: metrics, log and trace; and the headers that name it."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence

from service.call import Call
from service.errors import OF_KEYS, SHED
from service.telemetry import tracing
from service.telemetry.counts import Metrics
from service.telemetry.families import UNMATCHED, outcome_of
from service.telemetry.logs import RequestLog

PATIENT = ("/admin/model",)  # whose requests take as long as what they order
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class Report:
    """Tells of requests. `routes`: the stages of each route's requests, by path."""

    def __init__(self, routes: Mapping[str, Sequence[str]], metrics: Metrics, log: RequestLog) -> None:
        self._routes, self._metrics, self._log = routes, metrics, log

    def tell(
        self,
        call: Call,
        method: str,
        route: str,
        status: int,
        total_s: float,
        failure: str | None = None,
        trace: tracing.Trace | None = None,
    ) -> None:
        """`failure`: the type of an exception that nobody foresaw."""
        for_its_key = call.error in OF_KEYS
        outcome = "refused" if for_its_key else outcome_of(status, bool(call.degraded))
        self._metrics.observe(route, outcome, call.stages if self._routes.get(route) else {}, total_s, call.slot)
        if call.arm is not None:
            call.arm(outcome, total_s)
        if for_its_key:
            self._metrics.add("ranker_key_refusals", kind=str(call.error))
        if call.error in SHED:
            self._metrics.add("ranker_shed", reason=call.error)
        if call.late_before is not None:
            self._metrics.add("ranker_deadline_exceeded", stage=call.late_before)
        if (why := self._log.why(outcome, total_s, route in PATIENT)) is not None:
            self._log.tell(
                why,
                call.stages,
                total_s,
                request_id=call.id,
                method=method,
                route=route,
                status=status,
                outcome=outcome,
                error=failure or call.error,
                key=call.key and call.key.name,
                trace_id=trace and trace.trace_id,
                span_id=trace and trace.span_id,
                user_id=call.user_id,
            )
        if trace is not None:
            attributes = {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
                "ranker.outcome": outcome,
                "ranker.request_id": call.id,
            }
            trace.end(f"{method} {route}", outcome == "failed", attributes)

    def refused(self, call: Call, method: str, path: str, status: int, total_s: float) -> None:
        """Of a request that comes to no route: it counts for the one that has this path."""
        self.tell(call, method, path if path in self._routes else UNMATCHED, status, total_s)


def ids_of(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, str | None, str | None]:
    """The caller's X-Request-Id where it is harmless, else a new one; traceparent and tracestate, as they came."""
    request_id = traceparent = tracestate = None
    for name, value in headers:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            if request_id is None and _REQUEST_ID.fullmatch(text):
                request_id = text
        elif name == b"traceparent":
            traceparent = value.decode("latin-1")
        elif name == b"tracestate":
            tracestate = value.decode("latin-1")
    return request_id or os.urandom(16).hex(), traceparent, tracestate


def server_timing(stages: Mapping[str, float], total_s: float) -> bytes:
    """For the header of that name, which browsers show: milliseconds by stage, and in all."""
    spent = [*stages.items(), ("total", total_s)]
    return ", ".join([f"{name};dur={seconds * 1000:.3f}" for name, seconds in spent]).encode()
