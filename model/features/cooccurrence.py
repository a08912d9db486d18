"""How well a candidate's value goes with what its user did: how often users have moved between the two.

Of all users' behaviours, two that follow each other are a pair of values; of one value with itself it is none. With
n(a, b) pairs of a and b until the end of the day before, in either order, and n(a) pairs that a is in,

    strength(a, b) = n(a, b) / (sqrt(n(a) · n(b)) + SMOOTHING)

and a candidate's is the largest one that its value has with those of the newest behaviours: what is seldom seen in one
history, and a mean would drown it. It is the cosine of item-based collaborative filtering (Sarwar et al., WWW 2001),
drawn to 0 where little was counted.

Pairs lie in the file of counts (counts.py): as clicks n(a, b), as shown n(a) · n(b), so that one search finds both.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from model.features.ids import FIRST, MISSING, UNKNOWN, Keys, crossed
from model.features.kinds import Rows

SMOOTHING = 10.0  # 2 and 20 are as good on Taobao's validation (model/LOG.md, 2026-11-28)
# Of a strength above 0, the bucket by half powers of two: from 1/512 on, below it is one.
EDGES = np.exp2(-np.arange(18, 0, -1) / 2)
BUCKETS = 2 + len(EDGES)  # the first: none of the behaviours goes with it

Floats = npt.NDArray[np.float64]


def counted(feature: str) -> str:
    """Names the pairs of a feature's values, in table and keys."""
    return f"{feature} beside {feature}"


def pair_keys(feature: str, one: Keys, other: Keys) -> Keys:
    """Keys of pairs (n,) in either order; MISSING where a value is."""
    keys: Keys = crossed([counted(feature)], [[np.minimum(one, other), np.maximum(one, other)]])[0]
    return keys


def strengths(together: npt.NDArray[np.number], apart: npt.NDArray[np.number]) -> Floats:
    """Of n(a, b) and n(a) · n(b), of any shape."""
    strength: Floats = together / (np.sqrt(apart) + SMOOTHING)
    return strength


def strength_rows(strength: Floats) -> Rows:
    """Rows of the largest strengths (n,)."""
    rows: Rows = EDGES.searchsorted(strength, side="right")
    rows += strength > 0
    rows += FIRST
    return rows


def rows_of(feature: str, seen_T: Keys, own_C: Keys, before: Callable[[Keys], Floats]) -> Rows:
    """Rows (C,) of candidates with these values, of a user whose newest behaviours have those.

    `before` says what was counted of keys (n,) until the day began, (2, n).
    """
    own, place = np.unique(own_C, return_inverse=True)
    # A set: of twenty values several times as fast as np.unique. MISSING is in no pair.
    seen = np.fromiter(set(seen_T.tolist()), np.uint64)
    if not len(seen):
        rows = np.full(len(own), FIRST, np.int64)
    else:
        keys = pair_keys(feature, seen.repeat(len(own)), np.tile(own, len(seen)))
        apart, together = before(keys)
        rows = strength_rows(strengths(together, apart).reshape(len(seen), len(own)).max(axis=0))
    np.copyto(rows, UNKNOWN, where=own == MISSING)
    return rows.take(place)
