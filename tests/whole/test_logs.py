"""Logs of the service as a process: JSON from the first line to the last, one line for an event of all workers."""

import json
import shutil
import signal
import urllib.error
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from model.bundle.reading import Bundle
from tests.client import Service, post, serving
from tests.processes import wait_until
from tests.stores import dead_url


def lines_of(service: Service) -> list[dict[str, Any]]:
    """Every line of both streams, each an object."""
    lines = [json.loads(line) for line in service.output.splitlines()]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    return lines


def ready(service: Service) -> str:
    """The URL that its line names."""
    wait_until(lambda: "ready on" in service.output or service.process.poll() is not None, service)
    service.children.look()
    (line,) = [line for line in lines_of(service) if line["message"].startswith("ready on ")]
    return str(line["url"])


def test_every_line_is_json_from_start_to_stop_and_what_both_workers_see_is_one(small_bundle: Bundle) -> None:
    settings = {"workers": "2", "log_format": "json", "log_sample": "1", "log_slow_ms": "0"}
    with dead_url() as store, serving(bundle=str(small_bundle.folder), redis_url=store, **settings) as service:
        url = ready(service)
        body = {"user_id": "u1", "candidates": small_bundle.golden()[0]["candidates"][:3]}
        post(f"{url}/rank", body)
        with pytest.raises(urllib.error.HTTPError):
            post(f"{url}/rank", {"user_id": "u1"})
        wait_until(lambda: "store at" in service.output, service)
        [first, *_] = [line for line in lines_of(service) if line.get("process", "").startswith("worker")]
        service.process.send_signal(signal.SIGTERM)
        assert service.ended() == 0
        lines = lines_of(service)
    messages = Counter(line["message"].split(":")[0] for line in lines)
    assert messages["serving fp32"] == 1, "the process that checks the bundle says it, and no worker again"
    assert first["process"] in ("worker 0", "worker 1")
    assert [line["status"] for line in lines if line.get("route") == "/rank"] == [200, 422]
    down = [line for line in lines if line["message"].startswith("store at") and line["level"] == "warning"]
    assert 1 <= len(down) <= 2, "down in both workers is one line; failing before may be another"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"port": "none"}, "RANKER_PORT='none'"),
        ({"bundle": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"redis_url": "redis://x?no_such_option=1"}, "RANKER_REDIS_URL"),
    ],
)
def test_a_start_that_is_refused_is_one_line_of_json(settings: dict[str, str], told: str) -> None:
    with serving(log_format="json", **settings) as service:
        assert service.ended() == 1
        [line] = [line for line in lines_of(service) if line["level"] == "error"]
    assert told in line["message"] and "Traceback" not in service.output


def test_a_bundle_that_is_broken_is_refused_in_json_too(small_bundle: Bundle, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(small_bundle.folder, tmp_path / "broken"))
    (broken / "model.onnx").write_bytes(b"no graph")
    with serving(log_format="json", workers="2", bundle=str(broken)) as service:
        assert service.ended() == 1
        [line] = [line for line in lines_of(service) if line["level"] == "error"]
    assert "model.onnx" in line["message"]


def test_for_people_a_refusal_stays_a_line_without_a_time() -> None:
    with serving(port="none") as service:
        assert service.ended() == 1
    assert service.output.startswith("service: RANKER_PORT='none'") and service.output.count("\n") == 1
