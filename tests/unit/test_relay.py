"""Children's lines: one format whatever they write, and one line for an event of several processes."""

import json
import logging
import subprocess
import sys

import pytest

from service.telemetry.logs import FIELDS, PROCESS, Event, Json, Lines, event
from service.telemetry.relay import WINDOW_S, Events
from tests.processes import ROOT


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


DOWN, UP = Event("store", "down", False), Event("store", "up", True)


def test_an_event_that_all_workers_see_is_told_once() -> None:
    events = Events(Clock())
    assert [events.news(DOWN, worker) for worker in (2, 0, 1)] == [True, False, False]
    assert [events.news(UP, worker) for worker in (0, 1, 2)] == [True, False, False]


def test_what_befalls_one_worker_alone_is_told_each_time() -> None:
    clock = Clock()
    events = Events(clock)
    assert all(events.news(state, 1) for state in (DOWN, UP, DOWN, UP))
    assert events.news(DOWN, 0), "after `is up again` the earlier line says nothing of who is down now"
    assert events.news(Event("catalogue", "a", True), 0) and not events.news(DOWN, 1)
    assert events.news(DOWN, 1), "its own line stands for none of its own"
    clock.now += WINDOW_S
    assert events.news(DOWN, 0)


def test_a_line_carries_its_event_to_the_parent_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = Lines()
    handler.setFormatter(logging.Formatter("%(message)s"))
    record = logging.makeLogRecord({"msg": "store is down", **event("store", "down", well=False)})
    assert handler.format(record) == "store is down"
    monkeypatch.setenv(PROCESS, "worker 1")
    assert Event.read(handler.format(record)) == (DOWN, "store is down")
    assert Event.read("any other") == (None, "any other")


@pytest.mark.parametrize("value", ["half \ud800", {1: "a"}, 2**70, object(), b"\xff", float("nan"), {"a": {2: {3}}}])
def test_whatever_a_record_holds_its_line_is_json(value: object) -> None:
    record = logging.makeLogRecord({"msg": "%s", "args": (str(value),), FIELDS: {"value": value}})
    assert "value" in json.loads(Json().format(record))


def test_a_record_that_cannot_be_formatted_is_told_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    handler = Lines()
    handler.setFormatter(Json())
    handler.handle(logging.makeLogRecord({"msg": "%d candidates", "args": ("many",)}))
    line = json.loads(capsys.readouterr().err)
    assert "%d candidates ('many',)" in line["message"] and "TypeError" in line["message"]


PARENT = """
import os, subprocess, sys, threading, warnings
from service.telemetry import logs
from service.telemetry.relay import relayed
logs.configure("info", "json")
child = '''
import logging, os
from service.telemetry import logs
os.write(2, b"[W:onnxruntime:, env.cc] not ours\\\\n\\\\n")
logs.configure("info", "json")
logging.getLogger("ranker").info("ours", extra=logs.event("store", "up"))
os.write(2, b"torn")
os.abort()
'''
for name in ("worker 0", "worker 1"):
    with relayed(name) as told:
        subprocess.run([sys.executable, "-c", child], stderr=told.stderr, env=os.environ | told.environment)
warnings.warn("as a warning")
thread = threading.Thread(target=lambda: 1 / 0, name="mine")
thread.start()
thread.join()
class Broken:
    def __del__(self):
        raise ValueError("in a finaliser")
Broken()
raise RuntimeError("uncaught, in two\\nlines")
"""


def test_all_that_reaches_standard_error_is_json_where_json_is_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", PARENT], cwd=ROOT, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    told = [(line["logger"], line.get("process"), line["message"]) for line in lines]
    assert done.returncode == 1 and len([one for one in told if one[2] == "ours"]) == 1, told
    for process in ("worker 0", "worker 1"):
        assert ("stderr", process, "[W:onnxruntime:, env.cc] not ours") in told
        assert ("stderr", process, "torn") in told
    text = json.dumps(lines)
    for message in ("as a warning", "ZeroDivisionError in mine", "in a finaliser", "uncaught RuntimeError"):
        assert message in text
    [uncaught] = [line for line in lines if "uncaught RuntimeError" in line["message"]]
    assert uncaught["exception"].count("\n") > 1
