"""`GET /metrics` over several worker processes, which are killed and started again; and what may stand in a label."""

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry.counts import MODEL_BYTES, Metrics
from service.telemetry.families import OUTCOMES, QUANTILES, REQUEST_BOUNDS_S, STAGES, outcome_of
from service.telemetry.folder import FOLDER_PREFIX, prepare_folder

ROUTES = {"/rank": STAGES, "/metrics": ()}
REASONS = ("history_timeout",)
NOW_S = 1000.0
NO_MODEL, NO_VERSION = (("model", ""),), (("variant", ""), ("version", ""))

# A worker process: does what the lines on its standard input say, and answers each with one JSON line.
WORKER = """
import itertools, json, sys, time
from pathlib import Path
import numpy as np
from service.metrics import STAGES, Metrics

ticks = itertools.count()
folder, clock = Path(sys.argv[1]), {"fixed": lambda: 1000.0, "racing": lambda: float(next(ticks))}[sys.argv[2]]
metrics = Metrics(folder, {"/rank": STAGES, "/metrics": ()}, ("history_timeout",), clock)
for line in sys.stdin:
    verb, *seconds = json.loads(line)
    if verb == "observe":
        for s in seconds:
            metrics.observe("/rank", "ok", {"score": s / 2}, s)
        print(json.dumps(len(seconds)), flush=True)
    if verb == "scrape":
        print(json.dumps(metrics.render()[0].decode()), flush=True)
    while verb == "flood":
        metrics.observe("/rank", "ok", dict.fromkeys(STAGES, 0.001), 0.01)
        metrics.ranked(candidates=100, history_length=20, unknown_items=1, cold=False, future=0, malformed=0)
        metrics.degraded("history_timeout")
        metrics.model("demo", "1", "bst", "abc")
        time.sleep(0.0002)  # a pause, not a wait: scrapes have to get their turn on a machine of two cores
"""


class Worker:
    """A worker process and the pipe to it."""

    def __init__(self, folder: Path, clock: str = "fixed") -> None:
        command = [sys.executable, "-c", WORKER, str(folder), clock]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, *message: object) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def ask(self, *message: object):
        self.tell(*message)
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[Metrics]:
    """The only worker of its folder, at a fixed time."""
    metrics = Metrics(tmp_path, ROUTES, REASONS, clock=lambda: NOW_S)
    yield metrics
    metrics.close()


def start(stack: ExitStack, folder: Path, clock: str = "fixed") -> Worker:
    worker = Worker(folder, clock)
    stack.callback(worker.kill)
    return worker


def samples(body: str) -> dict[tuple, float]:
    """Every sample by its name and sorted labels; also checks that the text parses and repeats no sample."""
    found = {}
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(metrics: Metrics, name: str, /, **labels: str) -> float:
    return samples(metrics.render()[0].decode())[(name, *sorted(labels.items()))]


def labels_of_total(**more: str) -> dict[str, str]:
    return {"route": "/rank", "stage": "total", "outcome": "ok", **more}


def test_every_worker_answers_for_all_of_them(tmp_path, stack):
    workers = [start(stack, tmp_path) for _ in range(3)]
    recorded = np.random.default_rng(2).lognormal(math.log(0.008), 0.6, (3, 5000))
    for worker, seconds in zip(workers, recorded, strict=True):
        worker.ask("observe", *seconds.tolist())

    scrapes = [samples(worker.ask("scrape")) for worker in workers]

    np.testing.assert_equal(scrapes[1], scrapes[0])  # NaN equals NaN here
    np.testing.assert_equal(scrapes[2], scrapes[0])
    seen = scrapes[0]
    assert seen["ranker_requests_total", *NO_MODEL, ("outcome", "ok"), ("route", "/rank"), *NO_VERSION] == 15_000
    assert seen["ranker_stage_duration_seconds_count", ("stage", "score")] == 15_000
    exact = np.quantile(recorded, QUANTILES, method="inverted_cdf")
    for stage, factor in (("total", 1.0), ("score", 0.5)):
        labels = [("outcome", "ok"), ("quantile", ""), ("route", "/rank"), ("stage", stage)]
        told = []
        for quantile in QUANTILES:
            labels[1] = ("quantile", str(quantile))
            told.append(seen["ranker_response_time_seconds", *labels])
        np.testing.assert_allclose(told, factor * exact, rtol=0.02)
        del labels[1]
        assert seen["ranker_response_time_seconds_count", *labels] == 15_000
        assert seen["ranker_response_time_seconds_sum", *labels] == pytest.approx(factor * recorded.sum())


def test_workers_killed_and_started_again_leave_every_scrape_whole_and_no_counter_falls(tmp_path, stack):
    scraper = Metrics(tmp_path, ROUTES, REASONS, clock=lambda: NOW_S)
    stack.callback(scraper.close)
    scraper.model("demo", "1", "bst", "abc")  # as every worker has one before it answers
    workers = [start(stack, tmp_path, "racing") for _ in range(2)]  # racing: slices are wiped all the time
    for worker in workers:
        worker.tell("flood")
    before = samples(scraper.render()[0].decode())

    def scrape() -> float:
        nonlocal before
        after = samples(scraper.render()[0].decode())
        for key, counted in before.items():
            if key[0].endswith(("_total", "_count", "_sum", "_bucket")):
                assert after[key] >= counted, key
        before = after
        counted = [
            (dict(key[1:])["version"], n)
            for key, n in after.items()
            if key[0] == "ranker_requests_total" and {("outcome", "ok"), ("route", "/rank")} <= set(key[1:])
        ]
        assert {version for version, n in counted if n} <= {"1"}
        return sum(n for _, n in counted)

    for restart in range(4):
        goal = scrape() + 500
        while scrape() < goal:
            pass
        workers[restart % 2].kill()
        scrape()
        workers[restart % 2] = start(stack, tmp_path, "racing")
        workers[restart % 2].tell("flood")
    goal = scrape() + 500
    while scrape() < goal:
        pass

    assert len(list(tmp_path.iterdir())) == 3


def test_a_killed_worker_is_down_until_another_takes_its_place(metrics, tmp_path, stack):
    worker = start(stack, tmp_path)
    worker.ask("observe", 0.01)

    def seen(name: str) -> float | None:
        return samples(metrics.render()[0].decode()).get((name, ("worker", "1")))

    assert seen("ranker_worker_up") == 1 and seen("ranker_in_flight") == 0
    cpu_s = seen("ranker_worker_cpu_seconds_total")

    worker.kill()
    assert seen("ranker_worker_up") == 0 and seen("ranker_in_flight") is None  # nothing is under way in the dead

    start(stack, tmp_path).ask("observe", 0.01)
    assert seen("ranker_worker_up") == 1
    assert seen("ranker_worker_cpu_seconds_total") > cpu_s
    assert value(metrics, "ranker_worker_starts_total") == 3


def test_a_window_without_requests_is_nan_while_its_counters_stay(tmp_path, stack):
    now_s = [NOW_S]
    metrics = Metrics(tmp_path, ROUTES, REASONS, clock=lambda: now_s[0])
    stack.callback(metrics.close)
    median = labels_of_total(quantile="0.5")

    assert math.isnan(value(metrics, "ranker_response_time_seconds", **median))

    metrics.observe("/rank", "ok", {}, 0.02)
    assert value(metrics, "ranker_response_time_seconds", **median) == pytest.approx(0.02, rel=0.02)

    now_s[0] += 65
    assert math.isnan(value(metrics, "ranker_response_time_seconds", **median))
    assert value(metrics, "ranker_response_time_seconds_count", **labels_of_total()) == 1
    assert value(metrics, "ranker_response_time_seconds_sum", **labels_of_total()) == pytest.approx(0.02)


def test_histograms_are_exact_at_their_bounds(metrics):
    recorded = [0.001, 0.01, 0.010001, 0.02, 7.0, 99.0]
    for seconds in recorded:
        metrics.observe("/rank", "refused", {"parse": 0.01}, seconds)

    seen = samples(metrics.render()[0].decode())

    for bound in REQUEST_BOUNDS_S:
        key = ("le", str(float(bound))), ("outcome", "refused"), ("route", "/rank")
        assert seen["ranker_request_duration_seconds_bucket", *key] == sum(seconds <= bound for seconds in recorded)
    assert seen["ranker_request_duration_seconds_bucket", ("le", "+Inf"), *key[1:]] == len(recorded)
    assert seen["ranker_stage_duration_seconds_bucket", ("le", "0.01"), ("stage", "parse")] == len(recorded)
    assert seen["ranker_stage_duration_seconds_bucket", ("le", "0.005"), ("stage", "parse")] == 0


def test_a_budget_is_a_bound_of_the_requests_histogram(tmp_path, stack):
    metrics = Metrics(tmp_path, ROUTES, REASONS, clock=lambda: NOW_S, budgets_s=[0.0123])
    stack.callback(metrics.close)
    for seconds in (0.0122, 0.0123, 0.0124):
        metrics.observe("/rank", "ok", {}, seconds)

    assert value(metrics, "ranker_request_duration_seconds_bucket", route="/rank", outcome="ok", le="0.0123") == 2


def test_scores_that_are_no_numbers_are_counted_and_spoil_no_mean(metrics):
    numbers = {"candidates": 3, "history_length": 1, "unknown_items": 0, "cold": False, "future": 0, "malformed": 0}
    metrics.ranked(**numbers, history_age_s=5.0, score_mean=0.25)
    metrics.ranked(**numbers, score_mean=math.nan, bad_scores=2)

    assert value(metrics, "ranker_score_mean_sum") == 0.25 and value(metrics, "ranker_score_mean_count") == 1
    assert value(metrics, "ranker_score_nan_total") == 2
    assert value(metrics, "ranker_history_age_seconds_count") == 1


def test_what_a_ranked_request_was_made_of_is_counted(metrics):
    metrics.ranked(candidates=100, history_length=0, unknown_items=3, cold=True, future=0, malformed=0)
    metrics.ranked(candidates=101, history_length=20, unknown_items=0, cold=False, future=2, malformed=1)
    metrics.degraded("history_timeout")

    assert value(metrics, "ranker_candidates_bucket", le="100.0") == 1
    assert value(metrics, "ranker_candidates_count") == 2
    assert value(metrics, "ranker_candidates_sum") == 201
    assert value(metrics, "ranker_history_length_bucket", le="0.0") == 1
    assert value(metrics, "ranker_history_length_sum") == 20
    assert value(metrics, "ranker_unknown_items_total") == 3
    assert value(metrics, "ranker_cold_users_total") == 1
    assert value(metrics, "ranker_future_behaviours_total") == 2
    assert value(metrics, "ranker_malformed_behaviours_total") == 1
    assert value(metrics, "ranker_degraded_total", reason="history_timeout") == 1


def test_a_model_that_two_workers_answer_with_is_named_once(metrics, tmp_path, stack):
    other = Metrics(tmp_path, ROUTES, REASONS)
    stack.callback(other.close)
    metrics.model("demo", "1", "bst", "abc")
    other.model("demo", "1", "bst", "abc")

    named = [key for key in samples(metrics.render()[0].decode()) if key[0] == "ranker_model_info"]
    assert named == [("ranker_model_info", ("name", "demo"), ("network", "bst"), ("sha", "abc"), ("version", "1"))]

    other.model("demo", "2", "bst", "def")
    assert value(metrics, "ranker_model_info", name="demo", version="2", network="bst", sha="def") == 1


def test_the_catalogue_is_that_of_the_worker_with_the_newest_and_reloads_are_those_of_all(metrics, tmp_path, stack):
    other = Metrics(tmp_path, ROUTES, REASONS)
    stack.callback(other.close)
    metrics.catalog(1000, 5)
    assert value(metrics, "ranker_catalog_items") == 1000
    other.catalog(900, 7)
    metrics.catalog_reload("ok")
    other.catalog_reload("ok")
    other.catalog_reload("refused")

    assert value(metrics, "ranker_catalog_items") == 900
    assert value(metrics, "ranker_catalog_reloads_total", outcome="ok") == 2
    assert value(other, "ranker_catalog_reloads_total", outcome="refused") == 1
    with pytest.raises(KeyError):
        metrics.catalog_reload("mood")


def test_a_model_name_that_does_not_fit_is_refused(metrics):
    with pytest.raises(ValueError, match=f"at most {MODEL_BYTES}"):
        metrics.model("n" * MODEL_BYTES, "1", "bst", "abc")


def test_a_path_or_an_id_cannot_become_a_label(metrics):
    metrics.observe("/rank/user-4711?item=i3", "refused", {}, 0.001)

    body = metrics.render()[0].decode()

    assert "4711" not in body and "i3" not in body
    no_model = {"model": "", "version": "", "variant": ""}
    assert value(metrics, "ranker_requests_total", route="unmatched", outcome="refused", **no_model) == 1
    seen = {label for key in samples(body) for label in key[1:]}
    assert {v for k, v in seen if k == "route"} == {*ROUTES, "unmatched"}
    assert {v for k, v in seen if k == "outcome"} <= {*OUTCOMES, "timeout", "error"}  # the store's are told too
    assert {v for k, v in seen if k == "stage"} == {*STAGES, "total"}
    assert {v for k, v in seen if k in ("model", "version", "variant")} == {""}
    assert {k for k, _ in seen} <= {
        *("route", "outcome", "stage", "quantile", "le", "reason", "op", "worker"),
        *("model", "version", "variant", "python", "numpy"),
    }


@pytest.mark.parametrize(
    "wrong", [("/rank", "great", {}), ("/rank", "ok", {"lunch": 1.0}), ("/metrics", "ok", {"score": 1.0})]
)
def test_an_unknown_outcome_or_stage_is_a_mistake_in_the_program(metrics, wrong):
    with pytest.raises(KeyError):
        metrics.observe(*wrong, 0.001)


def test_an_unknown_reason_is_a_mistake_in_the_program(metrics):
    with pytest.raises(KeyError):
        metrics.degraded("mood")


@pytest.mark.parametrize(
    ("status", "degraded", "outcome"),
    [(200, False, "ok"), (200, True, "degraded"), (307, False, "ok"), (422, False, "refused"), (503, True, "failed")],
)
def test_the_outcome_follows_from_the_status(status, degraded, outcome):
    assert outcome_of(status, degraded) == outcome


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (package prometheus) is not installed")
def test_promtool_finds_no_fault(metrics):
    for route, outcome in itertools.product([*ROUTES, "unmatched"], OUTCOMES):
        metrics.observe(route, outcome, dict.fromkeys(ROUTES.get(route, ()), 0.001), 0.01)
    metrics.ranked(candidates=100, history_length=0, unknown_items=3, cold=True, future=1, malformed=1)
    metrics.model("demo", "1", "bst", "abc")

    checked = subprocess.run(["promtool", "check", "metrics"], input=metrics.render()[0], capture_output=True)

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_the_content_type_is_the_one_that_every_prometheus_reads(metrics):
    assert metrics.render()[1] == "text/plain; version=0.0.4; charset=utf-8"


def test_the_folder_is_private_empty_and_gone_at_the_end():
    with prepare_folder(workers=2) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert list(folder.iterdir()) == []
        Metrics(folder, ROUTES, REASONS).close()

    assert not folder.exists()


def test_a_killed_parents_folder_is_removed_by_the_next_parent_and_a_living_ones_is_not():
    hold = "with prepare_folder(1) as folder: print(folder, flush=True); input()"
    command = [sys.executable, "-c", f"from service.metrics import prepare_folder\n{hold}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as killed, subprocess.Popen(command, **pipes) as living:
        abandoned, kept = (Path(parent.stdout.readline().strip()) for parent in (killed, living))
        assert abandoned.name.startswith(FOLDER_PREFIX) and abandoned.is_dir()
        killed.kill()
        killed.wait()

        with prepare_folder(1):
            assert not abandoned.exists()
            assert kept.is_dir()
        living.communicate("\n")

    assert not kept.exists()
    assert living.returncode == os.EX_OK
