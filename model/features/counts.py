"""What was counted until the end of a day, by value: the one file that statistics are looked up in.

For every value of what features of kind `statistic` count (an item; a user and a tab) the file holds how often it was
shown and clicked before each of a few days, and for matches what cooccurrence.py counts. A request at `now` sees those
of the newest day that has begun: no count knows of its own day, or of what came later. The file lies beside the
catalogue and is swapped like it.
"""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from model.features import cooccurrence
from model.features.ids import Keys, crossed
from model.features.schema import Schema
from model.features.sealed import Sealed, Stamp, save, seal, unlike
from model.features.table import SLOTS, Table

FILE = "statistics.npy"
KIND = "statistic"  # what the file's own end calls it
_BEGINS = np.uint64(xxhash.xxh3_64_intdigest(b"the days' first milliseconds"))  # the record that dates the others

Floats = npt.NDArray[np.float64]


class CountsError(ValueError):
    """A file of counts that is broken or does not go with the feature table; says what is there and what is needed."""


def keys_of(counted: str, parts: Sequence[Keys]) -> Keys:
    """Keys of the values of what is `counted`, (n,) from parts (n,) or (1,); MISSING where a part is."""
    keys: Keys = crossed([counted], [parts])[0]
    return keys


def key_of_all(counted: str) -> int:
    """The key under which all impressions are counted."""
    return xxhash.xxh3_64_intdigest(f"all of {counted}".encode())


class Known(Protocol):
    """Whoever says what was counted."""

    stamp: Stamp | None
    sha256: str | None

    def begun(self, now: int) -> int:
        """How many of the days have begun at `now`."""
        ...

    def before(self, now: int, keys: Keys) -> Floats:
        """How often keys (n,) were shown and clicked until the day of `now` began, (2, n).

        0 for what was not counted, and before all days.
        """


class Counts(Sealed):
    """Counts before each of the days that begin at `begins` (D,), in ms, rising. Raises CountsError."""

    def __init__(self, table: Table, stamp: Stamp | None = None):
        self.stamp = stamp
        self.sha256: str | None = None  # as its file's own end says
        self._table = table
        place = table.find_one(int(_BEGINS))
        if place is None or set(table.buckets.dtype.names or ()) != {"key", "counts"}:
            raise CountsError("no table of counts")
        self.begins = table.buckets["counts"][place][:, 0]
        # A value's counts of one day are read alone: the file as one array of pairs, of a bucket its eight keys first.
        self._pairs = table.buckets.view("<u8").view("V16")
        self._pairs_of_bucket = table.buckets.itemsize // 16
        if not (np.isfinite(self.begins).all() and (np.diff(self.begins) > 0).all()):
            raise CountsError("its days have no order")
        self._begins: list[float] = self.begins.tolist()

    @classmethod
    def build(cls, begins: Sequence[int], keys: Keys, shown: Floats, clicks: Floats) -> "Counts":
        """Of distinct keys (n,) with counts (n, D)."""
        dates = np.asarray(begins, np.float64)[None]
        counts = np.stack([np.concatenate([dates, shown]), np.concatenate([0 * dates, clicks])], axis=-1)
        return cls(Table.build(np.append(_BEGINS, keys), {"counts": counts}))

    @classmethod
    def open(cls, path: Path, schema: Schema) -> "Counts":
        """The counts in a file, memory-mapped; its hash is not compared (`verify`). Raises CountsError, OSError."""
        stamp = Stamp.of(path)
        try:
            counts = cls(Table.open(path), stamp)
        except (ValueError, IndexError) as error:
            raise CountsError(f"{path}: {error}") from None
        sealed = seal(path, KIND)
        if sealed is None:
            raise CountsError(f"{path}: cut off, or not written by model.prepare or model.catalog")
        if sealed.declared != _declared(schema):
            raise CountsError(f"{path}: made for other statistics than features.toml declares")
        counts.sha256 = sealed.sha256
        return counts

    @staticmethod
    def verify(path: Path) -> None:
        """Compares a file with the sha256 at its own end. Raises CountsError, OSError."""
        sealed = seal(path, KIND)
        wrong = unlike(path, sealed) if sealed else "cut off, or not written by model.prepare or model.catalog"
        if wrong:
            raise CountsError(f"{path}: {wrong}")

    def save(self, path: Path, schema: Schema) -> None:
        """Writes the file beside and renames it into place."""
        save(self._table, path, KIND, _declared(schema))

    def __len__(self) -> int:
        return len(self._table.items()[0]) - 1

    @property
    def until_ms(self) -> int:
        """Until when it was counted: when the newest of the days begins."""
        return int(self.begins[-1])

    def only(self, keys: Keys) -> "Counts":
        """The counts of those of `keys` (n,), repeated or not, that are here."""
        wanted = np.unique(keys)
        known, bucket, slot = self._table.find(wanted)
        (counts,) = self._table.values(["counts"], bucket[known], slot[known])
        return Counts.build(self.begins.tolist(), wanted[known], counts[..., 0], counts[..., 1])

    @property
    def places(self) -> int:
        """How many values the file has room for."""
        return self._table.places

    def place(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Where in the file the counts of keys (n,) stand; behind all places for what was not counted."""
        return self._table.place(keys)

    def of_newest_day(self, begin: int, end: int) -> Floats:
        """How often what stands at these places was shown and clicked until the newest day, (2, n).

        0 where nothing does. Both ends lie between buckets.
        """
        counts: Floats = self._table.buckets["counts"][begin // SLOTS : end // SLOTS, :, -1].reshape(-1, 2).T
        return counts

    def begun(self, now: int) -> int:
        """As `Known` says."""
        return bisect_right(self._begins, now)

    def before(self, now: int, keys: Keys) -> Floats:
        """As `Known` says."""
        day = self.begun(now) - 1
        if day < 0:
            return np.zeros((2, len(keys)))
        known, bucket, slot = self._table.find(keys)
        place = bucket * self._pairs_of_bucket
        slot *= len(self._begins)
        place += slot
        place += SLOTS // 2 + day
        both: Floats = self._pairs.take(place).view("<f8").reshape(-1, 2).T
        if np.count_nonzero(known) < len(known):
            both *= known
        return both


class NoCounts:
    """Where a schema declares no statistics, or nothing was counted yet: all are 0."""

    stamp: Stamp | None = None
    sha256: str | None = None
    begins: Floats = np.zeros(0)

    def begun(self, now: int) -> int:
        return 0

    def before(self, now: int, keys: Keys) -> Floats:
        return np.zeros((2, len(keys)))


def _declared(schema: Schema) -> str:
    """What keys and counts mean, in 16 letters: two schemas that count alike share it."""
    types = {feature.name: feature.type for feature in schema.features}
    declared = sorted(
        {(one.counted, tuple(types[part] for part in one.of)) for one in schema.statistics}
        | {(cooccurrence.counted(name), (types[name],)) for name in schema.paired}
    )
    return xxhash.xxh3_64_hexdigest(repr(declared).encode())
