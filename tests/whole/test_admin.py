"""Health and metrics on RANKER_ADMIN_PORT: by a process of its own, which tells the truth of the others."""

import http.client
import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from model.bundle.reading import Bundle
from service.telemetry.health import STUCK_S
from tests.client import Service, get, post, serving
from tests.echo import everything
from tests.garbage import GARBAGE, NEXT, TOO_LARGE, answers
from tests.processes import wait_until
from tests.worked import free_port


class Watched(Service):
    """A service with its admin port."""

    admin: int

    def ask(self, path: str, method: str = "GET") -> tuple[int, Any]:
        """Status and body; (0, None) where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=10)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if answer.headers["content-type"] == "application/json" else text
        except OSError:
            return 0, None
        finally:
            connection.close()

    def pids(self, of: str) -> list[int]:
        """Processes whose command line matches."""
        lines = {}
        for pid in self.children.pids():
            with suppress(OSError):  # it has just ended
                lines[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        return [pid for pid, line in lines.items() if re.search(of, line)]


@contextmanager
def watched(bundle: Bundle, **settings: str) -> Iterator[Watched]:
    port = free_port()
    with serving(bundle=str(bundle.folder), admin_port=str(port), **settings) as service:
        service.__class__ = Watched
        assert isinstance(service, Watched)
        service.admin = port
        yield service


def test_the_admin_port_tells_what_the_service_s_own_tells_and_nothing_else(small_bundle: Bundle) -> None:
    with watched(small_bundle) as service:
        post(f"{service.url}/rank", {"user_id": "u1", "candidates": ["i1"]})
        ranked = re.compile(r'ranker_requests_total\{model="[^"]+",outcome="ok",route="/rank",.*} 1\.0')
        assert ranked.search(get(f"{service.url}/metrics"))
        status, text = service.ask("/metrics")
        assert status == 200 and ranked.search(text)
        assert f"on http://127.0.0.1:{service.admin}" in service.output

        model = {"model": small_bundle.name, "version": small_bundle.version}
        assert json.loads(get(f"{service.url}/health/ready")) == {"status": "ready", **model}
        well = {"workers": 1, "up": 1, "answering": 1, **model}
        assert service.ask("/health/ready") == (200, {"status": "ready", **well})
        assert service.ask("/health/live") == (200, {"status": "live", **well})

        status, refused = service.ask("/rank", "POST")
        assert status == 404 and "allowed: GET /health/live, /health/ready, /metrics" in refused["error"]["message"]
        status, refused = service.ask("/metrics", "POST")
        assert status == 405 and refused["error"]["kind"] == "method_not_allowed"


def test_the_admin_port_s_connections_have_the_workers_limits(small_bundle: Bundle) -> None:
    limits = {"header_timeout_s": "2", "max_connections": "8", "keep_alive_s": "1"}
    with watched(small_bundle, **limits) as service:
        service.curl()

        def connect() -> socket.socket:
            return socket.create_connection(("127.0.0.1", service.admin), 30)

        for name, (status, raw) in {**{name: (400, raw) for name, raw in GARBAGE.items()}, **TOO_LARGE}.items():
            with connect() as one:
                one.sendall(raw + NEXT)
                assert [found for found, _ in answers(everything(one))] == [status], name
        with connect() as kept, connect() as half:
            kept.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            half.sendall(b"GET /health/live HTTP/1.1\r\nHo")
            assert [status for status, _ in answers(everything(kept))] == [200]
            assert [status for status, _ in answers(everything(half))] == [408]
        halves = [connect() for _ in range(8)]
        for one in halves:
            one.sendall(b"GET / HTTP/1.1\r\n")
        with connect() as early:
            assert [status for status, _ in answers(everything(early))] == [503]
        for one in halves:
            with one:
                assert [status for status, _ in answers(everything(one))] == [408]
        assert service.ask("/health/live")[0] == 200
        told = [line for line in service.output.splitlines() if "refused or closed" in line]
        assert len(told) == 1 and "Traceback" not in service.output


def test_an_admin_process_that_ends_is_started_again(small_bundle: Bundle) -> None:
    with watched(small_bundle) as service:
        service.curl()
        (before,) = service.pids("service.process.admin")
        os.kill(before, signal.SIGKILL)
        wait_until(
            lambda: service.ask("/health/ready")[0] == 200 and before not in service.pids("service.process.admin")
        )
        assert "the admin process ended (SIGKILL); another takes its place" in service.output
        assert json.loads(get(f"{service.url}/health/ready"))["status"] == "ready"


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_the_admin_process_ends_with_its_parent(small_bundle: Bundle, signal_: signal.Signals) -> None:
    with watched(small_bundle) as service:
        service.curl()
        assert service.pids("service.process.admin")
        service.process.send_signal(signal_)
        service.ended()
        wait_until(lambda: not service.children.pids(), service)
        assert "Traceback" not in service.output and service.ask("/health/live") == (0, None)


def test_a_killed_worker_is_told_until_another_is_up(small_bundle: Bundle) -> None:
    with watched(small_bundle, workers="2") as service:
        service.curl()
        wait_until(lambda: service.ask("/health/ready")[1]["answering"] == 2, service)
        os.kill(service.pids("service.process.worker")[0], signal.SIGKILL)
        wait_until(lambda: service.ask("/health/ready")[0] == 503, service)
        status, body = service.ask("/health/live")
        assert status == 200 and body["status"] == "live" and body["up"] == 1
        assert 'ranker_worker_up{worker="' in service.ask("/metrics")[1]
        wait_until(lambda: service.ask("/health/ready")[0] == 200, service)
        assert "ranker_worker_starts_total 3.0" in service.ask("/metrics")[1]


def test_a_frozen_worker_is_not_ready_while_the_admin_port_answers(small_bundle: Bundle) -> None:
    with watched(small_bundle) as service:
        service.curl()
        (worker,) = service.pids("service.process.worker")
        os.kill(worker, signal.SIGSTOP)
        frozen = time.monotonic()
        try:
            assert service.ask("/health/ready")[0] == 200  # it may be busy
            wait_until(lambda: service.ask("/health/ready")[0] == 503, service)
            assert time.monotonic() - frozen >= STUCK_S - 1
            assert service.ask("/health/ready")[1]["answering"] == 0
            assert service.ask("/health/live")[0] == 200
            age = re.search(r'ranker_worker_heartbeat_age_seconds\{worker="0"} (.*)', service.ask("/metrics")[1])
            assert age and float(age[1]) >= STUCK_S
        finally:
            os.kill(worker, signal.SIGCONT)
        wait_until(lambda: service.ask("/health/ready")[0] == 200, service)


def test_an_admin_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with serving(admin_port=port) as service:
            assert service.ended() == 1
            assert f"cannot listen on 127.0.0.1:{port}" in service.output and "RANKER_ADMIN_PORT" in service.output
            assert len(service.output.strip().splitlines()) == 1
