"""Perfect hash for small vocabularies: one probe per key, about ten times fewer numpy calls than Table.

Hash and displace (Belazzougui, Botelho, Dietzfelbinger, ESA 2009): keys fall into small groups, and each group has a
number that moves its keys to places which no other key wants. Groups are placed largest first. It lives in memory,
built from a Table.
"""

import numpy as np
import numpy.typing as npt

from model.features.ids import MISSING, UNKNOWN, Keys

TRIALS = 1000  # a group of many keys needs a few dozen
_GROUP, _PLACE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)  # odd: no two keys become one


class Unplaced(ValueError):
    """Keys without a perfect hash after all trials; they are looked up in their table."""


class Direct:
    def __init__(self, keys: Keys, rows: npt.NDArray[np.int64]):
        """Of distinct keys (n,), none of them MISSING. Raises Unplaced."""
        bits = max(3, int(np.ceil(np.log2(max(1, len(keys))))) + 1)  # at most half of the places are taken
        self._to_group, self._to_place = np.uint64(64 - bits + 2), np.uint64(64 - bits)
        self._moves = np.zeros(1 << bits - 2, np.uint64)
        self._keys = np.full(1 << bits, MISSING)
        self._rows = np.full(1 << bits, UNKNOWN)
        group = (keys * _GROUP >> self._to_group).astype(np.int64)
        order = np.argsort(group, kind="stable")
        sizes = np.bincount(group, minlength=len(self._moves))
        begin = np.cumsum(sizes) - sizes
        draw = np.random.default_rng(len(keys))
        for size in range(sizes.max(), 0, -1):
            waiting = np.flatnonzero(sizes == size)
            for _ in range(TRIALS):
                member = order[begin[waiting, None] + np.arange(size)]  # (groups, size)
                moves = draw.integers(1 << 64, size=len(waiting), dtype=np.uint64)
                place = self._places(keys[member], moves[:, None])
                wanted = np.bincount(place.reshape(-1), minlength=len(self._keys))
                fits = ((wanted[place] == 1) & (self._keys[place] == MISSING)).all(axis=1)
                self._moves[waiting[fits]] = moves[fits]
                self._keys[place[fits]], self._rows[place[fits]] = keys[member[fits]], rows[member[fits]]
                waiting = waiting[~fits]
                if not len(waiting):
                    break
            else:
                raise Unplaced(f"{len(keys)} keys")

    def _places(self, keys: Keys, moves: Keys) -> npt.NDArray[np.int64]:
        place = keys ^ moves
        place *= _PLACE
        place >>= self._to_place
        return place.view(np.int64)

    def rows(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Rows of keys, any shape; UNKNOWN where a key has none."""
        group = keys * _GROUP
        group >>= self._to_group
        place = self._places(keys, self._moves.take(group.view(np.int64)))
        rows = self._rows.take(place)
        np.copyto(rows, UNKNOWN, where=self._keys.take(place) != keys)
        return rows
