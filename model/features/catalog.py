"""Item id → item features: the one source of them, for training and serving, candidates and histories.

It holds raw values as keys, not rows: tomorrow's catalogue serves a bundle trained today. So it is one file that is
swapped while others read it (sealed.py).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from model.features.ids import MISSING, Keys
from model.features.kinds import ITEM_ID, Column, Feature
from model.features.schema import Schema
from model.features.sealed import BLOCK, Sealed, Stamp, save, seal, unlike
from model.features.table import Table

FOLDER = "catalog"
FILE = "items.npy"
KIND = "catalogue"  # what the file's own end calls it


class CatalogError(ValueError):
    """A catalogue file that is broken or does not fit its feature table; says what is there and what is needed."""


class Catalog(Sealed):
    """`stamp` is that of the file it was opened from, None for one that was built."""

    def __init__(self, table: Table, schema: Schema, stamp: Stamp | None = None):
        self.features = catalogued(schema)
        self.stamp = stamp
        self.sha256: str | None = None  # as its file's own end says
        self._schema = schema
        self._table = table
        self._count: int | None = None
        have = {name: table.buckets.dtype[name] for name in table.buckets.dtype.names or () if name != "key"}
        nothing = {f.name: f.empty(0) for f in self.features}
        need = {name: np.dtype((column.dtype, (8, *column.shape[1:]))) for name, column in nothing.items()}
        if have != need:
            raise CatalogError(f"catalogue with fields {have}, the feature table needs {need}")

    @classmethod
    def build(cls, schema: Schema, items: Keys, columns: Mapping[str, Column]) -> "Catalog":
        """Catalogue of distinct items (n,) with their raw columns (n,) or (n, M)."""
        return cls(Table.build(items, {f.name: columns[f.name] for f in catalogued(schema)}), schema)

    @classmethod
    def open(cls, path: Path, schema: Schema) -> "Catalog":
        """The catalogue in a file, memory-mapped; its hash is not compared (`verify`). Raises CatalogError, OSError."""
        stamp = Stamp.of(path)  # before it is opened: a file swapped in meanwhile is seen as a newer one, not missed
        try:
            catalog = cls(Table.open(path), schema, stamp)
        except (ValueError, IndexError) as error:  # IndexError: an array without fields
            raise CatalogError(f"{path}: {error}") from None
        sealed = seal(path, KIND)
        if sealed and sealed.declared != _declared(schema):
            raise CatalogError(f"{path}: made for another feature table, whose ids or features are of other types")
        catalog.sha256 = sealed.sha256 if sealed else None
        return catalog

    @staticmethod
    def verify(path: Path) -> bool:
        """Compares a file with the sha256 at its own end; False where none stands there. Raises CatalogError, OSError.

        None stands behind a file that was cut off, and behind one that a release before trailers wrote.
        """
        sealed = seal(path, KIND)
        wrong = unlike(path, sealed) if sealed else None
        if wrong:
            raise CatalogError(f"{path}: {wrong}")
        return sealed is not None

    def save(self, path: Path) -> None:
        """Writes the file beside and renames it into place, so that `path` may be one that others have open."""
        save(self._table, path, KIND, _declared(self._schema))

    def __len__(self) -> int:
        if self._count is None:
            used = self._table.buckets["key"]  # by pieces: a service counts while it answers
            pieces = (used[at : at + BLOCK // 64] for at in range(0, len(used), BLOCK // 64))
            self._count = sum(int(np.count_nonzero(piece != MISSING)) for piece in pieces)
        return self._count

    @property
    def modified_ns(self) -> int:
        """When its file was written, ns since 1970; 0 for a catalogue that was built."""
        return self.stamp.modified_ns if self.stamp else 0

    def items(self) -> Keys:
        """Keys of all items (n,), in the table's order."""
        return self._table.items()[0]

    def only(self, items: Keys) -> "Catalog":
        """The catalogue of those of `items` (n,), repeated or not, that this one has."""
        wanted = np.unique(items)
        columns, known = self.columns(wanted)
        return Catalog.build(self._schema, wanted[known], {name: column[known] for name, column in columns.items()})

    def columns(self, items: Keys) -> tuple[dict[str, Column], npt.NDArray[np.bool_]]:
        """Raw columns of items (n,) and which of them are known; an unknown item's values are missing."""
        found = self.find(items)
        return found.columns, found.known

    def find(self, items: Keys) -> "Items":
        """What is known of items (n,)."""
        known, bucket, slot = self._table.find(items)
        names = [feature.name for feature in self.features]
        columns = dict(zip(names, self._table.values(names, bucket, slot), strict=True))
        every = bool(known.all())
        if not every:
            for feature in self.features:
                columns[feature.name][~known] = feature.empty(1)[0]
        return Items(columns, known, every, self._table.places_at(known, bucket, slot))

    @property
    def places(self) -> int:
        """How many items the file has room for."""
        return self._table.places

    def every(self) -> "Items":
        """All of its items, with their ids among the columns."""
        items, bucket, slot = self._table.items()
        names = [feature.name for feature in self.features]
        columns = dict(zip(names, self._table.values(names, bucket, slot), strict=True))
        known = np.ones(len(items), bool)
        return Items({ITEM_ID: items, **columns}, known, True, self._table.places_at(known, bucket, slot))


class Items(NamedTuple):
    """Raw columns of items (n,), missing where an item is not known, and where each has its place in the file."""

    columns: dict[str, Column]
    known: npt.NDArray[np.bool_]
    all_known: bool
    place: npt.NDArray[np.int64]  # of one that is not known, behind all places


def catalogued(schema: Schema) -> Sequence[Feature]:
    """The features that a catalogue holds: all of an item's but its id, which is the key."""
    return tuple(feature for feature in schema.side("item") if feature.name != ITEM_ID)


def _declared(schema: Schema) -> str:
    """What a catalogue's keys and values mean, in 16 letters: two schemas that declare its features alike share it."""
    declared = sorted((f.name, f.kind, f.type, f.columns) for f in (schema.item_id, *catalogued(schema)))
    return xxhash.xxh3_64_hexdigest(repr(declared).encode())
