"""Keys in a running service, as a stranger tries it with bytes of their own, and as an operator sets and rotates it."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from loadtest.__main__ import main as loadtest
from service.access.keys import made
from tests.client import Service, serving
from tests.processes import wait_until
from tests.worked import free_port

ROOT = Path(__file__).parents[2]
BODY = json.dumps({"user_id": "u1", "candidates": ["i1"]}).encode()


class Keys:
    """A file of keys, and the keys themselves by their scope."""

    def __init__(self, folder: Path):
        self.file = folder / "keys"
        pairs = {scope: made(scope, scope) for scope in ("rank", "metrics")}
        self.tokens = {scope: token for scope, (token, _) in pairs.items()}
        self.lines = {scope: line for scope, (_, line) in pairs.items()}
        self.write("rank", "metrics")

    def write(self, *scopes: str) -> None:
        self.file.write_text("".join(f"{self.lines[scope]}\n" for scope in scopes))


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


def port_of(service: Service) -> int:
    return int(service.url.rpartition(":")[2])


def raw(port: int, *pieces: bytes) -> bytes:
    """All that comes back until the service hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def message(head: str, *headers: str, body: bytes = b"", last: bool = True) -> bytes:
    lines = [head, "Host: ranker", *headers]
    lines += [f"Content-Length: {len(body)}"] if body else []
    lines += ["Connection: close"] if last else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def status(port: int, head: str, *headers: str, body: bytes = b"") -> int:
    return int(raw(port, message(head, *headers, body=body)).split()[1])


def statuses(answers: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3})", answers)]


def asked(port: int, path: str, token: str | None = None) -> int:
    """Status of a GET."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", path, headers={} if token is None else {"authorization": f"Bearer {token}"})
        return connection.getresponse().status


def asked_or_gone(port: int, path: str) -> int:
    try:
        return asked(port, path)
    except OSError:
        return 0


def pids(service: Service, of: str) -> set[int]:
    """The service's processes whose command line has this in it."""
    return {pid for pid in service.children.pids() if of in Path(f"/proc/{pid}/cmdline").read_text()}


def test_no_bytes_of_a_stranger_get_an_answer_but_a_refusal(keys: Keys) -> None:
    with serving(keys_file=str(keys.file)) as service:
        port, rank = port_of(service), f"Authorization: Bearer {keys.tokens['rank']}"
        for head in (
            "POST /rank HTTP/1.1",
            "POST /rank HTTP/1.0",
            "POST /rank/batch HTTP/1.1",
            "POST //rank HTTP/1.1",
            "POST /rank/ HTTP/1.1",
            "POST /%72ank HTTP/1.1",
            "POST /rank?/health/live HTTP/1.1",
            "POST http://ranker/rank HTTP/1.1",
            "GET http://ranker/metrics HTTP/1.1",
            "GET /metrics#/health/live HTTP/1.1",
            "GET /health/live/../../metrics HTTP/1.1",
            "GET /health/live%2f..%2f..%2fmetrics HTTP/1.1",
            "GET /health/live%00 HTTP/1.1",
            "GET /health/live; HTTP/1.1",
            "GET /docs-assets/../metrics HTTP/1.1",
            "HEAD /metrics HTTP/1.1",
            "OPTIONS /rank HTTP/1.1",
            "POST /health/live HTTP/1.1",
        ):
            assert status(port, head) == 401, head
        for header in (
            "X-Forwarded-Prefix: /health",
            "X-Original-URL: /health/live",
            "X-Rewrite-URL: /health/live",
            "X-HTTP-Method-Override: HEAD",
            "X-Forwarded-For: 127.0.0.1",
            "X-Real-IP: 127.0.0.1",
            "Forwarded: for=127.0.0.1",
            "Authorization: Bearer",
            "Upgrade: websocket",
        ):
            assert status(port, "GET /metrics HTTP/1.1", header) == 401, header
        assert status(port, "GET /metrics HTTP/1.1", "Host: 127.0.0.1") == 400  # the second one
        assert status(port, "GET /metrics HTTP/1.1", f"Authorization : Bearer {keys.tokens['metrics']}") == 400
        for head in ("CONNECT ranker:80 HTTP/1.1", "OPTIONS * HTTP/1.1"):  # no request of ours, whoever asks
            assert status(port, head) == 400, head

        # A refusal to HEAD has no body, or it would be read as the head of the next answer.
        head, _, body = raw(port, message("HEAD /metrics HTTP/1.1")).partition(b"\r\n\r\n")
        assert b"\r\nwww-authenticate: Bearer" in head and body == b""
        # Who may ask does not ask for who comes behind on the same connection.
        with_key = message("POST /rank HTTP/1.1", rank, body=BODY, last=False)
        without = message("POST /rank HTTP/1.1", body=BODY, last=False)
        end = message("GET /metrics HTTP/1.1")
        assert statuses(raw(port, with_key + without + with_key + end)) == [200, 401, 200, 401]
        assert statuses(raw(port, without + with_key + end)) == [401, 200, 401]
        # A stranger's body is not waited for.
        unfinished = b"POST /rank HTTP/1.1\r\nHost: ranker\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n"
        assert statuses(raw(port, unfinished)) == [401]

        assert status(port, "POST /rank HTTP/1.0", rank, body=BODY) == 200
        for head in ("GET /health/live HTTP/1.1", "GET http://ranker/health/ready HTTP/1.1"):
            assert status(port, head) == 200
        for token in keys.tokens.values():
            assert token not in service.output


def test_keys_rotate_in_all_workers_and_on_the_admin_port_while_they_serve(keys: Keys) -> None:
    admin = free_port()
    with serving(keys_file=str(keys.file), workers="2", admin_port=str(admin)) as service:
        port, rank, metrics = port_of(service), keys.tokens["rank"], keys.tokens["metrics"]
        assert (asked(admin, "/metrics"), asked(admin, "/metrics", rank)) == (401, 403)
        assert [asked(admin, "/metrics", metrics), asked(admin, "/nope")] == [200, 401]

        keys.write("rank")
        wait_until(lambda: all(asked(port, "/metrics", metrics) == 401 for _ in range(20)), service)
        wait_until(lambda: asked(admin, "/metrics", metrics) == 401, service)
        wait_until(lambda: service.output.count("keys read again") == 1, service)
        assert asked(port, "/model", rank) == 200
        keys.file.write_text("half a li")
        wait_until(lambda: "refused, the keys before still hold: rank (rank)" in service.output, service)
        before = pids(service, "process.worker") | pids(service, "process.admin")
        for pid in before:
            os.kill(pid, signal.SIGKILL)  # who takes its place knows the keys that still hold
        wait_until(
            lambda: asked_or_gone(admin, "/health/ready") == 200 and not before & service.children.pids(), service
        )
        assert (asked(port, "/model", rank), asked(port, "/model", metrics)) == (200, 401)
        assert (asked(admin, "/metrics", rank), asked(admin, "/metrics", metrics)) == (403, 401)
        keys.write("rank", "metrics")
        wait_until(lambda: asked(admin, "/metrics", metrics) == 200, service)
        wait_until(lambda: service.output.count("keys read again") == 2, service)  # a line per event, not per process


def test_a_rate_turns_away_what_is_above_it_with_the_time_to_wait(keys: Keys) -> None:
    with serving(keys_file=str(keys.file), rate="3/hour") as service:
        port, rank = port_of(service), f"Authorization: Bearer {keys.tokens['rank']}"
        one = message("POST /rank HTTP/1.1", rank, body=BODY, last=False)
        answers = raw(port, one * 5 + message("GET /metrics HTTP/1.1"))
        assert statuses(answers) == [200, 200, 200, 429, 429, 401]
        alone = raw(port, message("POST /rank HTTP/1.1", rank, body=BODY))
        wait = re.search(rb"\r\nretry-after: (\d+)\r\n", alone)
        assert b"429 Too Many Requests" in alone and b"too_many_requests" in alone and wait and int(wait[1]) > 3000
        assert asked(port, "/metrics", keys.tokens["metrics"]) == 200  # its own count


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"host": "0.0.0.0"}, "can be reached from other machines, and there are no keys: set RANKER_KEYS_FILE"),
        ({"keys": "shop rank short"}, "RANKER_KEYS: entry 1: the third word is no key"),
        ({"keys": ""}, "RANKER_KEYS: no key in it"),
        ({"keys_file": "/nowhere/keys"}, "RANKER_KEYS_FILE=/nowhere/keys: No such file or directory"),
        ({"rate": "5/second"}, "there are no keys"),
        ({"rate": "fast", "keys": "shop rank 0123456789abcdef"}, "RANKER_RATE='fast': a count per second"),
    ],
    ids=["open to strangers", "short", "empty", "no file", "rate without keys", "no rate"],
)
def test_what_would_leave_the_door_open_or_shut_for_good_is_one_line_at_the_start(
    settings: dict[str, str], complaint: str
) -> None:
    with serving(**settings) as service:
        assert service.ended() == 1
        assert complaint in service.output and len(service.output.strip().splitlines()) == 1
        assert "short" not in service.output and "0123456789abcdef" not in service.output


def test_an_address_for_strangers_takes_keys_or_the_word_of_the_operator(keys: Keys) -> None:
    admin = free_port()
    with serving(host="0.0.0.0", keys_file=str(keys.file), metrics_open="true", admin_port=str(admin)) as service:
        assert "-H 'authorization: Bearer KEY'" in service.curl()
        port = port_of(service)
        assert [asked(port, "/model"), asked(port, "/metrics"), asked(admin, "/metrics")] == [401, 200, 200]
    with serving(host="0.0.0.0", unsafe_no_keys="true") as service:
        assert asked(port_of(service), "/model") == 200
        assert re.search(r"WARNING ranker: whoever reaches 0\.0\.0\.0:\d+ may ask: there are no keys", service.output)


def test_the_load_test_brings_its_key_and_says_when_it_lacks_one(
    keys: Keys, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = "rate = 20\nduration_s = 1\ncandidates = 5\np50_ms = 5000\np99_ms = 9000\nerrors = 0\nsmoke = true\n"
    (tmp_path / "budgets.toml").write_text(f"[quick]\n{scenario}")
    with serving(keys_file=str(keys.file), timeout_ms="60000", workers="1") as service:
        arguments = ["--url", service.url, "--budgets", str(tmp_path / "budgets.toml"), "--processes", "2"]
        assert loadtest(arguments) == 2
        assert "GET /model is answered 401: a key with the scope rank is needed, by --key" in capsys.readouterr().err
        monkeypatch.setenv("RANKER_LOADTEST_KEY", keys.tokens["rank"])
        for more in ([], ["--key", keys.tokens["rank"]]):
            loadtest([*arguments, *more])  # how late its sends were is not the matter here
            out = capsys.readouterr().out
            line = json.loads(out.splitlines()[-1])
            assert line["requests"] > 0 and line["errors"] == 0
            assert keys.tokens["rank"] not in out
            monkeypatch.delenv("RANKER_LOADTEST_KEY", raising=False)


def test_compose_makes_a_key_that_the_service_knows_and_prometheus_sends(tmp_path: Path) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    places = {"/keys": tmp_path / "keys", "/scrape": tmp_path / "scrape"}
    for place in places.values():
        place.mkdir()
    shell, flag, script = compose["keys"]["command"]
    for inside, place in places.items():
        script = script.replace(f"{inside}/", f"{place}/")
    script = script.replace("python ", f"{sys.executable} ")
    for _ in range(2):  # the second start makes no other key
        subprocess.run([shell, flag, script], check=True, cwd=ROOT)
        token = (tmp_path / "scrape" / "key").read_text().strip()
        assert len((tmp_path / "keys" / "keys").read_text().splitlines()) == 1

    mounts = dict(volume.split(":")[:2] for name in ("service", "prometheus") for volume in compose[name]["volumes"])
    job = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    assert job["authorization"]["credentials_file"] == f"{mounts['scrape']}/key"
    assert compose["service"]["environment"]["RANKER_KEYS_FILE"] == f"{mounts['keys']}/keys"
    assert compose["service"]["depends_on"]["keys"] == {"condition": "service_completed_successfully"}
    with serving(host="0.0.0.0", keys_file=str(tmp_path / "keys" / "keys")) as service:
        assert asked(port_of(service), "/metrics", token) == 200
        assert asked(port_of(service), "/model", token) == 403
