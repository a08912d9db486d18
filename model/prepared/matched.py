"""Matches of impressions with the behaviours before them, for training: the newest of a view are gathered each time."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model.features.cooccurrence import strength_rows
from model.features.derived import match_rows
from model.features.ids import MISSING, UNKNOWN, Keys
from model.features.kinds import Column, Rows
from model.features.matches import along
from model.features.schema import Schema
from model.features.timeposition import time_positions
from model.prepared import paired

Index = npt.NDArray[np.int64]


def matched_features(schema: Schema) -> list[str]:
    """Names of the item features whose values are compared, in the order of the columns of `matched.npy`."""
    return sorted({match.of[0] for match in schema.matches})


def codes(schema: Schema, columns: Mapping[str, Column], count: int) -> npt.NDArray[np.int32]:
    """Numbers that tell the items' values apart, (items, M); -1: it has none."""
    made = np.empty((count, len(matched_features(schema))), np.int32)
    for at, name in enumerate(matched_features(schema)):
        keys: Keys = columns[name]
        made[:, at] = np.where(keys == MISSING, -1, np.unique(keys, return_inverse=True)[1])
    return made


class Matches:
    """Finds the matches of impressions in the arrays of a prepared data set."""

    def __init__(self, schema: Schema, arrays: Mapping[str, npt.NDArray[Any]]):
        self._schema, self._arrays = schema, arrays
        names = matched_features(schema)
        self._codes = {name: np.ascontiguousarray(arrays["matched"][:, at]) for at, name in enumerate(names)}
        self._pairs = {
            name: paired.opened(arrays, name, int(self._codes[name].max(initial=-1)) + 1) for name in schema.paired
        }
        views = {schema.view(match) for match in schema.matches}
        self._acted = {actions: self._places(actions) for actions in {actions for actions, _ in views}}

    def _places(self, actions: Sequence[str]) -> Index | None:
        """Where behaviours of these actions stand among all; None: all are."""
        numbers = [1 + self._schema.history.actions.index(action) for action in actions]
        if len(numbers) == len(self._schema.history.actions):
            return None
        return np.flatnonzero(np.isin(self._arrays["acted"], numbers))

    def rows(self, rows: Index, user: npt.NDArray[np.int32], item: npt.NDArray[np.int32]) -> Rows:
        """Rows (M, U) of every match, of impressions `rows` (U,) of these users and items."""
        made: dict[str, Rows] = {}
        for view in sorted({self._schema.view(match) for match in self._schema.matches}):
            at, visible = self._newest(*view, rows, user)
            of_view = [match for match in self._schema.matches if self._schema.view(match) == view]
            found, counting = ([match for match in of_view if match.counts is counts] for counts in (False, True))
            made |= {match.name: self._together(match.of[0], at, visible, rows, item) for match in counting}
            for name in {match.of[0] for match in found}:
                count, gap, last, missing = self._found(name, at, visible, rows, item)
                for match in (match for match in found if match.of[0] == name):
                    of_match = match_rows(match.what, count, gap, last, visible.sum(1))
                    made[match.name] = np.where(missing, UNKNOWN, of_match)
        matches = self._schema.matches
        return np.array([made[match.name] for match in matches], np.int64).reshape(len(matches), len(rows))

    def _newest(
        self, actions: Sequence[str], length: int, rows: Index, user: npt.NDArray[np.int32]
    ) -> tuple[Index, npt.NDArray[np.bool_]]:
        """Places (U, N) of the newest behaviours before impressions, the last at the end; which are there."""
        places = self._acted[tuple(actions)]
        begin, end = self._arrays["begin"][user], self._arrays["end"][rows]
        if places is not None:
            begin, end = np.searchsorted(places, begin), np.searchsorted(places, end)
        at = end[:, None] + np.arange(-length, 0)
        visible = at >= begin[:, None]
        at = np.where(visible, at, 0)
        return (at if places is None or not len(places) else places[at]), visible

    def _found(
        self, name: str, at: Index, visible: npt.NDArray[np.bool_], rows: Index, item: npt.NDArray[np.int32]
    ) -> tuple[Index, Index, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """How many match, bucket of the newest match's gap (0: none), is it the last one, which items have no value."""
        codes, clicked, now = self._codes[name], self._arrays["clicked"], self._arrays["time"][rows]
        own = codes[item]
        count, newest = np.zeros(len(rows), np.int64), np.full(len(rows), -1)
        if len(clicked):
            count, newest = along(own, codes[clicked[at]], visible & (own >= 0)[:, None])
        gap, there = np.zeros(len(rows), np.int64), np.flatnonzero(newest >= 0)
        if len(there):
            clicked_at = self._arrays["clicked_at"][at[there, newest[there]]]
            gap[there] = time_positions(clicked_at[:, None], now[there], self._schema.history.gap_edges_s)[:, 0]
        return count, gap, newest == at.shape[1] - 1, own < 0

    def _together(
        self, name: str, at: Index, visible: npt.NDArray[np.bool_], rows: Index, item: npt.NDArray[np.int32]
    ) -> Rows:
        """Rows (U,) of the strongest cooccurrence, by what was counted until each impression's day began."""
        codes, strongest = self._codes[name], np.zeros(len(rows))
        own = codes[item]
        if len(self._arrays["clicked"]):
            seen = codes[self._arrays["clicked"][at]]
            which, place = (visible & (seen >= 0) & (own >= 0)[:, None]).nonzero()
            day = self._arrays[paired.BEGINS].searchsorted(self._arrays["time"][rows], side="right")
            of_all = self._pairs[name].strengths(
                own[which].astype(np.int64), seen[which, place].astype(np.int64), day[which]
            )
            np.maximum.at(strongest, which, of_all)
        made = strength_rows(strongest)
        made[own < 0] = UNKNOWN
        return made
