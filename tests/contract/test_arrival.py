"""A request's time begins when its bytes were there, however late they are looked at; and what uvicorn's protocol makes
of callers who hang up. On a real server, whose loop the tests hold."""

import socket
import sys
import time
from collections.abc import Iterator

import pytest

from service.api.http.bounds import Bounds
from tests.echo import Server, echoing, everything, request
from tests.processes import wait_until

CLOCKS_S = 0.002  # two clocks are compared


@pytest.fixture
def server() -> Iterator[Server]:
    with echoing() as running:
        yield running


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps what comes in")


@on_linux
def test_what_waits_to_be_accepted_or_read_has_begun_when_its_bytes_came(server: Server) -> None:
    with server.connect() as known, socket.socket() as fresh:
        known.sendall(request("/first"))
        known.recv(1000)
        with server.loop_held():
            spans = []
            for one in (known, fresh):
                if one is fresh:
                    fresh.connect(server.address)
                before = time.perf_counter()
                one.sendall(request("/late"))
                spans.append((before, time.perf_counter()))
        for one in (known, fresh):
            assert one.recv(1000).startswith(b"HTTP/1.1 200")
    _, held, *late = server.arrivals
    for arrival, (before, after) in zip(sorted(late, key=lambda a: a.begun), spans, strict=True):
        assert before - CLOCKS_S <= arrival.begun <= after + CLOCKS_S
        assert arrival.whole == arrival.begun > held.begun


@on_linux
def test_the_callers_own_upload_is_told_apart(server: Server) -> None:
    head, tail = request("/slow", b"x" * 100)[:80], request("/slow", b"x" * 100)[80:]
    with server.connect() as one:
        before = time.perf_counter()
        one.sendall(head)
        wait_until(lambda: server.arrivals, "the head was not read")
        sent = time.perf_counter()
        one.sendall(tail)
        one.recv(1000)
    [arrival] = server.arrivals
    assert arrival.whole is not None
    assert before - CLOCKS_S <= arrival.begun < sent - 0 <= arrival.whole + CLOCKS_S


@pytest.mark.parametrize("requests", [1, 3])
def test_who_hangs_up_is_known_and_fails_nothing(
    server: Server, requests: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Of pipelined requests too, of which uvicorn tells the last alone."""
    with server.connect() as one:
        one.sendall(request("/wait", b"body") * requests)
        wait_until(lambda: server.arrivals)
        assert not server.arrivals[0].gone()
    wait_until(lambda: server.arrivals[0].gone(), "nobody noticed that the caller hung up")
    server.let_all_go()
    wait_until(lambda: server.finished)
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


REFUSAL = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\nno"
CLOSING = REFUSAL.replace(b"Requests\r\n", b"Requests\r\nconnection: close\r\n")


def test_what_is_turned_away_by_its_head_costs_no_task_and_keeps_the_connection(server: Server) -> None:
    body = b"x" * 300_000
    with server.connect() as one:
        server.answer = REFUSAL
        one.sendall(request("/rank", body)[:200])
        assert one.recv(1000) == REFUSAL  # before the body is there
        server.answer = None
        one.sendall(request("/rank", body)[200:])  # passed over
        one.sendall(request("/rank", b"hello"))
        answer = one.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"hello")
        server.answer = REFUSAL
        one.sendall(request("/rank").replace(b"Host: x", b"Host: x\r\nConnection: close"))
        assert everything(one) == CLOSING
    assert len(server.arrivals) == 1


@pytest.mark.parametrize("old, new", [(b"Host: x", b"Host: x\r\nConnection: close"), (b"HTTP/1.1", b"HTTP/1.0")])
def test_whose_last_request_is_turned_away_while_it_is_sent_gets_the_answer_and_no_reset(
    server: Server, old: bytes, new: bytes
) -> None:
    server.answer = REFUSAL
    whole = request("/rank", b"x" * 3_000_000).replace(old, new)
    with server.connect() as one:
        one.sendall(whole[:200])
        wait_until(lambda: server.turned_away)
        one.sendall(whole[200:])
        assert everything(one) == CLOSING


def test_who_asks_whether_to_send_the_body_and_is_turned_away_is_hung_up_on(server: Server) -> None:
    """What came next on the connection would be taken for the body."""
    server.answer = REFUSAL
    with server.connect() as one:
        one.sendall(request("/rank", b"x" * 100).replace(b"Host: x", b"Host: x\r\nExpect: 100-continue")[:-100])
        assert everything(one) == CLOSING


def test_who_was_turned_away_and_then_sent_the_body_is_not_waited_for_without_end(server: Server) -> None:
    server.answer, server.lobby.bounds = REFUSAL, Bounds(keep_alive_s=1)
    whole = request("/rank", b"x" * 3000)
    with server.connect() as one:
        one.sendall(whole[:200])
        wait_until(lambda: server.turned_away)
        one.sendall(whole[200:])
        assert everything(one) == REFUSAL


def test_who_does_not_read_that_he_is_turned_away_is_not_read_either(server: Server) -> None:
    server.answer = REFUSAL + b" " * 10_000
    many = request("/rank") * 1000
    with server.connect() as one:
        one.settimeout(0.5)
        with pytest.raises(TimeoutError):
            for _ in range(1000):
                one.sendall(many)
        assert server.turned_away < 5000, "answers that nobody reads pile up"
