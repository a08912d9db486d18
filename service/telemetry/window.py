"""Response times of all workers: a memory-mapped file of counts per worker, which every worker reads.

A time is counted twice: in a log-spaced bucket of the slice of 5 s in which it happened (for quantiles over the last
60 s), and in a histogram since the start (which must never fall), in the row of the model that answered (`slots.py`).

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
from collections.abc import Iterable, Mapping, Sequence
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


class WorkerFiles:
    """Sight of all workers' records, for whoever only reads them: no file is made, locked or written to."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._folder = folder
        self._layout = layout
        self._seen: dict[Path, Record] = {}

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
        return [self._seen[path] for path in sorted(list(self._seen), key=_slot)]


class WorkerFile:
    """This worker's own record.

    Files are numbered by slot, not by process: a worker locks the first slot that nobody holds and counts on where its
    dead predecessor stopped. The kernel drops the lock with the process, however that ended. So no counter falls, and
    the folder holds as many files as workers ever ran at the same time. Open it in the worker itself, after any fork.

    `record` is a structured scalar (shape ()) of dtype `layout`, in which zero bytes must mean "nothing yet"; `slot` is
    this worker's number, which its successor inherits. Raises OSError when the folder is missing or full.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.slot, self._fd = _lock_first_free_slot(folder)
        self.record = mapped(self._fd, layout)

    def close(self) -> None:
        """Leaves the slot, with its counts, to the next worker. Nothing may be recorded after this."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)  # closing is not enough: the mapping holds a duplicate of the descriptor
        os.close(self._fd)


def mapped(fd: int, layout: Layout) -> Record:
    """The structured scalar in an open file, to be read and written; zeros where it is new."""
    # Room is taken now: a full disk is an error here, and would be a SIGBUS at some later write into the mapping.
    if sys.platform == "linux":
        os.posix_fallocate(fd, 0, layout.itemsize)
    else:
        os.ftruncate(fd, layout.itemsize)
    return np.ndarray((), layout, buffer=mmap.mmap(fd, layout.itemsize))


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


class Series(NamedTuple):
    """One series of times: its number in the window, and where in a row its cells are."""

    number: int
    first: int  # the cell of its sum in nanoseconds; its histogram follows
    at: Sequence[int]  # from a bucket of the window to the histogram's cell, counted from `first`


def window_layout(series: int, edges: Sequence[float]) -> Layout:
    """The part of a worker's record that holds the last minute of `series` series."""
    buckets = len(edges) + 1
    return np.dtype(
        [
            ("epoch", np.int64, (SLICES, series)),  # which 5 s a row of `recent` counts; rows are wiped when next used
            ("recent", np.uint32, (SLICES, series, buckets)),
        ],
        align=True,  # eight aligned bytes are written at once: a reader never sees half a number
    )


class TimesWriter:
    """Records times into this worker's `window` (a view of dtype `window_layout`) and its rows of counts, `cells_RC`.

    Not for several threads at once.
    """

    def __init__(self, window: Record, edges: Sequence[float], cells_RC: Counts) -> None:
        self._edges = list(edges)
        self._series = window["epoch"].shape[1]
        self._buckets = len(edges) + 1
        self._width = cells_RC.shape[1]
        # Plain memoryviews: an index into one costs a third of numpy's.
        self._epoch = window["epoch"].reshape(-1).data
        self._recent = window["recent"].reshape(-1).data
        self._cells: Any = cells_RC.reshape(-1).data
        self._wiped = np.zeros(self._buckets, np.uint32).data

    def add(self, series: Mapping[str, Series], times_s: Mapping[str, float], now_s: float, row: int) -> None:
        """Times by series' names, in seconds, that end at `now_s` (CLOCK_MONOTONIC, which a machine's workers share).

        Together, since a request is eight: what they have in common is looked up once.
        """
        edges, buckets, cells, recent, epochs = self._edges, self._buckets, self._cells, self._recent, self._epoch
        epoch = int(now_s // SLICE_S)
        newest = epoch % SLICES * self._series
        row_start = row * self._width
        for name, seconds in times_s.items():
            number, first, at = series[name]
            bucket = bisect_left(edges, seconds)
            number += newest
            start = number * buckets
            if epochs[number] != epoch:
                # Wiped first and dated afterwards: a worker killed in between leaves a row that is too old to count.
                recent[start : start + buckets] = self._wiped
                epochs[number] = epoch
            recent[start + bucket] += 1
            first += row_start
            cells[first + at[bucket]] += 1
            cells[first] += int(seconds * 1e9)


def merge(windows: Sequence[Any], now_s: float, layout: Layout) -> npt.NDArray[np.uint32]:
    """Counts over the last 60 s, to the slice, by series and bucket (S, B), as seen at `now_s`.

    `windows` are the workers' views of one `window_layout`, `layout`.
    """
    recent_SB = np.zeros(layout["recent"].shape[1:], np.uint32)  # no bucket sees four billion requests a minute
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
