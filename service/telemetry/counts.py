"""What `GET /metrics` says: the names, labels and help texts of the `ranker_` families, counted over all workers.

Every series is known when the service starts, so no caller can put a user, an item or a raw path into a label. Counts
live in the workers' files (`window.py`); each worker, asked, reads them all and gives the same answer.
"""

import math
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from service.telemetry.exposition import CONTENT_TYPE, Labels, Text
from service.telemetry.families import (
    BATCH_REQUESTS,
    DEGRADED,
    EVENTS,
    OUTCOMES,
    QUANTILES,
    REQUEST_BOUNDS_S,
    SIZES,
    STAGE_BOUNDS_S,
    STAGES,
    STORE_READ,
    TOTAL,
    UNMATCHED,
    Events,
)
from service.telemetry.pulse import born, resident_bytes
from service.telemetry.render import _model, _upto, _write_models, _write_workers
from service.telemetry.window import (
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

MODEL_BYTES = 1024  # a bundle's name and version are folder names, 255 bytes at most each


class Metrics:
    """One worker's pen and everybody's reader. Safe with several threads; open it in the worker, after any fork.

    `folder` is the one that `prepare_folder` made and all workers share. `routes` maps each route template to its
    stages (none for most). `reasons` are the values that `degraded` may be called with. `clock` is CLOCK_MONOTONIC in
    seconds. `budgets_s` become bounds of the requests' histogram, exact ones; they must be the same for all workers.
    """

    def __init__(
        self,
        folder: Path,
        routes: Mapping[str, Sequence[str]],
        reasons: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
        budgets_s: Iterable[float] = (),
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._bounds_s = tuple(sorted({*REQUEST_BOUNDS_S, *budgets_s}))
        self._edges = log_edges([*self._bounds_s, *STAGE_BOUNDS_S])
        self._at_request_bounds, self._at_stage_bounds = (  # every bound is an edge
            np.searchsorted(self._edges, bounds) for bounds in (self._bounds_s, STAGE_BOUNDS_S)
        )
        self._labels = [
            (route, stage, outcome)
            for route, stages in {**routes, UNMATCHED: ()}.items()
            for outcome in OUTCOMES
            for stage in (TOTAL, *stages)
        ]
        self._series: dict[str, dict[str, dict[str, int]]] = {}
        for row, (route, stage, outcome) in enumerate(self._labels):
            self._series.setdefault(route, {}).setdefault(outcome, {})[stage] = row
        degraded = Events("Answers that did without something, by what was missing.", {"reason": reasons})
        self._events = {**EVENTS, DEGRADED: degraded}
        every = [
            (name, *values) for name, events in self._events.items() for values in product(*events.labels.values())
        ]
        self._counter_of = {event: index for index, event in enumerate(every)}

        self._file = WorkerFile(folder, self._layout())
        record = self._file.record
        self._times = TimesWriter(record["times"], self._edges)
        self._counts = [record["sizes"][sizes.name].data for sizes in SIZES]
        self._sums: Any = record["sums"].data  # a memoryview of floats
        self._counters = record["counters"].data
        self._worker = record["worker"]
        self._in_flight = self._worker["in_flight"].reshape(1).data
        self._cpu_before_ns = int(self._worker["cpu_ns"])  # a predecessor's: what is summed up must not fall
        self._enter()

    def _layout(self) -> Layout:
        worker = ["slot", "pid", "born", "cpu_ns", "in_flight", "queue_items", "resident_bytes"]
        return np.dtype(
            [
                ("times", times_layout(len(self._labels), self._edges)),
                # One number a bucket; the last one for what is above all bounds.
                ("sizes", np.dtype([(sizes.name, np.uint64, (len(sizes.bounds) + 1,)) for sizes in SIZES])),
                ("sums", np.float64, (len(SIZES),)),
                ("counters", np.uint64, (len(self._counter_of),)),
                ("catalog", np.dtype([("items", np.uint64), ("modified_ns", np.uint64)])),
                ("model", f"S{MODEL_BYTES}"),
                ("model_times", np.dtype([(name, np.float64) for name in ("exported_s", "loaded_s", "load_s")])),
                (
                    "worker",
                    np.dtype(
                        [(name, np.int64) for name in worker]
                        + [(name, np.float64) for name in ("started_s", "queue_age_s", "lag_s")]
                    ),
                ),
            ],
            align=True,
        )

    def _enter(self) -> None:
        """Takes the slot over from whoever had it: counts go on, what is of the moment begins anew."""
        for name in ("pid", "in_flight", "queue_items", "queue_age_s", "lag_s"):
            self._worker[name] = 0
        self.count("ranker_worker_starts")
        self._worker["slot"] = self._file.slot
        self._worker["started_s"] = time.time()
        self._worker["born"] = born(os.getpid())
        self.beat(0.0, 0, 0.0)
        self._worker["pid"] = os.getpid()  # last: from now on it is a worker that lives

    def observe(
        self, route: str, outcome: str, stages_s: Mapping[str, float], total_s: float, slot: int | None = None
    ) -> None:
        """One answered request: seconds in each stage that it came to, and in all.

        A route that is not in the table counts as `unmatched`. KeyError for an unknown outcome, or a stage that the
        route does not have.
        """
        series = self._series.get(route, self._series[UNMATCHED])[outcome]
        times = [(series[stage], seconds) for stage, seconds in stages_s.items()]
        times.append((series[TOTAL], total_s))
        with self._lock:
            self._times.add(times, self._clock())

    def ranked(
        self,
        *,
        candidates: int,
        history_length: int,
        unknown_items: int,
        cold: bool,
        future: int,
        malformed: int,
        history_age_s: float | None = None,
        score_mean: float = math.nan,
        bad_scores: int = 0,
    ) -> None:
        """What one ranked request was made of, in numbers; `cold` when the user has no history.

        `history_age_s` is None for a user without behaviours, `score_mean` not finite where `bad_scores` is not 0.
        """
        sizes = (candidates, history_length, history_age_s, score_mean if math.isfinite(score_mean) else None)
        with self._lock:
            for index, size in enumerate(sizes):  # in the order of SIZES
                if size is not None:
                    self._size(index, size)
            for index, n in enumerate((unknown_items, cold, future, malformed, bad_scores)):  # in the order of EVENTS
                if n:
                    self._counters[index] += n

    def batch(self, requests: int) -> None:
        """One call of /rank/batch with so many requests."""
        with self._lock:
            self._size(SIZES.index(BATCH_REQUESTS), requests)

    def store_read(self, outcome: str, seconds: float) -> None:
        """One read from the store: `ok`, `timeout` or `error`, and how long it took. KeyError for another outcome."""
        with self._lock:
            self._counters[self._counter_of["ranker_store_ops", "read", outcome]] += 1
            self._size(SIZES.index(STORE_READ), seconds)

    def count(self, name: str, *labels: str) -> None:
        """One more event of a family of EVENTS. KeyError for a name or a label that is not listed there."""
        with self._lock:
            self._counters[self._counter_of[name, *labels]] += 1

    def degraded(self, reason: str) -> None:
        """One answer that did without something. KeyError for a reason that was not announced."""
        self.count(DEGRADED, reason)

    def catalog_reload(self, outcome: str) -> None:
        """A newer catalogue file was taken over (`ok`) or `refused`. KeyError for another outcome."""
        self.count("ranker_catalog_reloads", outcome)

    def catalog(self, items: int, modified_ns: int) -> None:
        """This worker now answers with a catalogue of so many items, whose file is of that time."""
        self._file.record["catalog"]["items"] = items
        self._file.record["catalog"]["modified_ns"] = modified_ns

    def model(
        self,
        name: str,
        version: str,
        variant: str | None = None,
        *,
        network: str,
        sha: str,
        exported_s: float = 0.0,
        load_s: float = 0.0,
    ) -> int:
        """This worker now answers with this model, exported at that time and loaded, checked and warmed for so long.

        Raises ValueError when the four names together exceed MODEL_BYTES.
        """
        packed = orjson.dumps({"name": name, "version": version, "network": network, "sha": sha})
        if len(packed) > MODEL_BYTES:
            raise ValueError(f"model name, version, network and sha take {len(packed)} bytes, at most {MODEL_BYTES}")
        self._file.record["model"] = packed
        self._file.record["model_times"] = (exported_s, time.time(), load_s)
        self.count("ranker_model_swap", "ok")
        return 0

    # SHIM
    def add(self, name: str, n: int = 1, *, slot: int | None = None, **labels: str) -> None:
        with self._lock:
            self._counters[self._counter_of[(name, *labels.values())]] += n

    def size(self, name: str, value: float, *, slot: int | None = None) -> None:
        with self._lock:
            self._size([s.name for s in SIZES].index(name), value)

    def began(self) -> None:
        """One more ranking request is under way. From the event loop's thread alone, like `ended`."""
        self._in_flight[0] += 1

    def ended(self) -> None:
        self._in_flight[0] -= 1

    def beat(self, lag_s: float, queue_items: int, queue_age_s: float) -> None:
        """How this worker is: its loop's lag, the candidates that wait, and the age of the oldest. See `pulse.py`."""
        self._worker["lag_s"], self._worker["queue_items"], self._worker["queue_age_s"] = (
            lag_s,
            queue_items,
            queue_age_s,
        )
        self._worker["cpu_ns"] = self._cpu_before_ns + time.process_time_ns()
        self._worker["resident_bytes"] = resident_bytes()

    def render(self) -> tuple[bytes, str]:
        """The body of `GET /metrics` and its content type, for all workers: the families as a reader wants them."""
        text = Text()
        records = [record for record in self._file.everyone() if record["worker"]["started_s"]]
        times = merge([record["times"] for record in records], self._clock())
        self._write_requests(text, records)
        self._write_durations(text, times)
        self._write_response_times(text, times)
        self._write_sizes(text, records)
        self._write_events(text, np.sum([record["counters"] for record in records], axis=0))
        _write_models(text, records)
        _write_workers(text, records)
        return text.encode(), CONTENT_TYPE

    def close(self) -> None:
        """Leaves this worker's counts to the next one. Nothing may be recorded after this."""
        self._worker["pid"] = 0
        self._file.close()

    def _size(self, index: int, size: float) -> None:
        counts = self._counts[index]
        counts[bisect_left(SIZES[index].bounds, size)] += 1
        self._sums[index] += size

    def _write_requests(self, text: Text, records: Sequence[Record]) -> None:
        text.family(
            "ranker_requests_total",
            "counter",
            "Requests answered: ok, degraded (ranked without something), refused (4xx) or failed (5xx).",
        )
        of_model: dict[Labels, Counts] = {}
        models = [_model(record) for record in records]
        known = next((model for model in models if model), {})
        for record, model in zip(records, models, strict=True):
            named = model or known
            labels: Labels = (("model", named.get("name", "")), ("version", named.get("version", "")), ("variant", ""))
            counts_S = record["times"]["counts"].sum(axis=1)
            of_model[labels] = of_model.get(labels, 0) + counts_S
        for labels, counts_S in sorted(of_model.items()):
            for (route, stage, outcome), count in zip(self._labels, counts_S.tolist(), strict=True):
                if stage == TOTAL:
                    text.sample("ranker_requests_total", (*labels, ("route", route), ("outcome", outcome)), count)

    def _write_durations(self, text: Text, times: Times) -> None:
        name = "ranker_request_duration_seconds"
        text.family(name, "histogram", "Time from a request's arrival to its answer, in seconds.")
        stage_counts = {stage: np.zeros_like(times.counts_SB[0]) for stage in STAGES}
        stage_sums = dict.fromkeys(STAGES, 0.0)
        some_S: list[bool] = np.any(times.counts_SB, axis=1).tolist()
        rows = zip(self._labels, some_S, times.counts_SB, times.sums_S.tolist(), strict=True)
        for (route, stage, outcome), some, counts_B, sum_s in rows:
            if not some:
                continue
            if stage == TOTAL:
                labels = (("route", route), ("outcome", outcome))
                text.histogram(name, labels, self._bounds_s, _upto(counts_B, self._at_request_bounds), sum_s)
            else:
                stage_counts[stage] += counts_B
                stage_sums[stage] += sum_s
        name = "ranker_stage_duration_seconds"
        text.family(name, "histogram", "Time in one stage of a request, in seconds.")
        for stage in STAGES:
            upto = _upto(stage_counts[stage], self._at_stage_bounds)
            text.histogram(name, (("stage", stage),), STAGE_BOUNDS_S, upto, stage_sums[stage])

    def _write_response_times(self, text: Text, times: Times) -> None:
        name = "ranker_response_time_seconds"
        text.family(
            name,
            "summary",
            "Seconds by stage (total: the whole request): quantiles over the last 60 s, count and sum since the start.",
        )
        totals = times.counts_SB.sum(axis=1).tolist()
        recent_S: list[bool] = np.any(times.recent_SB, axis=1).tolist()
        rows = zip(self._labels, totals, times.sums_S.tolist(), recent_S, times.recent_SB, strict=True)
        for (route, stage, outcome), total, sum_s, recent, recent_B in rows:
            if outcome != "ok" and not total:  # what goes well is always shown: NaN before the first request
                continue
            labels = (("route", route), ("stage", stage), ("outcome", outcome))
            seconds = quantiles(recent_B, self._edges, QUANTILES) if recent else [math.nan] * len(QUANTILES)
            for quantile, value in zip(QUANTILES, seconds, strict=True):
                text.sample(name, (*labels, ("quantile", str(quantile))), value)
            text.sample(f"{name}_count", labels, total)
            text.sample(f"{name}_sum", labels, sum_s)

    def _write_sizes(self, text: Text, records: Sequence[Record]) -> None:
        sums = np.sum([record["sums"] for record in records], axis=0).tolist()
        for sizes, total in zip(SIZES, sums, strict=True):
            counts = np.sum([record["sizes"][sizes.name] for record in records], axis=0)
            text.family(sizes.name, "histogram", sizes.text)
            text.histogram(sizes.name, sizes.labels, sizes.bounds, np.cumsum(counts).tolist(), total)

    def _write_events(self, text: Text, counts_K: Counts) -> None:
        for name, events in self._events.items():
            text.family(f"{name}_total", "counter", events.text)
            for values in product(*events.labels.values()):
                labels = tuple(zip(events.labels, values, strict=True))
                text.sample(f"{name}_total", labels, int(counts_K[self._counter_of[name, *values]]))
