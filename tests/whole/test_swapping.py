"""Another bundle goes live while the service answers: in all workers, without a failed request, and back."""

import json
import os
import re
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from model.bundle import versions
from model.bundle.reading import Bundle
from tests.client import Service, get, post, serving
from tests.processes import wait_until
from tests.versions import FIRST, SECOND, THIRD, golden_off, spoil, three, version


@pytest.fixture
def home(small_bundle: Bundle, tmp_path: Path) -> Path:
    return three(small_bundle, tmp_path / "home")


def model(service: Service) -> Any:
    return json.loads(get(f"{service.url}/model"))


def answering(service: Service) -> list[str]:
    return [worker["version"] for worker in model(service)["workers"]]


def order(service: Service, body: Any, content_type: str = "application/json") -> tuple[int, Any]:
    url = f"{service.url}/admin/model"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@contextmanager
def asking(service: Service) -> Iterator[list[str]]:
    """Asks /rank all the while, with a breath between; gives the versions that answered. Fails where one did not."""
    over, seen, failures = threading.Event(), [], []
    body = {"user_id": "u1", "candidates": ["i1", "i2", "i3"]}

    def ask() -> None:
        while not over.wait(0.01):
            try:
                seen.append(post(f"{service.url}/rank", body)["version"])
            except OSError as error:
                failures.append(str(error))

    callers = [threading.Thread(target=ask) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        yield seen
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert seen and not failures, failures


def test_a_current_that_moves_is_taken_over_by_all_workers_and_one_call_goes_back(home: Path) -> None:
    with serving(bundle=str(home), workers="2", bundle_poll_s="0.1", timeout_ms="60000") as service:
        wait_until(lambda: answering(service) == [FIRST, FIRST], service)
        with asking(service) as seen:
            versions.point(home, SECOND)
            wait_until(lambda: answering(service) == [SECOND, SECOND], service)
            wait_until(lambda: seen[-1] == SECOND, "the new one answers")
            status, body = order(service, {"rollback": True})
            assert status == 200 and {one["version"] for one in body["workers"]} == {FIRST}, body
            wait_until(lambda: seen[-1] == FIRST, "the one before answers again")
        assert (versions.current(home), versions.previous(home)) == (FIRST, SECOND), "the links follow"
        scrape = get(f"{service.url}/metrics")
        assert 'ranker_model_swap_total{outcome="ok"} 6.0' in scrape, "two each: at the start, forth and back"
        for worker in "01":
            assert re.search(rf'ranker_worker_model_info{{.*version="{FIRST}",worker="{worker}"}} 1', scrape)


def test_a_bundle_that_is_refused_leaves_the_one_before_and_is_told_once(home: Path, small_bundle: Bundle) -> None:
    faults = {"spoilt": "model.onnx.data: sha256", "golden": "golden request 0", "gone": "leads to no bundle"}
    spoil(version(small_bundle, home, "20260104T000000-spoilt"))
    golden_off(version(small_bundle, home, "20260104T000000-golden"))
    with serving(bundle=str(home), workers="1", bundle_poll_s="0.1") as service:
        service.curl()
        answers = FIRST
        for number, (fault, says) in enumerate(faults.items(), 1):
            if fault == "gone":
                (home / "current").unlink()
            else:
                versions.point(home, f"20260104T000000-{fault}")
            wait_until(lambda says=says: says in service.output, service)
            if fault != "gone":
                wait_until(lambda fault=fault: refused_of(service).endswith(fault), service)
                assert says in model(service)["refused"]["problem"]
                counted = f'ranker_model_swap_total{{outcome="refused"}} {number}.0'
                wait_until(lambda counted=counted: counted in get(f"{service.url}/metrics"))
            assert model(service)["version"] == answers
            answers = THIRD if answers != THIRD else SECOND
            versions.point(home, answers)  # the next one is not held up
            wait_until(lambda answers=answers: model(service)["version"] == answers, service)
            assert model(service)["refused"] is None
        for says in faults.values():
            assert service.output.count(says) == 1, service.output


def refused_of(service: Service) -> str:
    """The folder of the bundle that was refused last, if one was."""
    refused = model(service)["refused"]
    return str(refused["bundle"]) if refused else ""


def test_a_refused_bundle_whose_files_are_mended_goes_live(home: Path) -> None:
    missing = home / SECOND / "features.toml"
    content = missing.read_bytes()
    missing.unlink()
    with serving(bundle=str(home), bundle_poll_s="0.1") as service:
        service.curl()
        versions.point(home, SECOND)
        wait_until(lambda: "missing features.toml" in service.output, service)
        missing.write_bytes(content)
        wait_until(lambda: model(service)["version"] == SECOND, service)


def test_hangup_looks_at_once_and_without_polling_nothing_else_does(home: Path) -> None:
    with serving(bundle=str(home), workers="2", bundle_poll_s="0") as service:
        service.curl()
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "nothing to do" in service.output, service)
        versions.point(home, SECOND)
        assert model(service)["version"] == FIRST
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: set(answering(service)) == {SECOND}, service)


def test_a_volume_whose_data_folder_is_swapped_is_seen(home: Path, tmp_path: Path) -> None:
    """As Kubernetes mounts: volume/bundle → ..data/bundle, and ..data moves."""
    volume = tmp_path / "volume"
    for number, name in enumerate((FIRST, SECOND)):
        (volume / f"..{number}").mkdir(parents=True)
        (volume / f"..{number}" / "bundle").symlink_to(home / name)
    (volume / "..data").symlink_to("..0")
    (volume / "bundle").symlink_to("..data/bundle")
    with serving(bundle=str(volume / "bundle"), bundle_poll_s="0.1") as service:
        service.curl()
        (volume / "..next").symlink_to("..1")
        (volume / "..next").rename(volume / "..data")
        wait_until(lambda: model(service)["version"] == SECOND, service)


def test_a_worker_killed_while_others_switch_comes_out_with_the_new_bundle(home: Path) -> None:
    with serving(bundle=str(home), workers="2", bundle_poll_s="0.1") as service:
        wait_until(lambda: len(answering(service)) == 2, service)
        workers = [pid for pid in service.children.pids() if is_worker(pid)]
        versions.point(home, SECOND)
        wait_until(lambda: "to go live" in service.output, service)
        os.kill(workers[0], signal.SIGKILL)
        wait_until(lambda: answering_safely(service) == [SECOND, SECOND], service)


def is_worker(pid: int) -> bool:
    try:
        return b"service.process.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def answering_safely(service: Service) -> list[str]:
    """A killed worker takes its connections with it."""
    try:
        return answering(service)
    except OSError:
        return []


@pytest.mark.parametrize(
    ("body", "content_type", "status", "kind"),
    [
        ({"rollback": True}, "text/plain", 415, "wrong_media_type"),
        ({"rollback": True}, "application/json", 409, "nothing_before"),
        ({}, "application/json", 422, "invalid_request"),
        ({"bundle": "x", "rollback": True}, "application/json", 422, "invalid_request"),
        ({"bundle": "x", "force": 1}, "application/json", 422, "invalid_request"),
        ({"bundle": "http://127.0.0.1:1/b.tar"}, "application/json", 422, "invalid_request"),
        ({"bundle": "/nowhere"}, "application/json", 422, "bundle_refused"),
        (["x"], "application/json; charset=utf-8", 422, "invalid_request"),
    ],
)
def test_an_order_that_cannot_be_is_refused_with_its_reason(
    running: Service, body: Any, content_type: str, status: int, kind: str
) -> None:
    answered, told = order(running, body, content_type)
    assert (answered, told["error"]["kind"]) == (status, kind) and told["error"]["message"], told


@pytest.fixture(scope="module")
def running(small_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = three(small_bundle, tmp_path_factory.mktemp("orders") / "home")
    with serving(bundle=str(home), bundle_poll_s="0") as service:
        service.curl()
        yield service


def test_an_order_names_a_version_and_current_follows_it(home: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(home / THIRD, tmp_path / "elsewhere"))
    with serving(bundle=str(home), bundle_poll_s="0.1") as service:
        service.curl()
        status, body = order(service, {"bundle": str(home / SECOND)})
        assert (status, body["version"], body["note"]) == (200, SECOND, None), body
        assert versions.current(home) == SECOND
        status, body = order(service, {"bundle": str(home / SECOND)})
        assert status == 422 and "answers already" in body["error"]["message"]
        status, body = order(service, {"bundle": str(elsewhere)})
        assert status == 200 and body["version"] == THIRD and "next time" in body["note"], body
        assert versions.current(home) == SECOND
        assert versions.prune(home, 1) == [], "one is current, one was, one is the newest"
        assert versions.held(elsewhere) and not versions.held(home / FIRST)


@contextmanager
def endless() -> Iterator[str]:
    """A URL whose answer begins and does not end."""
    over = threading.Event()

    class Drip(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                while not over.wait(0.02):
                    self.wfile.write(b"x" * 100)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Drip) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/b.tar"
        finally:
            over.set()
            server.shutdown()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL], ids=["told", "killed"])
def test_a_stop_ends_a_download_and_tells_who_ordered_it(home: Path, sign: signal.Signals) -> None:
    with endless() as url, serving(bundle=str(home), bundle_poll_s="0") as service:
        service.curl()
        told: list[tuple[int, Any]] = []

        def ordering() -> None:
            told.append(order(service, {"bundle": url, "sha256": "0" * 64}))

        caller = threading.Thread(target=ordering)
        caller.start()
        wait_until(lambda: [*home.glob(".download-*")], service)
        begun = time.monotonic()
        service.process.send_signal(sign)
        if sign == signal.SIGTERM:
            assert service.ended() == 0 and time.monotonic() - begun < 5, "not the whole grace"
        caller.join()
        wait_until(lambda: not service.children.pids(), service)
        assert not [*home.glob(".download-*")], "nothing half-written stays"
        assert "Traceback" not in service.output
    [(status, body)] = told
    assert (status, body["error"]["kind"]) == (503, "draining" if sign == signal.SIGTERM else "no_parent")


def test_a_swap_is_no_slow_request_and_twenty_leave_no_memory_behind(home: Path) -> None:
    with serving(bundle=str(home), bundle_poll_s="0", log_slow_ms="1") as service:
        service.curl()
        sizes = []
        for number in range(22):
            status, body = order(service, {"bundle": str(home / (SECOND, FIRST)[number % 2])})
            assert status == 200, body
            sizes.append(anonymous_mb(service))
        assert "route /admin/model" not in service.output, "it takes its time by design"
    assert max(sizes[-4:]) < max(sizes[2:6]) + 25, sizes  # one bundle's graph kept each time would be more


def anonymous_mb(service: Service) -> float:
    """What the service's workers have that no file backs."""
    maps = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in service.children.pids() if is_worker(pid)]
    return sum(int(found[1]) for text in maps if (found := re.search(r"Pss_Anon:\s+(\d+)", text))) / 1024


def test_a_version_that_can_name_no_folder_never_answers(
    running: Service, small_bundle: Bundle, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(small_bundle.folder, tmp_path / "odd"))
    manifest = json.loads((folder / "manifest.json").read_text()) | {"version": "../../x"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    status, body = order(running, {"bundle": str(folder)})
    assert status == 422 and "'../../x' cannot name a bundle" in body["error"]["message"], body
