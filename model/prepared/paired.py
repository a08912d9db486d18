"""Pairs of values in behaviours that follow each other, by the end of each day: what cooccurrence.py asks for.

A data set keeps the counts of all days, by the codes of matched.py, so that every impression sees those of the day
before its own, whatever its feedback delay; a bundle has the newest days, by keys (`table`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from model.features.cooccurrence import joined, mixed, strengths
from model.features.ids import Keys
from model.features.kinds import Column
from model.features.schema import Schema
from model.features.today import Calendar

ROWS = 1_000_000  # behaviours that are read at once
BEGINS = "paired-begins"  # ms, of each day with behaviours and of the day after it

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Sums:
    """What was counted of numbered things by the end of each day, in one array that can be mapped.

    `kept` (2, n): thing · (days + 1) + day, which rises, and the thing's sum so far. Days are numbered by how many have
    begun.
    """

    def __init__(self, kept: Ints, days: int):
        self.kept, self._span = kept, days + 1
        self._at, self._sums = kept

    @classmethod
    def of(cls, things: Ints, day: Ints, count: Ints, days: int) -> "Sums":
        at, inverse = np.unique(things * (days + 1) + day, return_inverse=True)
        each = np.zeros(len(at), np.int64)
        np.add.at(each, inverse, count)
        sums, thing = np.cumsum(each), at // (days + 1)
        first = np.searchsorted(thing, thing)
        return cls(np.stack([at, sums - sums[first] + each[first]]), days)

    @property
    def things(self) -> Ints:
        return np.unique(self._at // self._span)

    def before(self, things: Ints, day: Ints) -> Ints:
        """The sums of things (n,) until the days (n,) began."""
        if not len(self._at):
            return np.zeros(len(things), np.int64)
        place = np.searchsorted(self._at, things * self._span + day) - 1
        known = (place >= 0) & (self._at[place] // self._span == things)
        counted: Ints = np.where(known, self._sums[place], 0)
        return counted


class Pairs(NamedTuple):
    """How often two values of a feature are a pair, and how often a value is in one."""

    values: int
    together: Sums
    alone: Sums

    def before(self, one: Ints, other: Ints, day: Ints) -> tuple[Ints, Floats]:
        """n(a, b) and n(a) · n(b), which may not fit a whole number, of codes (n,), until the days (n,) began."""
        together = self.together.before(np.minimum(one, other) * self.values + np.maximum(one, other), day)
        apart = np.zeros(len(one))
        (some,) = together.nonzero()  # few are
        counts = (self.alone.before(value[some], day[some]).astype(np.float64) for value in (one, other))
        apart[some] = np.multiply(*counts)
        return together, apart

    def strengths(self, one: Ints, other: Ints, day: Ints) -> Floats:
        """As cooccurrence.py has them, of codes (n,)."""
        return strengths(*self.before(one, other, day))

    def table(self, feature: str, keys: Keys, days: Ints) -> tuple[Keys, Floats, Floats]:
        """Keys (n,) of all pairs, and n(a) · n(b) and n(a, b) before each of the days (n, D); `keys` are the codes'."""
        one, other = np.divmod(self.together.things, self.values)
        before = [self.before(one, other, np.full(len(one), day)) for day in days]
        together, apart = (np.stack([of[which] for of in before], axis=1).astype(np.float64) for which in (0, 1))
        of_values = mixed(feature, keys)
        return joined(of_values[one], of_values[other]), apart, together


def count_pairs(behaviours: Path, codes: npt.NDArray[np.int32], begins: Ints) -> Pairs:
    """The pairs of a feature's values, of the items' codes (items,), in behaviours sorted by user and time."""
    values, log = int(codes.max(initial=-1)) + 1, pl.scan_parquet(behaviours)
    counted = [pl.DataFrame(schema={name: pl.Int64 for name in ("pair", "day", "count")})]
    for at in range(0, log.select(pl.len()).collect().item(), ROWS):
        frame = log.slice(max(0, at - 1), ROWS + (at > 0)).collect()  # with the last one of those before
        user, value = frame["user"].to_numpy(), codes[frame["object"].to_numpy()].astype(np.int64)
        low, high = np.minimum(value[:-1], value[1:]), np.maximum(value[:-1], value[1:])
        (pairs,) = ((user[:-1] == user[1:]) & (low != high) & (low >= 0)).nonzero()
        day = begins.searchsorted(frame["time"].to_numpy()[1:][pairs], side="right")
        of_slice = pl.DataFrame({"pair": low[pairs] * values + high[pairs], "day": day})
        counted.append(of_slice.group_by("pair", "day").agg(pl.len().cast(pl.Int64).alias("count")))
    whole = pl.concat(counted)
    pair, day, count = (whole[name].to_numpy() for name in ("pair", "day", "count"))
    one, other = np.divmod(pair, max(1, values))
    alone = np.concatenate([one, other]), np.tile(day, 2), np.tile(count, 2)
    return Pairs(values, Sums.of(pair, day, count, len(begins)), Sums.of(*alone, len(begins)))


class AllPairs(NamedTuple):
    """Those of all features of which pairs are counted."""

    begins: Ints  # ms, of each day with behaviours and of the day after it
    pairs: Mapping[str, Pairs]
    keys: Mapping[str, Keys]  # of the codes

    @classmethod
    def of(
        cls,
        schema: Schema,
        columns: Mapping[str, Column],
        codes: Mapping[str, npt.NDArray[np.int32]],
        behaviours: Path,
        time_zone: str,
    ) -> "AllPairs":
        """In sorted behaviours, of the items' raw columns and their codes by feature."""
        local = pl.col("time").cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone(time_zone).dt.date().cast(pl.Int32)
        days = pl.scan_parquet(behaviours).select(local.unique()).collect()["time"].to_numpy().astype(np.int64)
        calendar = Calendar(time_zone)
        begins = np.array([calendar.begin_ms(day) for day in np.unique([days, days + 1]).tolist()], np.int64)
        pairs = {name: count_pairs(behaviours, codes[name], begins) for name in schema.paired}
        return cls(begins, pairs, {name: np.unique(columns[name]) for name in schema.paired})

    def save(self, encoded: Path) -> None:
        np.save(encoded / f"{BEGINS}.npy", self.begins)
        for feature, pairs in self.pairs.items():
            for name, sums in zip(arrays_of(feature), (pairs.together, pairs.alone), strict=True):
                np.save(encoded / f"{name}.npy", sums.kept)

    def records(self, begins: Sequence[int]) -> list[tuple[Keys, Floats, Floats]]:
        """Keys (n,), n(a) · n(b) and n(a, b) (n, D) of every feature's pairs, before days that begin at these ms."""
        day = self.begins.searchsorted(begins, side="right")
        return [pairs.table(name, self.keys[name], day) for name, pairs in self.pairs.items()]


def arrays_of(feature: str) -> list[str]:
    """Names of a feature's arrays."""
    return [f"paired-{feature}-{which}" for which in ("together", "alone")]


def opened(arrays: Mapping[str, npt.NDArray[Any]], feature: str, values: int) -> Pairs:
    """A feature's pairs in a data set's arrays."""
    together, alone = (Sums(arrays[name], len(arrays[BEGINS])) for name in arrays_of(feature))
    return Pairs(values, together, alone)


def names(schema: Schema) -> list[str]:
    """Names of all arrays that a data set of this feature table has."""
    return [BEGINS, *(name for feature in schema.paired for name in arrays_of(feature))] if schema.paired else []
