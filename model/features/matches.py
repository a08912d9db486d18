"""Which of a user's behaviours have what a candidate has: how many, and the newest of them. The one way to find out.

Values are compared, not rows of tables: two items of which training knew neither are not one. Any numbers that tell
values apart will do, keys in serving, codes in training.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from model.features.ids import Keys

_APART, _ODD = np.uint64(0xD1B54A32D192ED03), np.uint64(0x9E3779B97F4A7C15)

Index = npt.NDArray[np.int64]
Values = npt.NDArray[Any]


def apart(keys_FN: Keys) -> Keys:
    """Keys of several features that are set apart: those of two are then as rarely alike as the hashes of two texts.

    Their highest bits differ, too, however near to each other the keys were.
    """
    apart = keys_FN ^ _of_features(len(keys_FN))
    apart *= _ODD
    return apart


@lru_cache
def _of_features(count: int) -> Keys:
    return _APART * np.arange(count, dtype=np.uint64)[:, None]


class Seen:
    """One user's behaviours, oldest first, by the value that each of several features has: keys (F, T) set apart.

    Each value has a place in a small table, where the newest behaviour with it stands. Of values that share a place
    only one stands there; the others, one in a hundred, stand in a dict.
    """

    def __init__(self, seen_FT: Keys):
        self._shape = seen_FT.shape
        self._keys = seen_FT.reshape(-1)
        self._none = none = len(self._keys)
        bits = max(14, none.bit_length() + 3)
        self._shift = np.uint64(64 - bits)
        # Of two bytes while they do: all of it is filled anew, and the larger it is the fewer values share a place.
        self._newest: npt.NDArray[np.signedinteger[Any]] = np.empty(1 << bits, np.int16 if none < 1 << 15 else np.int64)
        self._newest.fill(none)
        places = self._places(self._keys)
        self._newest[places] = np.arange(none)  # of one place the last
        alike = self._newest.take(places).astype(np.int64)
        (others,) = (self._keys.take(alike) != self._keys).nonzero()
        keys = self._keys.take(others).tolist()
        self._others = dict(zip(keys, others.tolist(), strict=True))  # of one key the last
        alike[others] = list(map(self._others.__getitem__, keys))
        self._count = np.bincount(alike, minlength=none)

    @property
    def count(self) -> Index:
        """How many behaviours have its value, where one is the newest that has it (F, T)."""
        return self._count.reshape(self._shape)

    def newest(self, own_FC: Keys) -> Index:
        """Which of (F * T,) is the newest with a candidate's value (F, C); F * T where none has it."""
        if not self._none:
            return np.zeros(own_FC.shape, np.int64)
        own = own_FC.reshape(-1)
        at = self._newest.take(self._places(own)).astype(np.int64)
        (others,) = ((self._keys.take(at, mode="clip") != own) & (at < self._none)).nonzero()
        at[others] = [self._others.get(key, self._none) for key in own.take(others).tolist()]
        return at.reshape(own_FC.shape)

    def _places(self, keys: Keys) -> Index:
        return (keys >> self._shift).view(np.int64)


def along(own_U: Values, seen_UT: Values, visible_UT: npt.NDArray[np.bool_]) -> tuple[Index, Index]:
    """Of one candidate of each of many users: how many behaviours have its value, and the newest of these; -1: none.

    Behaviours fill `visible_UT`, oldest first. (U,), (U, T) -> (U,) each.
    """
    same = (seen_UT == own_U[:, None]) & visible_UT
    count = same.sum(1)
    newest = same.shape[1] - 1 - same[:, ::-1].argmax(1) if same.shape[1] else count - 1
    return count, np.where(count > 0, newest, -1)
