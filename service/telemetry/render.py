"""The text of `GET /metrics`, from the records of all workers."""

import math
import platform
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.telemetry import lately, shadows
from service.telemetry.columns import combinations, counter_key
from service.telemetry.exposition import CONTENT_TYPE, Text
from service.telemetry.families import (
    FEATURE_VALUES,
    OF_MODELS,
    OF_REQUESTS,
    OF_WORKERS,
    QUANTILES,
    STAGE_BOUNDS_S,
    STAGES,
    VALUE_STATES,
    Family,
)
from service.telemetry.form import Form
from service.telemetry.slots import Row, by_worker, lives, models
from service.telemetry.window import Record, quantiles

HEARTBEAT = "ranker_worker_heartbeat_age_seconds"


class Scrape:
    """One scrape: rows of counts by model, counts of the last minute by series and bucket, and the workers' records.

    A model's row is shown with its zeros; requests that no model answered, and `older`, where they have a count.
    """

    def __init__(
        self,
        form: Form,
        rows: Sequence[Row],
        recent_SB: npt.NDArray[np.uint32],
        workers: Sequence[Record],
        now_s: float,
        pause: Callable[[], object],
        folder: Path,
    ) -> None:
        self._text, self._folder = Text(), folder
        self._columns, self._families, self._edges = form.columns, form.families, form.edges
        self._rows, self._recent_SB, self._workers, self._now_s = rows, recent_SB, workers, now_s
        self._pause = pause
        cells, sums = (np.sum([getattr(row, name) for row in rows], axis=0) for name in ("cells", "sums"))
        self._total = Row((), cells, sums, {})

    def text(self) -> tuple[bytes, str]:
        """The body and its content type."""
        write = {
            "ranker_requests_total": self._write_requests,
            "ranker_request_duration_seconds": self._write_durations,
            "ranker_stage_duration_seconds": self._write_stages,
            "ranker_response_time_seconds": self._write_response_times,
        }
        for name, (kind, about) in OF_REQUESTS.items():
            self._text.family(name, kind, about)
            write[name](name)
            self._pause()
        for name, family in self._families.items():
            self._pause()
            if family.bounds:
                self._write_histogram(name, family)
            else:
                self._write_counter(name, family)
        self._write_values()
        self._write_models()
        self._write_catalog()
        lately.write(self._text, self._folder)
        shadows.write(self._text, self._folder)
        self._write_workers()
        return self._text.encode(), CONTENT_TYPE

    def _write_requests(self, name: str) -> None:
        for row in self._rows:
            requests, _ = self._columns.split(row.cells)
            counts: list[int] = requests[:, 1:].sum(axis=1).tolist()
            for times, count in zip(self._columns.requests, counts, strict=True):
                if count or row.of_nobody or (row.of_model and times.route in self._columns.ranking):
                    labels = (*row.labels, ("route", times.route), ("outcome", times.outcome))
                    self._text.sample(name, labels, count)

    def _write_durations(self, name: str) -> None:
        for row in self._rows:
            self._pause()
            requests, _ = self._columns.split(row.cells)
            upto = requests[:, 1:].cumsum(axis=1).tolist()
            for times, counts, sum_ns in zip(self._columns.requests, upto, requests[:, 0].tolist(), strict=True):
                if counts[-1]:
                    labels = (*row.labels, ("route", times.route), ("outcome", times.outcome))
                    self._text.histogram(name, labels, self._columns.request_bounds_s, counts, sum_ns / 1e9)

    def _write_stages(self, name: str) -> None:
        of_stage = np.array([times.stage for times in self._columns.stages])
        for row in self._rows:
            self._pause()
            _, stages = self._columns.split(row.cells)
            for stage in STAGES:
                sum_ns, *counts = stages[of_stage == stage].sum(axis=0).tolist()
                if row.of_model or any(counts):
                    labels = (*row.labels, ("stage", stage))
                    self._text.histogram(name, labels, STAGE_BOUNDS_S, list(accumulate(counts)), sum_ns / 1e9)

    def _write_response_times(self, name: str) -> None:
        recent_S: list[bool] = np.any(self._recent_SB, axis=1).tolist()
        blocks = self._columns.split(self._total.cells)
        sums_ns = np.concatenate([block[:, 0] for block in blocks]).tolist()
        counts = np.concatenate([block[:, 1:].sum(axis=1) for block in blocks]).tolist()
        for (route, stage, outcome, series), count, sum_ns in zip(self._columns.times, counts, sums_ns, strict=True):
            if outcome != "ok" and not count:  # what goes well is always shown: NaN before the first request
                continue
            labels = (("route", route), ("stage", stage), ("outcome", outcome))
            recent_B = self._recent_SB[series.number]
            seconds = (
                quantiles(recent_B, self._edges, QUANTILES) if recent_S[series.number] else [math.nan] * len(QUANTILES)
            )
            for quantile, value in zip(QUANTILES, seconds, strict=True):
                self._text.sample(name, (*labels, ("quantile", str(quantile))), value)
            self._text.sample(f"{name}_count", labels, count)
            self._text.sample(f"{name}_sum", labels, sum_ns / 1e9)

    def _write_histogram(self, name: str, family: Family) -> None:
        first, sum_at, bounds = self._columns.histograms[name]
        (fixed,) = combinations(family)
        self._text.family(name, "histogram", family.text)
        for row in self._rows_of(family):
            upto = row.cells[first : first + len(bounds) + 1].cumsum().tolist()
            if row.of_model or upto[-1]:
                self._text.histogram(name, (*row.labels, *fixed.items()), bounds, upto, float(row.sums[sum_at]))

    def _write_counter(self, name: str, family: Family) -> None:
        self._text.family(f"{name}_total", "counter", family.text)
        for row in self._rows_of(family):
            for labels in combinations(family):
                count = int(row.cells[self._columns.counters[counter_key(name, labels)]])
                if row.of_model or count:
                    self._text.sample(f"{name}_total", (*row.labels, *labels.items()), count)

    def _write_values(self) -> None:
        about = "Values of a model's features, in a sample of the ranked requests; unknown: training did not know it."
        self._text.family(FEATURE_VALUES, "counter", about)
        for row in self._rows:
            for name, counts in row.values.items():
                for state, count in zip(VALUE_STATES, counts.tolist(), strict=True):
                    self._text.sample(FEATURE_VALUES, (*row.labels, ("feature", name), ("state", state)), count)

    def _rows_of(self, family: Family) -> Sequence[Row]:
        return self._rows if family.by_model else [self._total]

    def _write_models(self) -> None:
        """Of each model that living workers answer with, by whoever took it up last."""
        newest = models([worker for worker in self._workers if lives(worker)])
        for name, (about, field) in OF_MODELS.items():
            self._text.family(name, "gauge", about)
            for labels, times in sorted(newest.items()):
                if field is None:
                    self._text.sample(name, labels, 1)
                elif times[field]:
                    self._text.sample(name, labels[:3], float(times[field]))

    def _write_catalog(self) -> None:
        """The newest that a worker has."""
        catalogs = [
            (int(worker["catalog"]["modified_ns"]), int(worker["catalog"]["items"])) for worker in self._workers
        ]
        modified_ns, items = max(catalogs, default=(0, 0))
        about = "Items of the newest catalogue that a worker has."
        self._text.single("ranker_catalog_items", "gauge", about, items)
        about = "When that catalogue's file was written, in seconds since 1970."
        self._text.single("ranker_catalog_modified_timestamp_seconds", "gauge", about, modified_ns / 1e9)
        counted = [int(worker["catalog"]["counted_until_ms"]) for worker in self._workers if lives(worker)]
        about = "Until when a worker's statistics are counted, in seconds since 1970; the oldest's. NaN: none has any."
        until_s = min((time_ms / 1000 for time_ms in counted if time_ms), default=math.nan)
        self._text.single("ranker_statistics_until_timestamp_seconds", "gauge", about, until_s)

    def _write_workers(self) -> None:
        """Workers by their slot; the one who takes a dead one's slot goes on under its number."""
        text, states = self._text, [worker["worker"] for worker in self._workers]
        workers = [(("worker", str(state["slot"])),) for state in states]
        alive = [lives(worker) for worker in self._workers]
        text.family("ranker_worker_up", "gauge", "Whether a worker lives: 0 until another takes a dead one's place.")
        for labels, state, up in zip(workers, states, alive, strict=True):
            if state["pid"]:  # else it has left in order: another had taken its place before, in a slot of its own
                text.sample("ranker_worker_up", labels, up)
        text.family(
            "ranker_worker_cpu_seconds_total", "counter", "Processor time of a worker and those in whose place it is."
        )
        for labels, state in zip(workers, states, strict=True):
            text.sample("ranker_worker_cpu_seconds_total", labels, int(state["cpu_ns"]) / 1e9)
        text.family("ranker_worker_model_info", "gauge", "The model that each living worker answers with; always 1.")
        for slot, model in by_worker([worker for worker, up in zip(self._workers, alive, strict=True) if up]):
            text.sample("ranker_worker_model_info", (("worker", str(slot)), *model[:3]), 1)
        for field, (name, about) in OF_WORKERS.items():
            text.family(name, "gauge", about)
            for labels, state, up in zip(workers, states, alive, strict=True):
                if up:
                    text.sample(name, labels, state[field].item())
        text.family(HEARTBEAT, "gauge", "Seconds since a worker's event loop last turned, which it does every 0.25 s.")
        for labels, state, up in zip(workers, states, alive, strict=True):
            if up and state["beat_s"]:
                text.sample(HEARTBEAT, labels, max(0.0, self._now_s - float(state["beat_s"])))
        versions = (("python", platform.python_version()), ("numpy", np.__version__))
        text.family("ranker_build_info", "gauge", "What this service is made of; always 1.")
        text.sample("ranker_build_info", versions, 1)
