"""Which of a user's behaviours have what a candidate has: how many, and the newest of them. The one way to find out.

Values are compared, not rows of tables: two items of which training knew neither are not one. Any numbers that tell
values apart will do, keys in serving, codes in training.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from model.features.ids import Keys

_APART = np.uint64(0xD1B54A32D192ED03)

Index = npt.NDArray[np.int64]
Values = npt.NDArray[Any]


def apart(features: int) -> Keys:
    """What sets the keys of several features apart (F, 1), by `^`: those of two are then as rarely alike as hashes."""
    return _APART * np.arange(features, dtype=np.uint64)[:, None]


class Sorted:
    """One user's behaviours, sorted by value: by each of several features, whose keys (F, T) are set apart."""

    def __init__(self, seen_FT: Keys):
        """Oldest first."""
        seen, self._length = seen_FT.reshape(-1), seen_FT.shape[1]
        order = seen.argsort(kind="stable")  # of one value, the newest last
        self._keys = seen.take(order)
        self.place = order % max(1, self._length)  # in T, of each (F * T,)
        self._first = self._keys.searchsorted(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def count(self) -> Index:
        """How many behaviours of its value there are, up to each (F * T,)."""
        return np.arange(1, 1 + len(self)) - self._first

    @property
    def last(self) -> npt.NDArray[np.bool_]:
        """Which are the newest behaviour of all (F * T,)."""
        newest: npt.NDArray[np.bool_] = self.place == self._length - 1
        return newest

    def newest(self, own_FC: Keys) -> Index:
        """Which of (F * T,) is the newest with a candidate's value, (F, C); F * T where none has it."""
        none = len(self)
        if not none:
            return np.zeros(own_FC.shape, np.int64)
        own = own_FC.reshape(-1)
        at = self._keys.searchsorted(own, side="right")
        at -= 1
        np.copyto(at, none, where=self._keys.take(at, mode="wrap") != own)
        return at.reshape(own_FC.shape)


def along(own_U: Values, seen_UT: Values, visible_UT: npt.NDArray[np.bool_]) -> tuple[Index, Index]:
    """Of one candidate of each of many users: how many behaviours have its value, and the newest of these; -1: none.

    Behaviours fill `visible_UT`, oldest first. (U,), (U, T) -> (U,) each.
    """
    same = (seen_UT == own_U[:, None]) & visible_UT
    count = same.sum(1)
    newest = same.shape[1] - 1 - same[:, ::-1].argmax(1) if same.shape[1] else count - 1
    return count, np.where(count > 0, newest, -1)
