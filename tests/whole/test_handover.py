"""A service takes the listening sockets over: from systemd, or from the service before it on the same host."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from model.bundle.reading import Bundle
from tests.client import Service, get, serving
from tests.knocking import knocking
from tests.processes import ROOT, Running, offspring, wait_until
from tests.worked import free_port


def listening(service: Service) -> bool:
    return "ready on" in service.output


def test_a_successor_takes_over_under_load_and_nobody_is_lost(small_bundle: Bundle, tmp_path: Path) -> None:
    """And another from the successor."""
    settings = {
        "bundle": str(small_bundle.folder),
        "handover": str(tmp_path / "handover"),
        "port": str(free_port()),
        "admin_port": str(free_port()),
        "workers": "2",
        "drain_s": "1",
        "timeout_ms": "60000",  # a busy machine turns nobody away
    }
    admin = f"http://127.0.0.1:{settings['admin_port']}"
    with ExitStack() as services:
        first = serves = services.enter_context(serving(**settings))
        with knocking(first.url) as clients:
            wait_until(lambda: clients.counts["ok"] > 50, first)
            for _ in range(2):
                before, serves = serves, services.enter_context(serving(**settings))
                assert before.ended() == 0, serves.output
                assert listening(serves) and "the service before has handed over" in serves.output
                wait_until(lambda enough=clients.counts["ok"] + 50: clients.counts["ok"] > enough, serves)
                assert json.loads(get(f"{admin}/health/ready"))["workers"] == 2
                assert (tmp_path / "handover").is_socket()
        assert set(clients.counts) == {"ok"}, (clients.counts, clients.examples[:3], first.output)
    assert not list(tmp_path.iterdir()), "the socket is gone with the last"


def test_where_the_successor_fails_the_one_before_goes_on(small_bundle: Bundle, tmp_path: Path) -> None:
    settings = {"handover": str(tmp_path / "handover"), "port": str(free_port()), "timeout_ms": "60000"}
    with serving(bundle=str(small_bundle.folder), **settings) as first:
        first.curl()
        with knocking(first.url) as clients:
            wait_until(lambda: (tmp_path / "handover").exists(), first)
            with serving(bundle="/nowhere", **settings) as second:
                assert second.ended() == 1
            wait_until(lambda: "ended before it answered; this service goes on" in first.output, first)
            before = clients.counts["ok"]
            wait_until(lambda: clients.counts["ok"] > before + 20, first)
        assert set(clients.counts) == {"ok"} and first.process.poll() is None
        with serving(bundle=str(small_bundle.folder), **settings) as third:  # it can be tried again
            assert first.ended() == 0 and third.curl()


@pytest.mark.parametrize("path", ["/nowhere/at/all", "x" * 200, "."], ids=["no folder", "too long", "a folder"])
def test_a_place_where_no_socket_can_be_made_is_one_clear_line(tmp_path: Path, path: str) -> None:
    with serving(handover=str(tmp_path / path)) as service:
        assert service.ended() == 1
        assert "RANKER_HANDOVER=" in service.output and "no socket can be made there" in service.output
        assert service.output.count("service: ") == 1 and "Traceback" not in service.output


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd-socket-activate is not installed")
def test_systemd_hands_over_its_sockets_and_keeps_them_for_the_next_start(small_bundle: Bundle) -> None:
    ports = [free_port(), free_port()]
    listen = [f"--listen=127.0.0.1:{port}" for port in ports]
    environment = {"RANKER_BUNDLE": str(small_bundle.folder), "RANKER_DRAIN_S": "0", "PYTHONUNBUFFERED": "1"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RANKER_")}
    with offspring() as children:
        process = subprocess.Popen(
            ["systemd-socket-activate", *listen, "--fdname=http:admin", sys.executable, "-m", "service"],
            cwd=ROOT,
            env=kept | environment | {"STARTED_BY_TEST": children.mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running = Running(process, children)
        try:
            wait_until(lambda: "Listening on" in running.output, running)
            with socket.create_connection(("127.0.0.1", ports[0]), timeout=60) as caller:  # which starts it
                caller.sendall(b"GET /health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                assert caller.recv(12) == b"HTTP/1.1 200", running.output
            assert "listening on what LISTEN_FDS hands over" in running.output
            assert json.loads(get(f"http://127.0.0.1:{ports[1]}/health/ready"))["workers"] == 1
            process.send_signal(signal.SIGTERM)
            assert running.ended() == 0, running.output
        finally:
            running.stop()
