"""A memory-mapped open-addressing table from 64-bit keys to fixed-size records, looked up for whole arrays at once.

Eight keys make a bucket, one cache line: nearly every lookup ends in its first bucket, so a whole array takes a
handful of numpy calls whatever the table's size (a binary search in ten million sorted keys costs a hundred times as
much). One `.npy` file, so that it is swapped into place at once and its pages are shared between processes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.features.ids import MISSING, Keys, mix

SLOTS = 8  # keys a bucket: 64 bytes
LOAD = 0.6  # keys ÷ slots at most: about one bucket in twenty overflows into its neighbour


class Table:
    """Buckets of SLOTS keys beside SLOTS records; an empty slot holds MISSING, and slots fill from the first."""

    def __init__(self, buckets: npt.NDArray[Any]):
        self.buckets = buckets
        self._keys = buckets["key"]
        self._mask = np.uint64(len(buckets) - 1)

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
        return cls(np.lib.format.open_memmap(path, mode="r"))

    def save(self, path: Path) -> None:
        np.save(path, self.buckets)

    def find(self, keys: Keys) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Where keys (n,) stand: found, bucket and slot, each (n,). Bucket and slot mean nothing where not found."""
        bucket = (mix(keys) & self._mask).astype(np.int64)
        seen = self._keys[bucket]
        hit = seen == keys[:, None]
        slot = hit.argmax(axis=1)
        found = hit[np.arange(len(keys)), slot]
        on = np.flatnonzero(~found & (seen[:, -1] != MISSING))  # not here, and this bucket has overflowed
        while on.size:
            bucket[on] = (bucket[on] + 1) & int(self._mask)
            seen = self._keys[bucket[on]]
            hit = seen == keys[on, None]
            slot[on] = hit.argmax(axis=1)
            found[on] = hit.any(axis=1)
            on = on[~found[on] & (seen[:, -1] != MISSING)]
        return found & (keys != MISSING), bucket, slot

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
        found, bucket, slot = self.table.find(flat)
        return np.where(found, self._rows[bucket, slot], unknown).reshape(keys.shape)

    def grown(self, keys: Keys) -> "Vocabulary":
        """This vocabulary with rows for further keys, appended; rows that exist never move.

        Keys known already are passed over.
        """
        old, bucket, slot = self.table.items()
        rows = self._rows[bucket, slot]
        new = keys[~self.table.find(keys)[0] & (keys != MISSING)]
        _, first = np.unique(new, return_index=True)
        new = new[np.sort(first)]
        begin = int(rows.max()) + 1 if len(rows) else 2
        return Vocabulary.build(np.concatenate([old, new]), np.concatenate([rows, begin + np.arange(len(new))]))
