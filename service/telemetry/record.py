"""How a worker's counts lie in its file: where each series is, and a slot for each model that answered.

What depends on the model is counted in the slot of (model, version, variant). A file has MODELS of them, kept when
another worker takes the file over. One more model folds the oldest that nobody serves into the slot of
`version="older"`; no sum falls. A fold is prepared beside and shown by one write of eight bytes, so that neither a
reader in the middle of it nor a worker killed in the middle of it sees half of one.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import orjson

from service.telemetry.families import (
    DEGRADED,
    EVENTS,
    OUTCOMES,
    REQUEST_BOUNDS_S,
    SIZES,
    STAGE_BOUNDS_S,
    TOTAL,
    UNMATCHED,
    Counter,
)
from service.telemetry.window import Layout, Record, log_edges, totals_layout, window_layout

MODELS = 8
NOBODY = 0  # the slot of requests that no model answered, and of what depends on no model
SLOTS = 1 + MODELS + 2  # and the older ones, and a free one to fold into
FREE, MODEL, OLDER = range(3)  # roles of the slots after NOBODY
NAME_BYTES = 1024  # a bundle's name and version are folder names, 255 bytes at most each


class Name(NamedTuple):
    """What a slot counts for."""

    model: str = ""
    version: str = ""
    variant: str = ""
    network: str = ""
    sha: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self[:3]


class Shape:
    """Where each series lies in a record; the same for all workers of a folder.

    `routes` maps each route template to its stages (none for most), `reasons` are those of answers that do without
    something, `budgets_s` become exact bounds of the requests' histogram.
    """

    def __init__(
        self,
        routes: Mapping[str, Sequence[str]],
        reasons: Sequence[str],
        budgets_s: Iterable[float],
        events: Mapping[str, Counter],
    ):
        self.events = {**events, DEGRADED: EVENTS[DEGRADED]._replace(labels={"reason": reasons})}
        self.request_bounds_s = tuple(sorted({*REQUEST_BOUNDS_S, *budgets_s}))
        self.bounds_s = tuple(sorted({*self.request_bounds_s, *STAGE_BOUNDS_S}))
        self.edges = log_edges(self.bounds_s)
        self.at_request_bounds, self.at_stage_bounds = (
            np.searchsorted(self.bounds_s, bounds) for bounds in (self.request_bounds_s, STAGE_BOUNDS_S)
        )
        self.ranking = frozenset(route for route, stages in routes.items() if stages)
        self.times = [
            (route, stage, outcome)
            for route, stages in {**routes, UNMATCHED: ()}.items()
            for outcome in OUTCOMES
            for stage in (TOTAL, *stages)
        ]
        self.series: dict[str, dict[str, dict[str, int]]] = {}  # of a time, by route, outcome and stage
        for row, (route, stage, outcome) in enumerate(self.times):
            self.series.setdefault(route, {}).setdefault(outcome, {})[stage] = row
        labelled = (
            (name, dict(zip(counter.labels, values, strict=True)))
            for name, counter in self.events.items()
            for values in product(*counter.labels.values())
        )
        self.counters = {(name, *sorted(labels.items())): index for index, (name, labels) in enumerate(labelled)}

    def layout(self) -> Layout:
        """The dtype of a record, in which zero bytes mean that nothing was counted yet."""
        whole = ["number", "pid", "born", "cpu_ns", "in_flight", "queue_items", "resident_bytes"]
        worker: list[tuple[str, type]] = [(name, np.int64) for name in whole]
        worker += [(name, np.float64) for name in ("started_s", "queue_age_s", "lag_s")]
        # One number a bucket; the last one for what is above all bounds.
        sizes = [(name, np.uint64, (len(size.bounds) + 1,)) for name, size in SIZES.items()]
        slot = [
            ("name", f"S{NAME_BYTES}"),
            ("taken_s", np.float64),
            ("live", np.uint64),  # whether this worker answers with it
            *((name, np.float64) for name in ("exported_s", "loaded_s", "load_s")),
            ("totals", totals_layout(len(self.times), self.bounds_s)),
            ("sizes", np.dtype(sizes)),
            ("sums", np.dtype([(name, np.float64, (1,)) for name in SIZES])),  # (1,): a view, where () would be a copy
            ("counters", np.uint64, (len(self.counters),)),
        ]
        return np.dtype(
            [
                ("window", window_layout(len(self.times), self.edges)),
                ("turn", np.uint64),  # which of the two rows of `roles` holds: written last
                ("roles", np.uint8, (2, SLOTS)),
                ("slots", np.dtype(slot, align=True), (SLOTS,)),
                ("catalog", np.dtype([("items", np.uint64), ("modified_ns", np.uint64)])),
                ("worker", np.dtype(worker)),
            ],
            align=True,
        )


class Slots:
    """The slots of this worker's record. Not for several threads at once."""

    def __init__(self, record: Record):
        self._record, self._slots = record, record["slots"]
        self._slots["live"] = 0  # whoever had the file before is gone

    def take(self, name: Name) -> tuple[int, dict[int, int]]:
        """The slot of a model, and where slots moved that had to make room: from which to which.

        Raises ValueError where the names together exceed NAME_BYTES.
        """
        packed = orjson.dumps(name._asdict())
        if len(packed) > NAME_BYTES:
            raise ValueError(f"model name, version, network and sha take {len(packed)} bytes, at most {NAME_BYTES}")
        roles = self._roles()
        moved: dict[int, int] = {}
        named = {name_of(self._slots[slot]).key: slot for slot in np.flatnonzero(roles == MODEL).tolist()}
        if name.key in named:
            slot = named[name.key]
        else:
            if len(named) == MODELS:
                roles, moved = self._fold(roles)
            slot = self._clear(roles)
            self._slots[slot]["name"] = packed
            self._turn(roles, {slot: MODEL})
        self._slots[slot]["taken_s"] = time.time()
        return slot, moved

    def _fold(self, roles: Any) -> tuple[Any, dict[int, int]]:
        """Adds the oldest model that is not live (else the oldest) to the older ones."""
        models, older = np.flatnonzero(roles == MODEL).tolist(), np.flatnonzero(roles == OLDER).tolist()
        victim = min(models, key=lambda slot: (bool(self._slots[slot]["live"]), float(self._slots[slot]["taken_s"])))
        spare = self._clear(roles)
        together, models_named = self._slots[spare], {name_of(self._slots[slot]).model for slot in (victim, *older)}
        name = Name(models_named.pop() if len(models_named) == 1 else "", "older")
        together["name"] = orjson.dumps(name._asdict())
        for part in (self._slots[slot] for slot in (victim, *older)):
            for field in ("counts", "sums_ns"):
                together["totals"][field] += part["totals"][field]
            for size in SIZES:
                together["sizes"][size] += part["sizes"][size]
                together["sums"][size] += part["sums"][size]
            together["counters"] += part["counters"]
        gone = (victim, *older)
        return self._turn(roles, {spare: OLDER, **dict.fromkeys(gone, FREE)}), dict.fromkeys(gone, spare)

    def _clear(self, roles: Any) -> int:
        slot = int(np.flatnonzero(roles[1:] == FREE)[0]) + 1
        self._slots[slot : slot + 1].view(np.uint8)[:] = 0
        return slot

    def _roles(self) -> Any:
        return self._record["roles"][int(self._record["turn"]) % 2].copy()

    def _turn(self, roles: Any, changes: Mapping[int, int]) -> Any:
        turn = int(self._record["turn"]) + 1
        for slot, role in changes.items():
            roles[slot] = role
        self._record["roles"][turn % 2] = roles
        self._record["turn"] = turn
        return roles


def name_of(slot: Record) -> Name:
    packed = slot["name"].item()
    return Name(**orjson.loads(packed)) if packed else Name()


def snapshot(record: Record) -> list[tuple[Name, Any]]:
    """The slots of a worker's record that count, by name; each a copy, and all of one moment between two folds."""
    while True:
        turn = int(record["turn"])
        counting = [NOBODY, *np.flatnonzero(record["roles"][turn % 2]).tolist()]
        slots = [record["slots"][slot].copy() for slot in counting]
        if int(record["turn"]) == turn:
            return [(name_of(slot), slot) for slot in slots]
