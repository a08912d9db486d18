"""What a log's impressions were worth by the end of each day: counts of values, and what statistics say of each row.

No impression sees its own day or a later one: what is counted of a value before day d are its impressions of days
before d, whatever split they are of. So the newest days of a log have statistics as a service would have had them.
"""

from collections.abc import Callable, Iterator, Sequence
from math import fsum
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from model.features.counts import Counts, key_of_all, keys_of
from model.features.derived import Statistic
from model.features.ids import MISSING, Keys
from model.features.schema import Schema
from model.prepared.arrays import make, put
from model.prepared.splits import Split

DAYS_KEPT = 8  # the newest days with impressions: replays of them see what was known then
SLICE = 1_000_000  # impressions that are read at a time

Days = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Record = tuple[Keys, Floats, Floats]  # keys (n,), shown and clicked before each day (n, D)
Parts = Callable[[str, pl.DataFrame], Keys]  # a feature's keys of impressions


class OfDays:
    """Impressions and clicks of one thing that is counted, by value and day."""

    def __init__(self, statistic: Statistic, keys: Keys, days: Days, shown: Days, clicks: Days):
        """Of distinct pairs of key and day (n,), sorted."""
        self.keys, self._of_key = np.unique(keys, return_inverse=True)
        self._first, self._span = int(days.min(initial=0)), int(days.max(initial=0) - days.min(initial=0)) + 2
        self._statistic, self._days = statistic, days
        self._at = self._of_key * self._span + (days - self._first)  # rises
        half = statistic.half_life_days
        self._sums = [self._decayed(counts, half) if half else _running(counts) for counts in (shown, clicks)]

    def before(self, keys: Keys, days: Days) -> tuple[Floats, Floats]:
        """Shown and clicked before the days (n,), of keys (n,) that are among `self.keys`."""
        begin = np.searchsorted(self.keys, keys) * self._span
        end = np.searchsorted(self._at, begin + np.clip(days - self._first, 0, self._span))
        half, window = self._statistic.half_life_days, self._statistic.days
        if half:
            there = end > np.searchsorted(self._at, begin)
            last = np.where(there, end - 1, 0)
            weight = np.where(there, np.exp2(-(days - 1 - self._days[last]) / half), 0)
            shown, clicks = (weight * sums[last] for sums in self._sums)
            return shown.astype(np.float64), clicks.astype(np.float64)
        since = np.clip(days - window - self._first, 0, self._span) if window else 0
        start = np.searchsorted(self._at, begin + since)
        shown, clicks = ((sums[end] - sums[start]).astype(np.float64) for sums in self._sums)
        return shown, clicks

    def _decayed(self, counts: Days, half_life: int) -> Floats:
        """At the end of each day of a key, its counts so far, each halved after so many days."""
        begins = np.searchsorted(self._of_key, np.arange(len(self.keys)))
        rank = np.arange(len(counts)) - begins[self._of_key]
        sums = counts.astype(np.float64)
        for at in np.split(np.argsort(rank, kind="stable"), np.cumsum(np.bincount(rank)))[1:-1]:
            sums[at] += sums[at - 1] * np.exp2(-(self._days[at] - self._days[at - 1]) / half_life)
        return sums


def _running(counts: Days) -> Days:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def spread(path: Path, chosen: Iterator[npt.NDArray[np.bool_]]) -> tuple[float, float]:
    """Mean and deviation of a column's `chosen` rows, a slice after the other; (0, 1) where there is none."""
    values = np.load(path, mmap_mode="r")
    count = 0
    sums: list[float] = []
    squares: list[float] = []
    for number, of_slice in enumerate(chosen):
        piece = values[number * SLICE : number * SLICE + len(of_slice)][of_slice]
        count, sums, squares = count + len(piece), [*sums, float(piece.sum())], [*squares, float((piece**2).sum())]
    if not count:
        return 0.0, 1.0
    mean = fsum(sums) / count
    return mean, max(0.0, fsum(squares) / count - mean**2) ** 0.5 or 1.0


class Counted:
    """All that the statistics of a schema count in a log's impressions as numbered.py wrote them."""

    def __init__(self, schema: Schema, impressions: Path, time_zone: str, parts: Parts):
        self._schema, self._impressions, self._zone, self._parts = schema, impressions, time_zone, parts
        groups = {statistic.counted: statistic for statistic in schema.statistics}
        self._groups = {name: self._of_days(statistic) for name, statistic in groups.items()}

    def _of_days(self, statistic: Statistic) -> OfDays:
        pairs = []
        for frame in self._frames():
            days, clicked = self._days(frame["time"]), (frame["label"] > 0).cast(pl.Int64)
            keys = self._keys(statistic, frame)
            of_value = pl.DataFrame({"key": keys, "day": days, "clicks": clicked}).filter(pl.col("key") != int(MISSING))
            whole = np.full(len(frame), key_of_all(statistic.counted), np.uint64)
            of_all = pl.DataFrame({"key": whole, "day": days, "clicks": clicked})
            sums = pl.len().cast(pl.Int64).alias("shown"), pl.col("clicks").sum()
            pairs += [part.group_by("key", "day").agg(*sums) for part in (of_value, of_all)]
        counted = pl.concat(pairs).group_by("key", "day").agg(pl.col("shown", "clicks").sum()).sort("key", "day")
        return OfDays(statistic, *(counted[name].to_numpy() for name in ("key", "day", "shown", "clicks")))

    def write_columns(self, path_of: Callable[[str], Path], count: int) -> None:
        """The raw columns (impressions,) of the statistics, of every impression as its day began, as files."""
        for statistic in self._schema.statistics:
            make(path_of(statistic.name), np.float64, (count,))
        for number, frame in enumerate(self._frames()):
            days = self._days(frame["time"])
            for name, of_days in self._groups.items():
                alike = [statistic for statistic in self._schema.statistics if statistic.counted == name]
                keys = self._keys(alike[0], frame)
                known = keys != MISSING
                shown, clicks = np.zeros(len(frame)), np.zeros(len(frame))
                shown[known], clicks[known] = of_days.before(keys[known], days[known])
                whole = of_days.before(np.full(len(frame), key_of_all(name), np.uint64), days)
                for statistic in alike:
                    put(path_of(statistic.name), number * SLICE, statistic.values(shown, clicks, *whole))

    def table(self, days: Sequence[int], begins: Sequence[int], more: Sequence[Record] = ()) -> Counts:
        """Counts before each of the days, which begin at these milliseconds; and those of `more`, counted elsewhere."""
        keys = [np.zeros(0, np.uint64), *(of_days.keys for of_days in self._groups.values())]
        shown, clicks = (np.zeros((sum(map(len, keys)), len(days))) for _ in range(2))
        at = 0
        for of_days in self._groups.values():
            rows = slice(at, at + len(of_days.keys))
            for place, day in enumerate(days):
                of_day = np.full(len(of_days.keys), day)
                shown[rows, place], clicks[rows, place] = of_days.before(of_days.keys, of_day)
            at = rows.stop
        of_all = zip((np.concatenate(keys), shown, clicks), *more, strict=True)
        return Counts.build(begins, *map(np.concatenate, of_all))

    def newest_days(self) -> list[int]:
        """The newest days with impressions, and the day after the last. Before a log's first nothing was counted."""
        days: set[int] = set()
        for frame in self._frames():
            days |= set(np.unique(self._days(frame["time"])).tolist())
        first, *others = sorted(days)
        return [*others[-DAYS_KEPT:], (others or [first])[-1] + 1]

    def fitted(self, path_of: Callable[[str], Path], split: Split) -> dict[str, tuple[float, float]]:
        """Mean and deviation of each statistic on the training split."""
        return {
            statistic.name: spread(path_of(statistic.name), (split.of(frame) == 0 for frame in self._frames()))
            for statistic in self._schema.statistics
        }

    def _frames(self) -> Iterator[pl.DataFrame]:
        log = pl.scan_parquet(self._impressions)
        for at in range(0, log.select(pl.len()).collect().item(), SLICE):
            yield log.slice(at, SLICE).collect()

    def _days(self, time: pl.Series) -> Days:
        """Days since 1970 of the log's time zone."""
        local = time.cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone(self._zone)
        return local.dt.date().cast(pl.Int32).to_numpy().astype(np.int64)

    def _keys(self, statistic: Statistic, frame: pl.DataFrame) -> Keys:
        return keys_of(statistic.counted, [self._parts(name, frame) for name in statistic.of])
