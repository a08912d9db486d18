"""Statistics of items alone (the item; its category), kept from request to request.

No user and no context changes them: they follow from catalogue, counts and day. Candidates are much the same from
request to request, and what is kept is read at one place of memory, where each count is looked up at two.
"""

import weakref
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from model.features.catalog import Catalog
from model.features.counts import Known
from model.features.crossing import Crossing
from model.features.derived import Statistic
from model.features.kinds import Column
from model.features.lookup import Lookup, groups, rates_first
from model.features.schema import Schema

MOST = 1 << 20  # items that are kept: 4 bytes for each, and 4 for each of its statistics, as they are asked for

Numbers = npt.NDArray[np.float32]


def of_items_alone(schema: Schema) -> Sequence[Statistic]:
    """The statistics whose parts are all the item's."""
    of_items = {feature.name for feature in schema.side("item")}
    return rates_first(statistic for statistic in schema.statistics if of_items.issuperset(statistic.of))


class ItemNumbers:
    """Statistics of items alone, by counts that stay as they are."""

    def __init__(
        self,
        schema: Schema,
        statistics: Sequence[Statistic],
        fitted: Mapping[str, tuple[float, float]],
        counts: Known,
        most: int = MOST,
    ):
        """`statistics`: the rates first. `fitted`: mean and deviation by name. `most`: a power of two."""
        self._counts, self._width, self._most = counts, len(statistics), most
        self._parts = sorted({part for statistic in statistics for part in statistic.of})
        self._crossing = Crossing(list(groups(schema, statistics).items()))
        self._lookup = Lookup(schema, statistics, fitted, counts)
        self._kept: _Kept | None = None

    def numbers(
        self, items: Mapping[str, Column], places: npt.NDArray[np.int64], catalog: Catalog, now: int
    ) -> Numbers:
        """The statistics (n, N), standardised, of items with these columns (n,) that stand at places of a catalogue.

        An item at NOWHERE is unknown to the catalogue, or has values of its own.
        """
        kept = self._of(catalog, self._counts.begun(now))
        if kept is None:
            return self._computed(items, slice(None), now)
        numbers, missing = kept.read(places)
        if missing.size:
            computed = self._computed(items, missing, now)
            numbers[missing] = computed
            kept.write(places[missing], computed)
        return numbers

    def _of(self, catalog: Catalog, begun: int) -> "_Kept | None":
        """What is kept of the newest day that was asked for; None for a day before it, which a replay asks for."""
        kept = self._kept
        if kept is None or kept.catalog() is not catalog or begun > kept.begun:
            kept = self._kept = _Kept(catalog, begun, self._width, self._most)
        return kept if begun == kept.begun else None

    def _computed(self, items: Mapping[str, Column], rows: npt.NDArray[np.int64] | slice, now: int) -> Numbers:
        keys = self._crossing.keys({part: items[part][rows] for part in self._parts})
        return self._lookup.numbers(keys, True, now).astype(np.float32)


class _Kept:
    """Numbers by an item's place. Where there are more places than are kept, several share one: the last is kept."""

    def __init__(self, catalog: Catalog, begun: int, width: int, most: int):
        self.catalog = weakref.ref(catalog)  # one that was swapped away is not to be kept open
        self.begun = begun
        self._mask = min(most, catalog.places) - 1
        # Of each its numbers, and whose they are: 1 + the item's place, 0 where nothing is kept. Copied whole.
        self._words = np.zeros((self._mask + 1, width + 1), np.int32)
        self._records = self._words.view(f"V{4 * (width + 1)}")[:, 0]
        self._numbers = self._words[:, :width].view(np.float32)

    def read(self, places: npt.NDArray[np.int64]) -> tuple[Numbers, npt.NDArray[np.int64]]:
        """Numbers (n, N) of items at places (n,), and which of them are not kept."""
        records = self._records.take(places & self._mask).view(np.int32).reshape(len(places), -1)
        return records[:, :-1].view(np.float32), np.flatnonzero(records[:, -1] != places + 1)

    def write(self, places: npt.NDArray[np.int64], numbers: Numbers) -> None:
        inside = np.flatnonzero(places >= 0)
        at, places = places[inside] & self._mask, places[inside]
        self._numbers[at] = numbers[inside]
        self._words[at, -1] = 1 + places
