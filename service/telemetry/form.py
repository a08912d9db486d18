"""The form of a worker's file, which all that write and read the files of one folder must have in common."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from service.telemetry.columns import Columns
from service.telemetry.families import DEGRADED, FAMILIES, REQUEST_BOUNDS_S, STAGE_BOUNDS_S, Family
from service.telemetry.slots import rows_layout
from service.telemetry.window import Layout, log_edges, window_layout

clock = time.monotonic  # in seconds; a machine's processes share it
_NUMBERS = ("slot", "pid", "born", "cpu_ns", "in_flight", "queue_items", "resident_bytes")
_ADMITTED = ("in_flight_candidates", "breaker", "draining", "journal_state", "journal_pending")
_FLOATS = ("started_s", "beat_s", "queue_age_s", "lag_s", "cost_s", "wait_s")
OF_THE_MOMENT = ("in_flight", "queue_items", "queue_age_s", "lag_s", "beat_s", "cost_s", "wait_s", *_ADMITTED)


class Form:
    """Families, columns and layout of a worker's file; they follow from the arguments, which are plain data.

    `routes` maps each route template to its stages (none for most). `reasons` are those that `ranker_degraded` may
    have. `budgets_s` become exact bounds of the requests' histogram.
    """

    def __init__(
        self,
        routes: Mapping[str, Sequence[str]],
        reasons: Sequence[str],
        budgets_s: Iterable[float] = (),
        families: Mapping[str, Family] = FAMILIES,
    ) -> None:
        self.families = {**families, DEGRADED: families[DEGRADED]._replace(labels={"reason": reasons})}
        bounds_s = tuple(sorted({*REQUEST_BOUNDS_S, *budgets_s}))
        self.edges = log_edges([*bounds_s, *STAGE_BOUNDS_S])
        self.columns = Columns(self.families, routes, bounds_s, self.edges)
        self.layout = self._layout()

    def _layout(self) -> Layout:
        state: list[Any] = [(name, np.int64) for name in (*_NUMBERS, *_ADMITTED)]
        return np.dtype(
            [
                ("window", window_layout(len(self.columns.times), self.edges)),
                ("rows", rows_layout(self.columns)),
                ("catalog", np.dtype([(name, np.uint64) for name in ("items", "modified_ns", "counted_until_ms")])),
                ("worker", np.dtype(state + [(name, np.float64) for name in _FLOATS])),
            ],
            align=True,
        )
