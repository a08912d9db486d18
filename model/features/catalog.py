"""Item id → item features: the one source of them, for training and serving, candidates and histories.

It holds raw values as keys, not rows: a catalogue made tomorrow serves a bundle trained today.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.features.columns import Column, empty
from model.features.ids import Keys
from model.features.schema import Feature, Schema
from model.features.table import Table

FILE = "items.npy"


class CatalogError(ValueError):
    """A catalogue file that does not fit its feature table; says which field is there and which is needed."""


class Catalog:
    def __init__(self, table: Table, schema: Schema):
        self.features = catalogued(schema)
        self._table = table
        have = {name: table.buckets.dtype[name] for name in table.buckets.dtype.names or () if name != "key"}
        need = {f.name: np.dtype((empty(f, 0).dtype, (8, *empty(f, 0).shape[1:]))) for f in self.features}
        if have != need:
            raise CatalogError(f"catalogue with fields {have}, the feature table needs {need}")

    @classmethod
    def build(cls, schema: Schema, items: Keys, columns: Mapping[str, Column]) -> "Catalog":
        """Catalogue of distinct items (n,) with their raw columns (n,) or (n, M)."""
        return cls(Table.build(items, {f.name: columns[f.name] for f in catalogued(schema)}), schema)

    @classmethod
    def open(cls, path: Path, schema: Schema) -> "Catalog":
        return cls(Table.open(path), schema)

    def save(self, path: Path) -> None:
        self._table.save(path)

    def __len__(self) -> int:
        return len(self._table.items()[0])

    def columns(self, items: Keys) -> tuple[dict[str, Column], npt.NDArray[np.bool_]]:
        """Raw columns of items (n,) and which of them are known; an unknown item's values are missing."""
        known, bucket, slot = self._table.find(items)
        names = [feature.name for feature in self.features]
        found = dict(zip(names, self._table.values(names, bucket, slot), strict=True))
        if not known.all():
            for feature in self.features:
                found[feature.name][~known] = empty(feature, 1)[0]
        return found, known


def catalogued(schema: Schema) -> Sequence[Feature]:
    """The features that a catalogue holds: all of an item's but its id, which is the key."""
    return tuple(feature for feature in schema.side("item") if feature.kind != "id")
