"""Response times of all workers: one memory-mapped file of counts per worker, any of which can answer for all.

A time is one count in a log-spaced bucket, kept twice: in the slice of 5 s in which it happened (for quantiles over the
last 60 s) and since the start, under the model that answered (for histograms and counters, which must never fall).

Why no library. prometheus_client's multiprocess mode was tried first: its Summary has no quantiles, custom collectors
are lost in it, one empty file breaks every scrape, dead workers' files pile up, and merging eight workers' histograms
took 16 ms, where all of a scrape took 7 here. Sketches of quantiles that are well kept (hdrhistogram, ddsketch) live in
one process's heap: what a killed worker counted is lost, and who answers for all would have to ask the others.
"""

import fcntl
import math
import mmap
import os
import sys
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

WINDOW_S = 60
SLICE_S = 5
# The slice under way, the twelve before it (so 60 to 65 s are seen), and a spare: the one that a worker is about to
# wipe is already out of every reader's sight.
SLICES = WINDOW_S // SLICE_S + 2

# A bucket answers with its geometric middle, so a quantile is off by at most half a bucket: 2^(1/40) - 1 = 1.75 %.
RATIO = 2 ** (1 / 20)
SHORTEST_S = 1e-6  # some stages take a few microseconds
LONGEST_S = 100.0

Counts = npt.NDArray[np.uint64]
Record = npt.NDArray[np.void]
Layout = np.dtype[np.void]


class WorkerFile:
    """This worker's own record, and sight of everybody's.

    Files are numbered by slot, not by process: a worker locks the first slot that nobody holds and counts on where its
    dead predecessor stopped. The kernel drops the lock with the process, however that ended. So no counter falls, and
    the folder holds as many files as workers ever ran at the same time. Open it in the worker itself, after any fork.

    `record` is a structured scalar (shape ()) of dtype `layout`, in which zero bytes must mean "nothing yet"; `slot` is
    this worker's number, which its successor inherits. Raises OSError when the folder is missing or full.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._folder = folder
        self._layout = layout
        self.slot, self._fd = _lock_first_free_slot(folder)
        # Room is taken now: a full disk is an error here, and would be a SIGBUS at some later write into the mapping.
        if sys.platform == "linux":
            os.posix_fallocate(self._fd, 0, layout.itemsize)
        else:
            os.ftruncate(self._fd, layout.itemsize)
        self.record: Record = np.ndarray((), layout, buffer=mmap.mmap(self._fd, layout.itemsize))
        self._seen = {_path(folder, self.slot): self.record}

    def everyone(self) -> list[Record]:
        """The records of all workers, in the order of their slots, dead ones' too; only to be read.

        A file that its maker did not live to bring to its full size holds nothing yet, and is passed over.
        """
        for path in set(self._folder.glob("worker-*.counts")) - self._seen.keys():
            fd = os.open(path, os.O_RDONLY)
            try:
                if os.fstat(fd).st_size == self._layout.itemsize:
                    view = mmap.mmap(fd, self._layout.itemsize, access=mmap.ACCESS_READ)
                    self._seen[path] = np.ndarray((), self._layout, buffer=view)
            finally:
                os.close(fd)
        return [self._seen[path] for path in sorted(self._seen, key=_slot)]

    def close(self) -> None:
        """Leaves the slot, with its counts, to the next worker. Nothing may be recorded after this."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)  # closing is not enough: the mapping holds a duplicate of the descriptor
        os.close(self._fd)


def _path(folder: Path, slot: int) -> Path:
    return folder / f"worker-{slot}.counts"


def _slot(path: Path) -> int:
    return int(path.stem.removeprefix("worker-"))


def _lock_first_free_slot(folder: Path) -> tuple[int, int]:
    """The slot and the open file."""
    for slot in count():
        fd = os.open(_path(folder, slot), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return slot, fd
        except BlockingIOError:
            os.close(fd)
    raise AssertionError("unreachable: slots are endless")


def log_edges(bounds_s: Iterable[float]) -> list[float]:
    """Bucket edges in seconds, ascending, at most RATIO apart. `bounds_s` are among them: histograms are exact there.

    Bucket i holds times in (edges[i-1], edges[i]]; the last, i = len(edges), what is longer than all.
    """
    steps = math.ceil(math.log(LONGEST_S / SHORTEST_S, RATIO))
    return sorted({*bounds_s, *(SHORTEST_S * RATIO**step for step in range(steps + 1))})


def window_layout(series: int, edges: Sequence[float]) -> Layout:
    """The part of a worker's record that holds the times of the last 60 s, of `series` series."""
    return np.dtype(
        [
            ("epoch", np.int64, (SLICES, series)),  # which 5 s a row of `recent` counts; rows are wiped when next used
            ("recent", np.uint32, (SLICES, series, len(edges) + 1)),
        ],
        align=True,  # eight aligned bytes are written at once: a reader never sees half a number
    )


def totals_layout(series: int, bounds_s: Sequence[float]) -> Layout:
    """The part of a worker's record that holds all times since the start, of `series` series, between a few bounds."""
    fields = [("counts", np.uint64, (series, len(bounds_s) + 1)), ("sums_ns", np.uint64, (series,))]
    return np.dtype(fields, align=True)


class Totals(NamedTuple):
    """Plain memoryviews of a record of dtype `totals_layout`: an index into one costs a third of numpy's."""

    counts: Any  # (series · buckets,)
    sums_ns: Any  # (series,)

    @classmethod
    def of(cls, totals: Record) -> "Totals":
        return cls(totals["counts"].reshape(-1).data, totals["sums_ns"].reshape(-1).data)


class TimesWriter:
    """Records times into this worker's `window` (a view of dtype `window_layout`). Not for several threads at once.

    `bounds_s` are some of the `edges`: those between which totals are counted.
    """

    def __init__(self, window: Record, edges: Sequence[float], bounds_s: Sequence[float]) -> None:
        self._edges = list(edges)
        self._total_of: list[int] = [*np.searchsorted(bounds_s, edges).tolist(), len(bounds_s)]  # of each bucket
        self._totals = len(bounds_s) + 1
        self._series = window["epoch"].shape[1]
        self._buckets = len(edges) + 1
        self._epoch = window["epoch"].reshape(-1).data
        self._recent = window["recent"].reshape(-1).data
        self._wiped = np.zeros(self._buckets, np.uint32).data

    def add(self, times: Iterable[tuple[int, float]], now_s: float, totals: Totals) -> None:
        """Series and seconds of some times that end at `now_s` (CLOCK_MONOTONIC, which all workers of a machine share).

        Together, since a request is eight: what they have in common is looked up once. `totals` counts them too.
        """
        edges, buckets, recent = self._edges, self._buckets, self._recent
        counts, sums_ns = totals
        total_of, width = self._total_of, self._totals
        epoch = int(now_s // SLICE_S)
        first = epoch % SLICES * self._series
        for series, seconds in times:
            bucket = bisect_left(edges, seconds)
            row = first + series
            start = row * buckets
            if self._epoch[row] != epoch:
                # Wiped first and dated afterwards: a worker killed in between leaves a row that is too old to count.
                recent[start : start + buckets] = self._wiped
                self._epoch[row] = epoch
            recent[start + bucket] += 1
            counts[series * width + total_of[bucket]] += 1
            sums_ns[series] += int(seconds * 1e9)


def recent(windows: Sequence[Any], now_s: float) -> npt.NDArray[np.uint32]:
    """Counts (S, B) of all workers' `windows` (views of one `window_layout`, at least one) in the 60 s before `now_s`.

    S series, B buckets; to the slice.
    """
    recent_SB = np.zeros(windows[0]["recent"].shape[1:], np.uint32)  # no bucket sees four billion requests a minute
    oldest = int(now_s // SLICE_S) - WINDOW_S // SLICE_S
    for window in windows:
        live = window["epoch"] >= oldest
        (some,) = live.any(axis=0).nonzero()  # few: most routes and outcomes have seen nothing for a minute
        recent_SB[some] += np.einsum("ts,tsb->sb", live[:, some].astype(np.uint32), window["recent"][:, some])
    return recent_SB


def quantiles(recent_B: npt.NDArray[np.uint32], edges: Sequence[float], wanted: Sequence[float]) -> list[float]:
    """The `wanted` quantiles (0..1) in seconds, each by nearest rank, as the geometric middle of its bucket.

    NaN when nothing was counted: no time is not a time of zero. Times outside SHORTEST_S..LONGEST_S answer with that
    limit.
    """
    upto_B = np.cumsum(recent_B)
    total = int(upto_B[-1])
    if total == 0:
        return [math.nan] * len(wanted)
    buckets = np.searchsorted(upto_B, [max(1, math.ceil(quantile * total)) for quantile in wanted])
    return [math.sqrt(edges[max(b - 1, 0)] * edges[min(b, len(edges) - 1)]) for b in buckets.tolist()]
