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
        self.matches = [match for match in schema.matches if schema.view(match) == view and not match.counts]
        self._compared = sorted({match.of[0] for match in self.matches})
        self._feature = np.array([self._compared.index(match.of[0]) for match in self.matches])
        self._number = np.array([[match.number] for match in self.matches])

    def chosen(self, actions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | slice:
        """Places of the newest of them among behaviours of these actions (T,), oldest first."""
        if self.acted is None:
            return slice(max(0, len(actions) - self.length), len(actions))
        return np.flatnonzero(self.acted[actions])[-self.length :]

    def rows(self, items: Mapping[str, Column], gap: npt.NDArray[np.int64], actions: npt.NDArray[np.int64]) -> Rows:
        """Rows (matches, C), of `items` that are the behaviours (T,), and behind them the candidates."""
        values = np.array([items[name] for name in self._compared])
        keys, chosen, length = apart(values), self.chosen(actions), len(gap)
        seen, gap = Seen(keys[:, :length][:, chosen]), gap[chosen]
        last = np.zeros(len(gap), bool)
        last[-1:] = True
        # What a candidate gets by the behaviour that is the newest with its value, and behind these what it gets where
        # there is none, and where it has no value.
        none = seen.count.size
        found = np.empty((4, none + 2), np.int64)
        found[:, :none] = match_rows(seen.count, gap, last, len(gap)).reshape(4, -1)
        found[:, none], found[:, none + 1] = FIRST, UNKNOWN
        newest = seen.newest(keys[:, length:])
        np.copyto(newest, none + 1, where=values[:, length:] == MISSING)
        rows: Rows = found.reshape(-1).take(newest.take(self._feature, axis=0) + self._number * (none + 2))
        return rows


class Company:
    """The cooccurrences of one feature with some actions' behaviours, of all lengths by one search."""

    def __init__(self, schema: Schema, feature: str, actions: tuple[str, ...]):
        self.matches = [
            match
            for match in schema.matches
            if match.counts and match.of[0] == feature and schema.view(match)[0] == actions
        ]
        self._feature, self._lengths = feature, [match.length for match in self.matches]
        self._longest = View(schema, (actions, max(self._lengths)))

    def rows(self, items: Mapping[str, Column], actions: npt.NDArray[np.int64], counts: Known, now: int) -> Rows:
        """Rows (matches, C), of `items` that are behaviours of these actions (T,), and behind them the candidates."""
        values = items[self._feature]
        seen = values[: len(actions)][self._longest.chosen(actions)]
        before = partial(counts.before, now)
        return cooccurrence.rows_of(self._feature, seen, self._lengths, values[len(actions) :], before)
