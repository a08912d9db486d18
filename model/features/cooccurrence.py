"""How well a candidate's value goes with what its user did: how often users have moved between the two.

Of all users' behaviours, two that follow each other are a pair of values; of one value with itself it is none. With
n(a, b) pairs of a and b until the end of the day before, in either order, and n(a) pairs that a is in,

    strength(a, b) = n(a, b) / (sqrt(n(a) · n(b)) + SMOOTHING)

and a candidate's is the largest one that its value has with those of the newest behaviours: what is seldom seen in one
history, and a mean would drown it. It is the cosine of item-based collaborative filtering (Sarwar et al., WWW 2001),
drawn to 0 where little was counted.

Pairs lie in the file of counts (counts.py): as clicks n(a, b), as shown n(a) · n(b), so that one search finds both.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import xxhash

from model.features.ids import FIRST, MISSING, UNKNOWN, Keys, mix
from model.features.kinds import Rows

SMOOTHING = 10.0  # 2 and 20 are as good on Taobao's validation (model/LOG.md, 2026-11-28)
# Of a strength above 0, the bucket by half powers of two: from 1/512 on, below it is one.
EDGES = np.exp2(-np.arange(18, 0, -1) / 2)
BUCKETS = 2 + len(EDGES)  # the first: none of the behaviours goes with it
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
    seen = [_newest(seen_T, length) for length in lengths]
    longest = max(seen, key=len)  # which begins with the others
    strength = np.zeros((len(longest) + 1, len(own)))  # of no behaviour 0, then of each and those before it
    if longest:
        of_values = mixed(feature, np.concatenate([np.array(longest, np.uint64), own]))
        keys = joined(of_values[: len(longest), None], of_values[len(longest) :])
        apart, together = before(keys.reshape(-1)).reshape(2, *keys.shape)
        np.maximum.accumulate(strengths(together, apart), axis=0, out=strength[1:])
    rows = strength_rows(strength.take([len(one) for one in seen], axis=0))
    rows[:, own == MISSING] = UNKNOWN
    return rows.take(place, axis=1)


def _newest(seen_T: Keys, length: int) -> list[int]:
    """The different values of the newest behaviours, the newest first."""
    values = dict.fromkeys(seen_T[::-1][:length].tolist())
    values.pop(int(MISSING), None)
    return list(values)
