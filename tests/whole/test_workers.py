"""Workers that die, hang, or cannot start; and what a parent does about it."""

import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from model.bundle.reading import Bundle
from tests.client import Service, get, post, serving
from tests.knocking import knocking
from tests.namespaces import serving_where
from tests.processes import cmdline, wait_until

CANDIDATES = {"user_id": "u1", "candidates": ["i1"]}


def workers_of(service: Service) -> set[int]:
    return {pid for pid in service.children.pids() if b"process.worker" in cmdline(pid)}


def starts(service: Service) -> float:
    told = re.search(r"^ranker_worker_starts_total ([0-9.]+)", get(f"{service.url}/metrics"), re.MULTILINE)
    assert told
    return float(told[1])


def test_the_parent_does_without_what_ranks(small_bundle: Bundle) -> None:
    with serving(bundle=str(small_bundle.folder)) as service:
        service.curl()
        held = Path(f"/proc/{service.process.pid}/maps").read_text()
        assert "pydantic" in held and not re.search("numpy|onnxruntime|hiredis|uvloop", held)


def test_a_worker_that_hangs_is_killed_and_replaced(small_bundle: Bundle) -> None:
    with serving(bundle=str(small_bundle.folder), workers="2", hang_s="3") as service:
        wait_until(lambda: starts(service) == 2, service)
        frozen = min(workers_of(service))
        os.kill(frozen, signal.SIGSTOP)
        wait_until(lambda: frozen not in workers_of(service), service)
        wait_until(lambda: len(workers_of(service)) == 2, service)
        assert re.search(rf"process {frozen}\) and is killed: RANKER_HANG_S=3", service.output), service.output
        wait_until(lambda: starts(service) == 3, service)
        assert post(f"{service.url}/rank", CANDIDATES)["items"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_worker_that_is_sent_sigterm_is_replaced_and_nobody_notices(small_bundle: Bundle, workers: str) -> None:
    with serving(bundle=str(small_bundle.folder), workers=workers, timeout_ms="60000") as service:
        wait_until(lambda: starts(service) == int(workers), service)
        with knocking(service.url) as clients:
            wait_until(lambda: clients.counts["ok"] > 20, service)
            told = min(workers_of(service))
            os.kill(told, signal.SIGTERM)
            wait_until(lambda: told not in workers_of(service), service)
            wait_until(lambda: len(workers_of(service)) == int(workers), service)
            before = clients.counts["ok"]
            wait_until(lambda: clients.counts["ok"] > before + 20, service)
        assert set(clients.counts) == {"ok"}, (clients.counts, clients.examples, service.output)
        ups = re.findall(r"^ranker_worker_up\{.*} (\S+)", get(f"{service.url}/metrics"), re.MULTILINE)
        assert ups == ["1.0"] * int(workers), "one that has left is not one that is missing"
        assert starts(service) == int(workers) + 1


def test_where_no_worker_can_start_the_service_says_why_once_and_ends(small_bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small_bundle.folder, tmp_path / "bundle"))
    with serving(bundle=str(folder)) as service:
        service.curl()
        (worker,) = workers_of(service)
        shutil.rmtree(folder)
        os.kill(worker, signal.SIGKILL)
        assert service.ended() == 1
        lines = [line for line in service.output.splitlines() if str(folder) in line and "cannot start" in line]
        assert len(lines) == 2, service.output
        assert "is tried again" in lines[0] and "tried 5 times, so the service ends" in lines[1]
        assert "Traceback" not in service.output


def test_a_worker_that_cannot_start_does_not_end_those_that_answer(small_bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small_bundle.folder, tmp_path / "bundle"))
    with serving(bundle=str(folder), workers="2") as service:
        wait_until(lambda: starts(service) == 2, service)
        hidden = folder.rename(tmp_path / "hidden")
        os.kill(min(workers_of(service)), signal.SIGKILL)
        wait_until(lambda: "cannot start and is tried again" in service.output, service)
        assert post(f"{service.url}/rank", CANDIDATES)["items"]
        hidden.rename(folder)
        wait_until(lambda: len(workers_of(service)) == 2 and starts(service) >= 3, service)
        assert service.process.poll() is None


def test_a_read_only_root_without_a_temporary_folder_starts(small_bundle: Bundle, valkey_url: str) -> None:
    with serving_where(
        "mount -o remount,bind,ro / && mount -t tmpfs -o size=64m none /dev/shm",
        bundle=str(small_bundle.folder),
        redis_url=valkey_url,
    ) as service:
        assert post(f"{service.url}/rank", CANDIDATES)["items"]
        assert "Traceback" not in service.output


@pytest.mark.parametrize(
    ("mounts", "says"),
    [
        ("mount -t tmpfs -o size=1m none /dev/shm", "/dev/shm has 1.0 MB free"),
        ("mount -t tmpfs -o ro none /dev/shm", "/dev/shm: Read-only file system"),
    ],
)
def test_no_room_for_the_counts_is_one_clear_line(
    small_bundle: Bundle, valkey_url: str, mounts: str, says: str
) -> None:
    read_only = "mount -o remount,bind,ro / && "
    with serving_where(read_only + mounts, bundle=str(small_bundle.folder), redis_url=valkey_url) as service:
        assert service.ended() == 1
        lines = [line for line in service.output.splitlines() if "service: " in line]
        assert len(lines) == 1 and "the workers' counts need a folder with 14 MB" in lines[0] and says in lines[0]
        assert "Traceback" not in service.output


def test_a_killed_parent_leaves_nobody_though_a_worker_is_at_work(small_bundle: Bundle) -> None:
    with serving(bundle=str(small_bundle.folder), workers="2") as service:
        with knocking(service.url, new=2, kept=2) as clients:
            wait_until(lambda: clients.counts["ok"] > 20, service)
            service.kill()
            wait_until(lambda: not service.children.pids(), service)
