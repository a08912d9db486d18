"""Response times of all workers: one memory-mapped file of counts a worker, any of which can answer for all.

A time is one count in a log-spaced bucket, kept twice: in the slice of 5 s in which it happened (for quantiles over the
last 60 s) and since the start (for histograms and counters, which must never fall).

Why not prometheus_client's multiprocess mode, which was tried first: its Summary has no quantiles, custom collectors
are lost in it, one empty file breaks every scrape, dead workers' files pile up, and merging eight workers' histograms
takes 16 ms against 7 ms here. prometheus_client still writes the exposition format.
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

    `record` is a structured scalar (shape ()) of dtype `layout`, in which zero bytes must mean "nothing yet". Raises
    OSError when the folder is missing or full.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._folder = folder
        self._layout = layout
        path, self._fd = _lock_first_free_slot(folder)
        # Room is taken now: a full disk is an error here, and would be a SIGBUS at some later write into the mapping.
        if sys.platform == "linux":
            os.posix_fallocate(self._fd, 0, layout.itemsize)
        else:
            os.ftruncate(self._fd, layout.itemsize)
        self.record: Record = np.ndarray((), layout, buffer=mmap.mmap(self._fd, layout.itemsize))
        self._seen = {path: self.record}

    def everyone(self) -> list[Record]:
        """The records of all workers, this one's first, dead ones' too; only to be read.

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
        return list(self._seen.values())

    def close(self) -> None:
        """Leaves the slot, with its counts, to the next worker. Nothing may be recorded after this."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)  # closing is not enough: the mapping holds a duplicate of the descriptor
        os.close(self._fd)


def _lock_first_free_slot(folder: Path) -> tuple[Path, int]:
    for slot in count():
        path = folder / f"worker-{slot}.counts"
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return path, fd
        except BlockingIOError:
            os.close(fd)
    raise AssertionError("unreachable: slots are endless")


def log_edges(bounds_s: Iterable[float]) -> list[float]:
    """Bucket edges in seconds, ascending, at most RATIO apart. `bounds_s` are among them: histograms are exact there.

    Bucket i holds times in (edges[i-1], edges[i]]; the last, i = len(edges), what is longer than all.
    """
    steps = math.ceil(math.log(LONGEST_S / SHORTEST_S, RATIO))
    return sorted({*bounds_s, *(SHORTEST_S * RATIO**step for step in range(steps + 1))})


def times_layout(series: int, edges: Sequence[float]) -> Layout:
    """The part of a worker's record that holds the times of `series` series."""
    buckets = len(edges) + 1
    return np.dtype(
        [
            ("epoch", np.int64, (SLICES, series)),  # which 5 s a row of `recent` counts; rows are wiped when next used
            ("counts", np.uint64, (series, buckets)),
            ("sums_ns", np.uint64, (series,)),
            ("recent", np.uint32, (SLICES, series, buckets)),
        ],
        align=True,  # eight aligned bytes are written at once: a reader never sees half a number
    )


class TimesWriter:
    """Records times into this worker's `times` (a view of dtype `times_layout`). Not for several threads at once."""

    def __init__(self, times: Record, edges: Sequence[float]) -> None:
        self._edges = list(edges)
        self._series = times["sums_ns"].shape[0]
        self._buckets = len(edges) + 1
        # Plain memoryviews: an index into one costs a third of numpy's.
        self._epoch = times["epoch"].reshape(-1).data
        self._counts = times["counts"].reshape(-1).data
        self._sums_ns = times["sums_ns"].data
        self._recent = times["recent"].reshape(-1).data
        self._wiped = np.zeros(self._buckets, np.uint32).data

    def add(self, series: int, seconds: float, now_s: float) -> None:
        """One time of `seconds` that ended at `now_s` (CLOCK_MONOTONIC, which all workers of a machine share)."""
        bucket = bisect_left(self._edges, seconds)
        epoch = int(now_s // SLICE_S)
        row = epoch % SLICES * self._series + series
        start = row * self._buckets
        if self._epoch[row] != epoch:
            # Wiped first and dated afterwards: a worker killed in between leaves a row that is too old to count.
            self._recent[start : start + self._buckets] = self._wiped
            self._epoch[row] = epoch
        self._recent[start + bucket] += 1
        self._counts[series * self._buckets + bucket] += 1
        self._sums_ns[series] += int(seconds * 1e9)


class Times(NamedTuple):
    """All workers together, by series: S series, B buckets."""

    counts_SB: Counts  # since the start
    sums_S: npt.NDArray[np.float64]  # seconds, since the start
    recent_SB: Counts  # over the last 60 s, to the slice


def merge(workers: Sequence[Any], now_s: float) -> Times:
    """Sums the workers' `times` (views of one `times_layout`, at least one) as seen at `now_s`."""
    counts_SB = np.sum([times["counts"] for times in workers], axis=0)
    recent = np.zeros_like(workers[0]["recent"])  # no bucket sees four billion requests a minute
    oldest = int(now_s // SLICE_S) - WINDOW_S // SLICE_S
    for times in workers:
        live = times["epoch"] >= oldest
        np.add(recent, times["recent"], out=recent, where=live[:, :, None])
    return Times(counts_SB, np.sum([times["sums_ns"] for times in workers], axis=0) / 1e9, recent.sum(axis=0))


def quantiles(recent_B: Counts, edges: Sequence[float], wanted: Sequence[float]) -> list[float]:
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
