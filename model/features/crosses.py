"""All of side `cross`: hashed crosses, matches, what is of today, and statistics, each in its columns."""

from collections.abc import Mapping
from copy import copy
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from model.features.compared import Keyed
from model.features.counts import Counts, Known
from model.features.crossing import Crossing
from model.features.derived import Statistic
from model.features.ids import Keys, hashed_rows
from model.features.joint import Pair, pairs
from model.features.kinds import Column, Rows, span
from model.features.lookup import Lookup, of_items_alone, rates_first
from model.features.ready import OfRequest
from model.features.schema import Schema
from model.features.today import Calendar
from model.features.view import Company, View

Times = npt.NDArray[np.int64]  # or actions


class Counting(NamedTuple):
    """Some statistics, and where they stand among all; keys of what they count come behind those of the crosses."""

    crossing: Crossing
    lookup: Lookup | None
    places: slice | list[int]


class Crosses:
    """`fitted`: mean and deviation of each statistic. `counts`: what was counted until a day."""

    def __init__(self, schema: Schema, fitted: Mapping[str, tuple[float, float]], time_zone: str, counts: Known):
        self.counts = counts
        self._schema, self._fitted = schema, fitted
        self.views = [View(schema, view) for view in schema.views]
        self._compared = [view for view in self.views if view.matches]
        asked = sorted({(match.of[0], schema.view(match)[0]) for match in schema.matches if match.counts})
        self._companies = [Company(schema, feature, actions) for feature, actions in asked]
        matches = [match for view in self._compared for match in view.matches]
        matches += [match for company in self._companies for match in company.matches]
        self._in_order = [matches.index(match) for match in schema.matches]
        number = {action: at for at, action in enumerate(schema.history.actions, 1)}
        self._today_by_count = [  # number of the action, 0: impressions; most that is counted; rows from count -1 on
            (
                0 if one.of_impressions else number[one.event],
                one.length,
                one.rows_of(np.arange(-1, one.length + 1)).tolist(),
            )
            for one in schema.todays
        ]
        self.calendar = Calendar(time_zone)
        places = schema.places("cross")
        self._hashed_places, self._found_places = (
            span([places[feature.name].start for feature in features])
            for features in (schema.crosses, (*schema.matches, *schema.todays))
        )
        self._buckets = np.array([cross.buckets for cross in schema.crosses], np.uint64).reshape(-1, 1)
        self._of = [(cross.name, cross.of) for cross in schema.crosses]
        self._hashed_alone = Crossing(self._of)
        self._statistics = rates_first(schema.statistics)
        alone = [one for one in self._statistics if of_items_alone(schema, one)]
        self._parts = dict[Pair | None, list[Statistic]]([(None, alone), *pairs(schema).items()])  # what may be ready
        self._places_of = {part: self._places(statistics) for part, statistics in self._parts.items()}
        self._counting: dict[frozenset[Pair | None], Counting] = {}  # by which parts need none

    def with_counts(self, counts: Known) -> "Crosses":
        """The same with other counts; nothing of it keeps these. What was made ready stays where they are the same."""
        other = copy(self)
        other.counts = counts
        if not (isinstance(counts, Counts) and counts.shares(self.counts)):
            other._counting = {}
        return other

    def made_ready(self) -> "Crosses":
        """The same by statistics of all that was counted, computed beforehand."""
        every = self._without(frozenset())
        if every.lookup is not None:
            every.lookup.make_ready()
        other = copy(self)
        other._counting = {frozenset(): every}  # the others take from what is ready
        return other

    @property
    def parts(self) -> dict[Pair | None, Lookup]:
        """The statistics that may be ready: of items alone (None), and of pairs."""
        every = self._without(frozenset()).lookup
        return {part: every.only(of_part) for part, of_part in self._parts.items() if of_part} if every else {}

    # ---- what training and serving share

    def rows(self, columns: Mapping[str, Keys], count: int) -> Rows:
        """Rows of the hashed crosses, (count, N); a part's column is (count,) or, for all alike, (1,)."""
        return self._hashed(self._hashed_alone.keys(columns), count)

    def _hashed(self, keys: Keys, count: int) -> Rows:
        rows = np.empty((count, len(keys)), np.int64)
        rows[:] = hashed_rows(keys, self._buckets).T
        return rows

    def joined(self, found: Rows, hashed: Rows) -> Rows:
        """All rows of side cross (count, N) as `features.toml` orders them.

        `found`: those of the matches, then of what is of today (M, count); `hashed`: those of the crosses
        (count, N - M).
        """
        if not len(found):
            return hashed
        rows = np.empty((len(hashed), len(found) + hashed.shape[1]), np.int64)
        rows[:, self._hashed_places] = hashed
        rows.T[self._found_places] = found
        return rows

    # ---- one request

    def found(self, compared: Keyed, gap: Times, at: Times, actions: Times, now: int, shown_today: int) -> Rows:
        """Rows (M, C) of the matches, and of what is of today, by behaviours (T,), oldest first.

        `shown_today`: impressions of the day of `now`; -1: nobody could count.
        """
        rows = [view.rows(compared, gap, actions) for view in self._compared]
        rows += [company.rows(compared, actions) for company in self._companies]
        if len(rows) > 1:
            rows = [np.concatenate(rows)[self._in_order]]
        if self._today_by_count:
            rows.append(self._today(at, actions, now, shown_today)[:, None].repeat(compared.candidates, axis=1))
        if len(rows) == 1:
            return rows[0]
        return np.concatenate(rows) if rows else np.zeros((0, compared.candidates), np.int64)

    def _today(self, at: Times, actions: Times, now: int, shown_today: int) -> Rows:
        """Rows (K,) of what is of today."""
        of_today = actions[at.searchsorted(self.calendar.begun_ms(now)) :]
        done = np.bincount(of_today, minlength=1 + len(self._schema.history.actions))
        return np.array(
            [
                rows[1 + min(int(done[action]) if action else shown_today, most)]
                for action, most, rows in self._today_by_count
            ],
            np.int64,
        )

    def rows_and_numbers(
        self, found: Rows, columns: Mapping[str, Column], count: int, own: bool, now: int, ready: OfRequest | None
    ) -> tuple[Rows, npt.NDArray[np.float32]]:
        """All rows (count, N), by what was found, and the statistics, standardised (count, M), of candidates.

        `own`: they have contexts of their own. `ready`: what of their items is.
        """
        numbers = np.empty((count, len(self._statistics)), np.float32)
        known = ready.statistics(columns) if ready else {}
        for part, of_part in known.items():
            numbers[:, self._places_of[part]] = of_part
        counting = self._without(frozenset(known))
        keys, crosses = counting.crossing.keys(columns), len(self._buckets)
        if counting.lookup:
            numbers.T[counting.places] = counting.lookup.numbers(keys[crosses:], own, now)
        return self.joined(found, self._hashed(keys[:crosses], count)), numbers

    def _without(self, parts: frozenset[Pair | None]) -> Counting:
        """All statistics but those of some parts."""
        counting = self._counting.get(parts)
        if counting is None:
            others = [one for one in self._statistics if not any(one in self._parts[part] for part in parts)]
            lookup = self._lookup(others) if others else None
            crossing = Crossing([*self._of, *(lookup.groups if lookup else ())])
            counting = self._counting[parts] = Counting(crossing, lookup, self._places(others))
        return counting

    def _lookup(self, statistics: list[Statistic]) -> Lookup:
        every = self._counting.get(frozenset())
        if every is not None and every.lookup is not None:
            return every.lookup.only(statistics)
        return Lookup(self._schema, statistics, self._fitted, self.counts)

    def _places(self, statistics: list[Statistic]) -> slice | list[int]:
        return span([self._schema.statistics.index(one) for one in statistics])
