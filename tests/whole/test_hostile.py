"""A whole service among callers that mean harm: they get their answer or are closed, and the others get theirs."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from urllib.error import HTTPError

import pytest

from tests.client import Service, get, post, requests, serving
from tests.echo import everything
from tests.garbage import GARBAGE, NEXT, TOO_LARGE, answers
from tests.processes import finished, wait_until

HALVES = 300


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(header_timeout_s="2", body_timeout_s="3", max_connections="250", admin_port="0") as running:
        yield running


def connect(service: Service) -> socket.socket:
    host, port = service.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), 30)


def counted(service: Service, reason: str) -> float:
    for line in get(f"{service.url}/metrics").splitlines():
        if line.startswith(f'ranker_bad_requests_total{{reason="{reason}"}}'):
            return float(line.split()[-1])
    raise AssertionError(f"no count of {reason}")


def rank(service: Service) -> int:
    ids = json.loads(get(f"{service.url}/model"))["samples"]
    answer = post(f"{service.url}/rank", {"user_id": ids["user_ids"][0], "candidates": ids["item_ids"][:5]})
    return len(answer["items"])


def let_in(service: Service) -> bool:
    """Whether a newcomer is ranked; 503 is the one refusal that may come."""
    try:
        return rank(service) == 5
    except HTTPError as error:
        assert error.code == 503
        return False


def test_garbage_is_refused_once_counted_and_told_in_one_line(service: Service) -> None:
    before = counted(service, "malformed_http")
    for raw in GARBAGE.values():
        with connect(service) as one:
            one.sendall(raw + NEXT)
            [(status, _)] = answers(everything(one))
            assert status == 400
    assert counted(service, "malformed_http") == before + len(GARBAGE)
    assert service.output.count("connections refused or closed") == 1
    assert "Traceback" not in service.output and "Invalid HTTP" not in service.output
    assert requests(get(f"{service.url}/metrics"), "/rank", "failed") == 0


def test_huge_heads_are_refused_before_they_are_held(service: Service) -> None:
    for expected, raw in TOO_LARGE.values():
        with connect(service) as one:
            one.sendall(raw)
            assert answers(everything(one))[0][0] == expected
    with connect(service) as one:  # a head of 100 MB
        one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nA: ")
        for _ in range(100):
            one.sendall(b"a" * 2**20)
        assert answers(everything(one))[0][0] == 431
    assert rank(service) == 5


def test_a_chunked_body_without_a_length_is_refused_before_it_is_all_held(service: Service) -> None:
    with connect(service) as one:
        one.sendall(b"POST /rank/batch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(6):
            one.sendall(b"100000\r\n" + b" " * 2**20 + b"\r\n")
        assert one.recv(100).startswith(b"HTTP/1.1 413")


def test_more_half_sent_heads_than_connections_keep_nobody_out(service: Service) -> None:
    with ExitStack() as stack:
        halves = [stack.enter_context(connect(service)) for _ in range(HALVES)]
        for one in halves:
            one.sendall(b"POST /rank HTTP/1.1\r\nHo")
        wait_until(lambda: let_in(service), "half-sent heads make no room")
        with ThreadPoolExecutor(20) as threads:
            ends = [answers(raw)[0][0] for raw in threads.map(everything, halves)]
    assert set(ends) <= {408, 503} and ends.count(408) >= 200
    assert rank(service) == 5


@pytest.mark.long
def test_the_hostile_hour_in_short_tells_what_became_of_each_kind() -> None:
    run = finished("-m", "loadtest.hostile", "--quick")
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout.splitlines()[-1])
    assert figures["requests"] > 300 and figures["p99_hostile_over_quiet"] > 0
    assert set(figures["kinds"]["garbage"]) <= {"400", "413", "422", "429", "still open", "408"}
    assert figures["kinds"]["huge heads"].get("431", 0) + figures["kinds"]["huge heads"].get("still open", 0) > 0
    assert figures["descriptors_hostile"] > figures["descriptors_start"]
