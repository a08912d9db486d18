"""Which of a user's behaviours have what a candidate has: how many, and the newest of them. The one way to find out.

Values are compared, not rows of tables: two items of which training knew neither are not one. Any numbers that tell
values apart will do, keys in serving, codes in training.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]
Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def among(own_C: Values, seen_T: Values) -> Found:
    """Of one user's candidates: how many of the behaviours `seen_T`, oldest first, have their value, and the newest.

    (C,), (T,) -> (C,) counts and (C,) places in T, -1 where none has it. The behaviours are sorted once, so that a
    candidate costs a search among them.
    """
    if not len(seen_T):
        return np.zeros(len(own_C), np.int64), np.full(len(own_C), -1)
    order = np.argsort(seen_T, kind="stable")  # of one value, the newest last
    ordered = seen_T[order]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    ends = np.r_[begins[1:], len(ordered)]
    run = np.minimum(np.searchsorted(ordered[begins], own_C), len(begins) - 1)
    there = ordered[begins][run] == own_C
    return np.where(there, (ends - begins)[run], 0), np.where(there, order[ends - 1][run], -1)


def along(own_U: Values, seen_UT: Values, visible_UT: npt.NDArray[np.bool_]) -> Found:
    """The same for one candidate of each of many users, whose behaviours fill `visible_UT`, oldest first.

    (U,), (U, T) -> (U,) each.
    """
    same = (seen_UT == own_U[:, None]) & visible_UT
    count = same.sum(1)
    newest = same.shape[1] - 1 - same[:, ::-1].argmax(1) if same.shape[1] else count - 1
    return count, np.where(count > 0, newest, -1)
