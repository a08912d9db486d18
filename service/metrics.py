"""What `GET /metrics` says: the names, labels and help texts of the `ranker_` families, counted over all workers.

Every series is known when the service starts, so no caller can put a user, an item or a raw path into a label. Counts
live in the workers' files (`window.py`); each worker, asked, reads them all and gives the same answer.
"""

import fcntl
import os
import shutil
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import orjson
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.window import (
    Counts,
    Layout,
    Record,
    Times,
    TimesWriter,
    WorkerFile,
    log_edges,
    merge,
    quantiles,
    times_layout,
)

STAGES = ("parse", "history", "queue", "encode", "score", "sort", "serialise")
OUTCOMES = ("ok", "degraded", "refused", "failed")
QUANTILES = (0.5, 0.9, 0.99, 0.999)
UNMATCHED = "unmatched"  # the route of a request that no route matches
TOTAL = "total"  # the stage that is the whole request


def _bounds(base_s: float, per_octave: int, octaves: range) -> set[float]:
    steps = range(octaves.start * per_octave, octaves.stop * per_octave + 1)
    return {float(f"{base_s * 2 ** (step / per_octave):.3g}") for step in steps}


# Four to the octave around the budgets (1.25 to 160 ms), so that `histogram_quantile` is off by a few percent there;
# the library's default bounds are off by 29 %. 10 ms is among them, and its doubles and halves; the round ones are
# where people set budgets.
REQUEST_BOUNDS_S = sorted(_bounds(0.01, 4, range(-3, 4)) | {0.0003, 0.0006, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10})
STAGE_BOUNDS_S = sorted(_bounds(0.01, 1, range(-10, 7)))

SIZES: dict[str, tuple[str, list[int]]] = {  # name: help text, histogram bounds
    "ranker_candidates": (
        "Candidates in a ranked request.",
        [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000],
    ),
    "ranker_history_length": (
        "Behaviours that a ranked request's history had, after filter and cut.",
        [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000],
    ),
}

COUNTERS = {  # as the exposition format has it, the names get their `_total` when written
    "ranker_unknown_items": "Candidates without an embedding, scored as UNKNOWN.",
    "ranker_cold_users": "Ranked requests of users without a history.",
    "ranker_future_behaviours": "Behaviours stamped ahead of the clock, taken as happening just now.",
    "ranker_malformed_behaviours": "Stored behaviours and profile values that could not be read and were passed over.",
}

RELOADS = ("ok", "refused")  # outcomes of a look at a newer catalogue file

MODEL_BYTES = 1024  # a bundle's name and version are folder names, 255 bytes at most each

FOLDER_PREFIX = "ranker-metrics-"
FOLDER_BYTES_PER_WORKER = 4 * 2**20  # a worker's file is about half of this


def outcome_of(status: int, degraded: bool = False) -> str:
    """The outcome label of an answered request, from its HTTP status."""
    if status >= 500:
        return "failed"
    if status >= 400:
        return "refused"
    return "degraded" if degraded else "ok"


class Metrics(Collector):
    """One worker's pen and everybody's reader. Safe with several threads; open it in the worker, after any fork.

    `folder` is the one that `prepare_folder` made and all workers share. `routes` maps each route template to its
    stages (none for most). `reasons` are the values that `degraded` may be called with. `clock` is CLOCK_MONOTONIC in
    seconds.
    """

    def __init__(
        self,
        folder: Path,
        routes: Mapping[str, Sequence[str]],
        reasons: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._edges = log_edges([*REQUEST_BOUNDS_S, *STAGE_BOUNDS_S])
        self._labels = [
            (route, stage, outcome)
            for route, stages in {**routes, UNMATCHED: ()}.items()
            for outcome in OUTCOMES
            for stage in (TOTAL, *stages)
        ]
        self._series: dict[str, dict[str, dict[str, int]]] = {}
        for row, (route, stage, outcome) in enumerate(self._labels):
            self._series.setdefault(route, {}).setdefault(outcome, {})[stage] = row
        self._reasons = {reason: len(COUNTERS) + index for index, reason in enumerate(reasons)}
        after = len(COUNTERS) + len(self._reasons)
        self._reloads = {outcome: after + index for index, outcome in enumerate(RELOADS)}

        self._file = WorkerFile(folder, self._layout())
        record = self._file.record
        self._times = TimesWriter(record["times"], self._edges)
        self._sizes = [record["sizes"][name].data for name in SIZES]
        self._counters = record["counters"].data

    def _layout(self) -> Layout:
        return np.dtype(
            [
                ("times", times_layout(len(self._labels), self._edges)),
                # One number a bucket (the last one for what is above all bounds), then the sum of the sizes.
                ("sizes", np.dtype([(name, np.uint64, (len(bounds) + 2,)) for name, (_, bounds) in SIZES.items()])),
                ("counters", np.uint64, (len(COUNTERS) + len(self._reasons) + len(self._reloads),)),
                ("catalog", np.dtype([("items", np.uint64), ("modified_ns", np.uint64)])),
                ("model", f"S{MODEL_BYTES}"),
            ],
            align=True,
        )

    def observe(self, route: str, outcome: str, stages_s: Mapping[str, float], total_s: float) -> None:
        """One answered request: seconds in each stage that it came to, and in all.

        A route that is not in the table counts as `unmatched`. KeyError for an unknown outcome, or a stage that the
        route does not have.
        """
        series = self._series.get(route, self._series[UNMATCHED])[outcome]
        with self._lock:
            now_s = self._clock()
            for stage, seconds in stages_s.items():
                self._times.add(series[stage], seconds, now_s)
            self._times.add(series[TOTAL], total_s, now_s)

    def ranked(
        self, *, candidates: int, history_length: int, unknown_items: int, cold: bool, future: int, malformed: int
    ) -> None:
        """What one ranked request was made of, in numbers; `cold` when the user has no history."""
        sizes = zip(self._sizes, SIZES.values(), (candidates, history_length), strict=True)
        with self._lock:
            for counts, (_, bounds), size in sizes:
                counts[bisect_left(bounds, size)] += 1
                counts[-1] += size
            for index, n in enumerate((unknown_items, cold, future, malformed)):  # in the order of COUNTERS
                self._counters[index] += n

    def degraded(self, reason: str) -> None:
        """One answer that did without something. KeyError for a reason that was not announced."""
        with self._lock:
            self._counters[self._reasons[reason]] += 1

    def catalog(self, items: int, modified_ns: int) -> None:
        """This worker now answers with a catalogue of so many items, whose file is of that time."""
        self._file.record["catalog"]["items"] = items
        self._file.record["catalog"]["modified_ns"] = modified_ns

    def catalog_reload(self, outcome: str) -> None:
        """A newer catalogue file was taken over (`ok`) or `refused`. KeyError for another outcome."""
        with self._lock:
            self._counters[self._reloads[outcome]] += 1

    def model(self, name: str, version: str, network: str, sha: str) -> None:
        """This worker now answers with this model. Raises ValueError when the four together exceed MODEL_BYTES."""
        packed = orjson.dumps({"name": name, "version": version, "network": network, "sha": sha})
        if len(packed) > MODEL_BYTES:
            raise ValueError(f"model name, version, network and sha take {len(packed)} bytes, at most {MODEL_BYTES}")
        self._file.record["model"] = packed

    def render(self) -> tuple[bytes, str]:
        """The body of `GET /metrics` and its content type, for all workers."""
        return generate_latest(self), CONTENT_TYPE_PLAIN_0_0_4

    def close(self) -> None:
        """Leaves this worker's counts to the next one. Nothing may be recorded after this."""
        self._file.close()

    def collect(self) -> Iterator[Metric]:
        """The families, in the order in which a reader wants them."""
        records = self._file.everyone()
        times = merge([record["times"] for record in records], self._clock())
        yield from self._requests(times)
        yield self._response_times(times)
        yield from _sizes([record["sizes"] for record in records])
        yield from self._events(np.sum([record["counters"] for record in records], axis=0))
        yield _catalog(records)
        yield _models(records)

    def _requests(self, times: Times) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "ranker_requests",
            "Requests answered: ok, degraded (ranked without something), refused (4xx) or failed (5xx).",
            labels=["route", "outcome"],
        )
        durations = HistogramMetricFamily(
            "ranker_request_duration_seconds",
            "Time from a request's arrival to its answer, in seconds.",
            labels=["route", "outcome"],
        )
        stage_counts = {stage: np.zeros_like(times.counts_SB[0]) for stage in STAGES}
        stage_sums = dict.fromkeys(STAGES, 0.0)
        for (route, stage, outcome), counts_B, sum_s in zip(self._labels, times.counts_SB, times.sums_S, strict=True):
            if stage == TOTAL:
                requests.add_metric([route, outcome], int(counts_B.sum()))
                if counts_B.any():
                    durations.add_metric([route, outcome], self._cumulative(counts_B, REQUEST_BOUNDS_S), sum_s)
            else:
                stage_counts[stage] += counts_B
                stage_sums[stage] += sum_s
        stages = HistogramMetricFamily(
            "ranker_stage_duration_seconds", "Time in one stage of a request, in seconds.", labels=["stage"]
        )
        for stage in STAGES:
            stages.add_metric([stage], self._cumulative(stage_counts[stage], STAGE_BOUNDS_S), stage_sums[stage])
        yield from (requests, durations, stages)

    def _response_times(self, times: Times) -> Metric:
        name = "ranker_response_time_seconds"
        family = Metric(
            name,
            "Seconds by stage (total: the whole request): quantiles over the last 60 s, count and sum since the start.",
            "summary",
        )
        rows = zip(self._labels, times.counts_SB, times.sums_S, times.recent_SB, strict=True)
        for (route, stage, outcome), counts_B, sum_s, recent_B in rows:
            if outcome != "ok" and not counts_B.any():  # what goes well is always shown: NaN before the first request
                continue
            labels = {"route": route, "stage": stage, "outcome": outcome}
            for quantile, seconds in zip(QUANTILES, quantiles(recent_B, self._edges, QUANTILES), strict=True):
                family.add_sample(name, {**labels, "quantile": str(quantile)}, seconds)
            family.add_sample(f"{name}_count", labels, int(counts_B.sum()))
            family.add_sample(f"{name}_sum", labels, float(sum_s))
        return family

    def _events(self, counts_K: Counts) -> Iterator[Metric]:
        for (name, text), n in zip(COUNTERS.items(), counts_K, strict=False):  # the reasons follow
            yield CounterMetricFamily(name, text, value=int(n))
        degraded = CounterMetricFamily(
            "ranker_degraded", "Answers that did without something, by what was missing.", labels=["reason"]
        )
        for reason, index in self._reasons.items():
            degraded.add_metric([reason], int(counts_K[index]))
        yield degraded
        reloads = CounterMetricFamily(
            "ranker_catalog_reloads",
            "Newer catalogue files that a worker took over (ok) or refused, each worker's own.",
            labels=["outcome"],
        )
        for outcome, index in self._reloads.items():
            reloads.add_metric([outcome], int(counts_K[index]))
        yield reloads

    def _cumulative(self, counts_B: Counts, bounds_s: Sequence[float]) -> Sequence[tuple[str, float]]:
        upto_B = np.cumsum(counts_B)
        at = np.searchsorted(self._edges, bounds_s)  # every bound is an edge
        buckets = [(str(float(bound)), int(n)) for bound, n in zip(bounds_s, upto_B[at], strict=True)]
        return [*buckets, ("+Inf", int(upto_B[-1]))]


def _sizes(workers: Sequence[Record]) -> Iterator[Metric]:
    for name, (text, bounds) in SIZES.items():
        *counts, total = np.sum([sizes[name] for sizes in workers], axis=0)
        buckets = [
            (str(bound), int(n)) for bound, n in zip([*map(float, bounds), "+Inf"], np.cumsum(counts), strict=True)
        ]
        yield HistogramMetricFamily(name, text, buckets=buckets, sum_value=int(total))


def _catalog(records: Sequence[Record]) -> Metric:
    newest = max((record["catalog"] for record in records), key=lambda catalog: int(catalog["modified_ns"]))
    items = int(newest["items"])
    return GaugeMetricFamily("ranker_catalog_items", "Items of the newest catalogue that a worker has.", value=items)


def _models(records: Sequence[Record]) -> Metric:
    labels = ("name", "version", "network", "sha")
    family = GaugeMetricFamily("ranker_model_info", "Models that workers answer with; always 1.", labels=labels)
    for packed in sorted({record["model"].item() for record in records} - {b""}):
        try:
            model = orjson.loads(packed)
        except orjson.JSONDecodeError:  # read while it was being written: whole again at the next scrape
            continue
        family.add_metric([model[label] for label in labels], 1)
    return family


@contextmanager
def prepare_folder(workers: int) -> Iterator[Path]:
    """An empty private folder for `workers` workers' counts, removed on leaving; the parent process holds it.

    In memory where there is room: on a disk, the kernel's writing back of a mapped page can hold up the request that
    touches it. A parent that was killed cannot remove its folder, so the next one does: it is the folder that nobody
    holds a lock on.
    """
    bases = [Path(base) for base in ("/dev/shm", tempfile.gettempdir()) if os.access(base, os.W_OK)]
    for base in bases:
        _remove_abandoned(base)
    roomy = [base for base in bases if shutil.disk_usage(base).free >= workers * FOLDER_BYTES_PER_WORKER]
    folder, lock = _make_locked(roomy[0] if roomy else None)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        os.close(lock)


def _make_locked(base: Path | None) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=base))
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # another parent may have taken it for abandoned in between
            return folder, lock
        os.close(lock)


def _remove_abandoned(base: Path) -> None:
    for folder in base.glob(f"{FOLDER_PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY)
        except (FileNotFoundError, PermissionError):  # removed by another parent; another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)  # another parent may be at it too
        except BlockingIOError:
            pass  # its parent lives
        finally:
            os.close(lock)
