"""`python -m service` as a process: it starts, says what is wrong, and leaves nothing behind."""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from model.bundle.reading import Bundle
from service.settings import DEMO_BUNDLE, DEMO_USERS

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60


class Service:
    """A running service; `output` grows while it runs."""

    def __init__(self, process: "subprocess.Popen[str]"):
        self.process = process
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line

    def curl(self) -> str:
        """The curl line it prints when it is ready."""
        wait_until(lambda: "curl" in self.output or self.process.poll() is not None, self)
        (line,) = [line for line in self.output.splitlines() if line.startswith("curl ")]
        return line

    @property
    def url(self) -> str:
        found = re.search(r"(http://\S+)/rank", self.curl())
        assert found
        return found.group(1)

    def descendants(self) -> set[int]:
        """Process ids below this one, all of them."""
        found, parents = set(), {self.process.pid}
        stats = [p.read_text().rsplit(")", 1) for p in Path("/proc").glob("[0-9]*/stat") if p.exists()]
        pairs = [(int(head.split(" ", 1)[0]), int(tail.split()[1])) for head, tail in stats]
        while parents:
            parents = {pid for pid, parent in pairs if parent in parents}
            found |= parents
        return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(holds: object, service: "Service | None" = None) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline, service.output if service else "waited too long"
        time.sleep(0.05)


@contextmanager
def serving(**settings: str) -> Iterator[Service]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RANKER_")}
    environment |= {"RANKER_PORT": "0", "PYTHONUNBUFFERED": "1"} | {
        f"RANKER_{k.upper()}": v for k, v in settings.items()
    }
    with subprocess.Popen(
        [sys.executable, "-m", "service"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        service = Service(process)
        try:
            yield service
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def test_the_demo_answers_its_own_curl_line_with_ranked_items() -> None:
    with serving() as service:
        line = service.curl()
        if shutil.which("curl"):
            body = json.loads(subprocess.run(line, shell=True, capture_output=True, check=True).stdout)
        else:  # the same request
            data = re.search(r"-d '(.*)'", line)
            assert data
            request = urllib.request.Request(
                f"{service.url}/rank", data.group(1).encode(), {"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=10) as answer:
                body = json.loads(answer.read())
        assert len(body["items"]) == 5 and body["history_length"] > 0 and body["degraded"] == []
        assert "not for production" in service.output
        assert len({item["score"] for item in body["items"]}) == 5


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_no_process_outlives_the_parent(small_bundle: Bundle, workers: str, signal_: signal.Signals) -> None:
    with serving(bundle=str(small_bundle.folder), workers=workers) as service:
        assert json.loads(get(f"{service.url}/health/ready"))["status"] == "ready"
        started = service.descendants()
        assert len(started) >= int(workers)  # the store, and the workers where there are several
        service.process.send_signal(signal_)
        service.process.wait(PATIENCE_S)
        wait_until(lambda: not any(alive(pid) for pid in started), service)
        assert "Traceback" not in service.output or signal_ == signal.SIGKILL, service.output
        if signal_ != signal.SIGKILL:
            assert service.process.returncode in (0, -signal_), service.output


def test_every_worker_reports_the_counts_of_all(small_bundle: Bundle) -> None:
    with serving(bundle=str(small_bundle.folder), workers="2") as service:
        body = json.dumps({"user_id": "u1", "candidates": ["i1"]}).encode()
        for _ in range(30):
            request = urllib.request.Request(f"{service.url}/rank", body, {"content-type": "application/json"})
            urllib.request.urlopen(request, timeout=10).close()
        for _ in range(10):  # whichever worker answers
            counted = r'ranker_requests_total{model="[^"]+",outcome="ok",route="/rank",.*} 30\.0'
            assert re.search(counted, get(f"{service.url}/metrics"))


def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with serving(port=port) as service:
            assert service.process.wait(PATIENCE_S) == 1
            service._reader.join(PATIENCE_S)
            assert f"cannot listen on 127.0.0.1:{port}" in service.output and "RANKER_PORT" in service.output
            assert len(service.output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"port": "eighty"}, "RANKER_PORT='eighty'"),
        ({"workers": "0"}, "RANKER_WORKERS='0'.*greater than or equal to 1"),
        ({"bundle": "/nowhere"}, "/nowhere is no bundle"),
        ({"redis_url": "http://localhost"}, "redis://, rediss:// or unix://"),
        ({"history_keep": "many"}, "RANKER_HISTORY_KEEP"),
        ({"budgets_ms": "10,soon"}, "RANKER_BUDGETS_MS='10,soon'.*with commas between"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_clear_line(settings: dict[str, str], says: str) -> None:
    with serving(**settings) as service:
        assert service.process.wait(PATIENCE_S) == 1
        service._reader.join(PATIENCE_S)
        assert re.search(says, service.output), service.output
        assert len(service.output.strip().splitlines()) == 1, service.output


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
        assert service.process.wait(PATIENCE_S) != 0
        service._reader.join(PATIENCE_S)
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
        assert service.process.wait(PATIENCE_S) == 1
        service._reader.join(PATIENCE_S)
        assert says[fault] in service.output and len(service.output.strip().splitlines()) == 1


def test_nothing_is_left_in_temporary_folders(small_bundle: Bundle, tmp_path: Path) -> None:
    def leftovers() -> set[Path]:
        return {p for base in ("/dev/shm", tempfile.gettempdir()) for p in Path(base).glob("ranker-metrics-*")} | set(
            Path(tempfile.gettempdir()).glob("bst-ranker-store-*")
        )

    before = leftovers()
    with serving(bundle=str(small_bundle.folder)) as service:
        service.curl()
        mine = leftovers() - before
        assert len(mine) == 2
        service.process.terminate()
        service.process.wait(PATIENCE_S)
    assert not mine & leftovers()


def test_a_misspelt_setting_is_named(small_bundle: Bundle) -> None:
    with serving(bundle=str(small_bundle.folder), candidates_max="5") as service:
        service.curl()
        assert "RANKER_CANDIDATES_MAX is no setting" in service.output and "RANKER_MAX_CANDIDATES" in service.output


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
