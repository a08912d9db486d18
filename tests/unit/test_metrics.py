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

from service.listed import MOST_BUDGETS
from service.store.history import REASONS as HISTORY_REASONS
from service.telemetry.counts import SAMPLED, Metrics
from service.telemetry.families import (
    FAMILIES,
    HALF_OPEN,
    OUTCOMES,
    QUANTILES,
    REQUEST_BOUNDS_S,
    STAGES,
    WITH_STAGES,
    Family,
    outcome_of,
)
from service.telemetry.folder import FOLDER_BYTES_PER_WORKER, FOLDER_PREFIX, prepare_folder
from service.telemetry.form import Form
from service.telemetry.health import DEAD_S, STUCK_S, Health
from service.telemetry.reader import Reader
from service.telemetry.slots import FEATURES, MODEL_BYTES, MODELS

ROUTES = {"/rank": STAGES, "/metrics": ()}
REASONS = ("history_timeout",)
NOW_S = 1000.0
NOBODY = {"model": "", "version": "", "variant": ""}
DEMO = {"model": "demo", "version": "1", "variant": ""}

# A worker process: does what the lines on its standard input say, and answers each with one JSON line.
WORKER = """
import itertools, json, sys, time
from pathlib import Path
import numpy as np
from service.telemetry.counts import Metrics
from service.telemetry.families import STAGES

ticks = itertools.count()
folder, clock = Path(sys.argv[1]), {"fixed": lambda: 1000.0, "racing": lambda: float(next(ticks))}[sys.argv[2]]
metrics = Metrics(folder, {"/rank": STAGES, "/metrics": ()}, ("history_timeout",), clock)
slot = None
for line in sys.stdin:
    verb, *seconds = json.loads(line)
    if verb == "model":
        slot = metrics.model("demo", *seconds, network="bst", sha="abc")
        print(json.dumps(slot), flush=True)
    if verb == "observe":
        for s in seconds:
            metrics.observe("/rank", "ok", {"score": s / 2}, s, slot)
        print(json.dumps(len(seconds)), flush=True)
    if verb == "scrape":
        print(json.dumps(metrics.render()[0].decode()), flush=True)
    for n in itertools.count() if verb in ("flood", "fold") else ():
        version = str(n % seconds[0])  # each goes on in its slot; of more than there are slots, one is folded
        slot = metrics.model("demo", version, network="bst", sha="abc")
        metrics.observe("/rank", "ok", dict.fromkeys(STAGES, 0.001), 0.01, slot)
        metrics.ranked(slot, {"ranker_candidates": 100, "ranker_unknown_items": 1, "ranker_score_mean": n % 7 / 3})
        metrics.add("ranker_degraded", reason="history_timeout", slot=slot)
        metrics.retire(slot)
        time.sleep(0.0002 if verb == "flood" else 0)
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
    values = {}
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in values
            values[key] = sample.value
    return values


def value(metrics: Metrics, name: str, /, **labels: str) -> float:
    return scrape_of(metrics)[(name, *sorted(labels.items()))]


def by_version(seen: dict[tuple, float], name: str, **labels: str) -> dict[str, float]:
    """A family's samples of these labels, by version; all have one."""
    return {
        dict(key[1:])["version"]: value
        for key, value in seen.items()
        if key[0] == name and "version" in dict(key[1:]) and labels.items() <= dict(key[1:]).items()
    }


def ranked_by(seen: dict[tuple, float]) -> dict[str, float]:
    """Requests that /rank answered well, by version."""
    return by_version(seen, "ranker_requests_total", route="/rank", outcome="ok")


def scrape_of(metrics: Metrics) -> dict[tuple, float]:
    return samples(metrics.render()[0].decode())


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
    assert ranked_by(seen) == {"": 15_000}
    assert by_version(seen, "ranker_stage_duration_seconds_count", stage="score") == {"": 15_000}
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

    def flooding() -> Worker:
        worker = start(stack, tmp_path, "racing")  # slices are wiped all the time
        worker.ask("observe")  # it has its file
        worker.tell("flood", 3)
        return worker

    workers = [flooding() for _ in range(2)]
    before = samples(scraper.render()[0].decode())

    def scrape() -> float:
        nonlocal before
        after = samples(scraper.render()[0].decode())
        for key, counted in before.items():
            if key[0].endswith(("_total", "_count", "_sum", "_bucket")):
                assert after[key] >= counted, key
        before = after
        return sum(ranked_by(after).values())

    for restart in range(4):
        goal = scrape() + 500
        while scrape() < goal:
            pass
        workers[restart % 2].kill()
        scrape()
        workers[restart % 2] = flooding()
    goal = scrape() + 500
    while scrape() < goal:
        pass

    assert set(ranked_by(before)) == {"", "0", "1", "2"}
    assert len(list(tmp_path.glob("worker-*"))) == 3


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
        metrics.observe("/rank", "late", {"parse": 0.01}, seconds)

    seen = samples(metrics.render()[0].decode())

    for bound in REQUEST_BOUNDS_S:
        labels = {"le": str(float(bound)), "outcome": "late", "route": "/rank"}
        (count,) = by_version(seen, "ranker_request_duration_seconds_bucket", **labels).values()
        assert count == sum(seconds <= bound for seconds in recorded)
    assert by_version(seen, "ranker_request_duration_seconds_bucket", le="+Inf") == {"": len(recorded)}
    for bound, count in (("0.01", len(recorded)), ("0.005", 0)):
        assert by_version(seen, "ranker_stage_duration_seconds_bucket", le=bound, stage="parse") == {"": count}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_the_whole_of_every_request_is_timed_by_outcome_and_stages_where_they_tell_something(metrics, outcome):
    """So quick refusals flatter no quantile of what was let in."""
    metrics.observe("/rank", outcome, {"parse": 0.001}, 0.02)
    metrics.observe("/rank", "ok" if outcome != "ok" else "shed", {"parse": 0.1}, 0.2)

    seen = scrape_of(metrics)
    median = {"route": "/rank", "outcome": outcome, "quantile": "0.5"}
    key = ("ranker_response_time_seconds", *sorted({**median, "stage": "total"}.items()))
    assert seen[key] == pytest.approx(0.02, rel=0.02)
    parse = ("ranker_response_time_seconds", *sorted({**median, "stage": "parse"}.items()))
    assert seen.get(parse) == (pytest.approx(0.001, rel=0.02) if outcome in WITH_STAGES else None)


def test_what_is_of_the_moment_is_told_by_worker_and_begins_anew_with_each(tmp_path, stack):
    metrics = Metrics(tmp_path, ROUTES, REASONS, clock=lambda: NOW_S)
    names = {
        "ranker_in_flight_candidates": 700,
        "ranker_admission_cost_seconds": 1.5e-5,
        "ranker_queue_predicted_wait_seconds": 0.0105,
        "ranker_store_breaker_state": HALF_OPEN,
    }
    metrics.admission(700, 1.5e-5, 0.0105)
    metrics.breaker(HALF_OPEN)
    assert {name: value(metrics, name, worker="0") for name in names} == names

    metrics.close()
    successor = Metrics(tmp_path, ROUTES, REASONS, clock=lambda: NOW_S)
    stack.callback(successor.close)
    assert {name: value(successor, name, worker="0") for name in names} == dict.fromkeys(names, 0)


def test_a_reader_is_no_worker_and_tells_the_same(metrics, tmp_path, stack):
    form = Form(ROUTES, REASONS)
    empty = tmp_path / "empty"
    empty.mkdir()
    before = samples(Reader(empty, form).render()[0].decode())
    assert ("ranker_worker_up", ("worker", "0")) not in before  # nobody has started yet

    metrics.observe("/rank", "ok", {"score": 0.005}, 0.01, metrics.model("demo", "1", network="bst", sha="abc"))
    files = {path: path.read_bytes() for path in tmp_path.glob("worker-*")}
    reader = Reader(tmp_path, form, clock=lambda: NOW_S)
    np.testing.assert_equal(samples(reader.render()[0].decode()), scrape_of(metrics))
    assert {path: path.read_bytes() for path in tmp_path.glob("worker-*")} == files and len(files) == 1


def test_workers_are_well_while_their_loops_beat(tmp_path, stack):
    now_s = [NOW_S]
    reader = Reader(tmp_path, Form(ROUTES, REASONS), clock=lambda: now_s[0])
    assert reader.health(2) == Health(2, 0, 0, stuck=False) and reader.health(2).live  # they are about to start

    two = [Metrics(tmp_path, ROUTES, REASONS, clock=lambda: now_s[0]) for _ in range(2)]
    stack.callback(two[1].close)
    assert reader.health(2) == Health(2, 2, 0, stuck=False)  # they load their bundle
    two[0].model("demo", "1", network="bst", sha="abc")
    two[0].beat(0.0, 0, 0.0)
    assert reader.health(2) == Health(2, 2, 1, False, "demo", "1") and reader.health(2).ready
    assert value(two[0], "ranker_worker_heartbeat_age_seconds", worker="0") == 0
    assert not reader.health(3).ready

    now_s[0] += STUCK_S
    assert reader.health(2).ready  # busy
    assert value(two[0], "ranker_worker_heartbeat_age_seconds", worker="0") == STUCK_S
    now_s[0] += 0.1
    assert not reader.health(2).ready and reader.health(2).live
    now_s[0] += DEAD_S
    assert reader.health(2).live  # the other is still starting
    two[1].beat(0.0, 0, 0.0)
    assert reader.health(2).ready
    now_s[0] += DEAD_S + 0.1
    assert not reader.health(2).live
    two[0].close()
    assert not reader.health(2).live and reader.health(2).up == 1


def test_a_budget_is_a_bound_of_the_requests_histogram(tmp_path, stack):
    metrics = Metrics(tmp_path, ROUTES, REASONS, clock=lambda: NOW_S, budgets_s=[0.0123])
    stack.callback(metrics.close)
    for seconds in (0.0122, 0.0123, 0.0124):
        metrics.observe("/rank", "ok", {}, seconds)

    assert by_version(scrape_of(metrics), "ranker_request_duration_seconds_bucket", le="0.0123") == {"": 2}


def test_what_a_ranked_request_was_made_of_is_counted_by_its_model(metrics):
    slot = metrics.model("demo", "1", network="bst", sha="abc")
    metrics.ranked(slot, {"ranker_candidates": 100, "ranker_history_length": 0, "ranker_unknown_items": 3})
    metrics.ranked(slot, {"ranker_candidates": 101, "ranker_history_length": 20, "ranker_future_behaviours": 2})
    metrics.size("ranker_score_mean", 0.25, slot=slot)
    metrics.add("ranker_cold_users", slot=slot)
    metrics.add("ranker_score_nan", 2, slot=slot)
    metrics.add("ranker_degraded", reason="history_timeout", slot=slot)

    assert value(metrics, "ranker_candidates_bucket", le="100.0", **DEMO) == 1
    assert value(metrics, "ranker_candidates_count", **DEMO) == 2
    assert value(metrics, "ranker_candidates_sum", **DEMO) == 201
    assert value(metrics, "ranker_history_length_bucket", le="0.0", **DEMO) == 1
    assert value(metrics, "ranker_history_length_sum", **DEMO) == 20
    assert value(metrics, "ranker_score_mean_sum", **DEMO) == 0.25
    assert value(metrics, "ranker_history_age_seconds_count", **DEMO) == 0
    assert value(metrics, "ranker_unknown_items_total", **DEMO) == 3
    assert value(metrics, "ranker_cold_users_total", **DEMO) == 1
    assert value(metrics, "ranker_future_behaviours_total", **DEMO) == 2
    assert value(metrics, "ranker_malformed_behaviours_total", **DEMO) == 0
    assert value(metrics, "ranker_score_nan_total", **DEMO) == 2
    assert value(metrics, "ranker_degraded_total", reason="history_timeout", **DEMO) == 1


def test_a_family_put_first_into_the_table_moves_no_count_to_another(tmp_path, stack):
    first = {"ranker_sizes": Family("Sizes.", bounds=(1.0, 2.0)), "ranker_first": Family("First.", by_model=True)}
    seen = []
    for number, families in enumerate((FAMILIES, {**first, **FAMILIES})):
        folder = tmp_path / str(number)
        folder.mkdir()
        metrics = Metrics(folder, ROUTES, REASONS, clock=lambda: NOW_S, families=families)
        stack.callback(metrics.close)
        slot = metrics.model("demo", "1", network="bst", sha="abc")
        metrics.observe("/rank", "ok", {"score": 0.005}, 0.01, slot)
        for n, (name, family) in enumerate(FAMILIES.items(), 1):
            if family.bounds:
                metrics.size(name, n, slot=slot)
            else:
                labels = {label: (values or REASONS)[0] for label, values in family.labels.items()}
                metrics.add(name, n, slot=slot, **labels)
        seen.append(scrape_of(metrics))

    before, after = seen
    counted = [
        key for key in before if key[0].endswith(("_total", "_count", "_sum", "_bucket")) and "cpu" not in key[0]
    ]
    assert {key: after[key] for key in counted} == {key: before[key] for key in counted}
    assert value(metrics, "ranker_first_total", **DEMO) == 0 and value(metrics, "ranker_sizes_count") == 0
    assert len(counted) > 200


def test_a_workers_past_stays_with_the_model_that_answered(metrics):
    a = metrics.model("demo", "a", network="bst", sha="abc")
    for _ in range(100):
        metrics.observe("/rank", "ok", {}, 0.01, a)
    b = metrics.model("demo", "b", network="bst", sha="def")
    metrics.retire(a)
    metrics.observe("/rank", "ok", {}, 0.01, b)
    metrics.observe("/metrics", "ok", {}, 0.01)

    seen = scrape_of(metrics)
    assert ranked_by(seen) == {"": 0, "a": 100, "b": 1}
    assert by_version(seen, "ranker_requests_total", route="/metrics", outcome="ok") == {"": 1}
    assert by_version(seen, "ranker_request_duration_seconds_count", route="/rank") == {"a": 100, "b": 1}
    assert set(by_version(seen, "ranker_model_info")) == {"b"}
    assert seen["ranker_response_time_seconds_count", *sorted(labels_of_total().items())] == 101
    assert metrics.model("demo", "a", network="bst", sha="abc") == a  # back again, in the slot that it had


def test_variants_of_one_version_are_counted_apart(metrics):
    slots = {variant: metrics.model("demo", "1", variant, network="bst", sha="abc") for variant in (None, "int8")}
    metrics.add("ranker_unknown_items", 5, slot=slots["int8"])

    assert value(metrics, "ranker_unknown_items_total", **DEMO) == 0
    assert value(metrics, "ranker_unknown_items_total", **DEMO | {"variant": "int8"}) == 5
    labels = {"name": "demo", "version": "1", "network": "bst", "sha": "abc"}
    assert value(metrics, "ranker_model_info", variant="int8", **labels) == 1
    assert value(metrics, "ranker_model_info", variant="", **labels) == 1


def test_a_ninth_model_folds_the_one_that_nobody_answers_with_and_that_was_last_used_first(tmp_path, stack):
    now_s = [NOW_S]
    metrics = Metrics(tmp_path, ROUTES, REASONS, clock=lambda: now_s[0])
    stack.callback(metrics.close)
    slots = [metrics.model("demo", str(n), network="bst", sha="abc") for n in range(MODELS)]
    for n, slot in enumerate(slots):
        metrics.add("ranker_unknown_items", 10**n, slot=slot)
    now_s[0] += 1
    metrics.observe("/rank", "ok", {}, 0.01, slots[3])
    metrics.retire(slots[3])
    metrics.retire(slots[5])

    new = metrics.model("demo", "new", network="bst", sha="abc")
    metrics.add("ranker_unknown_items", 7, slot=new)
    metrics.add("ranker_unknown_items", slot=slots[5])  # a request that was still under way

    others = {str(n): 10**n for n in range(MODELS) if n != 5}
    counts = by_version(scrape_of(metrics), "ranker_unknown_items_total")
    assert counts == {"older": 10**5 + 1, **others, "new": 7}

    metrics.model("demo", "5", network="bst", sha="abc")
    counts = by_version(scrape_of(metrics), "ranker_unknown_items_total")
    assert counts == {"older": 10**5 + 1 + others.pop("3"), **others, "new": 7, "5": 0}


def test_where_all_models_are_answered_with_the_one_used_longest_ago_is_folded(tmp_path, stack):
    now_s = [NOW_S]
    metrics = Metrics(tmp_path, ROUTES, REASONS, clock=lambda: now_s[0])
    stack.callback(metrics.close)
    slots = [metrics.model("demo", str(n), network="bst", sha="abc") for n in range(MODELS)]
    now_s[0] += 1
    for n, slot in enumerate(slots):
        if n != 4:
            metrics.observe("/rank", "ok", {}, 0.01, slot)

    metrics.model("demo", "new", network="bst", sha="abc")
    metrics.observe("/rank", "ok", {}, 0.01, slots[4])  # goes on, as one of the older

    others = {str(n): 1 for n in range(MODELS) if n != 4}
    assert ranked_by(scrape_of(metrics)) == {"": 0, "older": 1, **others, "new": 0}


def test_a_slot_that_one_worker_gives_to_another_model_is_folded_for_all_at_once(metrics, tmp_path, stack):
    """So no series falls while some workers have taken the new model up and others have not."""
    other = Metrics(tmp_path, ROUTES, REASONS, clock=lambda: NOW_S)
    stack.callback(other.close)
    for n in range(MODELS):
        for worker in (metrics, other):
            slot = worker.model("demo", str(n), network="bst", sha="abc")
            worker.add("ranker_unknown_items", slot=slot)
            worker.retire(slot)

    metrics.model("demo", "new", network="bst", sha="abc")

    expected = {"older": 2, **{str(n): 2 for n in range(1, MODELS)}, "new": 0}
    assert by_version(scrape_of(other), "ranker_unknown_items_total") == expected
    other.model("demo", "new", network="bst", sha="abc")
    assert by_version(scrape_of(metrics), "ranker_unknown_items_total") == expected


def test_a_model_that_another_worker_answers_with_keeps_its_slot(metrics, tmp_path, stack):
    other = Metrics(tmp_path, ROUTES, REASONS, clock=lambda: NOW_S)
    stack.callback(other.close)
    other.model("demo", "0", network="bst", sha="abc")
    for n in range(MODELS):
        metrics.retire(metrics.model("demo", str(n), network="bst", sha="abc"))

    metrics.model("demo", "new", network="bst", sha="abc")
    assert set(by_version(scrape_of(metrics), "ranker_unknown_items_total")) == {
        str(n) for n in range(MODELS) if n != 1
    } | {"new"}


def test_no_sum_falls_while_models_are_folded_and_workers_are_killed(metrics, tmp_path, stack):
    workers = [start(stack, tmp_path) for _ in range(2)]
    for worker in workers:
        worker.tell("flood", MODELS + 3)
    before: dict[tuple, float] = {}

    def scrape() -> float:
        """Requests up to now. No sum over models may fall, nor `older`, nor what is not counted by model."""
        nonlocal before
        seen = scrape_of(metrics)
        after: dict[tuple, float] = {}
        for key, n in seen.items():
            if key[0].endswith(("_total", "_count", "_bucket", "_sum")):
                if dict(key[1:]).get("version") == "older":
                    after[key] = n
                summed = (key[0], *((label, text) for label, text in key[1:] if label not in ("model", "version")))
                after[summed] = after.get(summed, 0) + n
        for key, n in before.items():
            slack = 1e-12 if key[0] == "ranker_score_mean_sum" and ("version", "older") not in key else 0
            assert after[key] >= n * (1 - slack), key  # we add floats in another order each time
        before = after
        return sum(ranked_by(seen).values())

    for restart in range(4):
        goal = scrape() + 300
        while scrape() < goal:
            pass
        workers[restart % 2].kill()
        scrape()
        workers[restart % 2] = start(stack, tmp_path)
        workers[restart % 2].tell("flood", MODELS + 3)

    assert ranked_by(scrape_of(metrics))["older"] > 0


def test_a_reader_sees_all_of_a_fold_or_nothing(metrics, tmp_path, stack):
    """Sums alone: a whole scrape takes forty times as long, and would rarely meet a fold."""
    start(stack, tmp_path).tell("fold", MODELS + 3)
    before, reads = 0, 0

    while reads < 3000:
        rows = [(dict(row.labels)["version"], int(row.cells.sum())) for row in metrics.reader.rows()[0]]
        after = sum(count for _, count in rows)
        assert after >= before
        before = after
        reads += dict(rows)["older"] > 0  # since the worker folds


@pytest.mark.parametrize("killed_in", ["service.telemetry.counts.fold", "service.telemetry.slots.clear"])
def test_a_worker_killed_while_it_folds_leaves_a_file_that_counts_the_same(tmp_path, stack, monkeypatch, killed_in):
    """Killed before its rows are in `older`, or before they are cleared."""
    reader = Metrics(tmp_path, ROUTES, REASONS, clock=lambda: NOW_S)
    stack.callback(reader.close)
    worker = Metrics(tmp_path, ROUTES, REASONS, clock=lambda: NOW_S)
    for n in range(MODELS):
        slot = worker.model("demo", str(n), network="bst", sha="abc")
        worker.add("ranker_unknown_items", slot=slot)
        worker.retire(slot)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(killed_in, die)
        worker.model("demo", "new", network="bst", sha="abc")
    worker.close()

    expected = {"older": 1, **{str(n): 1 for n in range(1, MODELS)}, "new": 0}
    assert by_version(scrape_of(reader), "ranker_unknown_items_total") == expected
    successor = Metrics(tmp_path, ROUTES, REASONS, clock=lambda: NOW_S)
    stack.callback(successor.close)
    assert by_version(scrape_of(reader), "ranker_unknown_items_total") == expected
    successor.add("ranker_unknown_items", slot=successor.model("demo", "new", network="bst", sha="abc"))
    assert by_version(scrape_of(reader), "ranker_unknown_items_total") == expected | {"new": 1}


def test_a_restarted_worker_finds_its_models_and_answers_with_none_of_them_yet(metrics, tmp_path, stack):
    worker = start(stack, tmp_path)
    worker.ask("model", "1")
    worker.ask("observe", 0.01, 0.01)
    assert by_version(scrape_of(metrics), "ranker_model_info") == {"1": 1}
    worker.kill()
    assert by_version(scrape_of(metrics), "ranker_model_info") == {}

    worker = start(stack, tmp_path)
    seen = samples(worker.ask("scrape"))
    assert by_version(seen, "ranker_model_info") == {} and ranked_by(seen)["1"] == 2
    worker.ask("model", "1")
    worker.ask("observe", 0.01)
    assert ranked_by(scrape_of(metrics))["1"] == 3


def test_a_model_that_two_workers_answer_with_is_named_once(metrics, tmp_path, stack):
    other = Metrics(tmp_path, ROUTES, REASONS)
    stack.callback(other.close)
    metrics.model("demo", "1", network="bst", sha="abc")
    other.model("demo", "1", network="bst", sha="abc")

    info = [dict(key[1:]) for key in scrape_of(metrics) if key[0] == "ranker_model_info"]
    assert info == [{"name": "demo", "network": "bst", "sha": "abc", "variant": "", "version": "1"}]

    other.model("demo", "2", network="bst", sha="def")
    assert value(metrics, "ranker_model_info", name="demo", version="2", variant="", network="bst", sha="def") == 1


def test_a_workers_file_takes_no_more_room_than_is_kept_for_it(tmp_path, stack):
    routes = {"/rank": STAGES, "/rank/batch": STAGES, **{f"/{n}": () for n in range(7)}}
    budgets_s = [0.0123 + n / 1000 for n in range(MOST_BUDGETS)]
    stack.callback(Metrics(tmp_path, routes, HISTORY_REASONS, budgets_s=budgets_s).close)

    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= FOLDER_BYTES_PER_WORKER


def test_values_of_features_are_those_of_all_workers_by_name_and_go_with_their_model(metrics, tmp_path, stack):
    other = Metrics(tmp_path, ROUTES, REASONS, clock=lambda: NOW_S)
    stack.callback(other.close)
    many = [f"f{n}" for n in range(FEATURES + 5)]
    slot, theirs = (
        worker.model("m", "1", network="bst", sha="a", features=names)
        for worker, names in ((metrics, ["age", "city"]), (other, ["city", "age"]))
    )
    metrics.features(slot, np.array([[1, 2, 3], [4, 5, 6]], np.uint64))
    other.features(theirs, np.array([[10, 20, 30], [40, 50, 60]], np.uint64))
    of_model = {"model": "m", "version": "1", "variant": ""}
    name = "ranker_feature_values_total"
    assert value(metrics, name, **of_model, feature="age", state="known") == 41
    assert value(other, name, **of_model, feature="city", state="missing") == 36
    wide = metrics.model("m", "2", network="bst", sha="a", features=many)
    metrics.features(wide, np.ones((len(many), 3), np.uint64))
    shown = [key for key in scrape_of(metrics) if key[0] == name and ("version", "2") in key]
    assert len(shown) == 3 * FEATURES and value(metrics, name, **of_model, feature="age", state="known") == 41
    long = metrics.model("m", "3", network="bst", sha="a", features=["x" * 3000, "y" * 3000])
    metrics.features(long, np.ones((2, 3), np.uint64))
    assert len([key for key in scrape_of(metrics) if key[0] == name and ("version", "3") in key]) == 3
    other.retire(theirs)
    for retired in (slot, wide, long):
        metrics.retire(retired)
    for n in range(4, 4 + MODELS):  # the first are folded into `older`, in which no feature has a meaning
        metrics.model("m", str(n), network="bst", sha="a")
    assert not [key for key in scrape_of(metrics) if key[0] == name]
    again = metrics.model("m", "1", network="bst", sha="a", features=["age", "city"])
    assert value(metrics, name, **of_model, feature="age", state="known") == 0
    metrics.features(again, np.ones((2, 3), np.uint64))
    assert value(metrics, name, **of_model, feature="age", state="known") == 1


def test_one_request_of_some_has_its_values_counted_and_the_first_is_one(metrics):
    assert [metrics.sampled() for _ in range(2 * SAMPLED)] == 2 * [True, *[False] * (SAMPLED - 1)]


def test_counts_are_as_old_as_the_oldest_that_a_worker_has(metrics, tmp_path, stack):
    other = Metrics(tmp_path, ROUTES, REASONS, clock=lambda: NOW_S)
    stack.callback(other.close)
    name = "ranker_statistics_until_timestamp_seconds"
    assert math.isnan(value(metrics, name))
    for worker, until_ms, seen in ((metrics, 5000, 5), (other, 3000, 3), (other, 7000, 5), (metrics, None, 7)):
        worker.statistics(until_ms)
        assert value(metrics, name) == seen
    other.statistics(None)
    assert math.isnan(value(metrics, name))


def test_the_catalogue_is_that_of_the_worker_with_the_newest_and_reloads_are_those_of_all(metrics, tmp_path, stack):
    other = Metrics(tmp_path, ROUTES, REASONS)
    stack.callback(other.close)
    metrics.catalog(1000, 5)
    assert value(metrics, "ranker_catalog_items") == 1000
    other.catalog(900, 7)
    metrics.add("ranker_catalog_reloads", outcome="ok")
    other.add("ranker_catalog_reloads", outcome="ok")
    other.add("ranker_catalog_reloads", outcome="refused")

    assert value(metrics, "ranker_catalog_items") == 900
    assert value(metrics, "ranker_catalog_reloads_total", outcome="ok") == 2
    assert value(other, "ranker_catalog_reloads_total", outcome="refused") == 1


def test_a_model_name_that_does_not_fit_is_refused(metrics):
    with pytest.raises(ValueError, match=f"at most {MODEL_BYTES}"):
        metrics.model("n" * MODEL_BYTES, "1", network="bst", sha="abc")


STORE = ("timeout", "lagged", "error")
JOURNAL = ("written", "full", "unwritable", "overflow")
FEEDBACK = FAMILIES["ranker_feedback_events"].labels["outcome"]


def test_a_path_or_an_id_cannot_become_a_label(metrics):
    metrics.observe("/rank/user-4711?item=i3", "refused", {}, 0.001)

    body = metrics.render()[0].decode()

    assert "4711" not in body and "i3" not in body
    assert value(metrics, "ranker_requests_total", route="unmatched", outcome="refused", **NOBODY) == 1
    seen = {label for key in samples(body) for label in key[1:]}
    assert {v for k, v in seen if k == "route"} == {*ROUTES, "unmatched"}
    assert {v for k, v in seen if k == "outcome"} <= {*OUTCOMES, *STORE, *JOURNAL, *FEEDBACK}
    assert {v for k, v in seen if k == "stage"} == {*STAGES, "total"}
    assert {v for k, v in seen if k in ("model", "version", "variant")} == {""}
    assert {k for k, _ in seen} <= {
        *("route", "outcome", "stage", "quantile", "le", "reason", "kind", "op", "worker"),
        *("model", "version", "variant", "python", "numpy"),
    }


@pytest.mark.parametrize(
    "wrong", [("/rank", "great", {}), ("/rank", "ok", {"lunch": 1.0}), ("/metrics", "ok", {"score": 1.0})]
)
def test_an_unknown_outcome_or_stage_is_a_mistake_in_the_program(metrics, wrong):
    with pytest.raises(KeyError):
        metrics.observe(*wrong, 0.001)


@pytest.mark.parametrize(
    ("count", "unknown"),
    [
        (lambda metrics: metrics.add("ranker_moods"), "ranker_moods"),
        (lambda metrics: metrics.add("ranker_degraded", reason="mood"), "mood"),
        (lambda metrics: metrics.add("ranker_shed"), "ranker_shed"),
        (lambda metrics: metrics.add("ranker_candidates"), "ranker_candidates"),  # a histogram
        (lambda metrics: metrics.size("ranker_shed", 1), "ranker_shed"),
        (lambda metrics: metrics.ranked(None, {"ranker_moods": 1}), "ranker_moods"),
        (lambda metrics: metrics.add("ranker_unknown_items", slot=99), "99"),
        (lambda metrics: metrics.observe("/rank", "ok", {}, 0.01, 99), "99"),
        (lambda metrics: metrics.retire(99), "99"),
    ],
)
def test_an_unknown_family_label_or_slot_is_a_mistake_in_the_program_and_is_named(metrics, count, unknown):
    with pytest.raises(KeyError, match=unknown):
        count(metrics)


@pytest.mark.parametrize(
    ("status", "degraded", "outcome"),
    [
        *[
            (200, False, "ok"),
            (200, True, "degraded"),
            (307, False, "ok"),
            (502, True, "failed"),
            (500, False, "failed"),
        ],
        *[
            (status, degraded, "refused")
            for status in (400, 404, 405, 408, 413, 422, 503)
            for degraded in (False, True)
        ],
        *[(429, False, "shed"), (504, False, "late"), (499, False, "gone"), (499, True, "gone")],
    ],
)
def test_the_outcome_follows_from_the_status(status, degraded, outcome):
    assert outcome_of(status, degraded) == outcome


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (package prometheus) is not installed")
def test_promtool_finds_no_fault(metrics):
    for route, outcome in itertools.product([*ROUTES, "unmatched"], OUTCOMES):
        metrics.observe(route, outcome, dict.fromkeys(ROUTES.get(route, ()), 0.001), 0.01)
    for version in range(MODELS + 1):
        slot = metrics.model("demo", str(version), network="bst", sha="abc")
        metrics.ranked(slot, {"ranker_candidates": 100, "ranker_unknown_items": 3})

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
    command = [sys.executable, "-c", f"from service.telemetry.folder import prepare_folder\n{hold}"]
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
