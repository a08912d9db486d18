"""Which of a user's behaviours have what a candidate has: how many, and the newest of them. The one way to find out.

Values are compared, not rows of tables: two items of which training knew neither are not one. Any numbers that tell
values apart will do, keys in serving, codes in training.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from model.features.ids import Keys

PLACES = 1 << 12  # of the marked table: some 14 for each of 100 behaviours and three features
_APART = np.uint64(0xD1B54A32D192ED03)
_ODD, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(64 - 12)

Values = npt.NDArray[Any]
Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def among(own_FC: Keys, seen_FT: Keys) -> Found:
    """Of one user's candidates: how many of the behaviours, oldest first, have their value, and the newest of these.

    Of several features at once: (F, C), (F, T) -> (F, C) counts and (F, C) places in T, -1 where none has it.
    Behaviours are sorted once. Searched among them are the candidates that may be there: most are in no place of a
    small table that one marked.
    """
    count, newest = np.zeros(own_FC.size, np.int64), np.full(own_FC.size, -1)
    if seen_FT.size:
        # Sets features apart: keys of two of them are then as rarely alike as the hashes of two texts.
        apart = _APART * np.arange(len(own_FC), dtype=np.uint64)[:, None]
        own, seen = (own_FC ^ apart).reshape(-1), (seen_FT ^ apart).reshape(-1)
        marked = np.zeros(PLACES, bool)
        marked[_place(seen)] = True
        maybe = np.flatnonzero(marked.take(_place(own)))
        order = seen.argsort(kind="stable")  # of one value, the newest last
        ordered, own = seen[order], own[maybe]
        end = ordered.searchsorted(own, side="right")
        found = end - ordered.searchsorted(own)
        count[maybe] = found
        newest[maybe] = np.where(found > 0, order.take(end - 1) % seen_FT.shape[1], -1)
    return count.reshape(own_FC.shape), newest.reshape(own_FC.shape)


def _place(keys: Keys) -> npt.NDArray[np.int64]:
    return (keys * _ODD >> _SHIFT).view(np.int64)


def along(own_U: Values, seen_UT: Values, visible_UT: npt.NDArray[np.bool_]) -> Found:
    """The same for one candidate of each of many users, whose behaviours fill `visible_UT`, oldest first.

    (U,), (U, T) -> (U,) each.
    """
    same = (seen_UT == own_U[:, None]) & visible_UT
    count = same.sum(1)
    newest = same.shape[1] - 1 - same[:, ::-1].argmax(1) if same.shape[1] else count - 1
    return count, np.where(count > 0, newest, -1)
