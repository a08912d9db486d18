"""What was counted until the end of a day, by value: the one file that statistics are looked up in.

For every value of what features of kind `statistic` count (an item; a user and a tab) the file holds how often it was
shown and clicked before each of a few days. A request at `now` sees those of the newest day that has begun: no count
knows of its own day, or of what came later. It lies beside the catalogue and is swapped like it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from model.features.derived import Statistic
from model.features.ids import Keys, crossed
from model.features.kinds import Column
from model.features.schema import Schema
from model.features.sealed import Stamp, save, seal, unlike
from model.features.table import Table

FILE = "statistics.npy"
KIND = "statistic"  # what the file's own end calls it
_BEGINS = np.uint64(xxhash.xxh3_64_intdigest(b"the days' first milliseconds"))  # the record that dates the others

Floats = npt.NDArray[np.float64]
Pair = tuple[Floats, Floats]  # shown, clicks


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

    def before(self, now: int, keys: Keys) -> Pair:
        """Counts (n,) of keys (n,) until the day of `now` began; 0 for what was not counted, and before all days."""


class Counts:
    """Counts before each of the days that begin at `begins` (D,), in ms, rising."""

    def __init__(self, table: Table, stamp: Stamp | None = None):
        self.stamp = stamp
        self._table = table
        place = table.find_one(int(_BEGINS))
        if place is None or set(table.buckets.dtype.names or ()) != {"key", "shown", "clicks"}:
            raise CountsError("no table of counts")
        self.begins = table.buckets["shown"][place].reshape(-1)

    @classmethod
    def build(cls, begins: Sequence[int], keys: Keys, shown: Floats, clicks: Floats) -> "Counts":
        """Of distinct keys (n,) with counts (n, D)."""
        dates = np.asarray(begins, np.float64)[None]
        columns = {"shown": np.concatenate([dates, shown]), "clicks": np.concatenate([0 * dates, clicks])}
        return cls(Table.build(np.append(_BEGINS, keys), columns))

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

    def only(self, keys: Keys) -> "Counts":
        """The counts of those of `keys` (n,), repeated or not, that are here."""
        wanted = np.unique(keys)
        known, bucket, slot = self._table.find(wanted)
        shown, clicks = self._table.values(["shown", "clicks"], bucket[known], slot[known])
        return Counts.build(self.begins.tolist(), wanted[known], shown, clicks)

    def before(self, now: int, keys: Keys) -> Pair:
        """As `Known` says."""
        day = int(np.searchsorted(self.begins, now, side="right")) - 1
        if day < 0:
            return np.zeros(len(keys)), np.zeros(len(keys))
        known, bucket, slot = self._table.find(keys)
        shown, clicks = (column[..., day] * known for column in self._table.values(["shown", "clicks"], bucket, slot))
        return shown, clicks


class NoCounts:
    """Where a schema declares no statistics, or nothing was counted yet: all are 0."""

    stamp: Stamp | None = None
    begins: Floats = np.zeros(0)

    def before(self, now: int, keys: Keys) -> Pair:
        return np.zeros(len(keys)), np.zeros(len(keys))


def statistic_columns(
    statistics: Sequence[Statistic], columns: Mapping[str, Column], now: int, counts: Known, count: int
) -> dict[str, Column]:
    """The statistics of candidates (count,) of one request as raw columns, all looked up at once.

    `columns` are those of their parts, (count,) or, for all alike, (1,).
    """
    groups = {statistic.counted: statistic.of for statistic in statistics}
    keys = [keys_of(name, [columns[part] for part in of]) for name, of in groups.items()]
    of_all = np.array([key_of_all(name) for name in groups], np.uint64)
    shown, clicks = counts.before(now, np.concatenate([of_all, *keys]))
    ends = len(groups) + np.cumsum([len(key) for key in keys])
    place = {name: slice(end - len(key), end) for name, end, key in zip(groups, ends.tolist(), keys, strict=True)}
    made = {}
    for statistic in statistics:
        at, whole = place[statistic.counted], list(groups).index(statistic.counted)
        values = statistic.values(shown[at], clicks[at], shown[whole], clicks[whole])
        made[statistic.name] = np.broadcast_to(values, (count,)) if len(values) == 1 else values
    return made


def _declared(schema: Schema) -> str:
    """What keys and counts mean, in 16 letters: two schemas that count alike share it."""
    types = {feature.name: feature.type for feature in schema.features}
    declared = sorted({(one.counted, tuple(types[part] for part in one.of)) for one in schema.statistics})
    return xxhash.xxh3_64_hexdigest(repr(declared).encode())
