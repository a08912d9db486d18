"""Matches that look at the same of a user's behaviours, all at once: rows of one request's candidates."""

import numpy as np
import numpy.typing as npt

from model.features.compared import Chosen, Keyed
from model.features.derived import match_rows
from model.features.ids import FIRST, UNKNOWN
from model.features.kinds import Rows
from model.features.matches import NO_VALUE, NONE, SEEN
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
        self._names = sorted({match.of[0] for match in self.matches})
        self._feature = np.array([self._names.index(match.of[0]) for match in self.matches])
        self._whats = sorted({str(match.what) for match in self.matches})
        self._what = np.array([[self._whats.index(str(match.what))] for match in self.matches])

    def chosen(self, actions: npt.NDArray[np.int64]) -> Chosen:
        """Places of the newest of them among behaviours of these actions (T,), oldest first."""
        if self.acted is None:
            return slice(max(0, len(actions) - self.length), len(actions))
        return np.flatnonzero(self.acted[actions])[-self.length :]

    def rows(self, compared: Keyed, gap: npt.NDArray[np.int64], actions: npt.NDArray[np.int64]) -> Rows:
        """Rows (matches, C), of behaviours with these gaps and actions (T,)."""
        chosen = self.chosen(actions)
        found, gap = compared.found(self._names, chosen), gap[chosen]
        last = np.zeros(len(gap), bool)
        last[-1:] = True
        # What a candidate gets by the behaviour that is the newest with its value.
        by = np.empty((len(self._whats), SEEN + found.how_many.size), np.int64)
        by[:, NONE], by[:, NO_VALUE] = FIRST, UNKNOWN
        for row, what in zip(by, self._whats, strict=True):
            row[SEEN:].reshape(found.how_many.shape)[:] = match_rows(what, found.how_many, gap, last, len(gap))
        at = found.newest.take(self._feature, axis=0)
        at += self._what * by.shape[1]
        rows: Rows = by.reshape(-1).take(at)
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

    def rows(self, compared: Keyed, actions: npt.NDArray[np.int64]) -> Rows:
        """Rows (matches, C), of behaviours of these actions (T,)."""
        return compared.beside(self._feature, self._longest.chosen(actions), self._lengths)
