"""Counts by model: rows in each worker's file, and one file that tells all workers which model a row counts for.

A worker's file has a row for requests that no model answered, a row per slot, and a row for what was folded: `older`.
The shared file says which (model, version, variant) a slot stands for, under a serial number; a worker's row carries
the serial number that it counted for. One model more than there are slots takes one over with a new serial number. From
then on every worker's row with the number before belongs to `older`, for all readers at once: so no series of the
others falls while some workers have taken the new model up and others have not. A worker adds its own such rows to its
row of `older` when it next takes a model up.

Readers and those who change slots hold a lock on the shared file (flock: the kernel drops it with the process), so a
scrape sees all of a change or nothing. A worker killed in a change leaves a file that counts the same: see `fold`.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from service.telemetry.columns import Columns
from service.telemetry.exposition import Labels
from service.telemetry.families import VALUE_STATES
from service.telemetry.pulse import born
from service.telemetry.window import Counts, Layout, Record, mapped

MODELS = 16  # an experiment's six and the default, those of the file that takes its place, and two that came before
MODEL_BYTES = 1024  # a bundle's name and version are folder names, 255 bytes at most each
FEATURES, FEATURE_BYTES = 128, 4096  # of a model, whose values are counted; of more the first ones
NO_MODEL, OLDER, FIRST = 0, (1, 2), 3  # rows; of the two of `older`, one counts
ROWS = FIRST + MODELS

_SHARED: Layout = np.dtype(
    [("serials", np.uint64), ("serial", np.uint64, (ROWS,)), ("identity", f"S{MODEL_BYTES}", (ROWS,))]
)
NOBODY = {"model": "", "version": "", "variant": ""}


def rows_layout(columns: Columns) -> Layout:
    """The part of a worker's record that holds its rows."""
    times = np.dtype([(name, np.float64) for name in ("exported_s", "loaded_s", "load_s")])
    return np.dtype(
        [
            ("cells", np.uint64, (ROWS, columns.cells)),
            ("sums", np.float64, (ROWS, columns.sums)),
            ("serial", np.uint64, (ROWS,)),  # 0: a row without counts
            ("answers", np.bool_, (ROWS,)),  # this worker answers with the model now
            ("used_s", np.float64, (ROWS,)),  # when it last did, on the clock that workers share
            ("info", f"S{MODEL_BYTES}", (ROWS,)),  # the labels of `ranker_model_info`
            ("times", times, (ROWS,)),
            ("features", f"S{FEATURE_BYTES}", (ROWS,)),  # names of those whose values are counted
            ("values", np.uint64, (ROWS, FEATURES, len(VALUE_STATES))),
            ("folded", np.int64),  # see `fold`
        ],
        align=True,
    )


class Row(NamedTuple):
    """Counts of all workers: one model's, those of requests that no model answered, or `older`; without labels, all."""

    labels: Labels
    cells: Counts
    sums: npt.NDArray[np.float64]
    values: dict[str, Counts]  # by feature and, in its array, state; of a model's own row

    @property
    def of_model(self) -> bool:
        """Whether it is to be shown with its zeros, so that a first failure is seen as one more."""
        return not self.labels or bool(self.labels[0][1])

    @property
    def of_nobody(self) -> bool:
        return self.labels == tuple(NOBODY.items())

    def add_values(self, rows: Record, number: int) -> None:
        """Adds what a worker counted of the features of one model."""
        names: list[str] = orjson.loads(bytes(rows["features"][number]) or b"[]")
        for name, counts in zip(names, rows["values"][number].copy(), strict=False):
            self.values[name] = self.values.get(name, 0) + counts

    def add(self, rows: Record, numbers: Sequence[int]) -> None:
        """Adds the sum of a worker's rows of these numbers."""
        for total, counts in ((self.cells, rows["cells"]), (self.sums, rows["sums"])):
            of_worker = counts[numbers[0]].copy()
            for number in numbers[1:]:
                of_worker += counts[number]
            total += of_worker


class Slots:
    """The file that tells all workers which model a slot stands for."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "models.slots"
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        self._shared: Record = mapped(fd, _SHARED)
        os.close(fd)

    @contextmanager
    def locked(self, kind: int) -> Iterator[None]:
        """Holds fcntl.LOCK_EX to change a slot or a row's model, LOCK_SH to read. Threads exclude each other too."""
        fd = os.open(self._path, os.O_RDWR)
        try:
            fcntl.flock(fd, kind)
            yield
        finally:
            os.close(fd)

    def serial(self, row: int) -> int:
        return int(self._shared["serial"][row])

    def row_of(self, identity: Mapping[str, str], workers: Sequence[Record]) -> int:
        """The row of a model: its own, else a free one, else the row of the model that is used least.

        That is one that no living worker answers with, if there is one, and of those the one whose last request is
        oldest. To be called with LOCK_EX held.
        """
        slots, serial = range(FIRST, ROWS), self._shared["serial"]
        row = next((row for row in slots if serial[row] and self._identity(row) == identity), None)
        if row is None:
            row = min(slots, key=lambda row: (bool(serial[row]), *self._use(row, workers)))
            serial[row] = 0  # first: a worker killed here leaves a free slot
            self._shared["identity"][row] = orjson.dumps(identity)
            self._shared["serials"] += np.uint64(1)
            serial[row] = self._shared["serials"]
        return row

    def _use(self, row: int, workers: Sequence[Record]) -> tuple[bool, float]:
        """Whether a living worker answers with a slot's model, and when one last did."""
        its = [worker for worker in workers if worker["rows"]["serial"][row] == self._shared["serial"][row]]
        answered = any(worker["rows"]["answers"][row] and lives(worker) for worker in its)
        return answered, max((float(worker["rows"]["used_s"][row]) for worker in its), default=0.0)

    def totals(self, workers: Sequence[Record], columns: Columns) -> list[Row]:
        """The rows of all workers, summed by model. To be called with LOCK_SH held.

        Each worker's rows of `older` are added in the order in which `fold` adds them: a float sum gets the same bits.
        """
        shared = self._shared["serial"].tolist()
        totals = {}
        for row in (NO_MODEL, OLDER[0], *(row for row in range(FIRST, ROWS) if shared[row])):
            identity = {NO_MODEL: NOBODY, OLDER[0]: NOBODY | {"version": "older"}}.get(row) or self._identity(row)
            totals[row] = Row(tuple(identity.items()), np.zeros(columns.cells, np.uint64), np.zeros(columns.sums), {})
        for worker in workers:
            rows = worker["rows"]
            older, stale = OLDER[int(rows["folded"]) & 1], self.stale(rows)
            totals[NO_MODEL].add(rows, [NO_MODEL])
            totals[OLDER[0]].add(rows, [older, *stale])
            for row, serial in enumerate(rows["serial"].tolist()):
                if serial and serial == shared[row]:
                    totals[row].add(rows, [row])
                    totals[row].add_values(rows, row)
        return list(totals.values())

    def stale(self, rows: Record) -> list[int]:
        """Those of a worker's rows whose slot stands for another model by now, but for those that `fold` has added."""
        added, serial = int(rows["folded"]) >> 1, rows["serial"].tolist()
        return [row for row in range(FIRST, ROWS) if serial[row] not in (0, self.serial(row)) and not added >> row & 1]

    def _identity(self, row: int) -> dict[str, str]:
        identity: dict[str, str] = orjson.loads(bytes(self._shared["identity"][row]))
        return identity


def fold(rows: Record, stale: Sequence[int]) -> None:
    """Adds a worker's stale rows to its `older` and clears them, so that counts are the same wherever it is killed.

    `folded` has the number of the row of `older` that counts in its lowest bit, and above it a bit per row that this
    row of `older` holds already. Both change with one write of eight bytes. To be called with LOCK_EX held.
    """
    current = int(rows["folded"]) & 1
    for field in ("cells", "sums"):
        counts = rows[field]
        counts[OLDER[1 - current]] = counts[OLDER[current]]
        for row in stale:
            counts[OLDER[1 - current]] += counts[row]
    rows["folded"] = sum(1 << row for row in stale) << 1 | (1 - current)
    clear(rows)


def clear(rows: Record) -> None:
    """Clears the rows that `older` holds: the end of `fold`, also of one in which a worker before was killed."""
    folded = int(rows["folded"])
    for row in range(FIRST, ROWS):
        if folded >> 1 >> row & 1:
            for field in ("cells", "sums", "values", "serial", "answers"):
                rows[field][row] = 0
    rows["folded"] = folded & 1


def as_text(features: Sequence[str]) -> bytes:
    """Names of features as a worker's file holds them: of too many, or too long ones, the first."""
    names = list(features[:FEATURES])
    while len(text := orjson.dumps(names)) > FEATURE_BYTES:
        names.pop()
    return text


def lives(worker: Record) -> bool:
    """Whether the process that counts in this file lives."""
    state = worker["worker"]
    return bool(state["pid"]) and born(int(state["pid"])) == int(state["born"])


def by_worker(workers: Sequence[Record]) -> list[tuple[int, Labels]]:
    """Which model each of these workers answers with: its slot and labels of `ranker_model_info`.

    Between two, while it switches, the one taken up last; of experiments' variants none.
    """
    return [
        (int(worker["worker"]["slot"]), labels)
        for worker in workers
        for labels in [labels for labels in models([worker]) if not dict(labels)["variant"]][-1:]
    ]


def models(workers: Sequence[Record]) -> dict[Labels, Record]:
    """Labels of `ranker_model_info` → times, for the models that these workers answer with; the last taken up last."""
    answers = [
        (worker["rows"]["times"][row], worker["rows"]["info"][row])
        for worker in workers
        for row in np.flatnonzero(worker["rows"]["answers"].copy())  # it counts, then collects: others write meanwhile
    ]
    newest: dict[Labels, Record] = {}
    for times, info in sorted(answers, key=lambda answer: float(answer[0]["loaded_s"])):
        labels = tuple(orjson.loads(bytes(info)).items())
        newest.pop(labels, None)
        newest[labels] = times
    return newest
