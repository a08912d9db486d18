"""Impressions as whole numbers → the encoded arrays, a slice of the impressions after the other, in several processes.

Each slice writes its own rows of files that are there at their full size, so the bytes are the same whatever the number
of slices and processes.
"""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from tqdm import tqdm

from model.features.encode import Encoder
from model.features.ids import UNKNOWN
from model.features.kinds import Column
from model.prepared.arrays import put
from model.prepared.splits import SPLITS, Split

SLICE = 500_000  # impressions, of some 400 bytes each while they are encoded
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Plan:
    """What a slice needs to know beside its rows; it travels to other processes."""

    folder: Path  # of the prepared data: features.toml, vocab/ and encoded/, where the arrays are
    work: Path  # columns-<side>-<name>.npy, and the impressions as numbers
    impressions: Path
    split: Split
    coded: tuple[bool, ...]  # of each context feature: its impressions carry a code and no number
    groups: tuple[str, ...]  # prefixes of the arrays of each group, [history]'s first, which is empty
    kept: tuple[str, ...]
    delay_ms: int  # behaviours newer than this before an impression are not known yet


@dataclass
class Seen:
    """What is counted on the way; adding two gives what both saw."""

    rows: npt.NDArray[np.int64]  # (splits,)
    clicks: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]  # (splits, T + 1), of the histories that a network of the schema's length sees
    unknown: dict[str, npt.NDArray[np.int64]]  # (splits,), by feature of user, item or context
    missing: dict[str, npt.NDArray[np.int64]]  # likewise

    def __add__(self, other: "Seen") -> "Seen":
        unknown = {name: count + other.unknown[name] for name, count in self.unknown.items()}
        missing = {name: count + other.missing[name] for name, count in self.missing.items()}
        return Seen(self.rows + other.rows, self.clicks + other.clicks, self.lengths + other.lengths, unknown, missing)


def edges(count: int, slices: int) -> list[tuple[int, int]]:
    """Where each slice begins and ends."""
    at = np.linspace(0, count, slices + 1).astype(np.int64).tolist()
    return list(zip(at, at[1:], strict=False))


def encode_slices(plan: Plan, count: int, slices: int, processes: int) -> Seen:
    """Fills the arrays of `count` impressions."""
    pieces = edges(count, slices)
    with tqdm(total=count, desc="encoding", unit=" impressions", unit_scale=True, delay=1, leave=False) as bar:
        if processes == 1 or slices == 1:
            total = None
            for at, to in pieces:
                seen = encode_slice(plan, at, to)
                total = seen if total is None else total + seen
                bar.update(to - at)
            _opened.cache_clear()
            assert total is not None
            return total
        with _pool(processes) as pool:
            # Processes begin here, with Ctrl-C blocked for good: it is for this one, which ends them.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                running = {pool.submit(encode_slice, plan, at, to): to - at for at, to in pieces}
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            every = []
            for done in as_completed(running):
                every.append(done.result())
                bar.update(running[done])
        return sum(every[1:], every[0])


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Processes begun anew, since the engine's threads do not survive a fork; none outlives this one."""
    before = os.environ.get("POLARS_MAX_THREADS")
    os.environ["POLARS_MAX_THREADS"] = "1"  # the processes are the threads
    try:
        with ProcessPoolExecutor(processes, get_context("spawn"), _end_with_parent) as pool:
            try:
                yield pool
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        if before is None:
            del os.environ["POLARS_MAX_THREADS"]
        else:
            os.environ["POLARS_MAX_THREADS"] = before


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@lru_cache(maxsize=1)
def _opened(folder: Path, work: Path) -> tuple[Encoder, Arrays, Mapping[str, Mapping[str, Column]]]:
    """Encoder, arrays to look into, and raw columns by side, memory-mapped."""
    encoder = Encoder.open(folder)
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in (folder / "encoded").glob("*.npy")}
    columns: dict[str, dict[str, Column]] = {"user": {}, "item": {}, "context": {}, "cross": {}}
    for path in work.glob("columns-*.npy"):
        _, side, name = path.stem.split("-", 2)
        columns[side][name] = np.load(path, mmap_mode="r")
    return encoder, arrays, columns


def raw_column(work: Path, side: str, name: str) -> Path:
    """Where the raw column of a feature lies."""
    return work / f"columns-{side}-{name}.npy"


def save_columns(work: Path, side: str, columns: Mapping[str, Column | None]) -> None:
    for name, column in columns.items():
        if column is not None:
            np.save(raw_column(work, side, name), column)


def encode_slice(plan: Plan, at: int, to: int) -> Seen:
    """Fills the rows from `at` to `to` of the arrays."""
    encoder, arrays, columns = _opened(plan.folder, plan.work)
    schema = encoder.schema
    frame = pl.scan_parquet(plan.impressions).slice(at, to - at).collect()
    user, item, time = (frame[name].to_numpy() for name in ("user", "item", "time"))
    split = plan.split.of(frame)
    label = frame["label"].to_numpy()

    def write(name: str, rows: npt.NDArray[Any]) -> None:
        put(plan.folder / "encoded" / f"{name}.npy", at, rows)

    for name, values in {"user": user, "item": item, "time": time, "label": label, "split": split}.items():
        write(name, values)
    for name in plan.kept:
        write(name, frame[name].to_numpy())

    context: dict[str, Column] = {}
    for place, feature in enumerate(schema.side("context")):
        values = frame[f"c{place}"].to_numpy()
        context[feature.name] = columns["context"][feature.name][values] if plan.coded[place] else values
    count = to - at
    features = schema.side("context")
    context_rows = encoder.rows(features, context, count)
    write("context", context_rows)
    write("context_numbers", encoder.numbers(features, context, count))
    parts = {part for feature in schema.crosses for part in feature.of}
    chosen = {name: values for name, values in context.items() if name in parts}
    chosen |= {name: values[user] for name, values in columns["user"].items() if name in parts}
    chosen |= {name: values[item] for name, values in columns["item"].items() if name in parts}
    write("cross", encoder.crosses.rows(chosen, count))
    counted = {name: values[at:to] for name, values in columns["cross"].items()}  # of each impression
    write("cross_numbers", encoder.numbers(schema.statistics, counted, count))

    lengths = np.zeros((len(SPLITS), schema.history.length + 1), np.int64)
    for prefix in plan.groups:
        begin = arrays[f"{prefix}begin"]
        end = ends(begin, arrays[f"{prefix}clicked_at"], user, time - plan.delay_ms)
        write(f"{prefix}end", end)
        if not prefix:
            length = np.minimum(end - begin[user], schema.history.length)
            for code in range(len(SPLITS)):
                lengths[code] = np.bincount(length[split == code], minlength=lengths.shape[1])
    raw = {**{side: columns[side] for side in ("user", "item")}, "context": context}
    unknown, missing = _strange(encoder, arrays, raw, split, user, item, context_rows)
    rows, clicks = (np.bincount(split[of], minlength=len(SPLITS)) for of in (slice(None), label > 0))
    return Seen(rows, clicks, lengths, unknown, missing)


def ends(
    begin: npt.NDArray[np.int64],
    times: npt.NDArray[np.int64],
    user: npt.NDArray[np.int32],
    now: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """One past the last behaviour that each impression's user had strictly before `now`, (n,).

    `times` are sorted within a user, whose own begin at `begin`; a binary search in each user's, for all at once.
    """
    low = begin[user]
    bound = np.append(begin[1:], len(times))
    high = bound[user]
    if not len(times):
        return low
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) >> 1
        open_ = low < high
        before = open_ & (times[np.minimum(middle, len(times) - 1)] < now)
        low = np.where(before, middle + 1, low)
        high = np.where(open_ & ~before, middle, high)
    return low


def _strange(
    encoder: Encoder,
    arrays: Arrays,
    raw: Mapping[str, Mapping[str, Column]],
    split: npt.NDArray[np.int8],
    user: npt.NDArray[np.int32],
    item: npt.NDArray[np.int32],
    context_rows: npt.NDArray[np.int64],
) -> tuple[dict[str, npt.NDArray[np.int64]], dict[str, npt.NDArray[np.int64]]]:
    """By feature, impressions of each split whose value training did not see often enough, and those without one.

    The first are of features with a vocabulary, and not of training: its own are known but for the rare ones.
    """
    unknown, missing = {}, {}
    later = np.flatnonzero(split > 0)
    every = np.arange(len(split))
    of: dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = {
        "user": (user, arrays["users"][user[later]]),
        "item": (item, arrays["items"][item[later]]),
        "context": (every, context_rows[later]),
    }
    for side, (entity, rows) in of.items():
        places = encoder.schema.places(side)  # type: ignore[arg-type]  # mypy widens the literals to str
        for feature in encoder.schema.side(side):  # type: ignore[arg-type]
            without = feature.missing(raw[side][feature.name])[entity]
            missing[feature.name] = np.bincount(split[without], minlength=len(SPLITS))
            if feature.has_vocabulary:
                strange = (rows[:, places[feature.name].start] == UNKNOWN) & ~without[later]
                unknown[feature.name] = np.bincount(split[later][strange], minlength=len(SPLITS))
    return unknown, missing
