"""Writes one worker's counts, by name and by the model that answered.

Every series is known when the service starts or takes a model up. Counts live in the workers' files (`window.py`), in
rows by model (`slots.py`); `reader.py` reads them all.
"""

import fcntl
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import orjson

from service.telemetry.columns import counter_key
from service.telemetry.families import FAMILIES, TOTAL, UNMATCHED, WITH_STAGES, Family
from service.telemetry.form import OF_THE_MOMENT, Form, clock
from service.telemetry.pulse import born, resident_bytes
from service.telemetry.reader import Reader
from service.telemetry.slots import MODEL_BYTES, NO_MODEL, OLDER, as_text, clear, fold
from service.telemetry.window import Counts, Series, TimesWriter, WorkerFile

SAMPLED = 16  # of so many ranked requests, one has the values of its features counted: of all would cost a tenth more


class Metrics:
    """Writes this worker's counts; `reader` has all workers'. Safe with several threads; open it after any fork.

    `folder` is the one that `prepare_folder` made and all workers share. `clock` is CLOCK_MONOTONIC in seconds. The
    other arguments are Form's, and all workers take the same.
    """

    def __init__(
        self,
        folder: Path,
        routes: Mapping[str, Sequence[str]],
        reasons: Sequence[str],
        clock: Callable[[], float] = clock,
        budgets_s: Iterable[float] = (),
        *,
        families: Mapping[str, Family] = FAMILIES,
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        form = Form(routes, reasons, budgets_s, families)
        columns = form.columns
        self._counter_of, self._histogram_of = columns.counters, columns.histograms
        self._width, self._sums_width = columns.cells, columns.sums
        self._series: dict[str, dict[str, dict[str, Series]]] = {}
        for route, stage, outcome, series in columns.times:
            self._series.setdefault(route, {}).setdefault(outcome, {})[stage] = series

        self._file = WorkerFile(folder, form.layout)
        self.reader = Reader(folder, form, clock, _let_others_run)
        self.render = self.reader.render
        self._slots = self.reader.slots
        record = self._file.record
        self._rows = record["rows"]
        self._times = TimesWriter(record["window"], form.edges, self._rows["cells"])
        self._cells: Any = self._rows["cells"].reshape(-1).data  # memoryviews: see TimesWriter
        self._sums: Any = self._rows["sums"].reshape(-1).data
        self._used_s: Any = self._rows["used_s"].data
        self._row_of: dict[int | None, int] = {None: NO_MODEL}  # by slot, as callers know it: a serial number
        self._turn = count()
        self._worker = record["worker"]
        moment: dict[str, Any] = {name: self._worker[name].reshape(1).data for name in OF_THE_MOMENT}
        self._in_flight, self._breaker = moment["in_flight"], moment["breaker"]
        self._candidates, self._cost_s, self._wait_s = (
            moment[name] for name in ("in_flight_candidates", "cost_s", "wait_s")
        )
        self._cpu_before_ns = int(self._worker["cpu_ns"])  # a predecessor's: what is summed up must not fall
        self._enter()

    @property
    def number(self) -> int:
        """Of this worker among those of its service: the label `worker`."""
        return self._file.slot

    def _enter(self) -> None:
        """Takes the file over from whoever had it: counts go on, what is of the moment begins anew."""
        with self._slots.locked(fcntl.LOCK_EX):
            clear(self._rows)
            self._rows["answers"] = False
        for name in ("pid", *OF_THE_MOMENT):
            self._worker[name] = 0
        self.add("ranker_worker_starts")
        self._worker["slot"] = self._file.slot
        self._worker["started_s"] = time.time()
        self._worker["born"] = born(os.getpid())
        self._weigh()
        self._worker["pid"] = os.getpid()  # last: from now on it is a worker that lives

    def observe(
        self, route: str, outcome: str, stages_s: Mapping[str, float], total_s: float, slot: int | None = None
    ) -> None:
        """One answered request: seconds in each stage that it came to, and in all; by the model in `slot`, if by any.

        A route that is not in the table counts as `unmatched`; the stages of an outcome that is not in WITH_STAGES are
        passed over. KeyError for an unknown outcome or slot, or a stage that the route does not have.
        """
        series = self._series.get(route, self._series[UNMATCHED])[outcome]
        times_s = {**stages_s, TOTAL: total_s} if outcome in WITH_STAGES else {TOTAL: total_s}
        now_s = self._clock()
        with self._lock:
            row = self._row_of[slot]
            self._used_s[row] = now_s
            self._times.add(series, times_s, now_s, row)

    def add(self, name: str, n: int = 1, *, slot: int | None = None, **labels: str) -> None:
        """Counts `n` more in a family; by the model in `slot`, if by any. KeyError names what is unknown."""
        at = self._counter_of[counter_key(name, labels)]
        with self._lock:
            self._cells[self._row_of[slot] * self._width + at] += n

    def size(self, name: str, value: float, *, slot: int | None = None) -> None:
        """One more value, finite, in a family that is a histogram. KeyError names what is unknown."""
        first, sum_at, bounds = self._histogram_of[name]
        first += bisect_left(bounds, value)
        with self._lock:
            row = self._row_of[slot]
            self._cells[row * self._width + first] += 1
            self._sums[row * self._sums_width + sum_at] += value

    def ranked(self, slot: int | None, values: Mapping[str, float]) -> None:
        """One ranked request's numbers by family: `add` for counters, `size` for histograms, at two thirds of the cost.

        Counters take whole numbers. KeyError names what is unknown.
        """
        cells, histogram_of = self._cells, self._histogram_of
        with self._lock:
            row = self._row_of[slot]
            start, sums_start = row * self._width, row * self._sums_width
            for name, value in values.items():
                if name in histogram_of:
                    first, sum_at, bounds = histogram_of[name]
                    cells[start + first + bisect_left(bounds, value)] += 1
                    self._sums[sums_start + sum_at] += value
                elif value:
                    cells[start + self._counter_of[name]] += value

    def catalog(self, items: int, modified_ns: int) -> None:
        """This worker now answers with a catalogue of so many items, whose file is of that time."""
        self._file.record["catalog"]["items"] = items
        self._file.record["catalog"]["modified_ns"] = modified_ns

    def statistics(self, counted_until_ms: int | None) -> None:
        """This worker now answers with counts until that time; None: its model has no statistics."""
        self._file.record["catalog"]["counted_until_ms"] = counted_until_ms or 0

    def sampled(self) -> bool:
        """Whether the values of this ranked request are counted: of one in SAMPLED, the first among them."""
        return next(self._turn) % SAMPLED == 0

    def features(self, slot: int | None, values_FS: Counts) -> None:
        """Counts values (F, states) of the features that the model in `slot` was announced with."""
        with self._lock:
            row = self._rows["values"][self._row_of[slot]]
            row[: len(values_FS)] += values_FS[: len(row)]

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
        features: Sequence[str] = (),
    ) -> int:
        """The slot of a model that this worker answers with from now on: the one that it has, or a new one.

        A model is known by (name, version, variant), over all workers and restarts. Of nine, one is folded: one that no
        living worker answers with, if there is one, and of those the one whose last request is oldest. What is counted
        later in its slot counts as `older`. `exported_s` is in seconds since 1970; loading, checking and warming took
        `load_s`. Values of `features` are counted. ValueError when the names together exceed MODEL_BYTES.
        """
        identity = {"model": name, "version": version, "variant": variant or ""}
        info = orjson.dumps(
            {"name": name, "version": version, "variant": variant or "", "network": network, "sha": sha}
        )
        if len(info) > MODEL_BYTES:
            raise ValueError(f"a model's names and sha take {len(info)} bytes, at most {MODEL_BYTES}")
        with self._slots.locked(fcntl.LOCK_EX), self._lock:
            row = self._slots.row_of(identity, self.reader.everyone())
            if stale := self._slots.stale(self._rows):
                fold(self._rows, stale)
                older = OLDER[int(self._rows["folded"])]
                moved = {*stale, *OLDER}
                self._row_of = {slot: older if row in moved else row for slot, row in self._row_of.items()}
            slot = self._slots.serial(row)
            self._row_of[slot] = row
            self._rows["info"][row] = info
            self._rows["features"][row] = as_text(features)
            self._rows["times"][row] = (exported_s, time.time(), load_s)
            self._rows["used_s"][row] = self._clock()
            self._rows["serial"][row] = slot
            self._rows["answers"][row] = True
        self.add("ranker_model_swap", outcome="ok")
        return slot

    def retire(self, slot: int | None) -> None:
        """This worker no longer answers with the model in that slot, which another may take. KeyError if unknown."""
        with self._lock:
            self._rows["answers"][self._row_of[slot]] = False

    def began(self) -> None:
        """One more ranking request is under way. From the event loop's thread alone, like `ended`."""
        self._in_flight[0] += 1

    def ended(self) -> None:
        self._in_flight[0] -= 1

    def admission(self, in_flight: int, cost_s: float, wait_s: float) -> None:
        """How full it is: candidates under way, what one of them costs, and what who comes now would wait; seconds."""
        self._candidates[0], self._cost_s[0], self._wait_s[0] = in_flight, cost_s, wait_s

    def breaker(self, state: int) -> None:
        """The state of the store's circuit breaker: families.CLOSED, HALF_OPEN or OPEN."""
        self._breaker[0] = state

    def journal(self, pending: int, state: int) -> None:
        """Bytes that wait to be written, and one of families.JOURNAL_OFF, JOURNAL_WRITES or JOURNAL_FAILS."""
        self._worker["journal_pending"], self._worker["journal_state"] = pending, state

    def draining(self, draining: bool) -> None:
        """Whether it asks that nothing new come here."""
        self._worker["draining"] = draining

    def beat(self, lag_s: float, queue_items: int, queue_age_s: float) -> None:
        """This worker's event loop turns: its lag, the candidates that wait, the age of the oldest. See `pulse.py`."""
        self._worker["lag_s"], self._worker["queue_items"], self._worker["queue_age_s"] = (
            lag_s,
            queue_items,
            queue_age_s,
        )
        self._weigh()
        self._worker["beat_s"] = self._clock()

    def _weigh(self) -> None:
        self._worker["cpu_ns"] = self._cpu_before_ns + time.process_time_ns()
        self._worker["resident_bytes"] = resident_bytes()

    def close(self) -> None:
        """Leaves this worker's counts to the next one. Nothing may be recorded after this."""
        self._worker["pid"] = 0
        self._file.close()


def _let_others_run() -> None:
    """Between two parts of a scrape, which runs in a thread beside the event loop.

    A thread that computes keeps the interpreter for 5 ms from one that wants it, and a scrape takes about as long in
    all: with these pauses the loop's p99 lag beside scrapes went from 8.3 to 4.7 ms, without scrapes being 3.4.
    """
    time.sleep(50e-6)
