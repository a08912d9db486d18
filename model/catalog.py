"""What changes under a model: a new catalogue, or newer counts, swapped into a bundle while services answer with it.

    python -m model.catalog --bundle bundles/bst_mine --items items.parquet           # the file is the whole catalogue
    python -m model.catalog --bundle bundles/bst_mine --items changed.csv --merge     # updates and additions alone
    python -m model.catalog --bundle bundles/bst_mine --undo                          # back to the one before
    python -m model.catalog --bundle bundles/bst_mine --statistics data/today         # what was counted until today
    python -m model.catalog --bundle bundles/bst_mine --undo statistics               # back to the counts before

The table is prepare's `items`: item_id and a column for each item feature of the bundle's `features.toml`; others are
passed over and named. A file or a folder of parts: `.parquet`, `.csv`, `.tsv` (multi-valued cells are JSON lists),
`.jsonl`, also with `.gz`. With --merge a table may have some of the columns, and a line of JSON some of the keys: of
what it does not name the item's value stays. The model stays as it is: an item that it has not seen in training is
scored by its features, a feature's value likewise by the rest.

Counts, of features of kind `statistic`, are those of a data set prepared with a feature table that counts alike.
"""

import argparse
import csv
import gzip
import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from model import command
from model.bundle import swapping
from model.bundle.layout import CATALOG, GOLDEN_CATALOG, OLDER, PREVIOUS_CATALOG, BundleError, located, verify_catalog
from model.bundle.reading import Bundle
from model.bundle.writing import add_golden_catalog
from model.features import schema as features_toml
from model.features.catalog import Catalog, CatalogError, catalogued
from model.features.ids import Keys
from model.features.kinds import ITEM_ID, Column
from model.features.schema import Schema
from model.prepared.entities import Entities, PrepareError
from model.textfile import UnreadableFile, numbered_lines

READ = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
MOST_DROPPED = 0.1  # of the catalogue, unless --shrink says that it is meant


class Difference(NamedTuple):
    items: int
    added: int
    changed: int
    removed: int


class Items(NamedTuple):
    """A table of items. `named`: in which rows a column is named at all; a column that is not there is named in all."""

    table: pl.DataFrame
    named: Mapping[str, npt.NDArray[np.bool_]]


def read_items(path: Path, schema: Schema) -> Items:
    """The table in a file or in a folder of parts; of CSV every column is text: the feature table decides what 007 is.

    Raises PrepareError, OSError.
    """
    if not path.exists():
        raise PrepareError(f"{path} is not there")
    parts = [path]
    if path.is_dir():
        below = (part for part in sorted(path.rglob("*")) if part.is_file())
        parts = [part for part in below if not any(name[0] in "._" for name in part.relative_to(path).parts)]
        if not parts:
            raise PrepareError(f"{path} holds no part of a table; {', '.join(READ)} are read, also with .gz")
    tables = [_read(part, schema) for part in parts]
    if len(tables) == 1:
        return tables[0]
    try:
        whole = pl.concat([part.table for part in tables], how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise PrepareError(f"{path}: its parts do not go together: {_first_line(error)}") from None
    named = {
        name: np.concatenate([_named(part, name) for part in tables])
        for name in whole.columns
        if not all(_named(part, name).all() for part in tables)
    }
    return Items(whole, named)


def _read(path: Path, schema: Schema) -> Items:
    try:
        match Path(path.name.removesuffix(".gz")).suffix:
            case ".parquet":
                return Items(pl.read_parquet(path), {})
            case ".jsonl" | ".ndjson":
                return _objects(path)
            case ".csv" | ".tsv" as suffix:
                return Items(_with_lists(_delimited(path, "\t" if suffix == ".tsv" else ",;\t|"), schema), {})
    except (pl.exceptions.PolarsError, UnreadableFile, csv.Error, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise PrepareError(f"{path} cannot be read: {_first_line(error)}") from None
    raise PrepareError(f"{path} given, {', '.join(READ)} are read, also with .gz")


def _delimited(path: Path, separators: str) -> pl.DataFrame:
    """Delimited text, every value as text; split by what splits its first line into most fields, as prepare does."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        separator = max(separators, key=lambda one: len(next(csv.reader([first], delimiter=one), [])))
        file.seek(0)
        rows = csv.reader(file, delimiter=separator, strict=True)
        names = [name.strip() for name in next(rows, [])]
        if not any(names) or len(set(names)) < len(names):
            raise PrepareError(f"{path}, line 1: {first.strip()[:60]!r} given, a name for each column is needed")
        fields: list[str] = []  # of all rows: one list takes less memory than a list for each row
        for row in rows:
            if len(row) not in (0, len(names)):
                raise PrepareError(
                    f"{path}, line {rows.line_num}: {len(row)} fields given, {len(names)} are in the header"
                )
            fields += row
    columns = {name: fields[at :: len(names)] for at, name in enumerate(names)}
    return pl.DataFrame(columns, dict.fromkeys(names, pl.String)).with_columns(pl.all().replace("", None))


def _named(part: Items, name: str) -> npt.NDArray[np.bool_]:
    return part.named.get(name, np.full(len(part.table), name in part.table.columns))


def _objects(path: Path) -> Items:
    """A JSON object a line, each with the keys that it has."""
    rows: list[dict[str, Any]] = []
    for number, line in numbered_lines(path):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise PrepareError(f"{path}:{number}: no JSON: {error}") from None
        if not isinstance(row, dict):
            raise PrepareError(f"{path}:{number}: {line[:60].decode(errors='replace')} given, an object is allowed")
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    named = {name: np.fromiter((name in row for row in rows), bool, len(rows)) for name in names}
    columns = [_series(path, name, [row.get(name) for row in rows]) for name in names]
    return Items(pl.DataFrame(columns), {name: mask for name, mask in named.items() if not mask.all()})


def _series(path: Path, name: str, values: list[Any]) -> pl.Series:
    types = {type(value) for value in values} - {type(None)}
    if types == {int, str}:  # "7" and 7: the feature table says which is meant
        values = [str(value) if isinstance(value, int) else value for value in values]
    try:
        return pl.Series(name, values, strict=types != {int, float})
    except (TypeError, OverflowError, pl.exceptions.PolarsError):
        given = ", ".join(sorted(kind.__name__ for kind in types))
        raise PrepareError(f"{path}: column {name} holds {given} that do not go together") from None


def _with_lists(table: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    """The table with its multi-valued columns' text as the JSON lists that it is."""
    for feature in catalogued(schema):
        if feature.listed and feature.name in table.columns:
            try:
                table = table.with_columns(pl.col(feature.name).str.json_decode(pl.List(pl.String)))
            except pl.exceptions.PolarsError:
                wrong = next((text for text in table[feature.name] if text and not _is_list(text)), "a list in a list")
                allowed = 'a JSON list is allowed: ["a", "b"]'
                raise PrepareError(f"column {feature.name}: {wrong[:60]!r} given, {allowed}") from None
    return table


def _is_list(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except ValueError:
        return False


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


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
        rows = _named(newer, name)
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


def in_place(folder: Path, manifest: dict[str, Any], schema: Schema, name: str = CATALOG) -> Catalog:
    """The catalogue that the bundle has now, its hash compared. Raises BundleError, CatalogError."""
    verify_catalog(folder, manifest, name)
    return Catalog.open(folder / name, schema)


def swap(
    path: Path, items: Path, merge: bool = False, shrink: bool = False, keep: int = swapping.KEPT
) -> tuple[Path, Difference]:
    """Puts the catalogue of the table `items` into the bundle at `path`; the one before is kept for `undo`.

    Raises PrepareError, also where more than a tenth of the items would go and not `shrink`; BundleError, SchemaError,
    OSError.
    """
    folder, manifest = located(path)
    schema = features_toml.load(folder / "features.toml")
    table = read_items(items, schema)
    older: Catalog | None = None
    try:
        older = in_place(folder, manifest, schema)
    except (BundleError, CatalogError) as error:
        if merge or GOLDEN_CATALOG not in manifest["files"]:
            raise
        print(f"catalog: replaces a catalogue that is broken: {error}", file=sys.stderr)
    newer = merged(older, table, schema) if merge and older is not None else build(schema, table.table)
    unused = [name for name in table.table.columns if name not in {f.name for f in schema.side("item")}]
    if unused:
        print(f"catalog: passed over, no item features of this bundle: {', '.join(unused)}", file=sys.stderr)

    change = difference(older, newer)
    if older is not None and not shrink and change.removed > MOST_DROPPED * len(older):
        raise PrepareError(
            f"{items} leaves out {change.removed} of the catalogue's {len(older)} items, more than a tenth: --merge "
            "keeps them, --shrink drops them; nothing is changed"
        )
    if GOLDEN_CATALOG not in manifest["files"]:
        add_golden_catalog(Bundle.open(folder))
    kept = older is not None and any(change[1:])
    swapping.replace(folder / CATALOG, folder / PREVIOUS_CATALOG, newer.save, kept, keep)
    return folder / CATALOG, change


def undo(path: Path) -> tuple[Path, Difference]:
    """Exchanges the bundle's catalogue and the one before the last swap. Raises BundleError, CatalogError, OSError."""
    folder, manifest = located(path)
    schema = features_toml.load(folder / "features.toml")
    current, previous = folder / CATALOG, folder / PREVIOUS_CATALOG
    if not previous.is_file():
        raise BundleError(f"{previous} is not there: no catalogue before this one is kept, nothing to go back to")
    before = in_place(folder, manifest, schema, PREVIOUS_CATALOG)
    now: Catalog | None = None
    try:
        now = in_place(folder, manifest, schema)
    except (BundleError, CatalogError) as error:
        print(f"catalog: replaces a catalogue that is broken: {error}", file=sys.stderr)
    change = difference(now, before)
    swapping.exchange(current, previous, now is not None)
    return current, change


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m model.catalog", description="Swap a bundle's item catalogue, or what its statistics count."
    )
    parser.add_argument("--bundle", type=Path, required=True, help="a bundle, or the folder with its `current`")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--items", type=Path, help=f"table of items: {', '.join(READ)}, also .gz, or a folder of parts")
    what.add_argument(
        "--statistics", type=Path, metavar="PREPARED", help="newer counts: a prepared data set, or its file"
    )
    what.add_argument(
        "--undo",
        nargs="?",
        const="items",
        choices=("items", "statistics"),
        help="back to the catalogue (or the counts) before the last change; once more: forth",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--merge", action="store_true", help="keep the items, and their columns, that the table does not name"
    )
    how.add_argument("--shrink", action="store_true", help="let more than a tenth of the items go")
    how.add_argument("--older", action="store_true", help="let counts of an earlier day take the place of newer ones")
    parser.add_argument(
        "--keep",
        type=_natural,
        default=swapping.KEPT,
        metavar="N",
        help=f"files of before the previous one that stay in {OLDER} for model.replay (default: {swapping.KEPT})",
    )
    arguments = parser.parse_args(argv)
    if not arguments.items and (arguments.merge or arguments.shrink):
        parser.error("--merge and --shrink go with --items")
    if not arguments.statistics and arguments.older:
        parser.error("--older goes with --statistics")
    try:
        if arguments.statistics or arguments.undo == "statistics":
            _recount(arguments)
        else:
            _change(arguments)
    except (OSError, ValueError) as error:
        print(f"catalog: {command.words(error)}", file=sys.stderr)
        return 1
    return 0


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} given, 0 or more is allowed")
    return int(text)


def _change(arguments: argparse.Namespace) -> None:
    if arguments.undo:
        path, change = undo(arguments.bundle)
    else:
        path, change = swap(arguments.bundle, arguments.items, arguments.merge, arguments.shrink, arguments.keep)
    print(f"{change.items} items: {change.added} new, {change.changed} changed, {change.removed} gone → {path}")
    if any(change[1:]):
        print(f"the catalogue before is kept: python -m model.catalog --bundle {arguments.bundle} --undo")
    print(json.dumps({"catalog": str(path), **change._asdict()}))


def _recount(arguments: argparse.Namespace) -> None:
    if arguments.undo:
        made = swapping.undo_counts(arguments.bundle)
    else:
        made = swapping.swap_counts(arguments.bundle, arguments.statistics, arguments.older, arguments.keep)
    days = ", ".join(swapping.day(begin) for begin in made.begins)
    print(f"{made.values} values, counted until {swapping.day(made.begins[-1])} → {made.path}")
    print(f"as known when each of {len(made.begins)} days began: {days}")
    if made.kept:
        print(f"the counts before are kept: python -m model.catalog --bundle {arguments.bundle} --undo statistics")
    counted = {"values": made.values, "days": made.begins, "counted_until": made.begins[-1]}
    print(json.dumps({"statistics": str(made.path), **counted}))


if __name__ == "__main__":
    command.run(main, "catalog", "catalogue and counts are as they were")
