"""How well a candidate's value goes with what its user did: how often users have moved between the two.

Of all users' behaviours, two that follow each other are a pair of values; of one value with itself it is none. With
n(a, b) pairs of a and b until the end of the day before, in either order, and n(a) pairs that a is in,

    strength(a, b) = n(a, b) / (sqrt(n(a) · n(b)) + SMOOTHING)

and a candidate's is the largest one that its value has with those of the newest behaviours: what is seldom seen in one
history, and a mean would drown it. It is the cosine of item-based collaborative filtering (Sarwar et al., WWW 2001),
drawn to 0 where little was counted.

Pairs lie in the file of counts (counts.py): as clicks n(a, b), as shown n(a) · n(b), so that one search finds both.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from model.features.ids import FIRST, MISSING, UNKNOWN, Keys, mix
from model.features.kinds import Rows

SMOOTHING = 10.0  # 2 and 20 are as good on Taobao's validation (model/LOG.md, 2026-11-28)
# Of a strength above 0, the bucket by half powers of two: from 1/512 on, below it is one.
EDGES = np.exp2(-np.arange(18, 0, -1) / 2)
BUCKETS = 2 + len(EDGES)  # the first: none of the behaviours goes with it
PAUSE = 50  # values, each with all others
_NO_HOLE = np.uint64(2)  # a bit that the keys of no value do not have

Floats = npt.NDArray[np.float64]


def counted(feature: str) -> str:
    """Names the pairs of a feature's values, in table and keys."""
    return f"{feature} beside {feature}"


def mixed(feature: str, values: Keys) -> Keys:
    """What `joined` makes keys of: of each value alone, so that a table of pairs costs but a sum."""
    of_values: Keys = mix(values ^ _seed(feature))
    return of_values


@lru_cache
def _seed(feature: str) -> np.uint64:
    return np.uint64(xxhash.xxh3_64_intdigest(counted(feature).encode()))


def joined(one: Keys, other: Keys) -> Keys:
    """Keys of pairs of mixed values, arrays that broadcast; the same in either order."""
    keys: Keys = one + other
    keys |= _NO_HOLE
    return keys


def strengths(together: npt.NDArray[np.number], apart: npt.NDArray[np.number]) -> Floats:
    """Of n(a, b) and n(a) · n(b), of any shape."""
    strength: Floats = together / (np.sqrt(apart) + SMOOTHING)
    return strength


def strength_rows(strength: Floats) -> Rows:
    """Rows of the largest strengths, of any shape."""
    rows: Rows = EDGES.searchsorted(strength, side="right")
    rows += strength > 0
    rows += FIRST
    return rows


def rows_of(feature: str, seen_T: Keys, lengths: Sequence[int], own_C: Keys, before: Callable[[Keys], Floats]) -> Rows:
    """Rows (lengths, C) of candidates with these values, of a user whose behaviours have those, oldest first.

    A row of each length looks at so many of the newest. `before` says what was counted of keys (n,) until the day
    began, (2, n).
    """
    own, place = np.unique(own_C, return_inverse=True)
    newest = newest_first(seen_T[-max(lengths) :], int(MISSING))
    strength = np.zeros((len(newest) + 1, len(own)))  # of no behaviour 0, then of each and those before it
    if newest:
        of_values = mixed(feature, np.concatenate([np.array(list(newest), np.uint64), own]))
        keys = joined(of_values[: len(newest), None], of_values[len(newest) :])
        apart, together = before(keys.reshape(-1)).reshape(2, *keys.shape)
        np.maximum.accumulate(strengths(together, apart), axis=0, out=strength[1:])
    rows = strength_rows(strength.take([among(newest, length) for length in lengths], axis=0))
    rows[:, own == MISSING] = UNKNOWN
    return rows.take(place, axis=1)


def newest_first(seen_T: npt.NDArray[Any], no_value: int) -> dict[int, int]:
    """The different values of behaviours, the newest first, and how many are newer than the newest with each."""
    newest: dict[int, int] = {}
    for newer, value in enumerate(seen_T[::-1].tolist()):
        newest.setdefault(value, newer)
    newest.pop(no_value, None)
    return newest


def among(newest: Mapping[int, int], length: int) -> int:
    """How many of these are those of the newest `length` behaviours: the first so many."""
    return sum(newer < length for newer in newest.values())


class Beforehand:
    """Rows of all pairs of few values (V,), by what was counted until a day; of no value, number 0, and all values.

    A candidate without a value is UNKNOWN beside any behaviour, and goes with none that has no value.
    """

    def __init__(
        self, feature: str, values: Keys, before: Callable[[Keys], Floats], pause: Callable[[], object] = lambda: None
    ):
        """`pause` is called now and then."""
        of_values = mixed(feature, values)
        self._rows = np.full((len(values) + 1, len(values) + 1), FIRST, np.uint8)  # of behaviours, of candidates
        self._rows[:, 0] = UNKNOWN
        for at in range(len(values)):  # in either order they are the same
            if at % PAUSE == 0:
                pause()
            apart, together = before(joined(of_values[at], of_values[at:]))
            rows = strength_rows(strengths(together, apart))
            self._rows[at + 1, at + 1 :] = self._rows[at + 1 :, at + 1] = rows

    def rows_of(self, seen_T: Rows, lengths: Sequence[int], own_C: Rows) -> Rows:
        """As `rows_of`, of values by their number from 1 on; 0 or less: none."""
        newest = newest_first(np.maximum(seen_T[-max(lengths) :], 0), 0)
        of_each = self._rows.take([0, *newest], axis=0).take(own_C, axis=1, mode="clip")
        np.maximum.accumulate(of_each, axis=0, out=of_each)
        return of_each.take([among(newest, length) for length in lengths], axis=0).astype(np.int64)
