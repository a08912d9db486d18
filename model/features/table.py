"""A memory-mapped open-addressing table from 64-bit keys to fixed-size records, looked up for whole arrays at once.

Eight keys make a bucket, one cache line: nearly every lookup ends in its first bucket, so a whole array takes a
handful of numpy calls whatever the table's size (a binary search in ten million sorted keys costs a hundred times as
much). One `.npy` file, so that it is swapped into place at once and its pages are shared between processes.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from model.features.direct import Direct, Unplaced
from model.features.ids import FEW, MISSING, UNKNOWN, Keys, mix, mix_one

SLOTS = 8  # keys per bucket: 64 bytes
SMALL = 1 << 15  # buckets: a vocabulary of up to 80 to 160 thousand ids also gets a perfect hash, of 4 to 8 MB
_PLACES, _56, _7 = np.uint64(0x0001020304050607), np.uint64(56), np.uint64(7)
LOAD = 0.6  # keys ÷ slots at most: about one bucket in twenty overflows into its neighbour


class Table:
    """Buckets of SLOTS keys beside SLOTS records; an empty slot holds MISSING, and slots fill from the first."""

    def __init__(self, buckets: npt.NDArray[Any]):
        self.buckets = np.asarray(buckets)  # a plain view of a mapped file: every operation on np.memmap costs extra
        self._keys = self.buckets["key"]
        self._mask = np.uint64(len(buckets) - 1)
        # What a lookup reads, as flat arrays whose elements are copied whole: a take of 500 lasts as long as the
        # memory does, an index of a field in records several times as long.
        words = self.buckets.view("<u8")
        self._lines = words.view(f"V{8 * SLOTS}")  # of a bucket, its keys first
        self._lines_of_bucket = self.buckets.itemsize // (8 * SLOTS)
        self._fields = {name: self._field(words, name) for name in self.buckets.dtype.names or () if name != "key"}

    def _field(self, words: Keys, name: str) -> tuple[npt.NDArray[Any], int, np.dtype[Any], tuple[int, ...]]:
        """A field from its first value on, in pieces of a few words; the pieces of a value, and what a value is."""
        assert self.buckets.dtype.fields
        field, offset = self.buckets.dtype.fields[name][:2]
        if field.base.itemsize != 8:
            raise ValueError(f"a table's fields are 8 bytes wide, {name!r} is {field.base.str}")
        size = math.prod(field.shape[1:])
        piece = math.gcd(SLOTS, size)  # of a size that every field's begin and every bucket's length are multiples of
        return words.view(f"V{8 * piece}")[offset // (8 * piece) :], size // piece, field.base, field.shape[1:]

    @classmethod
    def build(cls, keys: Keys, columns: Mapping[str, npt.NDArray[Any]]) -> "Table":
        """Table of distinct keys (n,) with a record each: `columns` maps a field's name to (n, ...).

        Raises ValueError for a key that stands twice or is MISSING.
        """
        ordered = np.sort(keys)
        if (ordered[1:] == ordered[:-1]).any() or (keys == MISSING).any():
            raise ValueError("a table's keys must be distinct and none of them missing")
        count = 1 << max(0, int(np.ceil(np.log2(max(1, len(keys)) / (SLOTS * LOAD)))))
        fields = [(name, column.dtype, (SLOTS, *column.shape[1:])) for name, column in columns.items()]
        buckets = np.zeros(count, np.dtype([("key", "<u8", (SLOTS,)), *fields]))
        buckets["key"] = MISSING
        used = np.zeros(count, np.int64)
        waiting = np.arange(len(keys), dtype=np.uint64)
        bucket = mix(keys) & np.uint64(count - 1)
        bits = np.uint64(max(1, len(keys)).bit_length())
        while len(waiting):
            # By bucket, then by their order: one word holds both, and words sort several times as fast as an argsort.
            both = np.sort(bucket << bits | waiting)
            at, waiting = (both >> bits).view(np.int64), both & ((np.uint64(1) << bits) - np.uint64(1))
            first = np.searchsorted(at, at)  # where this bucket's run begins
            slot = used[at] + np.arange(len(at)) - first
            fits = slot < SLOTS
            place, placed = (at[fits], slot[fits]), waiting[fits].view(np.int64)
            for name, column in {"key": keys, **columns}.items():
                buckets[name][place] = column[placed]
            used += np.bincount(place[0], minlength=count)
            waiting, bucket = waiting[~fits], ((at[~fits] + 1) % count).view(np.uint64)
        return cls(buckets)

    @classmethod
    def open(cls, path: Path) -> "Table":
        """The table in a `.npy` file, memory-mapped and read-only."""
        return cls(np.lib.format.open_memmap(path, mode="r"))

    def save(self, to: Path | IO[bytes]) -> None:
        np.save(to, self.buckets)

    def find(self, keys: Keys) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Where keys (n,) stand: known, bucket and slot, each (n,). Bucket and slot mean nothing where not known."""
        bucket = (mix(keys) & self._mask).view(np.int64)
        known, slot, on = self._look(keys, bucket)
        if on.size <= FEW:
            for place in on.tolist():
                found = self.find_one(int(keys[place]))
                if found:
                    known[place], (bucket[place], slot[place]) = True, found
            on = on[:0]
        while on.size:
            bucket[on] = (bucket[on] + 1) & int(self._mask)
            known[on], slot[on], still = self._look(keys[on], bucket[on])
            on = on[still]
        known &= keys != MISSING
        return known, bucket, slot

    @property
    def places(self) -> int:
        """How many records there is room for."""
        return len(self.buckets) * SLOTS

    def place(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Which of the places is that of keys (n,); behind all of them for what is not here."""
        return self.places_at(*self.find(keys))

    def places_at(
        self, known: npt.NDArray[np.bool_], bucket: npt.NDArray[np.int64], slot: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """`place` of keys by what `find` said of them (n,)."""
        place = bucket * SLOTS
        place += slot
        np.copyto(place, self.places, where=~known)
        return place

    def _look(
        self, keys: Keys, bucket: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Looks into one bucket per key: known, slot, and the places in `keys` of those that may be in the next one."""
        seen = self._lines.take(bucket * self._lines_of_bucket).view("<u8").reshape(-1, SLOTS)
        hit = (seen == keys[:, None]).view(np.uint64)[:, 0]
        known = hit != 0  # any of eight bytes
        (on,) = (hit == 0).nonzero()
        # One byte of eight is 1: times these digits, its place stands in the topmost byte. An argmax of short rows
        # takes several times as long.
        hit *= _PLACES
        hit >>= _56
        hit &= _7
        if on.size:  # not here: maybe in the next one, where this has overflowed
            on = on[seen[:, -1].take(on) != MISSING]
        return known, hit.view(np.int64), on

    def find_one(self, key: int) -> tuple[int, int] | None:
        """Bucket and slot of one key, as `find` has them."""
        bucket = mix_one(key) & int(self._mask)
        while key != MISSING:
            seen = self._keys[bucket].tolist()
            if key in seen:
                return bucket, seen.index(key)
            if seen[-1] == MISSING:
                break
            bucket = (bucket + 1) & int(self._mask)
        return None

    def values(
        self, names: Sequence[str], bucket: npt.NDArray[np.int64], slot: npt.NDArray[np.int64]
    ) -> list[npt.NDArray[Any]]:
        """Fields of the records at buckets and slots (n,): each (n, ...)."""
        places: dict[tuple[int, int], npt.NDArray[np.int64]] = {}
        values = []
        for pieces, each, dtype, shape in map(self._fields.__getitem__, names):
            key = (pieces.itemsize, each)
            if key not in places:
                place = bucket * (self.buckets.itemsize // pieces.itemsize) + slot * each
                places[key] = place if each == 1 else place[:, None] + np.arange(each)
            values.append(pieces.take(places[key]).view(dtype).reshape(len(bucket), *shape))
        return values

    def items(self) -> tuple[Keys, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """All keys (n,) with their bucket and slot, in the table's order."""
        bucket, slot = np.nonzero(self._keys != MISSING)
        return self._keys[bucket, slot], bucket, slot


class Vocabulary:
    """Explicit rows for known keys: lookups give FIRST.. for them, UNKNOWN for all others."""

    def __init__(self, table: Table):
        self.table = table
        self._rows = table.buckets["row"]

    @classmethod
    def build(cls, keys: Keys, rows: npt.NDArray[np.int64]) -> "Vocabulary":
        return cls(Table.build(keys, {"row": rows.astype("<i8")}))

    def rows(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Rows of keys, any shape; UNKNOWN where a key has none."""
        if keys.size <= FEW:
            return np.array([self._row(key) for key in keys.reshape(-1).tolist()], np.int64).reshape(keys.shape)
        if self._direct is not None:
            return self._direct.rows(keys)
        known, bucket, slot = self.table.find(keys.reshape(-1))
        (rows,) = self.table.values(["row"], bucket, slot)
        np.copyto(rows, UNKNOWN, where=~known)
        return rows.reshape(keys.shape)

    @property
    def keys(self) -> Keys:
        """The known keys (n,)."""
        return self.table.items()[0]

    def _row(self, key: int) -> int:
        place = self.table.find_one(key)
        return UNKNOWN if place is None else int(self._rows[place])

    @cached_property
    def _direct(self) -> Direct | None:
        if len(self.table.buckets) > SMALL:
            return None
        keys, bucket, slot = self.table.items()
        try:
            return Direct(keys, *self.table.values(["row"], bucket, slot))
        except Unplaced:
            return None

    def grown(self, keys: Keys) -> "Vocabulary":
        """This vocabulary with rows for further keys, appended; rows that exist never move.

        Keys known already are passed over.
        """
        old, bucket, slot = self.table.items()
        (rows,) = self.table.values(["row"], bucket, slot)
        new = keys[~self.table.find(keys)[0] & (keys != MISSING)]
        _, first = np.unique(new, return_index=True)
        new = new[np.sort(first)]
        begin = int(rows.max()) + 1 if len(rows) else 2
        return Vocabulary.build(np.concatenate([old, new]), np.concatenate([rows, begin + np.arange(len(new))]))
