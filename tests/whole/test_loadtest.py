"""The load test: its plan and verdicts by themselves, and whole runs against real HTTP servers with known faults.

Runs are processes of their own. Their p99 budgets are generous, since a late send is judged by them and the machine may
be busy; what a run found is compared with what the server did.
"""

import gzip
import json
import math
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest.__main__ import BUDGETS, EXIT_CODES, main
from loadtest.errors import NoRun
from loadtest.generator import budgets, plan
from loadtest.generator.answers import Kind, Log, check
from loadtest.generator.arrivals import arrivals
from loadtest.generator.budgets import Budget
from loadtest.generator.client import Answer, parse_url
from loadtest.generator.plan import Body, read_bodies
from loadtest.quantiles import carried
from loadtest.verdict.report import Outcome, judge, late_share, quantiles_ms
from loadtest.verdict.words import headline, summary
from tests.loads import DEFAULTS, Reply, arguments, budgets_file, ranked, run, serving, taking
from tests.processes import started


def test_a_run_within_budget_ends_in_a_table_and_one_json_line_and_code_0(tmp_path):
    with serving(taking(0.02)) as server:
        ran = run(server.url + "/some/base/", budgets_file(tmp_path, steady={}))

    assert ran.code == 0, ran
    line = ran.line
    keys = "rate requests errors late_share p50_ms p99_ms service_p50_ms service_p99_ms passed".split()
    assert set(keys) < line.keys()
    assert line["passed"] is True and line["errors"] == 0 and line["late_share"] <= 0.01
    assert line["requests"] == len(server.contents)
    assert line["rate"] == pytest.approx(line["requests"] / 0.8, rel=0.1)
    assert 20 <= line["service_p50_ms"] <= line["p50_ms"] <= line["p99_ms"]
    assert any(row.startswith("steady") and row.endswith("passed") for row in ran.out[:-1])
    assert server.paths == {"/some/base/rank"}


def test_a_slow_server_misses_its_budget_and_the_code_is_1(tmp_path):
    with serving(taking(0.05)) as server:
        ran = run(server.url, budgets_file(tmp_path, steady={"p50_ms": 40}))

    assert ran.code == 1, ran
    assert ran.line["passed"] is False
    assert ran.line["p50_ms"] >= 50
    assert "budget missed: p50" in "\n".join(ran.out)


def test_a_server_that_stalls_shows_in_the_p99_and_not_in_the_median_of_the_service_time(tmp_path):
    stall_s = 1.0
    first: list[float] = []

    def rank(_: int, asked: dict[str, Any]) -> Reply:
        first.append(time.monotonic())
        begun, ended = first[0] + 0.6, first[0] + 0.6 + stall_s
        if begun <= first[-1] < ended:  # as if one lock held everybody up
            time.sleep(ended - first[-1])
        return Reply(ranked(asked))

    with serving(rank) as server:
        line = run(server.url, budgets_file(tmp_path, steady={"duration_s": 2.5})).line

    assert line["p99_ms"] >= 0.8 * stall_s * 1000  # a closed loop would have sent one request into the stall
    assert line["service_p50_ms"] < 0.2 * stall_s * 1000


def test_a_generator_that_was_held_up_says_so_and_the_code_is_2(tmp_path):
    with serving() as server:
        budget = budgets_file(tmp_path, steady={"duration_s": 1.5, "p99_ms": 1000})
        with started(*arguments(server.url, budget)) as held:
            assert server.asked.wait(20)
            held.process.send_signal(signal.SIGSTOP)
            time.sleep(0.7)  # so long is it held up, which is what the run has to find
            held.process.send_signal(signal.SIGCONT)
            code, out = held.ended(), held.output
    line = json.loads(out.splitlines()[-1])

    assert code == 2, out
    assert line["late_share"] > 0.01
    assert line["passed"] is False
    assert line["p99_ms"] >= 400  # callers would have waited: counted from when the request was due
    assert "no good" in out


def test_every_kind_of_wrong_answer_is_an_error(tmp_path):
    def scored(*scores: Any) -> Reply:
        return Reply(json.dumps({"items": [{"item_id": "i", "score": score} for score in scores]}).encode())

    kinds: dict[str, Reply | None] = {
        "status 500": Reply(ranked({"candidates": "abcd"}), 500),
        "status 307": Reply(b"", 307, (("Location", "/elsewhere"),)),
        "not JSON": scored(math.nan, 0.3, 0.2, 0.1),
        "a score is no finite number": scored(0.4, 0.3, None, 0.1),
        "not sorted by score": scored(0.1, 0.4, 0.3, 0.2),
        "wrong number of items": scored(0.4, 0.3, 0.2),
        "no items with scores": Reply(b"[]"),
        "not the items asked for": scored(0.4, 0.3, 0.2, 0.1),
        "the connection ended before the answer": None,
    }
    counts = dict.fromkeys(kinds, 0)

    def rank(number: int, asked: dict[str, Any]) -> Reply | None:
        turn = number % (len(kinds) + 1)
        if turn == len(kinds):
            return Reply(ranked(asked))
        kind = list(kinds)[turn]
        counts[kind] += 1
        return kinds[kind]

    with serving(rank) as server:
        ran = run(server.url, budgets_file(tmp_path, steady={"errors": 0.1}))

    assert ran.code == 1, ran
    assert ran.line["scenarios"][0]["faults"] == counts
    assert ran.line["errors"] == sum(counts.values())
    assert ran.line["requests"] == len(server.contents) > ran.line["errors"]
    assert server.paths == {"/rank"}


def test_refused_late_and_degraded_answers_are_outcomes_of_their_own(tmp_path):
    def rank(number: int, asked: dict[str, Any]) -> Reply:
        degraded = json.loads(ranked(asked)) | {"degraded": ["history:open"]}
        taking(0.03)(number, asked)
        return {
            0: Reply(b"", 429, (("Retry-After", "1"),)),
            1: Reply(b"", 504),
            2: Reply(json.dumps(degraded).encode()),
            3: Reply(b"", 429),
        }.get(number % 8, Reply(ranked(asked)))

    with serving(rank) as server:
        lenient = run(server.url, budgets_file(tmp_path, steady={"errors": 0.3, "refused": 0.2}))
        strict = run(server.url, budgets_file(tmp_path, steady={"errors": 0.3}))

    assert (lenient.code, strict.code) == (0, 1), (lenient, strict)
    line = lenient.line
    sent = line["requests"]
    by_turn = [len(range(turn, sent, 8)) for turn in range(4)]
    assert [line[key] for key in ("refused", "late", "degraded", "errors")] == by_turn
    (scenario,) = line["scenarios"]
    assert scenario["faults"] == {"status 429 without a Retry-After of seconds or a date": by_turn[3]}
    assert scenario["degradations"] == {"history:open": by_turn[2]}
    assert sum(scenario["outcomes"].values()) == sent
    assert line["goodput"] == scenario["throughput"] > 0
    assert any(row == f"  {by_turn[0]} x refused: status 429" for row in lenient.out)
    assert "refused)" in strict.line["reasons"][0] and strict.line["headline"] == "Budget missed"


def test_answers_that_never_come_are_errors_after_a_bounded_wait(tmp_path):
    over = threading.Event()

    def rank(number: int, asked: dict[str, Any]) -> Reply | None:
        if number % 2 == 0:
            over.wait(20)
            return None
        return Reply(ranked(asked))

    with serving(rank) as server:
        begun = time.monotonic()
        ran = run(server.url, budgets_file(tmp_path, steady={"wait_s": 0.4}))
        took_s = time.monotonic() - begun
        over.set()

    assert ran.code == 1, ran
    assert ran.line["scenarios"][0]["faults"] == {"no answer in time": (len(server.contents) + 1) // 2}
    assert ran.line["p99_ms"] >= 400
    assert took_s < 10


def test_a_server_that_goes_away_costs_errors_and_the_line_is_still_printed(tmp_path):
    listener = socket.create_server(("127.0.0.1", 0))

    def accept_the_first_connection_only() -> None:
        connection, _ = listener.accept()
        listener.close()
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        connection.close()

    thread = threading.Thread(target=accept_the_first_connection_only)
    thread.start()
    ran = run(f"http://127.0.0.1:{listener.getsockname()[1]}", budgets_file(tmp_path, steady={"duration_s": 0.3}))
    thread.join()

    assert ran.code == 1, ran
    assert ran.line["errors"] == ran.line["requests"] > 0
    assert all(kind.startswith("cannot connect") for kind in ran.line["scenarios"][0]["faults"])


def test_connections_are_kept_and_more_are_opened_only_when_all_are_busy(tmp_path):
    with serving() as quick:
        assert run(quick.url, budgets_file(tmp_path, steady={})).code == 0

    with serving(taking(0.3)) as slow:
        assert run(slow.url, budgets_file(tmp_path, steady={})).code == 0

    assert quick.connections < len(quick.contents) / 2
    assert slow.connections >= 10  # some 18 are on the way at once


def test_chunked_answers_and_servers_that_close_after_each_are_understood(tmp_path):
    def rank(number: int, asked: dict[str, Any]) -> Reply:
        content = ranked(asked)
        if number % 2:
            return Reply(content, 200, (("Connection", "close"),))
        half = len(content) // 2
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (content[:half], content[half:], b""))
        return Reply(chunks, 200, (("Transfer-Encoding", "chunked"),))

    with serving(rank) as server:
        ran = run(server.url, budgets_file(tmp_path, steady={}))

    assert ran.code == 0, ran
    assert ran.line["errors"] == 0


def test_a_file_of_requests_is_sent_in_order_and_round_again(tmp_path):
    lines = [
        b'{"user_id": "u1", "candidates": ["a", {"item_id": "b", "price": 3}], "context": {"page": "x"}}',
        b'{"user_id": 7, "candidates": [1, 2, 3], "top_k": 2, "timestamp": 1511544070000}',
        b'{"user_id": "u3", "candidates": ["a"]}',
    ]
    requests = tmp_path / "requests.jsonl"
    requests.write_bytes(b"\n".join(lines) + b"\n")

    with serving() as server:
        ran = run(server.url, budgets_file(tmp_path, steady={"rate": 30}), "--requests", str(requests))

    assert ran.code == 0, ran
    times_sent = [server.contents.count(line) for line in lines]
    assert sum(times_sent) == len(server.contents) >= 6
    assert max(times_sent) - min(times_sent) <= 1


def test_ids_come_from_the_samples_of_the_model(tmp_path):
    model = json.dumps({"samples": {"user_ids": ["ann", 5], "item_ids": ["x", 2, "z"]}}).encode()

    with serving(model=model) as server:
        ran = run(server.url, budgets_file(tmp_path, steady={"candidates": 7}))

    assert ran.code == 0, ran
    assert {r["user_id"] for r in server.requests} == {"ann", 5}
    assert all(len(r["candidates"]) == 7 and set(r["candidates"]) <= {"x", 2, "z"} for r in server.requests)


def test_ids_are_made_up_where_the_server_offers_none(tmp_path):
    with serving() as server:
        ran = run(server.url, budgets_file(tmp_path, steady={}))

    assert ran.code == 0, ran
    assert "made up" in ran.err
    for request in server.requests:
        assert request["user_id"].startswith("u")
        assert all(item.startswith("i") for item in request["candidates"])
        assert len(set(request["candidates"])) == 4


def test_scenarios_run_in_turn_and_the_worst_stands_at_the_top(tmp_path):
    def rank(number: int, asked: dict[str, Any]) -> Reply | None:
        return taking(0.03 if len(asked["candidates"]) == 2 else 0)(number, asked)

    short = {"duration_s": 0.4}
    scenarios = {
        "one": short | {"candidates": 1},
        "two": short | {"candidates": 2, "p50_ms": 25},
        "three": short | {"candidates": 3},
    }
    with serving(rank) as server:
        ran = run(server.url, budgets_file(tmp_path, **scenarios))

    assert ran.code == 1, ran
    sizes = [len(request["candidates"]) for request in server.requests]
    assert sizes == sorted(sizes) and set(sizes) == {1, 2, 3}
    assert ran.line["scenario"] == "two" and ran.line["passed"] is False
    assert [(s["scenario"], s["passed"]) for s in ran.line["scenarios"]] == [
        ("one", True),
        ("two", False),
        ("three", True),
    ]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes the certificate, is not installed")
def test_https_is_spoken_and_certificates_are_checked(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    budget = budgets_file(tmp_path, steady={})
    with serving() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = f"https://localhost:{server.server_port}"
        trusted = run(url, budget, SSL_CERT_FILE=str(certificate))
        distrusted = run(url, budget)

    assert trusted.code == 0, trusted
    assert distrusted.code == 2
    assert "certificate" in distrusted.err and len(distrusted.err.splitlines()) == 1


# What cannot be run


@contextmanager
def port_without_listener() -> Iterator[int]:
    with socket.socket() as bound:  # bound and not listening: nobody else can take the port meanwhile
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_a_server_that_cannot_be_reached_is_one_line_and_code_2(tmp_path):
    with port_without_listener() as port:
        ran = run(f"http://127.0.0.1:{port}", budgets_file(tmp_path, steady={}))

    assert ran.code == 2
    assert ran.out == []
    assert "cannot reach" in ran.err and str(port) in ran.err and len(ran.err.splitlines()) == 1


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line with which a load test refuses to run."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    return err


def test_a_server_that_speaks_no_http_is_refused(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        said = refusal(capsys, "--url", url, "--budgets", budgets_file(tmp_path, steady={}))
        thread.join()

    assert "not HTTP" in said


TABLE = "[steady]\nrate = 50\nduration_s = 1\ncandidates = 10\np50_ms = 10\np99_ms = 20\nerrors = 0\n"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (TABLE + "rat = 5\n", "unknown key 'rat', allowed are rate, duration_s"),
        (TABLE.replace("rate = 50", "rate = 0"), "rate = 0; allowed: numbers above 0"),
        (TABLE.replace("rate = 50", "rate = -1"), "rate = -1"),
        (TABLE.replace("rate = 50", "rate = nan"), "rate = nan"),
        (TABLE.replace("rate = 50", "rate = true"), "rate = True"),
        (TABLE.replace("rate = 50", 'rate = "fast"'), "rate = 'fast'"),
        (TABLE.replace("rate = 50", "rate = 1e6"), "at most 1000000"),
        (TABLE.replace("rate = 50\n", ""), "rate missing"),
        (TABLE.replace("duration_s = 1", "duration_s = -1"), "duration_s = -1"),
        (TABLE.replace("candidates = 10", "candidates = 0"), "candidates = 0"),
        (TABLE.replace("candidates = 10", "candidates = 1.5"), "candidates = 1.5"),
        (TABLE.replace("errors = 0", "errors = 5"), "errors = 5; allowed: a share"),
        (TABLE + "warmup_s = -1\n", "warmup_s = -1"),
        (TABLE + "wait_s = 0\n", "wait_s = 0"),
        ("rate = 50\n" + TABLE, "rate stands outside a table"),
        (TABLE + "[steady]\n", "not TOML"),
        ("", "empty"),
        ("\udcff", "not TOML"),
    ],
)
def test_a_budgets_file_with_a_mistake_is_refused_with_what_is_allowed(tmp_path, capsys, text, named):
    path = tmp_path / "budgets.toml"
    path.write_text(text, errors="surrogateescape")

    said = refusal(capsys, "--url", "http://127.0.0.1:1", "--budgets", path)

    assert str(path) in said and named in said


def test_a_missing_file_is_refused(tmp_path, capsys):
    url = ("--url", "http://127.0.0.1:1")
    assert "No such file" in refusal(capsys, *url, "--budgets", tmp_path / "none.toml")
    budget = budgets_file(tmp_path, steady={})
    assert "No such file" in refusal(capsys, *url, "--budgets", budget, "--requests", tmp_path / "none.jsonl")


def test_an_unknown_scenario_is_refused_with_the_names_there_are(tmp_path, capsys):
    budget = budgets_file(tmp_path, steady={}, wide={})

    said = refusal(capsys, "--url", "http://127.0.0.1:1", "--budgets", budget, "--scenario", "wid")

    assert "'wid', only steady, wide" in said


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b'{"user_id": "u1", "candidates": ["a"]', "not JSON"),
        (b"user_id,candidates", "not JSON"),
        (b'["u1"]', "an object is allowed"),
        (b'{"candidates": ["a"]}', "no user_id"),
        (b'{"user_id": "u1"}', "candidates is a list"),
        (b'{"user_id": "u1", "candidates": []}', "candidates is a list"),
        (b'{"user_id": "u1", "candidates": ["a"], "top_k": 0}', "top_k is an integer"),
    ],
)
def test_a_malformed_request_is_named_by_file_line_and_reason(tmp_path, capsys, line, named):
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b'{"user_id": "u1", "candidates": ["a"]}\n' + line + b"\n")

    said = refusal(capsys, "--url", "http://127.0.0.1:1", "--budgets", budgets_file(tmp_path, a={}), "--requests", path)

    assert f"{path}:2: {named}" in said


def test_a_file_of_requests_is_read_as_editors_and_exporters_leave_it(tmp_path):
    body = b'{"user_id": "u1", "candidates": ["a", "b"]}'
    packed = gzip.compress(b"\xef\xbb\xbf" + body + b"\r\n\r\n" + body)
    for content in (b"\xef\xbb\xbf" + body + b"\n\n" + body + b"\n \n", packed):
        (tmp_path / "requests.jsonl").write_bytes(content)
        assert read_bodies(tmp_path / "requests.jsonl") == [Body(body, 2)] * 2
    (tmp_path / "requests.jsonl").write_bytes(packed[:-9])
    with pytest.raises(NoRun, match="requests .*gzip that is cut off"):
        read_bodies(tmp_path / "requests.jsonl")


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://host",
        "http://",
        "http://host:port",
        "http://host:99999",
        "http://user:secret@host",
        "http://host/?q=1",
        "http://host/a b",
        "http://höst",
    ],
)
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(NoRun, match="is allowed"):
        parse_url(url)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://127.0.0.1:8000", (False, "127.0.0.1", 8000, "127.0.0.1:8000", "")),
        ("http://host/a/b/", (False, "host", 80, "host", "/a/b")),
        ("https://[::1]", (True, "::1", 443, "[::1]", "")),
    ],
)
def test_a_url_is_taken_apart(url, parts):
    assert parse_url(url)[:5] == parts


def test_samples_that_are_no_ids_are_refused():
    with pytest.raises(NoRun, match="item_ids holds 1.5"):
        plan.read_samples(b'{"samples": {"user_ids": ["u"], "item_ids": ["a", 1.5]}}')


@pytest.mark.parametrize(
    "model", [b"<html>", b"[]", b"{}", b'{"samples": null}', b'{"samples": {"user_ids": [], "item_ids": ["a"]}}']
)
def test_a_model_without_samples_offers_none(model):
    assert plan.read_samples(model) is None


# The plan


def budget_of(**values: Any) -> Budget:
    return Budget("steady", **(DEFAULTS | values))


def test_the_shipped_budgets_can_be_read():
    path = BUDGETS

    assert [budget.scenario for budget in budgets.load(path)] == ["steady", "wide", "mixed"]
    assert [budget.scenario for budget in budgets.load(path, ["wide"])] == ["wide"]
    for budget in budgets.load(path):
        for seed in range(5):
            due_s = arrivals(budget, plan.generator(seed, budget.scenario))
            assert carried(int((due_s >= budget.warmup_s).sum()), 0.99), "a default that cannot be judged"


def test_the_plan_is_the_same_for_a_seed_and_another_for_another_seed_or_scenario():
    def due_s(seed: int, scenario: str) -> list[float]:
        return arrivals(budget_of(), plan.generator(seed, scenario)).tolist()

    assert due_s(1, "steady") == due_s(1, "steady")
    assert due_s(1, "steady") != due_s(2, "steady")
    assert due_s(1, "steady") != due_s(1, "wide")


def test_arrivals_are_a_poisson_process_of_the_rate_asked_for():
    due_s = arrivals(budget_of(rate=200, duration_s=100, warmup_s=10), plan.generator(1, "steady"))

    measured = due_s[due_s >= 10]
    gaps = np.diff(due_s)
    assert 0 <= due_s[0] and due_s[-1] <= 110 and (gaps >= 0).all()
    assert len(measured) == pytest.approx(20_000, abs=5 * math.sqrt(20_000))
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # exponential gaps
    assert np.mean(gaps > 3 / 200) == pytest.approx(math.exp(-3), rel=0.1)


def test_at_least_one_request_is_measured():
    assert len(arrivals(budget_of(rate=1e-6, warmup_s=0), plan.generator(1, "steady"))) == 1


def test_no_item_is_asked_for_twice_unless_there_are_too_few():
    samples = plan.Samples(["u"], list(range(20)))
    rng = plan.generator(1, "steady")

    enough = plan.draw_bodies(samples, budget_of(candidates=20), 5, rng)
    scarce = plan.draw_bodies(samples, budget_of(candidates=21), 5, rng)

    assert all(sorted(json.loads(body.content)["candidates"]) == list(range(20)) for body in enough)
    assert all(len(json.loads(body.content)["candidates"]) == body.items == 21 for body in scarce)


# The verdict


ONE = Body(b'{"user_id": "u", "candidates": ["a"]}', 1)
RIGHT = b'{"items": [{"item_id": "a", "score": 0.5}]}'


def closed_log(
    due_s: Sequence[float], sent_s: Sequence[float], answered_s: Sequence[float], wrong: Sequence[int] = ()
) -> Log:
    """A log of requests for one item, all answered, those numbered in `wrong` with a status 500."""
    log = Log(np.array(due_s), [ONE])
    for request, (sent, answered) in enumerate(zip(sent_s, answered_s, strict=True)):
        log.sent(request, sent)
        log.answered(request, answered, Answer(answered, 500 if request in wrong else 200, RIGHT))
    log.close(max(answered_s))
    return log


def code(*outcomes: Outcome) -> int:
    return EXIT_CODES[headline(outcomes).verdict]


@pytest.mark.parametrize(
    ("p99_ms", "lag_ms", "late"),
    [
        (10, 0.99, False),  # 5 % would be 0.5 ms: 1 ms is the floor
        (10, 1.01, True),
        (100, 4.99, False),
        (100, 5.01, True),
        (10, -0.1, False),
        (10, math.nan, True),  # it never left
    ],
)
def test_a_send_is_late_past_1_ms_or_5_percent_of_the_p99_budget(p99_ms, lag_ms, late):
    assert late_share(np.array([1.0]), np.array([1.0 + lag_ms / 1000]), p99_ms) == late


def test_a_run_with_one_late_send_in_a_hundred_is_good_and_with_two_is_not():
    due_s = np.arange(100) / 100
    budget = budget_of(p99_ms=20)

    def report(late: int):
        sent_s = due_s + np.where(np.arange(100) < late, 0.002, 0)
        return judge(budget, closed_log(due_s.tolist(), sent_s.tolist(), (due_s + 0.01).tolist()))

    assert (report(1).good, report(1).passed, code(report(1))) == (True, True, 0)
    assert (report(2).good, report(2).passed, code(report(2))) == (False, False, 2)


def test_times_count_from_when_a_request_was_due_and_service_times_from_when_it_left():
    due_s = [i / 10 for i in range(10)]
    log = closed_log(due_s, [due + 0.1 for due in due_s], [due + 0.15 for due in due_s])

    report = judge(budget_of(), log)

    assert (report.p50_ms, report.p99_ms) == pytest.approx((150, 150), rel=0.002)
    assert (report.service_p50_ms, report.service_p99_ms) == pytest.approx((50, 50), rel=0.002)


def test_warm_up_is_in_none_of_the_figures():
    due_s = [0.1, 0.2, 1.1, 1.2]
    log = closed_log(due_s, [0.9, 0.9, 1.1, 1.2], [1.0, 1.0, 1.11, 1.21], wrong=[0])

    report = judge(budget_of(warmup_s=1, duration_s=1), log)

    assert (report.requests, report.errors, report.late_share, report.rate) == (2, 0, 0, 2)
    assert report.p99_ms == pytest.approx(10, rel=0.002)


@pytest.mark.parametrize(("allowed", "passed"), [(0, False), (0.24, False), (0.25, True)])
def test_the_budget_of_errors_is_a_share(allowed, passed):
    log = closed_log([0.0, 0.1, 0.2, 0.3], [0.0, 0.1, 0.2, 0.3], [0.01, 0.11, 0.21, 0.31], wrong=[2])

    report = judge(budget_of(errors=allowed), log)

    assert (report.errors, report.passed, report.faults) == (1, passed, {"status 500": 1})


def test_what_never_left_and_what_was_never_answered_count_until_the_end():
    log = Log(np.array([0.0, 0.1]), [ONE])
    log.sent(0, 0.0)
    log.close(2.0)

    report = judge(budget_of(), log)

    assert report.faults == {"no answer in time": 1, "never sent": 1}
    assert report.p99_ms == pytest.approx(2000, rel=0.002)
    assert (report.late_share, report.good) == (0.5, False)


@pytest.mark.parametrize("count", [1, 7, 99, 100, 101, 1000, 20_000])
def test_quantiles_are_the_exact_ones_of_the_recorded_times(count):
    seconds = np.random.default_rng(count).lognormal(math.log(0.008), 0.7, count)
    ordered = np.sort(seconds * 1000)
    shares = [0.5, 0.9, 0.99, 0.999, 1]

    found = quantiles_ms(seconds, shares)

    by_rank = [ordered[math.ceil(Fraction(str(share)) * count) - 1] for share in shares]
    np.testing.assert_allclose(found, by_rank, atol=0.0006)
    np.testing.assert_allclose(found, np.quantile(ordered, shares, method="inverted_cdf"), atol=0.0006)


def test_a_run_that_is_no_good_is_worse_than_a_missed_budget():
    at = [i / 10 for i in range(20)]
    late = judge(Budget("late", **DEFAULTS), closed_log(at, [t + 9 for t in at], [t + 9.1 for t in at]))
    missed = judge(Budget("missed", **(DEFAULTS | {"p50_ms": 1})), closed_log(at, at, [t + 9.5 for t in at]))
    fine = judge(Budget("fine", **DEFAULTS), closed_log(at, at, [t + 0.1 for t in at]))

    assert [code(fine), code(fine, missed), code(fine, late, missed)] == [0, 1, 2]

    def line(*outcomes: Outcome) -> dict[str, Any]:
        return summary(outcomes, headline(outcomes))

    assert [line(fine, late, missed)["scenario"], line(fine, missed)["scenario"]] == ["late", "missed"]
    assert [line(fine)["passed"], line(fine, missed)["passed"]] == [True, False]


@pytest.mark.parametrize(
    ("status", "content", "wrong"),
    [
        (200, b'{"items": [{"item_id": "b", "score": 0.5}, {"item_id": 1, "score": 0.5}]}', None),
        (200, b'{"items": [{"item_id": 1, "score": 1}, {"item_id": "b", "score": -3.5}]}', None),
        (201, b'{"items": [{"score": 0.5}, {"score": 0.5}]}', "status 201"),
        (200, b"", "not JSON"),
        (200, b'{"items": [{"score": NaN}, {"score": 0.5}]}', "not JSON"),
        (200, b'{"items": [{"score": 1e999}, {"score": 0.5}]}', "not JSON"),
        (200, b'{"items": null}', "no items with scores"),
        (200, b'{"items": ["a", "b"]}', "no items with scores"),
        (200, b'{"items": [{"score": 0.5}]}', "wrong number of items"),
        (200, b'{"items": [{"score": "0.5"}, {"score": 0.5}]}', "a score is no finite number"),
        (200, b'{"items": [{"score": true}, {"score": 0.5}]}', "a score is no finite number"),
        (200, b'{"items": [{"score": 0.4}, {"score": 0.5}]}', "not sorted by score"),
        (200, b'{"items": [{"item_id": "b", "score": 2}, {"item_id": "b", "score": 1}]}', "not the items asked for"),
        (200, b'{"items": [{"item_id": "b", "score": 2}, {"item_id": "c", "score": 1}]}', "not the items asked for"),
        (200, b'{"items": [{"item_id": [], "score": 2}, {"score": 1}]}', "not the items asked for"),
    ],
)
def test_an_answer_is_right_when_all_items_are_ranked_by_finite_scores(status, content, wrong):
    asked = Body(b'{"user_id": "u", "candidates": [{"item_id": "b", "price": 3}, 1]}', 2)

    kind, why, _ = check(Answer(0.0, status, content), asked)
    assert (why or None) == wrong
    assert kind == (Kind.RIGHT if wrong is None else Kind.FAILED if status != 200 else Kind.WRONG)


@pytest.mark.parametrize(
    ("status", "content", "retry_after", "kind", "why"),
    [
        (200, b'{"items": [{"item_id": "a", "score": 1}], "degraded": []}', b"", Kind.RIGHT, ""),
        (
            200,
            b'{"items": [{"item_id": "a", "score": 1}], "degraded": ["history:open"]}',
            b"",
            Kind.DEGRADED,
            "history:open",
        ),
        (200, b'{"items": [], "degraded": ["history:open"]}', b"", Kind.WRONG, "wrong number of items"),
        (429, b"", b"1", Kind.REFUSED, "status 429"),
        (429, b"", b"Wed, 21 Oct 2026 07:28:00 GMT", Kind.REFUSED, "status 429"),
        (429, b"", b"", Kind.WRONG, "status 429 without a Retry-After of seconds or a date"),
        (429, b"", b"soon", Kind.WRONG, "status 429 without a Retry-After of seconds or a date"),
        (504, b"", b"", Kind.LATE, "status 504"),
        (503, b"", b"1", Kind.FAILED, "status 503"),
    ],
)
def test_degraded_refused_and_late_answers_are_told_apart_from_errors(status, content, retry_after, kind, why):
    answer = Answer(0.0, status, content, retry_after=retry_after)

    assert check(answer, ONE)[:2] == (kind, why)


def test_an_answer_that_never_came_has_failed():
    assert check(Answer(0.0, 0, b"", "the connection ended before the answer"), ONE).kind is Kind.FAILED


def test_answers_beyond_what_is_kept_are_checked_all_the_same():
    log = Log(np.array([0.0, 0.1]), [ONE], kept_bytes=0)
    for request, content in enumerate([RIGHT, b"{"]):
        log.sent(request, 0.1)
        log.answered(request, 0.2, Answer(0.2, 200, content))
    log.close(1.0)

    assert log.faults() == [None, "not JSON"]
