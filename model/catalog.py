"""Items that change: a new catalogue for a bundle, swapped into place while services answer with it.

    python -m model.catalog --bundle bundles/bst_mine --items items.parquet           # the file is the whole catalogue
    python -m model.catalog --bundle bundles/bst_mine --items changed.csv --merge     # updates and additions alone

The table is prepare's `items`: item_id and a column for each item feature of the bundle's `features.toml`; others are
passed over and named. `.parquet`, `.jsonl`, or `.csv`, whose multi-valued cells are JSON lists. The model stays as it
is: an item that it has not seen in training is scored by its features, a feature's value likewise by the rest.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from model.bundle.layout import CATALOG, GOLDEN_CATALOG, BundleError, located, verify_catalog
from model.bundle.reading import Bundle
from model.bundle.writing import add_golden_catalog
from model.features import schema as features_toml
from model.features.catalog import Catalog, CatalogError, catalogued
from model.features.kinds import ITEM_ID
from model.features.schema import Schema
from model.prepared.entities import Entities, PrepareError


class Difference(NamedTuple):
    items: int
    added: int
    changed: int
    removed: int


def read_items(path: Path, schema: Schema) -> pl.DataFrame:
    """The table in a file; of a CSV every column is text, so that the feature table decides what 007 is.

    Raises PrepareError, OSError.
    """
    try:
        match path.suffix:
            case ".parquet":
                return pl.read_parquet(path)
            case ".jsonl":
                return pl.read_ndjson(path, infer_schema_length=None)
            case ".csv":
                return _with_lists(pl.read_csv(path, infer_schema=False), schema)
    except pl.exceptions.PolarsError as error:
        raise PrepareError(f"{path} cannot be read: {_first_line(error)}") from None
    raise PrepareError(f"{path} given, .parquet, .csv and .jsonl are read")


def _with_lists(table: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """The table with its multi-valued columns' text as the JSON lists that it is."""
    for feature in catalogued(schema):
        if feature.listed and feature.name in table.columns:
            try:
                table = table.with_columns(pl.col(feature.name).str.json_decode(pl.List(pl.String)))
            except pl.exceptions.PolarsError as error:
                raise PrepareError(f"column {feature.name}: JSON lists are allowed: {_first_line(error)}") from None
    return table


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def build(schema: Schema, table: pl.DataFrame) -> Catalog:
    """The catalogue of an items table. Raises PrepareError."""
    if ITEM_ID in table.columns:
        ids = table[ITEM_ID]
        if not (ids.dtype.is_integer() or ids.dtype in (pl.String, pl.Categorical, pl.Enum)):
            raise PrepareError(f"items: {ITEM_ID} is {ids.dtype}, integers or strings are allowed")
        if ids.is_null().any():
            raise PrepareError(f"items: row {int(ids.is_null().arg_max() or 0) + 1} has no {ITEM_ID}")
        if not len(ids):
            raise PrepareError("items: the table has no rows")
    items = Entities(ITEM_ID, schema.item_id.type, table)
    return Catalog.build(schema, items.keys, {f.name: items.column(f) for f in catalogued(schema)})


def merged(older: Catalog, newer: Catalog, schema: Schema) -> Catalog:
    """The newer catalogue and the older one's items that it does not name."""
    kept = older.items()[~newer.columns(older.items())[1]]
    own, others = newer.columns(newer.items())[0], older.columns(kept)[0]
    columns = {name: np.concatenate([others[name], own[name]]) for name in own}
    return Catalog.build(schema, np.concatenate([kept, newer.items()]), columns)


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


def in_place(folder: Path, manifest: dict[str, Any], schema: Schema) -> Catalog:
    """The catalogue that the bundle has now, its hash compared. Raises BundleError, CatalogError."""
    verify_catalog(folder, manifest)
    return Catalog.open(folder / CATALOG, schema)


def swap(path: Path, items: Path, merge: bool) -> tuple[Path, Difference]:
    """Puts the catalogue of the table `items` into the bundle at `path`.

    Raises PrepareError, BundleError, SchemaError, OSError.
    """
    folder, manifest = located(path)
    schema = features_toml.load(folder / "features.toml")
    table = read_items(items, schema)
    newer = build(schema, table)
    unused = [name for name in table.columns if name not in {f.name for f in schema.side("item")}]
    if unused:
        print(f"catalog: passed over, no item features of this bundle: {', '.join(unused)}", file=sys.stderr)

    older: Catalog | None = None
    try:
        older = in_place(folder, manifest, schema)
    except (BundleError, CatalogError) as error:
        if merge or GOLDEN_CATALOG not in manifest["files"]:
            raise
        print(f"catalog: replaces a catalogue that is broken: {error}", file=sys.stderr)
    if GOLDEN_CATALOG not in manifest["files"]:
        add_golden_catalog(Bundle.open(folder))
    if merge and older is not None:
        newer = merged(older, newer, schema)
    newer.save(folder / CATALOG)
    return folder / CATALOG, difference(older, newer)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.catalog", description="Swap a bundle's item catalogue.")
    parser.add_argument("--bundle", type=Path, required=True, help="a bundle, or the folder with its `current`")
    parser.add_argument("--items", type=Path, required=True, help="table of items: .parquet, .csv or .jsonl")
    parser.add_argument("--merge", action="store_true", help="keep the items that the table does not name")
    arguments = parser.parse_args(argv)
    try:
        path, change = swap(arguments.bundle, arguments.items, arguments.merge)
    except (OSError, ValueError) as error:
        print(f"catalog: {error}", file=sys.stderr)
        return 1
    print(f"{change.items} items: {change.added} new, {change.changed} changed, {change.removed} gone → {path}")
    print(json.dumps({"catalog": str(path), **change._asdict()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
