"""What requests ask of a catalogue's items, computed beforehand and taken by the place that an item has in its file.

Of each item: the rows of its own features, the statistics that are of the item alone, and numbers that tell apart the
values which matches compare. Of each two values of few: how well they go together, and statistics of an item's with one
that a request names (joint.py). All of it by the functions that encode, so that scores are the same to the bit. What
the catalogue cannot know is computed as ever: an item that it does not have, a candidate that carries values of its
own, and statistics on another day than the newest.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from model.features.catalog import Catalog, Items
from model.features.compared import Chosen, Keyed
from model.features.cooccurrence import Beforehand
from model.features.counts import Counts, Known
from model.features.crossing import Crossing
from model.features.ids import MISSING, Keys
from model.features.joint import MOST_JOINT, Joint, Pair, pairs
from model.features.kinds import ITEM_ID, Column, Rows, span
from model.features.lookup import Lookup
from model.features.matches import Codes, Found
from model.features.schema import Schema

MOST = 1 << 23  # numbers that are computed beforehand: 32 MB of each worker
MOST_PAIRED = 2_800  # values of which each two are computed beforehand: 8 MB of each worker
AT_ONCE = 1 << 13  # items that are computed together

Columns = Mapping[str, Column]


class ReadyItems:
    """Of one catalogue's items, by counts that stay as they are."""

    def __init__(
        self,
        schema: Schema,
        catalog: Catalog,
        counts: Known,
        rows_of: Callable[[Columns, int], Rows],
        lookup: Lookup | None,
        joints: Mapping[Pair, tuple[Lookup, Keys]],
        pause: Callable[[], object],
    ):
        """`rows_of` says which rows the item features of items (n,) have; `lookup`, what statistics of items alone.

        `joints`: what statistics of an item's value with another, and which values of the other are known. `pause` is
        called between steps.
        """
        self._catalog, self.counts, self.rows_of, self._lookup = catalog, counts, rows_of, lookup
        self._crossing = Crossing(lookup.groups if lookup else [])
        self.begins_ms = counts.until_ms if isinstance(counts, Counts) else None
        every = catalog.every()
        names = coded(schema)
        self.width = columns(schema)
        self.codes = {name: at for at, name in enumerate(names, self.width)}  # columns of what `rows_and_codes` gives
        # Side by side, since of an item both are asked for: one line of the cache.
        self._rows_and_codes = np.zeros((catalog.places + 1, self.width + len(names)), np.int32)
        _fill(self._rows_and_codes[:, : self.width], every, rows_of, pause)
        self._statistics = np.zeros((catalog.places + 1, lookup.count if lookup else 0), np.float32)
        if self.begins_ms is not None and lookup:
            _fill(self._statistics, every, partial(self.statistics_of, now=self.begins_ms), pause)
        self.begins: dict[str, int] = {}  # the code before a feature's first
        self.beforehand: dict[str, Beforehand] = {}
        self._different = 1  # codes; 0 is no value
        self.joints: dict[Pair, Joint] = {}
        most = MOST_JOINT
        for name in names:
            values = self._number(name, every)
            if name in schema.paired and name != ITEM_ID and isinstance(counts, Counts) and len(values) <= MOST_PAIRED:
                self.beforehand[name] = Beforehand(name, values, partial(counts.before, counts.until_ms), pause)
            for pair, (of_pair, others) in joints.items():
                size = (1 + len(values)) * (1 + len(others)) * of_pair.count
                if pair[0] == name and self.begins_ms is not None and size <= most:
                    self.joints[pair] = Joint(pair, of_pair, values, others, self.begins_ms, pause)
                    most -= size
        self._of_thread = threading.local()

    def _number(self, name: str, every: Items) -> Keys:
        """Codes of a feature's values, from the next one on; gives the values, in the order of their codes."""
        codes, begin = self._rows_and_codes[:, self.codes[name]], self._different
        of_items = every.columns[name]
        if name == ITEM_ID:  # each its place's, and one for all that are not known
            values = np.full(len(codes), MISSING)
            values[every.place] = of_items
            codes[:] = np.arange(begin, begin + len(codes))
        else:
            has = of_items != MISSING
            values, number = np.unique(of_items[has], return_inverse=True)
            codes[every.place[has]] = begin + number
        self._different += len(values)
        self.begins[name] = begin - 1
        return values

    def are_of(self, catalog: Catalog, counts: Known) -> bool:
        """Whether they are of these."""
        return self._catalog.shares(catalog) and (
            self.counts is counts or (isinstance(counts, Counts) and counts.shares(self.counts))
        )

    def rows_and_codes(self, place: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Rows of the item features, and behind them codes of what is compared, by places (n,): (n, columns)."""
        return self._rows_and_codes.take(place, axis=0).astype(np.int64)

    def statistics(self, place: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The statistics of items alone on the newest day, standardised, by places (n,): (n, N)."""
        return self._statistics.take(place, axis=0)

    def statistics_of(self, of_items: Columns, count: int, now: int) -> npt.NDArray[np.floating[Any]]:
        """The same, computed."""
        assert self._lookup
        return self._lookup.numbers(self._crossing.keys(of_items), True, now).T

    def table(self) -> Codes:
        """Where this thread compares codes."""
        try:
            table: Codes = self._of_thread.table
        except AttributeError:
            table = self._of_thread.table = Codes(self._different)
        return table


def _fill(
    by_place: npt.NDArray[Any],
    every: Items,
    of: Callable[[Columns, int], npt.NDArray[Any]],
    pause: Callable[[], object],
) -> None:
    for begin in range(0, len(every.place), AT_ONCE):
        pause()
        place = every.place[begin : begin + AT_ONCE]
        of_these = {name: column[begin : begin + AT_ONCE] for name, column in every.columns.items()}
        by_place[place] = of(of_these, len(place))


class OfRequest(Keyed):
    """What one request asks of them: of its behaviours (T,), and behind them its candidates; as of `now`."""

    def __init__(self, ready: ReadyItems, items: Items, columns: Columns, length: int, now: int):
        super().__init__(columns, length, ready.counts, now)
        self._ready, self._items, self._now = ready, items, now
        self._rows_and_codes = ready.rows_and_codes(items.place)
        # Two items that the catalogue does not have are not told apart by their codes.
        known = items.known
        self._coded = items.all_known or bool(known[:length].all()) or bool(known[length:].all())
        self._newest_day = ready.begins_ms is not None and now >= ready.begins_ms

    def rows(self, begin: int) -> Rows:
        """Rows of the item features, from the behaviour `begin` on."""
        rows = np.ascontiguousarray(self._rows_and_codes[begin:, : self._ready.width])
        if not self._items.all_known:
            (unknown,) = (~self._items.known[begin:]).nonzero()
            rows[unknown] = self._ready.rows_of(self._only(begin, unknown), len(unknown))
        return rows

    def statistics(self, columns: Columns) -> dict[Pair | None, npt.NDArray[np.float32]]:
        """Those that are ready, standardised (C, N): of the candidates alone (None), and of pairs.

        `columns`: of user and context, one value each.
        """
        if not self._newest_day:
            return {}
        made: dict[Pair | None, npt.NDArray[np.float32]] = {None: self._alone()}
        for (item, other), joint in self._ready.joints.items():
            if item == ITEM_ID and not self._items.known[self._length :].all():
                continue  # which are all one to a code
            numbers = joint.numbers(int(columns[other][0]), self._number(item)[self._length :])
            if numbers is not None:
                made[item, other] = numbers
        return made

    def _number(self, feature: str) -> Rows:
        """Of a feature's values, from 1 on; 0 or less: none."""
        return self._rows_and_codes[:, self._ready.codes[feature]] - self._ready.begins[feature]

    def _alone(self) -> npt.NDArray[np.float32]:
        numbers = self._ready.statistics(self._items.place[self._length :])
        if not self._items.all_known:
            (unknown,) = (~self._items.known[self._length :]).nonzero()
            if len(unknown) and numbers.size:
                of_these = self._only(self._length, unknown)
                numbers[unknown] = self._ready.statistics_of(of_these, len(unknown), self._now)
        return numbers

    def _only(self, begin: int, which: npt.NDArray[np.int64]) -> Columns:
        return {name: column[begin:][which] for name, column in self._columns.items()}

    def found(self, features: Sequence[str], chosen: Chosen) -> Found:
        """As Keyed's."""
        if not self._coded:
            return super().found(features, chosen)
        codes = self._rows_and_codes.T[span([self._ready.codes[name] for name in features])]
        return self._ready.table().found(codes[:, : self._length][:, chosen], codes[:, self._length :])

    def beside(self, feature: str, chosen: Chosen, lengths: Sequence[int]) -> Rows:
        """As Keyed's."""
        beforehand = self._ready.beforehand.get(feature)
        if beforehand is None or not self._newest_day:
            return super().beside(feature, chosen, lengths)
        number = self._number(feature)
        return beforehand.rows_of(number[: self._length][chosen], lengths, number[self._length :])


def coded(schema: Schema) -> list[str]:
    """The item features whose values have codes: matches compare them, or they are of a pair that is counted."""
    return sorted({match.of[0] for match in schema.matches} | {item for item, _ in pairs(schema)})


def columns(schema: Schema) -> int:
    """How many rows an item's own features have."""
    return sum(feature.columns for feature in schema.side("item") if not feature.is_float)


def numbers_of(schema: Schema, lookup: Lookup | None) -> int:
    """How many numbers are computed beforehand of each item."""
    return columns(schema) + len(coded(schema)) + (lookup.count if lookup else 0)
