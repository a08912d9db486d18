"""Whole load tests: is the ruler straight, several processes, search, the report and its comparison, a service started.

What a run found is compared with what the server did; budgets are generous, since the machine may be busy.
"""

import asyncio
import json
import math
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest.__main__ import main
from loadtest.bench.processes import service
from loadtest.errors import NoRun
from loadtest.generator.answers import Log, stages_ms
from loadtest.generator.budgets import Budget
from loadtest.generator.client import Answer
from loadtest.generator.plan import Body
from loadtest.verdict import compare, page, series
from loadtest.verdict.report import Outcome, judge
from loadtest.verdict.search import CURVE, Limits, parse_limits, search
from loadtest.verdict.words import headline, summary
from tests.loads import DEFAULTS, Reply, arguments, budgets_file, ranked, run, serving, taking
from tests.processes import finished, offspring, started

# The ruler

DELAY_S = 0.1


@contextmanager
def delaying() -> Iterator[str]:
    """The URL of a server that answers any number at once, each DELAY_S after it was asked."""
    loop = asyncio.new_event_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                due = loop.time() + DELAY_S
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                content = ranked(json.loads(body)) if body else b"{}"
                await asyncio.sleep(due - loop.time())  # the delay is what the ruler has to find
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        while tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()


def test_the_median_of_a_fixed_delay_is_right_within_5_percent(tmp_path):
    with delaying() as url:
        ran = run(url, budgets_file(tmp_path, steady={"rate": 40, "duration_s": 1.5}))

    assert ran.line["errors"] == 0, ran
    assert ran.line["p50_ms"] == pytest.approx(DELAY_S * 1000, rel=0.05)
    assert ran.line["service_p50_ms"] == pytest.approx(DELAY_S * 1000, rel=0.05)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_sees_the_same_median(tmp_path):
    script = tmp_path / "rank.lua"
    script.write_text('wrk.method = "POST"\nwrk.body = \'{"user_id": "u", "candidates": ["a", "b"]}\'\n')
    with delaying() as url:
        wrk = subprocess.run(
            ["wrk", "-t1", "-c4", "-d2s", "--latency", "-s", script, url + "/rank"],
            check=True,
            capture_output=True,
            text=True,
        )
        ours = run(url, budgets_file(tmp_path, steady={"rate": 40, "duration_s": 1.5, "candidates": 2})).line

    told = re.search(r"50%\s+([\d.]+)(ms|s)", wrk.stdout)
    assert told, wrk.stdout
    theirs = float(told[1]) * {"ms": 1, "s": 1000}[told[2]]
    assert ours["service_p50_ms"] == pytest.approx(theirs, rel=0.05)


def test_percentiles_of_the_hgrm_file_are_those_of_the_recorded_times():
    seconds = np.random.default_rng(1).lognormal(math.log(0.008), 0.7, 20_000)

    text = series.hgrm(seconds).decode()

    rows = [[float(cell) for cell in line.split()] for line in text.splitlines()[2:] if line[0] != "#"]
    assert rows[-1][2] == 20_000
    for ms, share, count, *_ in rows:
        exact = np.sort(seconds * 1000)[int(count) - 1]
        assert ms == pytest.approx(exact, rel=0.002)
        assert count / 20_000 >= share - 1e-4
    deviation = re.search(r"StdDeviation\s*=\s*([\d.]+)", text)
    assert deviation and float(deviation[1]) == pytest.approx(seconds.std() * 1000, rel=0.01)


# Several processes


def test_several_processes_send_every_request_once_and_are_judged_together(tmp_path):
    def rank(number: int, asked: dict[str, Any]) -> Reply:
        reply = taking(0.02)(number, asked)
        return reply._replace(status=500 if number % 10 == 0 else 200)

    with serving(rank) as server:
        budget = budgets_file(tmp_path, steady={"errors": 0.2, "processes": 3, "duration_s": 1})
        ran = run(server.url, budget)
        sent = server.contents
        again = run(server.url, budget, "--processes", "1")

    (report,) = ran.line["scenarios"]
    first, second = sent[: report["requests"]], sent[report["requests"] :]
    assert ran.code == again.code == 0, ran
    assert report["requests"] == len(first) == len(second)
    assert sorted(first) == sorted(second)  # the plan does not depend on who carries it out
    assert report["faults"] == {"status 500": math.ceil(len(first) / 10)}
    assert report["p50_ms"] >= 20


@pytest.mark.parametrize("signalled", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_sigterm_ends_a_run_of_several_processes(tmp_path, signalled):
    with serving() as server:
        budget = budgets_file(tmp_path, steady={"duration_s": 60, "processes": 2})
        with started(*arguments(server.url, budget)) as process:  # and afterwards nobody is left who could send
            assert server.asked.wait(60)
            process.process.send_signal(signalled)
            code = process.ended()

    assert code == 130
    assert "interrupted" in process.output and "Traceback" not in process.output


# Stages


@pytest.mark.parametrize(
    ("answer", "header", "found"),
    [
        ({"timings_ms": {"score": 1.5, "total": 2}}, b"", {"score": 1.5, "total": 2}),
        ({}, b'parse;dur=0.25, queue;desc="a, b";dur=1, cache', {"parse": 0.25}),
        ({"timings_ms": {"score": 2}}, b"parse;dur=.5, score;dur=1.9", {"parse": 0.5, "score": 1.9}),
        ({"timings_ms": {"score": None, "sort": "1"}}, b";;dur=,", {}),
        ([], b"a;dur=1.2.3", {"a": math.nan}),
        (None, b"", {}),
    ],
)
def test_stages_are_what_server_timing_tells_and_else_the_answer(answer, header, found):
    assert stages_ms(answer, header) == pytest.approx(found, nan_ok=True)


# Search


def windows(capacity: float, generator: float = math.inf, moods: Iterator[bool] | None = None) -> Any:
    """Windows of a service that holds `capacity`, of a generator that sends `generator` on time.

    `moods`: whether a window has a bad moment, whatever its rate.
    """
    budget = Budget("steady", **(DEFAULTS | {"p99_ms": 20}))
    log = Log(np.array([0.0]), [Body(b'{"user_id": "u", "candidates": ["a"]}', 1)])
    log.sent(0, 0.0)
    log.answered(0, 0.01, Answer(0.01, 200, b'{"items": [{"item_id": "a", "score": 1}]}'))
    log.close(1)
    fine = judge(budget, log)
    seen: list[float] = []

    async def measure(rate: float) -> Outcome:
        seen.append(rate)
        good = rate <= generator
        held = good and rate <= capacity and not (moods and next(moods, False))
        missed = [] if held else ["p99 99.00 ms, at most 20"]
        return replace(fine, planned_rate=rate, good=good, passed=held, p99_ms=10 if held else 99, missed=missed)

    return measure, seen


@pytest.mark.parametrize("begin", [1, 20, 97, 100, 1500])
def test_a_search_finds_the_highest_rate_confirms_95_percent_of_it_and_draws_the_curve_to_twice(begin):
    measure, seen = windows(capacity=100)

    found = asyncio.run(search(measure, begin, most=1e6))

    assert 100 / 1.05 <= found.rate <= 100
    assert found.confirmed_rate == pytest.approx(0.95 * found.rate)
    assert found.limited_by == "service"
    assert seen.count(found.rate) >= 3 and seen.count(found.confirmed_rate) == 3
    assert [point.planned_rate for point in found.curve] == pytest.approx([found.rate * times for times in CURVE])
    assert max(CURVE) == 2
    assert len(seen) < 60


def test_one_bad_moment_decides_nothing():
    measure, _ = windows(100, moods=iter([True, False, False] * 40))

    found = asyncio.run(search(measure, 20, most=1e6))

    assert 100 / 1.05 <= found.rate <= 100


def test_a_search_that_ends_at_the_generator_says_so():
    measure, _ = windows(capacity=1e9, generator=300)

    found = asyncio.run(search(measure, 100, most=1e6))

    assert 300 / 1.05 <= found.rate <= 300 and found.limited_by == "generator"


def test_a_search_never_sends_more_than_a_window_may():
    measure, seen = windows(capacity=1e9)

    found = asyncio.run(search(measure, 100, most=900))

    assert (found.rate, found.limited_by, max(seen)) == (900, "nothing", 900)


def test_a_search_that_finds_nothing_ends_with_the_last_window_that_failed():
    measure, seen = windows(capacity=0)

    found = asyncio.run(search(measure, 64, most=1e6))

    assert (found.rate, found.confirmed_rate, found.outcome.passed) == (0, 0, False)
    assert min(seen) == 1


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("p99=20ms,errors=0.1%", Limits(20, 20, 0.001)),
        ("p99=0.5s", Limits(500, 500, 0)),
        ("p99=20ms,refused=5%", Limits(20, 20, 0, 0.05)),
        (" p50 = 5 ms, p99 = 20 ms, errors = 0.01", Limits(5, 20, 0.01)),
    ],
)
def test_the_budget_of_a_search_is_read(text, limits):
    assert parse_limits(text) == limits


@pytest.mark.parametrize(
    "text",
    ["", "p99", "p99=20", "p99=20%", "p99=0ms", "errors=1%", "p99=1ms,p99=2ms", "p99=1.2.3ms", "p90=1ms,p99=2ms"]
    + ["p99=20ms,errors=5", "p99=20ms,errors=5ms"],
)
def test_the_budget_of_a_search_that_is_none_is_refused(text):
    with pytest.raises(NoRun, match="p99=20ms,errors=0.1% is allowed"):
        parse_limits(text)


class Bucket:
    """Answers 503 to what comes above `rate` a second, a tenth of a second's worth aside."""

    def __init__(self, rate: float) -> None:
        self.rate, self.most = rate, rate / 10
        self.left, self.at = self.most, time.monotonic()
        self.lock = threading.Lock()

    def rank(self, _: int, asked: dict[str, Any]) -> Reply:
        with self.lock:
            now = time.monotonic()
            self.left = min(self.most, self.left + (now - self.at) * self.rate)
            self.at = now
            served = self.left >= 1
            self.left -= served
        return Reply(ranked(asked), 200 if served else 503)


@pytest.mark.long
def test_a_search_against_a_server_ends_in_its_rate_and_a_page_with_the_curve(tmp_path):
    out = tmp_path / "out"
    with serving(Bucket(80).rank) as server:
        budget = budgets_file(tmp_path, steady={"rate": 70, "arrivals": "constant"})
        search_for = ("--search", "p99=4s,errors=10%", "--window", "0.2", "--out", str(out))
        ran = run(server.url, budget, *search_for)

    assert ran.code == 0, ran
    found = ran.line["search"]["steady"]
    assert 70 <= found["rate"] <= 150  # 80, a tenth more of errors, and the bucket's first fill
    assert ran.line["rate"] == pytest.approx(found["confirmed_rate"], rel=0.15)
    assert len(found["curve"]) == len(CURVE) and found["curve"][-1]["passed"] is False
    kept = f"confirmed to keep p99 4000 ms, errors 10 %: {found['confirmed_rate']:.1f}/s, "
    assert any(kept in line for line in ran.out)
    assert ran.line["headline"] == f"Confirmed within budget: steady at {found['confirmed_rate']:.1f} requests/s"
    html = (out / "report.html").read_text()
    assert kept.capitalize() in html and "goodput" in html
    changed = compare.changes(compare.read(out / "report.json"), ran.line)["steady"][-1]
    assert (changed.name, changed.before, changed.better) == ("highest rate", changed.now, None)


# The report


@pytest.fixture(scope="module")
def fast_and_slow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """The folders of a run and of a slower one compared with it, and what the latter printed."""
    folder = tmp_path_factory.mktemp("reports")

    def reported(delay_s: float, name: str, *more: str) -> tuple[Path, list[str]]:
        def rank(number: int, asked: dict[str, Any]) -> Reply:
            right = taking(delay_s)(number, asked)
            answer = json.loads(right.content) | {"timings_ms": {"history": 0.5, "score": 2.5, "total": 3.5}}
            status = 503 if number == 5 else 200
            return Reply(json.dumps(answer).encode(), status, (("Server-Timing", "queue;dur=0.75"),))

        scenarios = {'"<b>&"': {"errors": 0.5}, "narrow": {"p50_ms": 0.001, "duration_s": 0.3}}
        with serving(rank) as server:
            ran = run(server.url, budgets_file(folder, **scenarios), "--out", str(folder / name), *more)
        assert (folder / name / "report.html").exists(), ran
        return folder / name, ran.out

    fast, _ = reported(0.002, "fast")
    slow, said = reported(0.06, "slow", "--compare", str(fast / "report.json"), "--scenario", "<b>&")
    return fast, slow, said


def test_a_report_is_one_page_that_loads_nothing_with_json_and_hgrm_beside_it(fast_and_slow):
    out, _, _ = fast_and_slow

    html = (out / "report.html").read_text()
    report = json.loads((out / "report.json").read_text())
    names = {"report.html", "report.json", "narrow.hgrm", "narrow-service.hgrm", "_b__.hgrm", "_b__-service.hgrm"}
    assert {path.name for path in out.iterdir()} == names
    assert not re.search(r"<(script|link|img|iframe)|@import|url\((?!#)|\b(src|href)=[\"'](?!#)", html)
    assert "&lt;b&gt;&amp;" in html and "<b>&" not in html
    for title in ("by percentile", "Over time", "By stage", "How the requests ended", "Machine and versions"):
        assert title in html
    assert "Budget missed: 1 of 2 scenarios; within budget: 1 of 2 scenarios" in html
    assert ">pass<" in html and ">fail<" in html and ">too few<" in html
    assert {"processor", "cores", "system", "load"} <= report["environment"]["machine"].keys()
    assert "Python" in report["environment"]["versions"]
    first = report["scenarios"][0]
    assert first["stages"]["queue"] == {"p50_ms": 0.75, "p99_ms": 0.75}
    assert first["stages"]["score"] == {"p50_ms": 2.5, "p99_ms": 2.5}
    course = report["courses"]["<b>&"]
    assert course["due_ms"] == sorted(course["due_ms"]) and course["due_ms"][-1] <= first["max_ms"]
    slices = course["slices"]
    seconds = 0.8 / len(slices)
    assert sum(one["due"] for one in slices) * seconds == pytest.approx(first["requests"], rel=0.01)
    assert sum(one["errors"] for one in slices) * seconds == pytest.approx(1, rel=0.01)


def test_a_run_is_shown_beside_an_earlier_one(fast_and_slow):
    fast, slow, said = fast_and_slow

    old, new = (json.loads((out / "report.json").read_text())["scenarios"][0] for out in (fast, slow))
    row = next(line for line in said if line.startswith("<b>&") and "service_p50_ms" in line)
    percent = (new["service_p50_ms"] / old["service_p50_ms"] - 1) * 100
    assert row.split()[-3:] == [f"{percent:+.1f}", "%", "worse"] and percent > 50
    html = (slow / "report.html").read_text()
    assert "Beside the earlier run" in html and f'<span class="bad">{percent:+.1f} %</span>' in html


def test_scenarios_and_figures_that_the_earlier_run_lacks_are_left_out():
    old = {"scenarios": [{"scenario": "a", "p99_ms": 10.0, "errors": 0, "requests": 50}]}
    new = {"scenarios": [{"scenario": "a", "p99_ms": 5.0, "errors": 3, "requests": 30, "goodput": 1}]}
    new["scenarios"].append({"scenario": "b"})

    found = compare.changes(old, new)

    told = [
        (change.name, change.before.value, change.now.value, change.percent, change.better) for change in found["a"]
    ]
    assert told == [("p99_ms", 10.0, 5.0, -50, None), ("errors %", 0, 10, None, None)]
    assert "not in the earlier report" in compare.show(found, old, new)


def test_a_comparison_of_different_loads_says_so():
    old, new = ({"scenarios": [{"scenario": "a", "planned_rate": rate, "arrivals": "step"}]} for rate in (10, 20.5))

    assert "another load: step, 10 requests/s; now step, 20.5" in compare.show(compare.changes(old, new), old, new)
    assert "another load" not in compare.show(compare.changes(new, new), new, new)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "scenario p50", '{"scenarios": 5}'])
def test_a_file_that_is_no_report_is_refused_before_anything_is_sent(tmp_path, capsys, text):
    (tmp_path / "old.json").write_text(text)
    said = ("--compare", str(tmp_path / "old.json"), "--budgets", str(budgets_file(tmp_path, steady={})))

    assert main(["--url", "http://127.0.0.1:1", *said]) == 2

    assert "no report of a load test" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_sent(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    budget = str(budgets_file(tmp_path, steady={}))

    assert main(["--url", "http://127.0.0.1:1", "--budgets", budget, "--out", str(tmp_path / "file" / "out")]) == 2

    assert "--out" in capsys.readouterr().err


def test_a_report_with_nothing_but_errors_can_be_drawn():
    budget = Budget("steady", **DEFAULTS)
    log = Log(np.array([0.1]), [Body(b'{"user_id": "u", "candidates": ["a"]}', 1)])
    log.close(2)
    report = judge(budget, log)

    line = summary([report], headline([report])) | {"courses": {"steady": series.course(budget, log)}}
    html = page.html(line | {"seed": 0, "environment": {}}, None)

    assert "one never left" in html and "never sent" in html


# A service of its own


def test_a_service_is_started_for_the_test_asked_about_its_users_and_stopped(tmp_path):
    scenario = {"rate": 20, "candidates": {"5": 3, "20": 1}, "history": {"0": 1, "10": 1}, "zipf": 1, "cold": 0.3}
    with offspring() as children, service(os.environ) as running:
        url = running.url
        children.look()
        assert children.ports() and children.folders
        ran = run(url, budgets_file(tmp_path, steady=scenario))

    assert ran.code == 0, ran
    assert {"history", "encode", "score", "sort", "total"} <= ran.line["scenarios"][0]["stages"].keys()
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url + "/health/live", timeout=5)


def test_a_service_that_does_not_start_is_one_line_and_code_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANKER_BUNDLE", str(tmp_path / "none"))

    with offspring():
        assert main(["--start", "--budgets", str(budgets_file(tmp_path, steady={}))]) == 2

    err = capsys.readouterr().err
    assert "the service did not start" in err and "none" in err and len(err.splitlines()) == 1


def test_a_mix_of_histories_needs_a_service_that_tells_their_lengths(tmp_path):
    model = json.dumps({"samples": {"user_ids": ["ann"], "item_ids": ["x"]}}).encode()
    with serving(model=model) as server:
        ran = run(server.url, budgets_file(tmp_path, steady={"history": {"0": 1}}))

    assert ran.code == 2
    assert "needs answers with history_length" in ran.err and len(ran.err.splitlines()) == 1


def test_the_load_generator_and_its_page_know_neither_service_nor_model():
    program = """
import sys, loadtest.__main__, loadtest.verdict.page
known = {name for name in sys.modules if name.split(".")[0] in ("service", "model", "torch", "onnxruntime")}
leaves = {"model.command", "model.textfile", "model.quiet", "model.cores"}  # the last two: of model/__init__
assert known <= {"model", "model.pages", "model.pages.render", "model.pages.drawing"} | leaves, known
"""
    assert (done := finished("-c", program)).returncode == 0, done.stderr
