"""A table of items, as people's tools write it: a file or a folder of parts, read with the cells that it names."""

import csv
import gzip
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from model.features.catalog import catalogued
from model.features.schema import Schema
from model.prepared.entities import PrepareError
from model.textfile import UnreadableFile, numbered_lines

READ = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")


class Items(NamedTuple):
    """A table of items. `named`: in which rows a column is named at all; a column that is not there is named in all."""

    table: pl.DataFrame
    named: Mapping[str, npt.NDArray[np.bool_]]

    def rows(self, name: str) -> npt.NDArray[np.bool_]:
        """Those in which this column is named."""
        return self.named.get(name, np.full(len(self.table), name in self.table.columns))


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
        name: np.concatenate([part.rows(name) for part in tables])
        for name in whole.columns
        if not all(part.rows(name).all() for part in tables)
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
