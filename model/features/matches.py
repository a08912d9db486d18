"""Which of a user's behaviours have what a candidate has: how many, and the newest of them. The one way to find out.

Values are compared, not rows of tables: two items of which training knew neither are not one. Any numbers that tell
values apart will do, keys in serving, codes in training.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model.features.ids import MISSING, Keys

_APART, _ODD = np.uint64(0xD1B54A32D192ED03), np.uint64(0x9E3779B97F4A7C15)
NONE, NO_VALUE, SEEN = 0, 1, 2  # which behaviour is the newest with a candidate's value: from SEEN on one is
_NO_KEYS = np.zeros(SEEN, np.uint64)

Index = npt.NDArray[np.int64]
Values = npt.NDArray[Any]


class Found(NamedTuple):
    """What was found of several features' values, of T behaviours, oldest first, and of C candidates.

    `how_many`: behaviours have the value of one, where it is the newest that has it (F, T). `newest`: that of a
    candidate's value (F, C): NONE has it, it has NO_VALUE, or SEEN + which of all behaviours (F * T,).
    """

    how_many: Index
    newest: Index


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


def by_keys(seen_FT: Keys, own_FC: Keys) -> Found:
    """By the keys of behaviours and candidates; MISSING is no value.

    Each value has a place in a small table, where the newest behaviour with it stands. Of values that share a place
    only one stands there; the others, one in a hundred, stand in a dict.
    """
    missing = own_FC == MISSING
    seen, own = apart(seen_FT).reshape(-1), apart(own_FC).reshape(-1)
    count = len(seen)
    bits = max(14, count.bit_length() + 3)
    shift = np.uint64(64 - bits)
    # Of two bytes while they do: all of it is filled anew, and the larger it is the fewer values share a place.
    table: npt.NDArray[np.signedinteger[Any]] = np.zeros(1 << bits, np.int16 if count < 1 << 14 else np.int64)
    keys = np.concatenate([_NO_KEYS, seen])  # by what stands in the table
    places = (seen >> shift).view(np.int64)
    table[places] = np.arange(SEEN, SEEN + count)  # of one place the last
    alike = table.take(places).astype(np.int64)
    (others,) = (keys.take(alike) != seen).nonzero()
    sharing = seen.take(others).tolist()
    stand_in = dict(zip(sharing, (others + SEEN).tolist(), strict=True))  # of one key the last
    alike[others] = list(map(stand_in.__getitem__, sharing))
    newest = table.take((own >> shift).view(np.int64)).astype(np.int64)
    (others,) = ((keys.take(newest) != own) & (newest > NONE)).nonzero()
    newest[others] = [stand_in.get(key, NONE) for key in own.take(others).tolist()]
    newest = newest.reshape(own_FC.shape)
    np.copyto(newest, NO_VALUE, where=missing)
    return Found(np.bincount(alike, minlength=SEEN + count)[SEEN:].reshape(seen_FT.shape), newest)


class Codes:
    """Values of several features by numbers that tell them apart, all below `count`; 0 is no value of any feature.

    Each has a place of its own, so that nothing is hashed. One thread at a time.
    """

    def __init__(self, count: int):
        self._table = np.zeros(count, np.int64)

    def found(self, seen_FT: Index, own_FC: Index) -> Found:
        """As `by_keys`."""
        seen, count = seen_FT.reshape(-1), seen_FT.size
        try:
            self._table[seen] = np.arange(SEEN, SEEN + count)  # of one value the last
            alike = self._table.take(seen)
            self._table[0] = NO_VALUE
            newest = self._table.take(own_FC)
        finally:  # out of memory: the next request must not find these behaviours
            self._table[seen] = NONE
        return Found(np.bincount(alike, minlength=SEEN + count)[SEEN:].reshape(seen_FT.shape), newest)


def along(own_U: Values, seen_UT: Values, visible_UT: npt.NDArray[np.bool_]) -> tuple[Index, Index]:
    """Of one candidate of each of many users: how many behaviours have its value, and the newest of these; -1: none.

    Behaviours fill `visible_UT`, oldest first. (U,), (U, T) -> (U,) each.
    """
    same = (seen_UT == own_U[:, None]) & visible_UT
    count = same.sum(1)
    newest = same.shape[1] - 1 - same[:, ::-1].argmax(1) if same.shape[1] else count - 1
    return count, np.where(count > 0, newest, -1)
