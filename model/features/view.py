"""Matches that look at the same of a user's behaviours, all at once: rows of one request's candidates."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import numpy.typing as npt

from model.features import cooccurrence
from model.features.counts import Known
from model.features.derived import match_rows
from model.features.ids import FIRST, MISSING, UNKNOWN
from model.features.kinds import Column, Rows
from model.features.matches import Seen, apart
from model.features.schema import Schema


class View:
    """The matches of some actions' newest `length` behaviours, and the features whose values they compare."""

    def __init__(self, schema: Schema, view: tuple[tuple[str, ...], int]):
        actions, self.length = view
        numbers = [1 + schema.history.actions.index(action) for action in actions]
        every = 1 + len(schema.history.actions)
        # Whether an action's number is among them; None: all are.
        self.acted = None if len(numbers) == every - 1 else np.isin(np.arange(every), numbers)
        of_view = [match for match in schema.matches if schema.view(match) == view]
        found, counting = ([match for match in of_view if match.counts is counts] for counts in (False, True))
        self.matches = [*found, *counting]
        self._paired = [match.of[0] for match in counting]
        self._compared = sorted({match.of[0] for match in found})
        self._feature = np.array([self._compared.index(match.of[0]) for match in found], np.int64)
        self._number = np.array([[match.number] for match in found], np.int64)

    def chosen(self, actions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | slice:
        """Places of the newest of them among behaviours of these actions (T,), oldest first."""
        if self.acted is None:
            return slice(max(0, len(actions) - self.length), len(actions))
        return np.flatnonzero(self.acted[actions])[-self.length :]

    def rows(
        self,
        items: Mapping[str, Column],
        gap: npt.NDArray[np.int64],
        actions: npt.NDArray[np.int64],
        counts: Known,
        now: int,
    ) -> Rows:
        """Rows (matches, C), of `items` that are the behaviours (T,), and behind them the candidates."""
        chosen, length = self.chosen(actions), len(gap)
        counting = [
            cooccurrence.rows_of(name, items[name][:length][chosen], items[name][length:], partial(counts.before, now))
            for name in self._paired
        ]
        if not self._compared:
            return np.stack(counting)
        found = self._found(items, gap, chosen)
        return np.concatenate([found, counting]) if counting else found

    def _found(
        self, items: Mapping[str, Column], gap: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64] | slice
    ) -> Rows:
        """Rows (matches, C) of those that count nothing beforehand."""
        values = np.array([items[name] for name in self._compared])
        keys, length = apart(values), len(gap)
        seen, gap = Seen(keys[:, :length][:, chosen]), gap[chosen]
        last = np.zeros(len(gap), bool)
        last[-1:] = True
        # What a candidate gets by the behaviour that is the newest with its value, and behind these what it gets where
        # there is none, and where it has no value.
        none = seen.count.size
        found = np.empty((3, none + 2), np.int64)
        found[:, :none] = match_rows(seen.count, gap, last).reshape(3, -1)
        found[:, none], found[:, none + 1] = FIRST, UNKNOWN
        newest = seen.newest(keys[:, length:])
        np.copyto(newest, none + 1, where=values[:, length:] == MISSING)
        rows: Rows = found.reshape(-1).take(newest.take(self._feature, axis=0) + self._number * (none + 2))
        return rows
