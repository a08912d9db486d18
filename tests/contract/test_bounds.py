"""What a connection may bring before the application sees a request, and that it is never two requests out of one."""

import json
import logging
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from service.api.http.bounds import Bounds
from service.api.http.lobby import EVICTED, SILENT, UNREAD
from tests.echo import Server, echoing, everything, request
from tests.garbage import CHUNKED, GARBAGE, NEXT, POST, TOO_LARGE, answers
from tests.processes import wait_until

HASTY = Bounds(header_bytes=4096, header_s=1, body_bytes=4096, body_s=1.5, connections=4, keep_alive_s=1.5)


@pytest.fixture
def server() -> Iterator[Server]:
    with echoing() as running:
        yield running


@pytest.fixture
def hasty() -> Iterator[Server]:
    with echoing(HASTY) as running:
        yield running


def asked(server: Server, raw: bytes, pieces: int = 1) -> list[tuple[int, bytes]]:
    """All answers to bytes that come in so many pieces, until the server closes."""
    size = -(-len(raw) // pieces)
    with server.connect() as one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(raw), size):
            one.sendall(raw[at : at + size])
        return answers(everything(one))


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_gets_one_answer_and_its_end_is_no_request(
    server: Server, name: str, pieces: int, caplog: pytest.LogCaptureFixture
) -> None:
    [(status, body)] = asked(server, GARBAGE[name] + NEXT, pieces)
    assert (status, json.loads(body)["error"]["kind"]) == (400, "malformed_http")
    assert server.bodies == []
    assert server.reasons == ["malformed_http"]
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


@pytest.mark.parametrize("pieces", [1, 50])
@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_is_too_large_is_refused_before_it_is_whole(server: Server, name: str, pieces: int) -> None:
    expected, raw = TOO_LARGE[name]
    [(status, _)] = asked(server, raw, pieces)
    assert status == expected
    assert server.bodies == []


def test_a_head_is_counted_to_the_byte() -> None:
    head = b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nA: "
    with echoing(HASTY) as server, server.connect() as one:
        one.sendall(head + b"a" * (4096 - 4 - len(head)) + b"\r\n\r\nhi" + request("/rank", b"again"))
        wait_until(lambda: len(server.bodies) == 2)
        assert answers(one.recv(1000))[0] == (200, b"hi")
        one.sendall(head + b"a" * (4096 - 3 - len(head)) + b"\r\n\r\nhi")
        assert answers(everything(one))[-1][0] == 431


def test_requests_before_garbage_are_answered_first_and_those_behind_it_never(server: Server) -> None:
    with server.connect() as one:
        one.sendall(request("/wait", b"1") + request("/rank", b"2") + GARBAGE["two Hosts"] + NEXT)
        wait_until(lambda: server.arrivals)
        server.let_all_go()
        first, second, third = answers(everything(one))
    assert (first, second, third[0]) == ((200, b"1"), (200, b"2"), 400)
    assert [path for path, _ in server.bodies] == ["/wait", "/rank"]


def test_what_follows_a_last_request_is_no_request(server: Server) -> None:
    for last in (request("/rank").replace(b"Host: x", b"Host: x\r\nConnection: close"), b"GET / HTTP/1.0\r\n\r\n"):
        assert [status for status, _ in asked(server, last + NEXT)] == [200]
    assert [path for path, _ in server.bodies] == ["/rank", "/"]


def test_pipelined_requests_are_taken_one_after_the_other_and_all_answered(server: Server) -> None:
    bodies = [b"%d" % number * (1 + number % 50) for number in range(2000)]
    raw = b"".join(
        request("/rank", body) if at % 3 else CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        for at, body in enumerate(bodies)
    )
    with server.connect() as one:
        one.sendall(raw)
        one.sendall(request("/rank", b"last").replace(b"Host: x", b"Host: x\r\nConnection: close"))
        assert [body for _, body in answers(everything(one))] == [*bodies, b"last"]


def test_a_pipelined_request_that_has_come_whole_is_whole_when_its_turn_comes(server: Server) -> None:
    last = request("/rank", b"last").replace(b"Host: x", b"Host: x\r\nConnection: close")
    with server.connect() as one:
        one.sendall(request("/wait", b"1") + request("/rank", b"2") * 20 + last)
        wait_until(lambda: server.arrivals)
        server.let_all_go()
        assert [body for _, body in answers(everything(one))] == [b"1", *[b"2"] * 20, b"last"]
    assert server.whole == [True] * 22


@pytest.mark.parametrize("name", ["h2c", "websocket"])
def test_an_upgrade_that_nobody_offers_changes_nothing(server: Server, name: str) -> None:
    upgrade = b"Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: " + name.encode()
    chunked = CHUNKED.replace(b"Host: x", upgrade) + b"4\r\nfour\r\n0\r\n\r\n"
    last = request("/rank", b"last").replace(b"Host: x", b"Host: x\r\nConnection: close")
    raw = request("/rank", b"GET / HTTP/1.1\r\n\r\n").replace(b"Host: x", upgrade) + chunked + last
    for pieces in (1, 9):
        assert [body for _, body in asked(server, raw, pieces)] == [b"GET / HTTP/1.1\r\n\r\n", b"four", b"last"]
    assert server.reasons == []


def test_a_trailer_is_no_header(server: Server) -> None:
    with server.connect() as one:
        one.sendall(CHUNKED + b"1\r\na\r\n0\r\nHost: evil\r\nX-Api-Key: k\r\n\r\n")
        assert answers(one.recv(1000)) == [(200, b"a")]


def test_who_sends_no_whole_head_is_told_and_who_sends_nothing_is_closed(hasty: Server) -> None:
    with hasty.connect() as half, hasty.connect() as silent:
        half.sendall(b"GET / HTTP/1.1\r\nHo")
        [(status, body)] = answers(everything(half))
        assert (status, json.loads(body)["error"]["kind"]) == (408, "slow_headers")
        assert everything(silent) == b""
    wait_until(lambda: sorted(hasty.reasons) == [SILENT, "slow_headers"], hasty.reasons)


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
def test_a_body_that_never_ends_is_given_up(hasty: Server, framing: bytes) -> None:
    with hasty.connect() as one:
        one.sendall(POST + framing + b"\r\n\r\n")
        [(status, body)] = answers(everything(one))
    assert (status, json.loads(body)["error"]["kind"]) == (408, "slow_upload")
    assert hasty.bodies == [] and hasty.reasons == ["slow_upload"]


def test_bodies_under_way_are_bounded_together_and_the_oldest_makes_room() -> None:
    with echoing(Bounds(body_bytes=4096)) as server, server.connect() as old, server.connect() as new:
        old.sendall(POST + b"Content-Length: 60000\r\n\r\n" + b"a" * 40_000)
        wait_until(lambda: server.lobby.held == 40_000)
        new.sendall(request("/rank", b"b" * 50_000)[:40_000])
        assert answers(everything(old))[0][0] == 408
        new.sendall(request("/rank", b"b" * 50_000)[40_000:])
        wait_until(lambda: server.bodies)
        assert server.lobby.held == 0


def test_answered_connections_are_kept_for_as_long_as_is_set_and_no_longer(hasty: Server) -> None:
    with hasty.connect() as one:
        for _ in range(2):
            one.sendall(request("/rank", b"hi"))
            assert one.recv(1000).endswith(b"hi")
        assert everything(one) == b""
    assert hasty.reasons == []
    assert Bounds().keep_alive_s > 60, "balancers keep theirs for 60 s"


def kept_and_at_work(server: Server) -> tuple[socket.socket, list[socket.socket]]:
    """As many connections as there may be: one that has been answered and rests, others that wait for answers."""
    idle, *others = [server.connect() for _ in range(HASTY.connections)]
    for one in (idle, *others):
        one.sendall(request("/rank", b"hi"))
        assert one.recv(1000).endswith(b"hi")
    for one in others:
        one.sendall(request("/wait", b"hi"))
    wait_until(lambda: len(server.arrivals) == 4 + len(others))
    return idle, others


def test_above_the_bound_the_longest_idle_makes_room_and_who_works_does_not() -> None:
    with echoing(replace(HASTY, keep_alive_s=60, young_s=0)) as server:
        idle, others = kept_and_at_work(server)
        with server.connect() as newcomer:
            newcomer.sendall(request("/wait", b"new"))
            assert everything(idle) == b"" and server.reasons == [EVICTED]
            wait_until(lambda: len(server.arrivals) == 8)
            with server.connect() as late:
                assert refused_for_room(late)
            server.let_all_go()
            for one in (newcomer, *others):
                assert one.recv(1000).startswith(b"HTTP/1.1 200")
                one.close()
        idle.close()
        wait_until(lambda: server.lobby.count == 0, "connections that are gone still count")


def test_who_has_just_been_answered_makes_no_room_for_strangers() -> None:
    """His next request may be on its way."""
    with echoing(replace(HASTY, keep_alive_s=60, young_s=60)) as server:
        idle, others = kept_and_at_work(server)
        for _ in range(3):
            with server.connect() as stranger:
                assert refused_for_room(stranger)
        idle.sendall(request("/rank", b"again"))
        assert idle.recv(1000).endswith(b"again")
        server.let_all_go()
        for one in (idle, *others):
            one.close()


def refused_for_room(client: socket.socket) -> bool:
    [(status, body)] = answers(everything(client))
    return (status, json.loads(body)["error"]["kind"]) == (503, "too_many_connections")


def test_half_sent_heads_make_room_before_callers_that_are_kept(hasty: Server) -> None:
    halves = [hasty.connect() for _ in range(HASTY.connections)]
    for one in halves:
        one.sendall(b"GET / HTTP/1.1\r\n")
    with hasty.connect() as early:
        assert answers(everything(early))[0][0] == 503
    for one in halves:
        assert answers(everything(one))[0][0] == 408
        one.close()


def test_who_takes_no_answer_is_given_up(hasty: Server) -> None:
    with hasty.connect() as one:
        one.settimeout(0.1)
        many, at = request("/rank", b"x" * 40_000) * 10, 0
        with suppress(ConnectionError):
            while not hasty.reasons:
                with suppress(TimeoutError):
                    at = (at + one.send(many[at:])) % len(many)
        wait_until(lambda: hasty.reasons == [UNREAD], hasty.reasons)
    wait_until(lambda: hasty.lobby.count == 0)


def test_garbage_is_counted_each_time_and_told_once(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        asked(server, GARBAGE["no Host"])
    assert server.reasons == ["malformed_http"] * 20
    assert len(caplog.records) == 1
