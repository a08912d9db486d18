"""Delimited text → table, chunk by chunk, each value held to its column's declared type.

A record is a line: UTF-8, comma-separated, quoted where a field holds a comma, ended by LF or CRLF; `.gz` is unpacked.
A byte-order mark is dropped and a blank line passed over. The first line names the columns; others than the declared
ones are ignored. Everything else is a MalformedLine: the wrong number of fields, a quote that is not closed on its
line (or one stray quote would swallow the lines up to the next), bytes that are not UTF-8, a value that is not of its
column's type, a missing value where one is required.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import polars as pl
from tqdm import tqdm

from model.datasets.tables import MS_ALLOWED, BadLines, DataError, MalformedLine
from model.features.behaviour import EARLIEST_MS, LATEST_MS

CHUNK_BYTES = 8 << 20  # of text read at once: bounds memory, not the result
SHOWN = 60  # characters of a bad value in a message


@dataclass(frozen=True)
class Type:
    dtype: pl.DataType
    allowed: str  # for the message
    least: int = -(2**63)
    most: int = 2**63 - 1


INT = Type(pl.Int64(), "an integer")  # also written 12.0, as tables with gaps are by pandas
FLAG = Type(pl.Int64(), "0 or 1", 0, 1)
MILLISECONDS = Type(pl.Int64(), MS_ALLOWED, EARLIEST_MS, LATEST_MS)
TEXT = Type(pl.String(), "text")
DAY = Type(pl.Date(), "a day like 2022-04-10")
INTS = Type(pl.List(pl.Int64()), "integers with commas between them")


@dataclass(frozen=True)
class Column:
    type: Type
    required: bool = False  # the column must be in the file, and each of its values; else a gap is null


def read(path: Path, columns: Mapping[str, Column], bad: BadLines) -> Iterator[pl.DataFrame]:
    """Chunks of the file with exactly `columns`, at least one chunk, in order; shows progress on stderr.

    Malformed lines are counted in `bad`, which raises MalformedLine. Raises DataError for a file that is empty, lacks a
    required column or is a broken gzip, and OSError.
    """
    with (
        path.open("rb") as packed,
        tqdm(total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, delay=1, leave=False) as bar,
    ):
        text: IO[bytes] = io.BufferedReader(gzip.GzipFile(fileobj=packed)) if path.suffix == ".gz" else packed
        header = _header(path, text, columns)
        number = 2  # of the next line, counted as editors do
        while True:
            lines = _read(path, text, CHUNK_BYTES)
            rows, faults = _split(lines, number, len(header))
            yield _table(path, rows, faults, header, columns, bad)
            number += len(lines)
            bar.update(packed.tell() - bar.n)
            if not lines:
                return


def _read(path: Path, text: IO[bytes], size: int) -> list[bytes]:
    try:
        return text.readlines(size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: broken gzip file: {error}") from None


def _header(path: Path, text: IO[bytes], columns: Mapping[str, Column]) -> list[str]:
    needed = [name for name, column in columns.items() if column.required]
    lines = _read(path, text, 1)
    if not lines:
        raise DataError(f"{path} is empty; a first line that names the columns is needed, with {', '.join(needed)}")
    try:
        names = _fields(lines[0].removeprefix(b"\xef\xbb\xbf"))
    except ValueError as error:
        raise MalformedLine(path, 1, str(error)) from None
    missing = [name for name in needed if name not in names]
    if missing:
        there = ", ".join(names)
        raise DataError(f"{path} has no column {', '.join(missing)}; there are {there[: 20 * SHOWN]}")
    twice = [name for name in columns if names.count(name) > 1]
    if twice:
        raise DataError(f"{path} has several columns called {', '.join(twice)}; one of each is allowed")
    return names


def _fields(line: bytes) -> list[str]:
    """The fields of one line, none for a blank one. Raises ValueError with the reason."""
    try:
        return next(csv.reader([line.decode()], strict=True), [])
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {line[error.start]:#04x} in place {error.start + 1} given, UTF-8 is allowed") from None
    except csv.Error as error:
        raise ValueError(f"fields that cannot be told apart: {error}") from None


def _split(lines: list[bytes], first: int, width: int) -> tuple[dict[int, list[str]], dict[int, str]]:
    """Fields by line number, and the reasons why other lines have none."""
    faults: dict[int, str] = {}
    try:
        split = list(csv.reader([line.decode() for line in lines], strict=True))
    except (UnicodeDecodeError, csv.Error):
        split = []
    if len(split) != len(lines):  # something is wrong, or a quote runs over a line's end: find out line by line
        split = []
        for number, line in enumerate(lines, first):
            try:
                split.append(_fields(line))
            except ValueError as error:
                split.append([])
                faults[number] = str(error)
    rows = {}
    for number, fields in enumerate(split, first):
        if len(fields) == width:
            rows[number] = fields
        elif fields:
            faults[number] = f"{len(fields)} fields given, {width} are in the header"
    return rows, faults


def _table(
    path: Path,
    rows: dict[int, list[str]],
    faults: dict[int, str],
    header: list[str],
    columns: Mapping[str, Column],
    bad: BadLines,
) -> pl.DataFrame:
    numbers = list(rows)
    made: dict[str, pl.Series] = {}
    for name, column in columns.items():
        if name not in header:
            made[name] = pl.Series(name, [None] * len(rows), column.type.dtype)
            continue
        place = header.index(name)
        given = pl.Series(name, [fields[place] for fields in rows.values()], pl.String)
        given = given.set(given == "", None)
        made[name] = _convert(given, column.type)
        refused = made[name].is_null() & given.is_not_null()
        if column.required:
            refused |= given.is_null()
        for row in refused.arg_true():
            shown = "nothing" if given[row] is None else repr(given[row][:SHOWN])
            faults.setdefault(numbers[row], f"{name}: {shown} given, {column.type.allowed} is allowed")
    for number in sorted(faults):
        bad.add(MalformedLine(path, number, faults[number]))
    table = pl.DataFrame(made)
    return table.filter(~pl.Series(numbers, dtype=pl.Int64).is_in(list(faults))) if faults else table


def _convert(given: pl.Series, type: Type) -> pl.Series:
    """Text as values of a type; null where the type refuses it."""
    if type.dtype == pl.Date:
        return given.str.to_date("%Y-%m-%d", strict=False)
    if type.dtype == pl.List(pl.Int64):
        values = given.str.split(",").cast(type.dtype, strict=False)
        return values.set(values.list.eval(pl.element().is_null()).list.any(), None)
    if type.dtype == pl.Int64:
        values = given.str.replace(r"^([+-]?\d+)\.0+$", "$1").cast(pl.Int64, strict=False)
        return values.set(~values.is_between(type.least, type.most), None)
    return given
