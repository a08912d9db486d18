"""Negatives for logs that hold positives alone: items drawn from a pool, save those that the user has touched.

The draw is by rejection, for all rows at once, and exact: where rejection takes too long (one user has touched most of
a small pool), the rest is drawn from the pool less what the user touched. Same seed, same order of rows: same items.
"""

import numpy as np
import numpy.typing as npt

ROUNDS = 20  # of rejection; a row that is refused half the time is left over once in a million
NONE = -1

Ints = npt.NDArray[np.int64]


def generator(seed: int, *stream: int) -> np.random.Generator:
    """The generator of a seed and, within it, of a stream (a day)."""
    return np.random.default_rng([seed, *stream])


def draw(pool: Ints, users: Ints, touched_by: Ints, touched: Ints, rng: np.random.Generator) -> Ints:
    """An item of the pool for each of `users` (n,) that the user has not touched; NONE where there is no such item.

    An item's chance is its share of `pool`, where it may stand many times. `touched_by` and `touched` are the pairs
    (user, item) to avoid. Users and items are numbers from 0.
    """
    items = 1 + max(pool.max(initial=0), touched.max(initial=0))
    avoided = np.sort(touched_by * items + touched)
    drawn = np.full(len(users), NONE)
    left = np.arange(len(users)) if len(pool) else np.empty(0, np.int64)
    for _ in range(ROUNDS):
        proposed = pool[rng.integers(len(pool), size=len(left))] if len(left) else left
        free = ~_contains(avoided, users[left] * items + proposed)
        drawn[left[free]] = proposed[free]
        left = left[~free]
    for user in np.unique(users[left]):
        rest = pool[~_contains(avoided, user * items + pool)]
        rows = left[users[left] == user]
        if len(rest):
            drawn[rows] = rest[rng.integers(len(rest), size=len(rows))]
    return drawn


def _contains(ordered: Ints, wanted: Ints) -> npt.NDArray[np.bool_]:
    """Which of `wanted` stand in `ordered`, which rises."""
    if not len(ordered):
        return np.zeros(len(wanted), np.bool_)
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.equal(ordered[at], wanted)
