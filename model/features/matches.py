"""Which of a user's behaviours have what a candidate has: how many, and the newest of them. The one way to find out.

Values are compared, not rows of tables: two items of which training knew neither are not one. Any numbers that tell
values apart will do, keys in serving, codes in training.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

PLACES = 1 << 12  # of the marked table: some 40 for each of 100 behaviours
_ODD, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(64 - 12)

Values = npt.NDArray[Any]
Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def among(own_C: Values, seen_T: Values) -> Found:
    """Of one user's candidates: how many of the behaviours `seen_T`, oldest first, have their value, and the newest.

    (C,), (T,) of 8 bytes each -> (C,) counts and (C,) places in T, -1 where none has it. Behaviours are sorted once.
    Searched among them are the candidates that may be there: most are in no place of a small table that one marked.
    """
    count, newest = np.zeros(len(own_C), np.int64), np.full(len(own_C), -1)
    if not len(seen_T):
        return count, newest
    marked = np.zeros(PLACES, bool)
    marked[_place(seen_T)] = True
    maybe = np.flatnonzero(marked.take(_place(own_C)))
    order = seen_T.argsort(kind="stable")  # of one value, the newest last
    ordered, own = seen_T[order], own_C[maybe]
    end = ordered.searchsorted(own, side="right")
    found = end - ordered.searchsorted(own)
    count[maybe] = found
    newest[maybe] = np.where(found > 0, order.take(end - 1), -1)
    return count, newest


def _place(values: Values) -> npt.NDArray[np.int64]:
    return (values.view(np.uint64) * _ODD >> _SHIFT).view(np.int64)


def along(own_U: Values, seen_UT: Values, visible_UT: npt.NDArray[np.bool_]) -> Found:
    """The same for one candidate of each of many users, whose behaviours fill `visible_UT`, oldest first.

    (U,), (U, T) -> (U,) each.
    """
    same = (seen_UT == own_U[:, None]) & visible_UT
    count = same.sum(1)
    newest = same.shape[1] - 1 - same[:, ::-1].argmax(1) if same.shape[1] else count - 1
    return count, np.where(count > 0, newest, -1)
