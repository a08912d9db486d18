"""The catalogue of a table of items: of it alone, or merged into the one before; and how two of them differ."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from model.cataloguing.tables import Items
from model.features.catalog import Catalog, catalogued
from model.features.ids import Keys
from model.features.kinds import ITEM_ID, Column
from model.features.schema import Schema
from model.prepared.entities import Entities, PrepareError


class Difference(NamedTuple):
    items: int
    added: int
    changed: int
    removed: int


def build(schema: Schema, table: pl.DataFrame) -> Catalog:
    """The catalogue of a table of all items. Raises PrepareError."""
    return Catalog.build(schema, *_columns(schema, table, catalogued(schema)))


def merged(older: Catalog, newer: Items, schema: Schema) -> Catalog:
    """The older catalogue with the values that the table names, and with its new items. Raises PrepareError."""
    named = [feature for feature in catalogued(schema) if feature.name in newer.table.columns]
    if catalogued(schema) and not named:
        wanted, there = (", ".join(names) for names in ([f.name for f in catalogued(schema)], newer.table.columns))
        raise PrepareError(f"items: no column of this bundle's item features ({wanted}); there are {there}")
    items, columns = _columns(schema, newer.table, named)
    own, _ = older.columns(items)  # of a new item all is missing
    for name, values in columns.items():
        rows = newer.rows(name)
        own[name][rows] = values[rows]
    kept = older.items()[~np.isin(older.items(), items)]
    others, _ = older.columns(kept)
    both = {name: np.concatenate([others[name], own[name]]) for name in own}
    return Catalog.build(schema, np.concatenate([kept, items]), both)


def _columns(schema: Schema, table: pl.DataFrame, features: Sequence[Any]) -> tuple[Keys, dict[str, Column]]:
    """Keys of the table's items, and the raw columns of these features."""
    if ITEM_ID in table.columns:
        table = table.with_columns(_whole(table[ITEM_ID]))
        ids = table[ITEM_ID]
        if not (ids.dtype.is_integer() or ids.dtype in (pl.String, pl.Categorical, pl.Enum)):
            raise PrepareError(f"items: {ITEM_ID} is {ids.dtype}, integers or strings are allowed")
        if ids.is_null().any():
            raise PrepareError(f"items: row {int(ids.is_null().arg_max() or 0) + 1} has no {ITEM_ID}")
        if not len(ids):
            raise PrepareError("items: the table has no rows")
    items = Entities(ITEM_ID, schema.item_id.type, table)
    return items.keys, {feature.name: items.column(feature) for feature in features}


def _whole(ids: pl.Series) -> pl.Series:
    """Integers that a data frame or a database holds as 21.0 or DECIMAL; others as they are."""
    if not (ids.dtype.is_float() or ids.dtype.is_decimal()):
        return ids
    integers = ids.cast(pl.Int64, strict=False)
    same = integers.cast(ids.dtype, strict=False) == ids
    return integers if same.fill_null(ids.is_null()).all() else ids


def difference(older: Catalog | None, newer: Catalog) -> Difference:
    """How many items a catalogue has, and how many are new, otherwise or gone since the older one."""
    items = newer.items()
    if older is None:
        return Difference(len(items), len(items), 0, 0)
    before, known = older.columns(items)
    after = newer.columns(items)[0]
    changed = np.zeros(len(items), bool)
    for name, values in after.items():
        unlike = (values != before[name]) & ~((values != values) & (before[name] != before[name]))  # NaN: no number
        changed |= unlike.reshape(len(items), -1).any(axis=1)
    return Difference(
        len(items), int((~known).sum()), int((changed & known).sum()), len(older.items()) - int(known.sum())
    )
