"""Statistics of an item's value together with one of few that a request names (category × age), computed beforehand.

Of all known values of both: a request's own value names a line, in which each candidate's number stands.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from model.features.crossing import Crossing
from model.features.derived import Statistic
from model.features.ids import MISSING, Keys
from model.features.kinds import Rows
from model.features.lookup import Lookup, rates_first
from model.features.schema import Schema

MOST_JOINT = 1 << 21  # numbers: 8 MB of each worker
MOST_LINES = 1_000  # other values of a pair: each costs 40 µs, however few the items' values are

Pair = tuple[str, str]  # names of an item feature, and of one of user or context with a vocabulary


def pairs(schema: Schema) -> dict[Pair, list[Statistic]]:
    """The statistics that are of such pairs, of each in the order of a Lookup."""
    of_name = {feature.name: feature for feature in schema.features}
    found: dict[Pair, list[Statistic]] = {}
    for statistic in rates_first(schema.statistics):
        items, others = ([one for one in statistic.of if (of_name[one].side == "item") is own] for own in (True, False))
        if len(items) == len(others) == 1 and of_name[others[0]].has_vocabulary:
            found.setdefault((items[0], others[0]), []).append(statistic)
    return found


class Joint:
    """The statistics of one pair, of the newest day."""

    def __init__(self, pair: Pair, lookup: Lookup, items: Keys, others: Keys, now: int, pause: Callable[[], object]):
        """`items` (V,), `others` (K,): the values that are known; a place for no value is added to both.

        `pause` is called for each of `others`.
        """
        item, other = pair
        crossing, items = Crossing(lookup.groups), np.append(MISSING, items)
        self._line = {key: at for at, key in enumerate([*others.tolist(), int(MISSING)])}
        self._numbers = np.empty((len(self._line), len(items), lookup.count), np.float32)
        for line, key in zip(self._numbers, self._line, strict=True):
            pause()
            keys = crossing.keys({item: items, other: np.array([key], np.uint64)})
            line[:] = lookup.numbers(keys, True, now).T

    def numbers(self, other: int, item: Rows) -> npt.NDArray[np.float32] | None:
        """Of candidates (C,), by the number of the item's value from 1 on (0 or less: none): standardised, (C, N).

        None where the other value is not known.
        """
        line = self._line.get(other)
        return None if line is None else self._numbers[line].take(item, axis=0, mode="clip")
