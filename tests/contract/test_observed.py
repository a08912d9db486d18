"""What is told of a request beside its answer: headers, log lines, traces, and the metrics of its surroundings."""

import asyncio
import json
import logging
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from model.bundle.reading import Bundle
from service.settings import DEMO_BUNDLE
from service.telemetry.families import STAGES
from service.telemetry.logs import FIELDS, TEXT, Json, RequestLog, Text
from service.telemetry.pulse import EVERY_S, beat, born
from service.telemetry.tracing import Parent, Tracing, parsed, refusal, wanted
from tests.client import client_of
from tests.processes import PATIENCE_S
from tests.stores import black_hole_url, dead_url

ROOT = Path(__file__).parents[2]
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture(scope="module")
def demo() -> Bundle:
    return Bundle.open(DEMO_BUNDLE)


def asked(bundle: Bundle, url: str, *calls: tuple[str, Any, dict[str, str]], **given: Any) -> list[httpx.Response]:
    """Answers to (path, body, headers); a body of None is a GET."""

    async def go() -> list[httpx.Response]:
        async with client_of(bundle, url, **given) as client:
            return [
                await (
                    client.get(path, headers=headers) if body is None else client.post(path, json=body, headers=headers)
                )
                for path, body, headers in calls
            ]

    return asyncio.run(go())


def body(bundle: Bundle) -> dict[str, Any]:
    request = bundle.golden()[0]
    return {"user_id": request["user_id"], "candidates": request["candidates"][:5]}


def value(text: str, name: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return found


def test_the_header_server_timing_has_every_stage_and_the_whole_in_milliseconds(demo: Bundle, valkey_url: str) -> None:
    one, many, refused, other = asked(
        demo,
        valkey_url,
        ("/rank", body(demo), {}),
        ("/rank/batch", [body(demo)], {}),
        ("/rank", {}, {}),
        ("/health/live", None, {}),
    )
    for answer in (one, many):
        spent = {m[1]: float(m[2]) for m in re.finditer(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"])}
        assert set(spent) == {*STAGES, "total"}
        assert sum(spent.values()) <= 2 * spent["total"] + 0.01 and spent["score"] > 0
    assert spent["score"] == pytest.approx(many.json()[0]["timings_ms"]["score"], abs=0.002)
    assert re.fullmatch(r"total;dur=[\d.]+", refused.headers["server-timing"])
    assert other.headers["server-timing"].startswith("total;dur=")


def test_a_sampled_request_is_logged_with_stages_and_trace_and_names_nobody(
    demo: Bundle, valkey_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ranker.request")
    secret = {"user_id": "secret-user", "candidates": ["secret-item"]}
    calls = [
        ("/rank", secret, {"traceparent": TRACEPARENT, "x-request-id": "mine-1"}),
        ("/secret?user=secret", None, {}),
        ("/rank", secret | {"secret": 1}, {}),
    ]
    asked(demo, valkey_url, *calls, log_sample=1)

    lines = [getattr(record, FIELDS) for record in caplog.records if record.name == "ranker.request"]
    assert "secret" not in caplog.text and "secret" not in json.dumps(lines)
    ranked, unmatched, refused = lines
    assert ranked | {"total_ms": 0, "stages_ms": 0, "span_id": 0} == {
        "why": "sampled",
        "request_id": "mine-1",
        "method": "POST",
        "route": "/rank",
        "status": 200,
        "outcome": "ok",
        "trace_id": TRACE,
        "span_id": 0,
        "total_ms": 0,
        "stages_ms": 0,
    }
    assert set(ranked["stages_ms"]) == set(STAGES) and ranked["total_ms"] > 0
    assert (unmatched["route"], unmatched["status"], unmatched["error"]) == ("unmatched", 404, "not_found")
    assert (refused["outcome"], refused["error"]) == ("refused", "invalid_request")

    caplog.clear()
    asked(demo, valkey_url, *calls[:1], log_sample=1, log_user_ids=True)
    (record,) = [record for record in caplog.records if record.name == "ranker.request"]
    for form in (Text(TEXT), Json()):
        line = form.format(record)
        assert "secret-user" in line and "secret-item" not in line and "mine-1" in line and "serialise" in line


def test_slow_and_failed_requests_are_always_logged_and_the_others_not_at_all(
    demo: Bundle, valkey_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ranker.request")
    call = ("/rank", body(demo), {})
    asked(demo, valkey_url, call, log_slow_ms=60_000)
    assert not [record for record in caplog.records if record.name == "ranker.request"]
    asked(demo, valkey_url, call, log_slow_ms=0.001)
    asked(demo, valkey_url, call, log_slow_ms=60_000, closed_pool=True)
    slow, failed = [record for record in caplog.records if record.name == "ranker.request"]
    assert slow.levelname == "WARNING" and set(getattr(slow, FIELDS)["stages_ms"]) == set(STAGES)
    fields = getattr(failed, FIELDS)
    assert failed.levelname == "ERROR" and fields["error"] == "RuntimeError" and fields["status"] == 500
    assert {"parse", "history", "encode"} <= set(fields["stages_ms"])


def test_the_share_of_logged_requests_is_the_one_that_is_set() -> None:
    assert {RequestLog(0, 0).why("ok", 1e9) for _ in range(100)} == {None}
    told = sum(RequestLog(0.25, 0).why("degraded", 0.1) == "sampled" for _ in range(4000))
    assert 800 < told < 1200
    assert RequestLog(0, 500, "debug").why("ok", 0.1) == "sampled"
    assert RequestLog(0, 500).why("failed", 0.1) == "failed" and RequestLog(0, 500).why("ok", 0.5) == "slow"


def test_json_lines_hold_one_object_each_whatever_happened() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("ranker", logging.ERROR, "", 0, "%s\nlines", ("two",), sys.exc_info())
    setattr(record, FIELDS, {"total_ms": 1.5})
    line = Json().format(record)
    told = json.loads(line)
    assert "\n" not in line and told["message"] == "two\nlines" and told["level"] == "error"
    assert told["total_ms"] == 1.5 and "Traceback" in told["exception"] and told["time"].endswith("Z")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (TRACEPARENT, Parent(TRACE, SPAN, "01")),
        (f"01-{TRACE}-{SPAN}-00-more", Parent(TRACE, SPAN, "00")),
        (TRACEPARENT + "-more", None),
        (TRACEPARENT.replace("00-", "ff-", 1), None),
        (TRACEPARENT.upper(), None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        ("", None),
        ("x" * 10_000, None),
    ],
)
def test_a_traceparent_is_read_as_the_standard_has_it(given: str, read: Parent | None) -> None:
    assert parsed(given) == read


def test_a_trace_is_passed_on_in_the_answer_with_a_span_of_our_own(demo: Bundle, valkey_url: str) -> None:
    with_, without, wrong = asked(
        demo,
        valkey_url,
        ("/rank", body(demo), {"traceparent": TRACEPARENT}),
        ("/rank", body(demo), {}),
        ("/rank", body(demo), {"traceparent": "nonsense"}),
    )
    back = parsed(with_.headers["traceresponse"])
    assert back and back.trace_id == TRACE and back.span_id != SPAN and back.flags == "01"
    assert "traceresponse" not in without.headers and "traceresponse" not in wrong.headers


def test_a_request_is_a_span_with_a_child_a_stage(demo: Bundle, valkey_url: str) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="the extra `otel` is not installed")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    sent = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(sent))
    before = time.time_ns()
    answer, own, unsampled = asked(
        demo,
        valkey_url,
        ("/rank", body(demo), {"traceparent": TRACEPARENT, "tracestate": "a=b"}),
        ("/health/live", None, {}),
        ("/rank", body(demo), {"traceparent": TRACEPARENT[:-1] + "0"}),
        traces=Tracing(provider),
    )

    *children, request, live = sent.get_finished_spans()  # the caller that did not sample gets none
    assert request.name == "POST /rank" and request.parent.span_id == int(SPAN, 16)
    assert request.context.trace_id == int(TRACE, 16) and request.context.trace_state.get("a") == "b"
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{request.context.span_id:016x}-01"
    assert request.attributes["http.route"] == "/rank" and request.attributes["http.response.status_code"] == 200
    assert {child.name for child in children} == set(STAGES)
    assert {child.parent.span_id for child in children} == {request.context.span_id}
    ordered = sorted(children, key=lambda child: child.start_time)
    assert [child.name for child in ordered] == ["parse", "history", "encode", "queue", "score", "sort", "serialise"]
    slack_ns = 100_000  # two clocks are read, one after the other
    for child, after in zip(ordered, [*ordered[1:], None], strict=True):
        assert before - slack_ns <= request.start_time - slack_ns <= child.start_time <= child.end_time
        assert child.end_time <= (after.start_time if after else request.end_time) + slack_ns
    assert live.name == "GET /health/live" and live.parent is None
    assert f"{live.context.trace_id:032x}" in own.headers["traceresponse"]
    assert parsed(unsampled.headers["traceresponse"]).trace_id == TRACE


def test_spans_that_are_asked_for_and_cannot_be_had_are_one_clear_line() -> None:
    program = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import service.app
from service.telemetry import tracing
asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
assert tracing.from_environment(asked) is None and tracing.refusal({}) is None
print(tracing.refusal(asked))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"OTEL_EXPORTER_OTLP_ENDPOINT asks .* pip install 'bst-ranker\[otel\]'.*\n", done.stdout)


def test_what_of_the_standard_variables_is_not_spoken_here_is_one_clear_line() -> None:
    pytest.importorskip("opentelemetry.sdk", reason="the extra `otel` is not installed")
    assert "OTEL_TRACES_EXPORTER=zipkin: otlp and none" in str(refusal({"OTEL_TRACES_EXPORTER": "zipkin"}))
    spoken = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: http/protobuf" in str(refusal(spoken))


@pytest.mark.parametrize(
    ("environment", "asks"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "x"}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "OTEL_TRACES_EXPORTER"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, None),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, None),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
    ],
)
def test_spans_are_made_where_the_standard_variables_ask_for_them(environment: dict[str, str], asks: str) -> None:
    assert wanted(environment) == asks


def test_the_metrics_tell_of_store_scores_history_model_and_worker(demo: Bundle, valkey_url: str) -> None:
    large = body(demo) | {"candidates": ["i"] * 21}
    calls = [("/rank", body(demo), {}), ("/rank/batch", [body(demo)] * 3, {}), ("/rank", large, {})]
    text = asked(demo, valkey_url, *calls, ("/metrics", None, {}), max_candidates=20)[-1].text

    assert value(text, "ranker_store_ops_total", op="read", outcome="ok") == 2
    assert value(text, "ranker_store_duration_seconds_count", op="read") == 2
    assert value(text, "ranker_batch_requests_sum") == 3
    assert value(text, "ranker_score_mean_count") == 4 and 0 < value(text, "ranker_score_mean_sum") < 4
    assert value(text, "ranker_score_nan_total") == 0
    assert value(text, "ranker_shed_total", reason="too_many_candidates") == 1
    assert value(text, "ranker_in_flight", worker="0") == 0 and value(text, "ranker_queue_items", worker="0") == 0
    assert value(text, "ranker_worker_up", worker="0") == 1 and value(text, "ranker_worker_resident_bytes") > 0
    assert value(text, "ranker_worker_cpu_seconds_total", worker="0") > 0
    assert value(text, "ranker_model_swap_total", outcome="ok") == 1 and value(text, "ranker_model_load_seconds") > 0
    exported = value(text, "ranker_model_exported_timestamp_seconds", version=demo.version)
    assert exported < value(text, "ranker_model_loaded_timestamp_seconds") <= time.time()
    labels = {"model": demo.name, "version": demo.version, "variant": "", "outcome": "ok", "route": "/rank"}
    assert value(text, "ranker_requests_total", **labels) == 1


def test_a_caller_s_faults_are_never_failures_and_outcomes_add_up_to_all_requests(
    demo: Bundle, valkey_url: str
) -> None:
    large = body(demo) | {"candidates": ["i"] * 21}
    faults: list[tuple[str, Any, dict[str, str]]] = [
        ("/rank", {}, {}),
        ("/rank", [body(demo)], {}),
        ("/rank", large, {}),
        ("/rank", body(demo) | {"user_id": "u" * 2000}, {}),
        ("/rank/batch", body(demo), {}),
        ("/rank/batch", [large, {}], {}),
        ("/nowhere", None, {}),
        ("/health/live", {}, {}),
    ]
    calls = [("/rank", body(demo), {}), *faults, ("/metrics", None, {})]
    *answers, scrape = asked(demo, valkey_url, *calls, max_candidates=20, max_body_bytes=1024)
    counts: dict[str, float] = {}
    for family in text_string_to_metric_families(scrape.text):
        for sample in family.samples:
            if sample.name == "ranker_requests_total":
                outcome = sample.labels["outcome"]
                counts[outcome] = counts.get(outcome, 0) + sample.value
    refused = sum(400 <= answer.status_code < 500 for answer in answers)
    ok = sum(answer.status_code == 200 for answer in answers)
    assert ok + refused == len(answers) and refused >= 6
    assert {outcome: n for outcome, n in counts.items() if n} == {"ok": ok, "refused": refused}
    median = {"stage": "total", "quantile": "0.5", "route": "/rank"}
    assert value(scrape.text, "ranker_response_time_seconds", outcome="ok", **median) == pytest.approx(
        float(re.findall(r"total;dur=([\d.]+)", answers[0].headers["server-timing"])[0]) / 1000, rel=0.02
    )


def test_the_store_that_is_late_and_the_store_that_is_gone_are_told_apart(demo: Bundle) -> None:
    with dead_url() as dead, black_hole_url() as hole:
        gone, late = (
            asked(demo, url, ("/rank", body(demo), {}), ("/metrics", None, {}))[-1].text for url in (dead, hole)
        )
    assert value(gone, "ranker_store_ops_total", op="read", outcome="error") == 1
    assert value(gone, "ranker_deadline_exceeded_total", stage="history") == 0
    late_by = [value(late, "ranker_store_ops_total", op="read", outcome=name) for name in ("timeout", "lagged")]
    assert sum(late_by) == 1  # lagged: this machine is busy, and the loop came late to it itself
    assert value(late, "ranker_deadline_exceeded_total", stage="history") == 1


def test_the_budgets_are_bounds_of_the_histogram_by_default_those_that_we_test_by(
    demo: Bundle, valkey_url: str
) -> None:
    scenarios = tomllib.loads((ROOT / "loadtest" / "budgets.toml").read_text()).values()
    ours = {scenario[key] for scenario in scenarios for key in ("p50_ms", "p99_ms") if key in scenario}
    for budgets, given in ((ours, {}), ({12.34}, {"budgets_ms": "12.34"})):
        text = asked(demo, valkey_url, ("/rank", body(demo), {}), ("/metrics", None, {}), **given)[-1].text
        for budget in budgets:
            name, le = "ranker_request_duration_seconds_bucket", str(budget / 1000)
            assert value(text, name, route="/rank", outcome="ok", le=le) in (0, 1)


def test_a_stalled_event_loop_shows_in_its_lag() -> None:
    told: list[tuple[float, int, float]] = []

    async def go() -> None:
        later = asyncio.Event()

        def tell(*what: Any) -> None:
            told.append(what)
            if len(told) > 1:
                later.set()

        task = asyncio.create_task(beat(lambda: (7, 0.5), tell))
        await asyncio.sleep(0)
        time.sleep(EVERY_S + 0.2)  # the stall that has to show: nothing else runs in this loop
        await asyncio.wait_for(later.wait(), PATIENCE_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(go())
    assert told[0] == (0.0, 7, 0.5) and told[-1][0] >= 0.2


def test_a_process_is_known_by_when_it_was_born_and_a_dead_one_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert born(child.pid) == born(child.pid) > 0
        child.kill()
        child.wait()
        assert born(child.pid) == 0
    assert born(0) == 0
