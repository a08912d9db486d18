"""Traces: W3C `traceparent` taken up and passed on, and OpenTelemetry's spans where they are asked for.

Without OpenTelemetry a request that brings a `traceparent` keeps its trace id: in the log, and in the answer's
`traceresponse` (the header that W3C's Trace Context names for answers; same format, with the id of our span). Spans
need the extra `otel` and one of the standard variables below; a request is then a span with a child a stage.
"""

import os
import re
import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
EXPORTER, DISABLED, SERVICE = "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME"
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
SPOKEN = "http/protobuf"
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Parent(NamedTuple):
    """The caller's span, in lower-case hex."""

    trace_id: str
    span_id: str
    flags: str


# By hand: opentelemetry-api's TraceContextTextMapPropagator takes 4.1 µs for what takes 0.8 here (CPython 3.11), and a
# service without the extra `otel` passes a trace on too.
def parsed(traceparent: str) -> Parent | None:
    """The caller's span, or None for what is no `traceparent`: then the trace begins here."""
    fields = _TRACEPARENT.fullmatch(traceparent)
    if fields is None or (fields[1] == "00" and fields[5] is not None):  # only a later version may be longer
        return None
    return Parent(fields[2], fields[3], fields[4])


class Trace:
    """Of one request: the trace that it belongs to, and our own span in it."""

    stages: dict[str, float] | None = None  # where stages are to be written, unless anywhere does

    def __init__(self, trace_id: str, span_id: str, flags: str):
        self.trace_id, self.span_id, self.flags = trace_id, span_id, flags

    @property
    def traceresponse(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"

    def end(self, name: str, failed: bool, attributes: Mapping[str, Any]) -> None:
        """The request is answered."""


def passed_on(parent: Parent) -> Trace:
    """The trace of a request of which we make no span."""
    return Trace(parent.trace_id, os.urandom(8).hex(), parent.flags)


class Timeline(dict[str, float]):
    """Stages in seconds, as a dict is; remembers when each was written, which is when the stage ended."""

    def __init__(self) -> None:
        self.ended: dict[str, float] = {}

    def __setitem__(self, stage: str, seconds: float) -> None:
        self.ended[stage] = time.perf_counter()
        super().__setitem__(stage, seconds)

    def spans(self) -> list[tuple[str, float, float]]:
        """Each stage, when it began and when it ended, on perf_counter's clock."""
        if "queue" in self and "score" in self:  # both are written when the scores are there
            self.ended["queue"] = self.ended["score"] - self["score"]
        return [(stage, self.ended[stage] - seconds, self.ended[stage]) for stage, seconds in self.items()]


class Recorded(Trace):
    """A request whose spans are recorded."""

    def __init__(self, tracing: "Tracing", span: "Span"):
        context = span.get_span_context()
        super().__init__(f"{context.trace_id:032x}", f"{context.span_id:016x}", f"{context.trace_flags:02x}")
        self._tracing, self._span = tracing, span
        self._zero_ns = time.time_ns() - int(time.perf_counter() * 1e9)  # perf_counter's zero, on the wall clock
        self.stages = Timeline() if span.is_recording() else None

    def end(self, name: str, failed: bool, attributes: Mapping[str, Any]) -> None:
        if isinstance(self.stages, Timeline):
            from opentelemetry.trace import Status, StatusCode, set_span_in_context

            self._span.update_name(name)
            self._span.set_attributes(dict(attributes))
            if failed:
                self._span.set_status(Status(StatusCode.ERROR))
            context = set_span_in_context(self._span)
            for stage, begun, ended in self.stages.spans():
                child = self._tracing.tracer.start_span(stage, context, start_time=self._ns(begun))
                child.end(self._ns(ended))
        self._span.end()

    def _ns(self, at: float) -> int:
        return self._zero_ns + int(at * 1e9)


class Tracing:
    """OpenTelemetry's spans of one worker; `provider` says where they go."""

    def __init__(self, provider: "TracerProvider"):
        self._provider = provider
        self.tracer = provider.get_tracer("ranker")

    def begin(self, parent: Parent | None, tracestate: str | None, begun: float) -> Trace:
        """A request's span, a child of the caller's where there is one. `begun` is on perf_counter's clock."""
        from opentelemetry import trace

        context = None
        if parent is not None:
            state = trace.TraceState.from_header([tracestate]) if tracestate else None
            flags = trace.TraceFlags(int(parent.flags, 16))
            ids = (int(parent.trace_id, 16), int(parent.span_id, 16))
            remote = trace.SpanContext(*ids, is_remote=True, trace_flags=flags, trace_state=state)
            context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
        started_ns = time.time_ns() - int((time.perf_counter() - begun) * 1e9)
        span = self.tracer.start_span("request", context, trace.SpanKind.SERVER, start_time=started_ns)
        return Recorded(self, span)

    def close(self) -> None:
        """Sends what is not sent yet."""
        self._provider.shutdown()


def wanted(environment: Mapping[str, str]) -> str | None:
    """The variable that asks for spans, if one does."""
    if environment.get(DISABLED, "").lower() == "true" or environment.get(EXPORTER, "").lower() == "none":
        return None
    return next((name for name in (*ENDPOINTS, EXPORTER) if environment.get(name)), None)


def refusal(environment: Mapping[str, str]) -> str | None:
    """Why spans that are asked for cannot be had, in one line; None where they can, or nobody asked."""
    variable = wanted(environment)
    if variable is None:
        return None
    if not _installed():
        return f"{variable} asks for traces, which need more packages: pip install 'bst-ranker[otel]'; going on without"
    exporter = environment.get(EXPORTER) or "otlp"
    if exporter != "otlp":
        return f"{EXPORTER}={exporter}: otlp and none are allowed; going on without traces"
    protocol = next((environment[name] for name in PROTOCOLS if environment.get(name)), SPOKEN)
    if protocol != SPOKEN:
        return f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: {SPOKEN} is allowed; going on without traces"
    return None


def from_environment(environment: Mapping[str, str]) -> Tracing | None:
    """Tracing as the OTEL_* variables have it; None where nobody asked, or `refusal` says why not.

    Call it in the worker, after any fork: it has a thread that sends.
    """
    if wanted(environment) is None or refusal(environment) is not None:
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = environment.get(SERVICE) or SERVICE_NAME in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if named else {SERVICE_NAME: "bst-ranker"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def _installed() -> bool:
    try:
        return all(find_spec(name) for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"))
    except ModuleNotFoundError:  # a package above it is missing
        return False
