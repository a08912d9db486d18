"""`python -m service` as a process: it starts, says what is wrong, and leaves nothing behind."""

import asyncio
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import pytest

from model.bundle.reading import Bundle
from model.prepared.loader import Prepared
from service.settings import DEMO_BUNDLE, DEMO_USERS
from tests.client import get, post, serving
from tests.faults.client import Caller, request
from tests.processes import FOLDERS, cmdline, wait_until


def leftovers() -> set[Path]:
    bases = {Path("/dev/shm"), Path(tempfile.gettempdir())}
    return {path for base in bases for name in FOLDERS for path in base.glob(f"{name}*")}


def test_the_demo_answers_its_own_curl_line_with_ranked_items() -> None:
    with serving() as service:
        line = service.curl()
        if shutil.which("curl"):
            body = json.loads(subprocess.run(line, shell=True, capture_output=True, check=True).stdout)
        else:  # the same request
            data = re.search(r"-d '(.*)'", line)
            assert data
            body = post(f"{service.url}/rank", json.loads(data.group(1)))
        assert len(body["items"]) == 5 and body["history_length"] > 0 and body["degraded"] == []
        assert "not for production" in service.output
        assert len({item["score"] for item in body["items"]}) == 5


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_no_process_outlives_the_parent(small_bundle: Bundle, signal_: signal.Signals) -> None:
    with serving(bundle=str(small_bundle.folder), workers="2") as service:
        service.curl()
        assert len(service.children.pids()) >= 3  # the store, this process, and a worker that answers
        service.process.send_signal(signal_)
        service.ended()
        wait_until(lambda: not service.children.pids(), service)
        assert "Traceback" not in service.output or signal_ == signal.SIGKILL, service.output
        if signal_ != signal.SIGKILL:
            assert service.process.returncode in (0, -signal_), service.output


def test_every_worker_reports_the_counts_of_all(small_bundle: Bundle) -> None:
    with serving(bundle=str(small_bundle.folder), workers="2") as service:
        for _ in range(30):
            post(f"{service.url}/rank", {"user_id": "u1", "candidates": ["i1"]})
        for _ in range(10):  # whichever worker answers
            counted = r'ranker_requests_total{model="[^"]+",outcome="ok",route="/rank",.*} 30\.0'
            assert re.search(counted, get(f"{service.url}/metrics"))


def test_a_user_called_by_dots_is_reached_where_the_path_arrives_as_it_was_sent() -> None:
    async def scenario(port: int) -> None:
        caller = Caller(port)
        try:
            for path, dots in (("/users/.", "."), ("/users/%2E", "."), ("/users/..", ".."), ("/users/%2E%2e", "..")):
                for method, body in (("PUT", {"user": {"age": "18-24"}}), ("GET", b""), ("DELETE", b"")):
                    await caller.send(request(method, path, body))
                    assert (await caller.receive()).json()["user_id"] == dots
                assert (await caller.get(path)).status == 404
        finally:
            caller.hang_up()

    with serving() as service:
        asyncio.run(scenario(int(service.url.rpartition(":")[2])))


def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with serving(port=port) as service:
            assert service.ended() == 1
            assert f"cannot listen on 127.0.0.1:{port}" in service.output and "RANKER_PORT" in service.output
            assert len(service.output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"port": "eighty"}, "RANKER_PORT='eighty'"),
        ({"workers": "0"}, "RANKER_WORKERS='0'.*greater than or equal to 1"),
        ({"bundle": "/nowhere"}, "/nowhere is no bundle"),
        ({"redis_url": "http://localhost"}, "RANKER_REDIS_URL: .*redis://, rediss:// or unix://"),
        ({"history_keep": "many"}, "RANKER_HISTORY_KEEP"),
        ({"history_keep": "5"}, "reads the newest 30 .*RANKER_HISTORY_KEEP=5 .*set RANKER_HISTORY_KEEP to 30 or more"),
        ({"budgets_ms": "10,soon"}, "RANKER_BUDGETS_MS='10,soon': up to 20 .*with commas between"),
        ({"port": "1025", "admin_port": "1025"}, "RANKER_PORT and RANKER_ADMIN_PORT are both 1025"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_clear_line(settings: dict[str, str], says: str) -> None:
    with serving(**settings) as service:
        assert service.ended() == 1
        assert re.search(says, service.output), service.output
        assert len(service.output.strip().splitlines()) == 1, service.output


def test_a_start_whose_preparation_is_killed_is_one_clear_line() -> None:
    def preparing() -> int | None:
        return next((pid for pid in service.children.pids() if b"process.prelude" in cmdline(pid)), None)

    with serving() as service:
        wait_until(lambda: preparing() is not None, service)
        prelude = preparing()
        assert prelude is not None
        os.kill(prelude, signal.SIGKILL)
        assert service.ended() == 1
        [line] = [line for line in service.output.splitlines() if line.startswith("service: ")]
        assert re.search("the start failed|the process that looked at it ended with signal 9", line)
        assert "Traceback" not in service.output


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_bundle_that_does_not_answer_as_recorded_is_not_served(
    small_bundle: Bundle, tmp_path: Path, workers: str
) -> None:
    """Its hashes are right, its answers are not: made by another library, say."""
    folder = Path(shutil.copytree(small_bundle.folder, tmp_path / "bundle"))
    golden = json.loads((folder / "golden.json").read_text())
    golden["requests"][0]["scores"][0] += 0.01
    (folder / "golden.json").write_text(json.dumps(golden))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["golden.json"]["sha256"] = hashlib.sha256((folder / "golden.json").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with serving(bundle=str(folder), workers=workers) as service:
        assert service.ended() != 0
        assert "golden request 0" in service.output


@pytest.mark.parametrize("fault", ["changed", "missing", "stranger", "version"])
def test_a_bundle_that_is_not_what_it_was_is_not_served(small_bundle: Bundle, tmp_path: Path, fault: str) -> None:
    folder = Path(shutil.copytree(small_bundle.folder, tmp_path / "bundle"))
    match fault:
        case "changed":
            content = bytearray((folder / "model.onnx.data").read_bytes())
            content[100] ^= 1
            (folder / "model.onnx.data").write_bytes(content)
        case "missing":
            (folder / "vocab" / "age.npy").unlink()
        case "stranger":
            (folder / "extra.bin").write_bytes(b"")
        case "version":
            manifest = json.loads((folder / "manifest.json").read_text())
            (folder / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 9}))
    says = {"changed": "model.onnx.data: sha256", "missing": "age.npy", "stranger": "extra.bin", "version": "version 9"}
    with serving(bundle=str(folder)) as service:
        assert service.ended() == 1
        assert says[fault] in service.output and len(service.output.strip().splitlines()) == 1


def test_nothing_is_left_in_temporary_folders(small_bundle: Bundle) -> None:
    with serving(bundle=str(small_bundle.folder)) as service:
        service.curl()
        folders = set(service.children.folders)
        assert len(folders) == 2 and folders <= leftovers() and service.children.ports()
        service.process.terminate()
        service.ended()
    assert not folders & leftovers()


def test_a_misspelt_setting_is_named(small_bundle: Bundle) -> None:
    with serving(bundle=str(small_bundle.folder), candidates_max="5") as service:
        service.curl()
        assert "RANKER_CANDIDATES_MAX is no setting" in service.output and "RANKER_MAX_CANDIDATES" in service.output


def asked(line: str) -> Any:
    """The body of the curl line."""
    data = re.search(r"-d '(.*)'", line)
    assert data
    return json.loads(data.group(1))


def test_a_bundle_is_tried_with_the_users_and_histories_of_its_data(small_bundle: Bundle, small_data: Prepared) -> None:
    with serving("--data", small_data.folder, bundle=str(small_bundle.folder)) as service:
        body = asked(service.curl())
        shown = pl.read_parquet(small_data.folder / "tables" / "impressions.parquet")
        assert body["user_id"] in shown["user_id"] and set(body["candidates"]) <= set(shown["item_id"])
        answer = post(f"{service.url}/rank", body)
        assert answer["history_length"] > 0 and not answer["new_user"] and answer["unknown_items"] == 0
        assert "loaded, times moved by" in service.output
        behaviours = pl.read_parquet(small_data.folder / "tables" / "behaviours.parquet")
        newest = behaviours.sort("timestamp")["user_id"][-1]
        now = time.time_ns() // 1_000_000
        ages = [  # of the newest behaviour: before an hour ago there is nothing of it
            post(f"{service.url}/rank", body | {"user_id": newest, "timestamp": at})["history_length"]
            for at in (now - 3_600_000, now)
        ]
        assert ages[0] < ages[1] or ages[1] == small_bundle.schema.history.length


def test_a_bundle_of_one_s_own_without_users_says_how_to_load_them(small_bundle: Bundle) -> None:
    data_at = json.loads((small_bundle.folder / "report.json").read_text())["data_at"]
    with serving(bundle=str(small_bundle.folder)) as service:
        service.curl()
        assert "every history is empty" in service.output and "--data DIR" in service.output
        assert str((small_bundle.folder / data_at).resolve()) in service.output, (
            "where the bundle says that it was trained"
        )


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "says"),
    [
        (("--help",), {}, 0, "RANKER_BUNDLE .*unset: the demo bundle"),
        (("--version",), {}, 0, "bst-ranker [0-9.]+"),
        (("--port", "80"), {}, 2, "unrecognized arguments: --port 80"),
        (("bundles/mine",), {}, 2, "unrecognized arguments: bundles/mine"),
        (("--data", "d"), {"redis_url": "redis://localhost"}, 1, "--data d .*RANKER_REDIS_URL names a store.*backfill"),
        (("--data", "d"), {}, 1, "--data d needs the bundle .*RANKER_BUNDLE"),
        (("--data", "/nowhere"), {"bundle": str(DEMO_BUNDLE)}, 1, "/nowhere.*is not there"),
    ],
)
def test_what_the_command_line_says_is_answered_or_refused(
    arguments: tuple[str, ...], settings: dict[str, str], code: int, says: str
) -> None:
    with serving(*arguments, **settings) as service:
        assert service.ended() == code
        assert re.search(says, service.output), service.output
        assert "ready" not in service.output and "Traceback" not in service.output


def test_the_demo_is_small_verified_and_answers_as_recorded() -> None:
    bundle = Bundle.open(DEMO_BUNDLE)
    bundle.verify()
    bundle.replay_golden(bundle.session())
    files = [path for path in DEMO_BUNDLE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in [*files, DEMO_USERS]) <= 2 * 2**20
    users = {json.loads(line)["user_id"] for line in DEMO_USERS.read_text().splitlines()}
    assert {request["user_id"] for request in bundle.golden() if request["profile"]} <= users
    report = json.loads((DEMO_BUNDLE / "report.json").read_text())
    assert report["test"]["floor_auc"] < report["test"]["auc"] < report["test"]["oracle_auc"]


def test_who_does_not_send_his_request_or_does_not_read_his_answers_takes_up_nobodys_room() -> None:
    """Neither is worth waiting for. With room for one long list, whoever held it would have the next one refused."""
    ids = [f"i{number}" for number in range(5000)]
    long = {"user_id": "u1", "candidates": ids}
    body = json.dumps(long).encode()
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    with (
        serving(queue_candidates="5000", timeout_ms="60000", batch_timeout_ms="60000") as service,
        ExitStack() as stack,
    ):
        silent, deaf = (stack.enter_context(socket.socket()) for _ in range(2))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for one in (silent, deaf):
            one.connect((urlsplit(service.url).hostname, urlsplit(service.url).port))
        silent.sendall(head % (b"/rank/batch", 4_000_000))
        deaf.settimeout(2)
        with pytest.raises(TimeoutError):
            while True:
                deaf.sendall(head % (b"/rank", len(body)) + body)
        wait_until(lambda: 'ranker_in_flight{worker="0"} 2.0' in get(f"{service.url}/metrics"), service)
        assert len(post(f"{service.url}/rank", long)["items"]) == len(ids)
        assert len(post(f"{service.url}/rank/batch", [long])) == 1
