"""Impressions as columns, by what was counted before them.

What an impression is described by:

    of user, item, category and context values    smoothed click rate (log odds, as in the floor) and how often shown
    of the history that networks see              length, age of the newest behaviour; of the behaviours on the
                                                  candidate's item and on its category: number, share, age and place
    as they are                                   numbers, and categories of few values
    with `derived`                                matches and statistics, as networks see them

Where negatives were drawn, nobody was shown them: only clicks are counted then, each value's share of all. Histories
are as long as the data's `features.toml` says.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from model.evaluation.boosting.parameters import parameters
from model.features.ids import PAD
from model.features.kinds import ITEM_ID, Side
from model.prepared.loader import Prepared

Rows = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray[Any]]  # (n,) each, by name
SIDES: dict[Side, str] = {"user": "users", "item": "items", "context": "context"}  # arrays of encoded features
CHUNK = 65_536  # impressions whose histories are gathered at once


class Described:
    """Columns of any rows, by what was counted among those that were added so far."""

    def __init__(self, data: Prepared, derived: bool = False):
        self.data, self.derived, self.rows, self.clicked = data, derived, 0, 0
        self.drawn = data.meta.get("drawn_negatives", False)
        schema, items = data.encoder.schema, data.arrays["items"]
        at, embedded = schema.places("item"), [f for f in schema.side("context") if not f.is_float]
        # The values (items, k) of what stands for an item in a sequence beside its id: its category.
        self.alike = {f.name: np.ascontiguousarray(items[:, at[f.name]]) for f in schema.sequence if f.name != ITEM_ID}
        sizes = {"item": len(items), "user": len(data.arrays["users"])}
        sizes |= {f"{name} {k}": data.rows[name] for name, values in self.alike.items() for k in range(values.shape[1])}
        sizes |= {f"context {f.name} {k}": data.rows[f.name] for f in embedded for k in range(f.columns)}
        self.shown = {group: np.zeros(size, np.int64) for group, size in sizes.items()}
        self.clicks = {group: np.zeros(size, np.int64) for group, size in sizes.items()}

    @property
    def rate(self) -> float:
        return (self.clicked + 1) / (self.rows + 2)

    @property
    def categories(self) -> set[str]:
        """Names of the columns whose values have no order."""
        features = self.data.encoder.schema.features
        return {f"= {f.name}" for f in features if f.kind != "number"}

    def add(self, rows: Rows) -> None:
        for part in parts(rows):
            clicked = self.data.label[part] > 0
            self.rows, self.clicked = self.rows + len(part), self.clicked + int(clicked.sum())
            for group, value in self._values(part).items():
                np.add.at(self.shown[group], value, 1)
                np.add.at(self.clicks[group], value[clicked], 1)

    def matrix(self, rows: Rows) -> npt.NDArray[np.float32]:
        """All columns of impressions, (n, columns)."""
        stacked = [np.stack(list(self.columns(part).values()), 1).astype(np.float32) for part in parts(rows)]
        return np.concatenate(stacked)

    def columns(self, rows: Rows) -> Columns:
        seen = self._counted(rows) | self._history(rows) | self._plain(rows)
        return seen | (self._derived(rows) if self.derived else {})

    def _values(self, rows: Rows) -> Columns:
        """Which value of each group the impressions have."""
        a = self.data.arrays
        item = a["item"][rows]
        of_item = [column for values in self.alike.values() for column in values[item].T]
        return dict(zip(self.shown, [item, a["user"][rows], *of_item, *a["context"][rows].T], strict=True))

    def _counted(self, rows: Rows) -> Columns:
        columns: Columns = {}
        smoothing, rate = parameters().smoothing, self.rate
        for group, value in self._values(rows).items():
            shown, clicks = self.shown[group][value], self.clicks[group][value]
            if self.drawn:
                columns[f"clicks of {group}"] = np.log((clicks + 1) / (self.clicked + 1))
            else:
                smoothed = (clicks + smoothing * rate) / (shown + smoothing)
                columns[f"rate of {group}"] = np.log(smoothed / (1 - smoothed)) - np.log(rate / (1 - rate))
                columns[f"times of {group}"] = np.log1p(shown)
        return columns

    def _history(self, rows: Rows) -> Columns:
        """Of the newest behaviours (n, T) strictly before each impression: all, and those like the candidate."""
        a, length = self.data.arrays, self.data.encoder.schema.history.length
        item, at = a["item"][rows], a["end"][rows][:, None] - np.arange(1, length + 1)  # the newest first
        visible = at >= a["begin"][a["user"][rows]][:, None]
        at = np.where(visible, at, 0)
        clicked, age = at, np.zeros(at.shape)
        if len(a["clicked"]):
            clicked = a["clicked"][at]
            age = np.log1p(np.maximum(a["time"][rows][:, None] - a["clicked_at"][at], 0) / 1000)
        same = {"item": visible & (clicked == item[:, None])}
        for name, values in self.alike.items():
            own = values[item][:, None, None, :]  # of several values one in common is enough
            same[name] = visible & ((values[clicked][..., None] == own) & (own != PAD)).any((-1, -2))
        length_of = visible.sum(1)
        columns: Columns = {"behaviours": length_of, "age": np.where(length_of > 0, age[:, 0], np.nan)}
        for name, match in same.items():
            newest, there = match.argmax(1), match.any(1)
            columns[f"same {name}"] = match.sum(1)
            columns[f"same {name}, share"] = match.sum(1) / np.maximum(length_of, 1)
            columns[f"same {name}, age"] = np.where(there, age[np.arange(len(rows)), newest], np.nan)
            columns[f"same {name}, place"] = np.where(there, newest, np.nan)
        return columns

    def _plain(self, rows: Rows) -> Columns:
        """Numbers, and categories of few values, as they are encoded."""
        columns: Columns = {}
        a, schema = self.data.arrays, self.data.encoder.schema
        of_side = {"user": a["user"][rows], "item": a["item"][rows], "context": rows}
        for side, name in SIDES.items():
            numbers, encoded, places = a[f"{name}_numbers"][of_side[side]], a[name][of_side[side]], schema.places(side)
            floats = [f.name for f in schema.side(side) if f.is_float]
            columns |= {f"= {feature}": numbers[:, at] for at, feature in enumerate(floats)}
            for feature in schema.side(side):
                few = feature.kind == "number" or self.data.rows.get(feature.name, 0) <= parameters().most_values
                if not feature.is_float and feature.columns == 1 and few:
                    columns[f"= {feature.name}"] = encoded[:, places[feature.name].start]
        return columns

    def _derived(self, rows: Rows) -> Columns:
        """Matches, whose rows rise with what they tell, and statistics as of the day before."""
        numbers = [f.name for f in self.data.encoder.schema.side("cross") if f.is_float]
        statistics = self.data.arrays["cross_numbers"][rows]
        matches = {f"match {name}": own for name, own in self.data.matches(rows).items()}
        return matches | {f"statistic {name}": statistics[:, at] for at, name in enumerate(numbers)}


def parts(rows: Rows) -> Iterator[Rows]:
    """At least one part, so that no rows have columns, too."""
    for at in range(0, max(1, len(rows)), CHUNK):
        yield rows[at : at + CHUNK]
