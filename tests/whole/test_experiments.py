"""Experiments over processes: the judge in short, what stops a start, and two workers of which one is killed."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from model.files import write_text
from service.settings import DEMO_BUNDLE
from tests.client import Service, get, post, serving
from tests.experimenting import GOOD
from tests.faults.serving import workers_of
from tests.judge.experiment import runs
from tests.processes import finished, wait_until

RELOADS = 'ranker_experiment_reloads_total{outcome="ok"}'


@pytest.mark.long
def test_own_counts_are_the_services_through_a_restart_another_file_and_a_kill() -> None:
    judged = runs.experiment(160, {"one": "", "other": f'bundle = "{DEMO_BUNDLE}"\n'})
    assert not judged.broken, "\n".join(judged.broken)
    figures = judged.figures
    assert len(figures["four"]["counts"]) == 4 and sum(figures["two"]["mistakes"].values()) > 50


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (GOOD.replace("share", "chair", 1), "variants.0.chair: no such key"),
        (GOOD.replace('builtin = "random"', 'bundle = "nowhere"'), "nowhere"),
    ],
)
def test_a_wrong_file_stops_the_start_in_a_line_that_names_the_key(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(text)
    done = finished("-m", "service", RANKER_EXPERIMENTS=str(path))
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and line.startswith(f"service: {path}: ") and why in line, done.stderr
    assert "Traceback" not in done.stderr


def test_what_one_worker_knows_another_knows_and_a_killed_one_comes_back_to_it(tmp_path: Path) -> None:
    path = tmp_path / "experiments.toml"
    path.write_text(f"{GOOD}[catch]\np99_ms = 0.000001\nrequests = 30\n")
    settings = {"workers": "2", "catalog_poll_s": "0.05", "timeout_ms": "60000", "history_timeout_ms": "2000"}
    with serving(bundle=str(DEMO_BUNDLE), experiments=str(path), **settings) as service:
        wait_until(lambda: _variants(service) == {"control"}, service)
        assert all("p99 of" in str(one) for one in _caught(service))
        write_text(path, GOOD)  # without limits, else it would be taken out again
        wait_until(lambda: _taken_over(service) >= 2, service)
        assert post(f"{service.url}/admin/experiments", {"let_in": "chance"})["was_caught"]
        wait_until(lambda: _caught(service) == {None}, service)
        assert _variants(service) == {"control", "chance"}

        write_text(path, GOOD.replace("share = 0.5", "share = 0.6"))
        wait_until(lambda: "sum to 1.2" in str(_told(service)["refused"]), service)
        before = set(workers_of(service))
        os.kill(min(before), signal.SIGKILL)
        wait_until(lambda: _well(service) and len(set(workers_of(service)) - before) == 1, service)
        for _ in range(20):  # each on a connection of its own: both workers
            told = _told(service)
            assert [one["share"] for one in told["experiment"]["variants"]] == [0.5, 0.5]
            assert "sum to 1.2" in str(told["refused"])


def _told(service: Service) -> Any:
    return json.loads(get(f"{service.url}/experiments"))


def _well(service: Service) -> bool:
    workers = json.loads(get(f"{service.url}/model"))["workers"]
    return len(workers) == 2


def _variants(service: Service, users: int = 40) -> set[str]:
    """Those that so many users get."""
    bodies = [{"user_id": f"u{number}", "candidates": ["i1", "i2"]} for number in range(users)]
    return {post(f"{service.url}/rank", body)["variant"] for body in bodies}


def _caught(service: Service) -> set[str | None]:
    """What some looks, each on a connection of its own, tell of the second variant."""
    return {_told(service)["experiment"]["variants"][1]["caught"] for _ in range(10)}


def _taken_over(service: Service) -> float:
    """How often a worker took another file over."""
    text = get(f"{service.url}/metrics")
    return sum(float(line.split()[-1]) for line in text.splitlines() if RELOADS in line)
