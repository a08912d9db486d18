"""What happened to users since an impression's day began, for training: counted anew each time, as matches are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model.datasets.tables import AS_USED
from model.features.kinds import Rows
from model.features.schema import Schema
from model.features.today import Calendar, Today
from model.prepared.slices import ends

Index = npt.NDArray[np.int64]
SHOWN = "impressions-"  # prefix of the arrays of what was shown, sorted by user and time: no [[group]] is called so


class TodayCounts:
    """Counts behaviours and impressions of a day in the arrays of a prepared data set."""

    def __init__(self, schema: Schema, arrays: Mapping[str, npt.NDArray[Any]], calendar: Calendar):
        self._schema, self._arrays, self._calendar = schema, arrays, calendar
        events = {one.event for one in schema.todays if not one.of_impressions}
        self._acted = {event: self._places(event) for event in events}

    def _places(self, event: str) -> Index | None:
        """Where behaviours of an action stand among all; None: all are."""
        actions = self._schema.history.actions
        return None if len(actions) == 1 else np.flatnonzero(self._arrays["acted"] == 1 + actions.index(event))

    def rows(self, rows: Index, user: npt.NDArray[np.int32]) -> Rows:
        """Rows (K, U) of every `today`, of impressions `rows` (U,) of these users."""
        begun = self._calendar.all_begun_ms(self._arrays["time"][rows])
        made = [one.rows_of(self._count(one, rows, user, begun)) for one in self._schema.todays]
        return np.array(made, np.int64).reshape(-1, len(rows))

    def impressions(self, rows: Index) -> Index:
        """How many impressions of the day a request at the time of each impression would have found, (U,)."""
        if AS_USED in self._arrays:
            return np.array(self._arrays[AS_USED][rows])
        begun = self._calendar.all_begun_ms(self._arrays["time"][rows])
        return self._since(SHOWN, None, rows, self._arrays["user"][rows], begun)

    def _count(self, one: Today, rows: Index, user: npt.NDArray[np.int32], begun: Index) -> Index:
        if one.of_impressions:
            return self.impressions(rows)
        return self._since("", self._acted[one.event], rows, user, begun)

    def _since(
        self, prefix: str, places: Index | None, rows: Index, user: npt.NDArray[np.int32], begun: Index
    ) -> Index:
        """How many of a group's lie between the day's begin and where the impression's history ends, (U,).

        `places`: where those that count stand among all; None: all do.
        """
        begin, times, end = (self._arrays[f"{prefix}{name}"] for name in ("begin", "clicked_at", "end"))
        last: Index = end[rows]
        if places is not None:
            begin, times, last = places.searchsorted(begin), times[places], places.searchsorted(last)
        count: Index = np.maximum(last - ends(begin, times, user, begun), 0)
        return count


def counts_impressions(schema: Schema, columns: Sequence[str]) -> bool:
    """Whether impressions of a log with these columns are to be counted: not where it says what was used."""
    return bool(schema.impressions_counted) and AS_USED not in columns
