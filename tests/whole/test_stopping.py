"""How a service stops: nobody who was let in goes without an answer, and it has ended when its grace is over."""

import http.client
import json
import os
import re
import signal
import socket
import time
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pytest

from loadtest.bench.processes import tree
from model.bundle.reading import Bundle
from tests.client import Service, get, serving
from tests.knocking import BODY, HEAD, RANK, knocking
from tests.namespaces import serving_where
from tests.processes import cmdline, wait_until
from tests.worked import free_port


def connected(service: Service) -> socket.socket:
    at = urlsplit(service.url)
    return socket.create_connection((str(at.hostname), int(at.port or 0)), timeout=20)


def everything(client: socket.socket) -> bytes:
    """Until the service closes."""
    told = b""
    while part := client.recv(65536):
        told += part
    return told


def answer(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    with http.client.HTTPResponse(client) as response:
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, response.read()


def ready(at: str) -> int:
    with closing(http.client.HTTPConnection(at, timeout=10)) as connection:
        connection.request("GET", "/health/ready")
        with connection.getresponse() as response:
            return response.status


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_under_load_loses_nobody_who_was_let_in(small_bundle: Bundle, workers: str) -> None:
    settings = {"workers": workers, "drain_s": "1", "timeout_ms": "60000"}  # a busy machine turns nobody away
    with serving(bundle=str(small_bundle.folder), **settings) as service:
        with knocking(service.url, new=6, kept=4) as clients:
            wait_until(lambda: clients.counts["ok"] > 100, service)
            asked = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            wait_until(lambda: clients.counts["refused"], service)
            assert time.monotonic() - asked >= 1, "refused before it had drained"
            assert service.ended() == 0
        assert set(clients.counts) == {"ok", "refused"}, (clients.counts, clients.examples[:3], service.output)
        assert "Traceback" not in service.output, service.output


def test_while_it_drains_it_says_so_and_each_answer_is_its_connections_last(small_bundle: Bundle) -> None:
    port = free_port()
    with serving(
        bundle=str(small_bundle.folder), workers="2", drain_s="8", shutdown_grace_s="10", admin_port=str(port)
    ) as service:
        with connected(service) as kept:
            kept.sendall(RANK + b"\r\n" + BODY)
            status, headers, _ = answer(kept)
            assert status == 200 and "connection" not in headers
            service.process.send_signal(signal.SIGTERM)
            main = urlsplit(service.url).netloc
            wait_until(lambda: ready(main) == 503 and ready(f"127.0.0.1:{port}") == 503, service)
            wait_until(lambda: ready(main) == 503, service)
            with pytest.raises(HTTPError) as refused:
                get(f"http://127.0.0.1:{port}/health/ready")
            assert json.loads(refused.value.read())["draining"] is True
            told = re.compile(r"^ranker_worker_draining\{.*} (\S+)", re.MULTILINE)
            scrape = f"http://127.0.0.1:{port}/metrics"
            wait_until(lambda: told.findall(get(scrape)) == ["1.0", "1.0"], service)
            kept.sendall(RANK + b"\r\n" + BODY)
            status, headers, _ = answer(kept)
            assert status == 200 and headers["connection"] == "close"
            assert everything(kept) == b""
        service.process.send_signal(signal.SIGTERM)  # again: it does not wait for the rest of the drain
        hurried = time.monotonic()
        assert service.ended() == 0
        assert time.monotonic() - hurried < 6, service.output
        assert service.output.count("SIGTERM: not ready any more; serves on for 8 s at most") == 1
        assert "failed request" not in service.output, "to say that it drains is no failure"


def test_a_service_that_answers_keeps_no_child_that_has_ended(small_bundle: Bundle) -> None:
    with serving(bundle=str(small_bundle.folder)) as service:
        assert service.curl()
        below = tree(service.process.pid)
        states = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] for pid in below]
        assert len(states) > 1 and "Z" not in states


def test_sigterm_to_all_processes_at_once_is_the_same(small_bundle: Bundle, valkey_url: str) -> None:
    """So systemd stops a unit."""
    port = free_port()
    settings = {"workers": "2", "drain_s": "2", "timeout_ms": "60000", "admin_port": str(port)}
    with serving(bundle=str(small_bundle.folder), redis_url=valkey_url, **settings) as service:
        with knocking(service.url) as clients:
            wait_until(lambda: clients.counts["ok"] > 50, service)
            wait_until(lambda: ready(f"127.0.0.1:{port}") == 200, service)
            for pid in service.children.pids():
                os.kill(pid, signal.SIGTERM)
            wait_until(lambda: ready(f"127.0.0.1:{port}") == 503, service)
            wait_until(lambda: clients.counts["refused"], service)
            assert service.ended() == 0
        assert set(clients.counts) == {"ok", "refused"}, (clients.counts, clients.examples[:3], service.output)
        assert "Traceback" not in service.output and "the admin process ended" not in service.output


def test_ctrl_c_does_not_wait_for_balancers(small_bundle: Bundle) -> None:
    with serving(bundle=str(small_bundle.folder), drain_s="50", shutdown_grace_s="60") as service:
        get(f"{service.url}/health/ready")
        service.process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        assert service.ended() == 0 and time.monotonic() - begun < 20


def test_a_drain_longer_than_the_grace_is_one_clear_line() -> None:
    with serving(drain_s="11", shutdown_grace_s="10") as service:
        assert service.ended() == 1
        assert "RANKER_DRAIN_S=11 is part of RANKER_SHUTDOWN_GRACE_S=10: at most 10" in service.output
        assert len(service.output.strip().splitlines()) == 1


def test_a_half_sent_request_is_refused_and_a_whole_one_is_answered_when_it_stops(small_bundle: Bundle) -> None:
    with (
        serving(bundle=str(small_bundle.folder), drain_s="60", shutdown_grace_s="70", timeout_ms="60000") as service,
        ExitStack() as stack,
    ):
        half, late, fresh, idle = (stack.enter_context(connected(service)) for _ in range(4))
        half.sendall(HEAD % 1000 + b"\r\n" + BODY)  # the rest never comes
        idle.sendall(RANK + b"\r\n" + BODY)
        assert answer(idle)[0] == 200
        late.sendall(RANK + b"\r\n" + BODY[:5])
        wait_until(lambda: 'ranker_in_flight{worker="0"} 2.0' in get(f"{service.url}/metrics"), service)
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: ready(urlsplit(service.url).netloc) == 503, service)
        service.process.send_signal(signal.SIGTERM)  # again: it does not wait for balancers
        late.sendall(BODY[5:])
        fresh.sendall(RANK + b"\r\n" + BODY)
        for client in (late, fresh):
            status, headers, body = answer(client)
            assert status == 200 and json.loads(body)["items"] and headers["connection"] == "close"
        status, headers, body = answer(half)
        assert status == 503 and headers["connection"] == "close"
        assert json.loads(body)["error"]["kind"] == "draining"
        assert everything(idle) == b"", "an idle connection is closed, not reset"
        assert service.ended() == 0 and "Traceback" not in service.output


def test_it_ends_within_the_grace_though_a_worker_hangs(small_bundle: Bundle) -> None:
    with serving(bundle=str(small_bundle.folder), workers="2", shutdown_grace_s="3") as service:
        service.curl()
        frozen = [pid for pid in service.children.pids() if b"process.worker" in cmdline(pid)]
        assert frozen
        os.kill(frozen[0], signal.SIGSTOP)
        begun = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.ended() == 0
        assert time.monotonic() - begun < 3 + 3, service.output  # the grace, and a busy machine


def test_it_ends_within_the_grace_though_the_resolver_hangs(small_bundle: Bundle, tmp_path: Path) -> None:
    """The thread that asks it hangs for half a minute, and an interpreter's own end would wait for it."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.9.9.8\noptions timeout:30 attempts:3\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.9.9.8", 53))
        with serving_where(
            f"mount --bind {tmp_path}/resolv.conf /etc/resolv.conf",
            bundle=str(small_bundle.folder),
            redis_url="redis://store.example:6379",
            workers="2",
            shutdown_grace_s="5",
        ) as service:
            service.curl()
            with connected(service) as client:
                client.sendall(RANK + b"connection: close\r\n\r\n" + BODY)
                assert json.loads(answer(client)[2])["degraded"]
            begun = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            assert service.ended() == 0
            assert time.monotonic() - begun < 5 + 5, service.output  # the resolver hangs for 90 s
            assert "is killed" not in service.output, "it ends by itself"
