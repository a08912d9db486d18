"""A memory-mapped open-addressing table from 64-bit keys to fixed-size records, looked up for whole arrays at once.

Eight keys make a bucket, one cache line: nearly every lookup ends in its first bucket, so a whole array takes a
handful of numpy calls whatever the table's size (a binary search in ten million sorted keys costs a hundred times as
much). One `.npy` file, so that it is swapped into place at once and its pages are shared between processes.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.features.ids import FEW, MISSING, Keys, mix, mix_one

SLOTS = 8  # keys a bucket: 64 bytes
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
        self._bucket = words.size // len(buckets)  # words
        self._lines = words.view(f"V{8 * SLOTS}")  # the keys' line first
        self._fields = {name: self._field(words, name) for name in self.buckets.dtype.names or () if name != "key"}

    def _field(self, words: Keys, name: str) -> tuple[npt.NDArray[Any], int, np.dtype[Any], tuple[int, ...]]:
        """A field's values in pieces of one or more words, where its first bucket's begin, and what a value is."""
        assert self.buckets.dtype.fields
        field, offset = self.buckets.dtype.fields[name][:2]
        if field.base.itemsize != 8:
            raise ValueError(f"a table's fields are 8 bytes wide, {name!r} is {field.base.str}")
        piece = 8 * math.gcd(SLOTS, math.prod(field.shape[1:]))
        return words.view(f"V{piece}"), offset // piece, field.base, field.shape[1:]

    @classmethod
    def build(cls, keys: Keys, columns: Mapping[str, npt.NDArray[Any]]) -> "Table":
        """Table of distinct keys (n,) with a record each: `columns` maps a field's name to (n, ...).

        Raises ValueError for a key that stands twice or is MISSING.
        """
        if len(keys) and (np.unique(keys).size != len(keys) or (keys == MISSING).any()):
            raise ValueError("a table's keys must be distinct and none of them missing")
        count = 1 << max(0, int(np.ceil(np.log2(max(1, len(keys)) / (SLOTS * LOAD)))))
        fields = [(name, column.dtype, (SLOTS, *column.shape[1:])) for name, column in columns.items()]
        buckets = np.zeros(count, np.dtype([("key", "<u8", (SLOTS,)), *fields]))
        buckets["key"] = MISSING
        used = np.zeros(count, np.int64)
        waiting = np.arange(len(keys))
        bucket = (mix(keys) & np.uint64(count - 1)).astype(np.int64)
        while len(waiting):
            order = np.argsort(bucket[waiting], kind="stable")
            waiting = waiting[order]
            at = bucket[waiting]
            first = np.searchsorted(at, at)  # where this bucket's run begins
            slot = used[at] + np.arange(len(at)) - first
            fits = slot < SLOTS
            placed = waiting[fits]
            buckets["key"][at[fits], slot[fits]] = keys[placed]
            for name, column in columns.items():
                buckets[name][at[fits], slot[fits]] = column[placed]
            used += np.bincount(at[fits], minlength=count)
            waiting = waiting[~fits]
            bucket[waiting] = (bucket[waiting] + 1) % count
        return cls(buckets)

    @classmethod
    def open(cls, path: Path) -> "Table":
        """The table in a `.npy` file, memory-mapped and read-only."""
        return cls(np.load(path, mmap_mode="r"))

    def save(self, path: Path) -> None:
        np.save(path, self.buckets)

    def find(self, keys: Keys) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Where keys (n,) stand: found, bucket and slot, each (n,). Bucket and slot mean nothing where not found."""
        bucket = (mix(keys) & self._mask).view(np.int64)
        found, slot, on = self._look(keys, bucket)
        while on.size:
            bucket[on] = (bucket[on] + 1) & int(self._mask)
            found[on], slot[on], still = self._look(keys[on], bucket[on])
            on = on[still]
        found &= keys != MISSING
        return found, bucket, slot

    def _look(
        self, keys: Keys, bucket: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Looks into one bucket for each key: found, slot, and the numbers of those to look for in the next one."""
        seen = self._lines.take(bucket * (self._bucket // SLOTS)).view("<u8").reshape(-1, SLOTS)
        hit = seen == keys[:, None]
        found = hit.view(np.uint64)[:, 0] != 0  # any of eight bytes
        on = np.flatnonzero(~found & (seen[:, -1] != MISSING))  # not here, and this bucket has overflowed
        return found, hit.argmax(axis=1), on

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

    def values(self, name: str, bucket: npt.NDArray[np.int64], slot: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """A field of the records at buckets and slots (n,): (n, ...)."""
        pieces, first, dtype, shape = self._fields[name]
        size = pieces.itemsize // 8  # words
        each = math.prod(shape) // size
        place = bucket * (self._bucket // size) + (slot * each + first)
        if each > 1:
            place = place[:, None] + np.arange(each)
        found: npt.NDArray[Any] = pieces.take(place).view(dtype).reshape(len(bucket), *shape)
        return found

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

    def rows(self, keys: Keys, unknown: int) -> npt.NDArray[np.int64]:
        """Rows of keys, any shape; `unknown` where a key has none."""
        flat = keys.reshape(-1)
        if flat.size <= FEW:
            return np.array([self._row(key, unknown) for key in flat.tolist()], np.int64).reshape(keys.shape)
        found, bucket, slot = self.table.find(flat)
        return np.where(found, self.table.values("row", bucket, slot), unknown).reshape(keys.shape)

    def _row(self, key: int, unknown: int) -> int:
        place = self.table.find_one(key)
        return unknown if place is None else int(self._rows[place])

    def grown(self, keys: Keys) -> "Vocabulary":
        """This vocabulary with rows for further keys, appended; rows that exist never move.

        Keys known already are passed over.
        """
        old, bucket, slot = self.table.items()
        rows = self.table.values("row", bucket, slot)
        new = keys[~self.table.find(keys)[0] & (keys != MISSING)]
        _, first = np.unique(new, return_index=True)
        new = new[np.sort(first)]
        begin = int(rows.max()) + 1 if len(rows) else 2
        return Vocabulary.build(np.concatenate([old, new]), np.concatenate([rows, begin + np.arange(len(new))]))
