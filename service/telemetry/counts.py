"""Counts what this worker does, and says for all workers what `GET /metrics` says.

Every series is known when the service starts, so no caller can put a user, an item or a raw path into a label. Counts
lie in the workers' files (`record.py`, `window.py`); each worker, asked, reads them all and gives the same answer.
"""

import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.telemetry.families import EVENTS, SIZES, TOTAL, UNMATCHED, Counter
from service.telemetry.pulse import born, resident_bytes
from service.telemetry.record import NOBODY, SLOTS, Name, Shape, Slots
from service.telemetry.render import render
from service.telemetry.window import Record, TimesWriter, Totals, WorkerFile


class _Slot:
    """Plain memoryviews of one slot: an index into one costs a third of numpy's."""

    def __init__(self, slot: Record):
        self.totals = Totals.of(slot["totals"])
        self.counters: Any = slot["counters"].data
        self.sizes: dict[str, tuple[tuple[float, ...], Any, Any]] = {
            name: (size.bounds, slot["sizes"][name].data, slot["sums"][name].data) for name, size in SIZES.items()
        }


class Metrics:
    """Counts this worker's requests, and renders those of all. Safe with several threads; open it after any fork.

    `folder` is the one that `folder.prepare_folder` made and all workers share. `routes` maps each route template to
    its stages (none for most). `reasons` are why an answer may be degraded. `clock` is CLOCK_MONOTONIC in seconds.
    `budgets_s` become bounds of the requests' histogram, exact ones; they must be the same for all workers.
    """

    def __init__(
        self,
        folder: Path,
        routes: Mapping[str, Sequence[str]],
        reasons: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
        budgets_s: Iterable[float] = (),
        events: Mapping[str, Counter] = EVENTS,
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._shape = Shape(routes, reasons, budgets_s, events)
        self._file = WorkerFile(folder, self._shape.layout())
        record = self._file.record
        self._times = TimesWriter(record["window"], self._shape.edges, self._shape.bounds_s)
        self._slots = Slots(record)
        self._views = [_Slot(record["slots"][slot]) for slot in range(SLOTS)]
        self._slot_of: list[int] = []  # by the number that `model` gave; a model may move to the older ones
        self._names: dict[tuple[str, str, str], int] = {}
        self._worker = record["worker"]
        self._in_flight = self._worker["in_flight"].reshape(1).data
        self._cpu_before_ns = int(self._worker["cpu_ns"])  # a predecessor's: what is summed up must not fall
        self._enter()

    def _enter(self) -> None:
        """Takes the file over from whoever had it: counts go on, what is of the moment begins anew."""
        for name in ("pid", "in_flight", "queue_items", "queue_age_s", "lag_s"):
            self._worker[name] = 0
        self.add("ranker_worker_starts")
        self._worker["number"] = self._file.slot
        self._worker["started_s"] = time.time()
        self._worker["born"] = born(os.getpid())
        self.beat(0.0, 0, 0.0)
        self._worker["pid"] = os.getpid()  # last: from now on it is a worker that lives

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

        Returns the `slot` under which its requests are counted. Raises ValueError where the names are too long.
        """
        named = Name(name, version, variant or "", network, sha)
        with self._lock:
            at, moved = self._slots.take(named)
            self._slot_of = [moved.get(slot, slot) for slot in self._slot_of]
            slot = self._names.get(named.key)
            if slot is None or self._slot_of[slot] != at:
                slot = self._names[named.key] = len(self._slot_of)
                self._slot_of.append(at)
            record = self._file.record["slots"][at]
            record["exported_s"], record["loaded_s"], record["load_s"] = exported_s, time.time(), load_s
            record["live"] = 1
        self.add("ranker_model_swap", outcome="ok")
        return slot

    def retire(self, slot: int) -> None:
        """This worker no longer answers with that model; what it counted stays."""
        with self._lock:
            self._file.record["slots"][self._slot_of[slot]]["live"] = 0

    def observe(
        self, route: str, outcome: str, stages_s: Mapping[str, float], total_s: float, slot: int | None = None
    ) -> None:
        """One answered request: seconds in each stage that it came to, and in all; `slot` of the model that answered.

        A route that is not in the table counts as `unmatched`. KeyError for an unknown outcome, or a stage that the
        route does not have.
        """
        series = self._shape.series.get(route, self._shape.series[UNMATCHED])[outcome]
        times = [(series[stage], seconds) for stage, seconds in stages_s.items()]
        times.append((series[TOTAL], total_s))
        with self._lock:
            self._times.add(times, self._clock(), self._view(slot).totals)

    def add(self, name: str, n: int = 1, *, slot: int | None = None, **labels: str) -> None:
        """`n` more of a family of counters, by its name without `_total`. KeyError for what its table does not list."""
        index = self._shape.counters[(name, *sorted(labels.items())) if labels else (name,)]
        with self._lock:
            self._view(slot).counters[index] += n

    def size(self, name: str, value: float, *, slot: int | None = None) -> None:
        """One more value of a histogram of SIZES. KeyError for a name that is not listed there."""
        with self._lock:
            bounds, counts, total = self._view(slot).sizes[name]
            counts[bisect_left(bounds, value)] += 1
            total[0] += value

    def _view(self, slot: int | None) -> _Slot:
        return self._views[NOBODY if slot is None else self._slot_of[slot]]

    def catalog(self, items: int, modified_ns: int) -> None:
        """This worker now answers with a catalogue of so many items, whose file is of that time."""
        self._file.record["catalog"]["items"] = items
        self._file.record["catalog"]["modified_ns"] = modified_ns

    def began(self) -> None:
        """One more ranking request is under way. From the event loop's thread alone, like `ended`."""
        self._in_flight[0] += 1

    def ended(self) -> None:
        self._in_flight[0] -= 1

    def beat(self, lag_s: float, queue_items: int, queue_age_s: float) -> None:
        """How this worker is: its loop's lag, the candidates that wait, and the age of the oldest. See `pulse.py`."""
        now = {"lag_s": lag_s, "queue_items": queue_items, "queue_age_s": queue_age_s}
        now |= {"cpu_ns": self._cpu_before_ns + time.process_time_ns(), "resident_bytes": resident_bytes()}
        for name, value in now.items():
            self._worker[name] = value

    def render(self) -> tuple[bytes, str]:
        """The body of `GET /metrics` and its content type, for all workers."""
        records = [record for record in self._file.everyone() if record["worker"]["started_s"]]
        return render(self._shape, records, self._clock())

    def close(self) -> None:
        """Leaves this worker's counts to the next one. Nothing may be recorded after this."""
        self._worker["pid"] = 0
        self._file.close()
