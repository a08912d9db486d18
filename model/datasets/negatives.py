"""Negatives for logs that hold positives alone: items drawn from a pool, save those that the user has touched.

The draw is by rejection, for all rows at once, and exact: where rejection takes too long (one user has touched most of
a small pool), the rest is drawn from the pool less what the user touched. Same seed, same order of rows: same items.
"""

import numpy as np
import numpy.typing as npt
import polars as pl

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


def one_each(positives: pl.DataFrame, items: pl.Series, rng: np.random.Generator) -> tuple[pl.DataFrame, int]:
    """Impressions: the positives, then one negative of the same user, time and split for each; and how many lack one.

    A negative is drawn uniformly from `items`, which are unique and sorted and hold every positive, but is none of the
    user's positives, whatever their split: else a negative of train could be a positive of test. `positives` are sorted
    by user and have the columns user_id, item_id, timestamp, split.
    """
    item = items.search_sorted(positives["item_id"]).cast(pl.Int64).to_numpy()
    user = positives["user_id"].rle_id().cast(pl.Int64).to_numpy()
    drawn = draw(np.arange(len(items)), user, user, item, rng)
    has_negative = drawn != NONE
    shown = positives.select("user_id", "item_id", "timestamp", pl.lit(1, pl.Int8).alias("label"), "split")
    negatives = shown.filter(has_negative).with_columns(
        item_id=items.gather(drawn[has_negative]), label=pl.lit(0, pl.Int8)
    )
    return pl.concat([shown, negatives]), int((~has_negative).sum())


def _contains(ordered: Ints, wanted: Ints) -> npt.NDArray[np.bool_]:
    """Which of `wanted` stand in `ordered`, which rises."""
    if not len(ordered):
        return np.zeros(len(wanted), np.bool_)
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.equal(ordered[at], wanted)
