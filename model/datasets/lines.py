"""Delimited text, or JSON objects line by line → table, chunk by chunk, each value held to its column's declared type.

A record is a line: UTF-8, comma-separated, quoted where a field holds a comma, ended by LF or CRLF; `.gz` is unpacked.
A byte-order mark is dropped and a blank line passed over. The first line names the columns; others than the declared
ones are ignored. Everything else is a MalformedLine: the wrong number of fields, a quote that is not closed on its
line (or one stray quote would swallow the lines up to the next), bytes that are not UTF-8, a value that is not of its
column's type, a missing value where one is required. A `Form` says where a file differs: no line of names, another
separator, another encoding.
"""

import ast
import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson
import polars as pl
from tqdm import tqdm

from model.datasets.tables import BOM, MS_ALLOWED, BadLines, DataError, MalformedLine
from model.features.behaviour import EARLIEST_MS, LATEST_MS

CHUNK_BYTES = 8 << 20  # of text read at once: bounds memory, not the result
SHOWN = 60  # characters of a bad value in a message


@dataclass(frozen=True)
class Type:
    dtype: pl.DataType
    allowed: str  # for the message
    least: float = -(2**63)
    most: float = 2**63 - 1
    among: tuple[str, ...] = ()  # the texts that are allowed; none named: all are
    separator: str = ","  # between the elements of a list, in text


INT = Type(pl.Int64(), "an integer")  # also written 12.0, as tables with gaps are by pandas
FLAG = Type(pl.Int64(), "0 or 1", 0, 1)
MILLISECONDS = Type(pl.Int64(), MS_ALLOWED, EARLIEST_MS, LATEST_MS)
SECONDS = Type(
    pl.Int64(),
    f"seconds since 1970 ({EARLIEST_MS // 1000} to {LATEST_MS // 1000})",
    EARLIEST_MS // 1000,
    LATEST_MS // 1000,
)
NUMBER = Type(pl.Float64(), "a number", -1e308, 1e308)
TEXT = Type(pl.String(), "text")
DAY = Type(pl.Date(), "a day like 2022-04-10")
PATHS = Type(pl.List(pl.List(pl.String())), "a list of lists of texts")  # in objects only
TEXTS = Type(pl.List(pl.String()), "a list of texts")  # in objects only
INTS = Type(pl.List(pl.Int64()), "integers with commas between them")


@dataclass(frozen=True)
class Column:
    type: Type
    required: bool = False  # the column must be in the file, and each of its values; else a gap is null


@dataclass(frozen=True)
class Form:
    names: tuple[str, ...] = ()  # of all columns, in their order, where the file has no line that names them
    separator: str = ","  # with any other nothing is quoted
    encoding: str = "utf-8"


CSV = Form()


def read(path: Path, columns: Mapping[str, Column], bad: BadLines, form: Form = CSV) -> Iterator[pl.DataFrame]:
    """Chunks of the file with exactly `columns`, at least one chunk, in order; shows progress on stderr.

    Malformed lines are counted in `bad`, which raises MalformedLine. Raises DataError for a file that is empty, lacks a
    required column or is a broken gzip, and OSError.
    """
    with _lines(path) as more:
        header, number = list(form.names), 1  # the number of the next line, counted as editors do
        if not header:
            header, number = _header(path, more(1), columns, form), 2
        while True:
            lines = more(CHUNK_BYTES)
            numbers, fields, faults = _split(lines, number, len(header), form)
            yield _table(path, numbers, fields, faults, header, columns, bad)
            number += len(lines)
            if not lines:
                return


def read_objects(path: Path, columns: Mapping[str, Column], bad: BadLines) -> Iterator[pl.DataFrame]:
    """As `read`, for a file with a JSON object a line; keys other than `columns` are ignored, null is missing.

    A line that is no JSON is taken for a Python literal, the "loose JSON" of older public data sets.
    """
    with _lines(path) as more:
        number = 1
        while lines := more(CHUNK_BYTES):
            values: dict[str, list[Any]] = {name: [] for name in columns}
            for at, line in enumerate(lines, number):
                try:
                    record = _checked(line, columns) if line.strip() else None
                except ValueError as error:
                    bad.add(MalformedLine(path, at, str(error)))
                    continue
                if record is not None:
                    for name, kept in values.items():
                        kept.append(record.get(name))
            yield pl.DataFrame([pl.Series(name, values[name], column.type.dtype) for name, column in columns.items()])
            number += len(lines)
        if number == 1:
            raise DataError(f"{path} is empty; JSON objects with {', '.join(columns)} are needed, one a line")


@contextmanager
def _lines(path: Path) -> Iterator[Callable[[int], list[bytes]]]:
    """A function that gives the file's next lines, about as many bytes as asked for, and none at the end."""
    with (
        path.open("rb") as packed,
        tqdm(total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, delay=1, leave=False) as bar,
    ):
        text: IO[bytes] = io.BufferedReader(gzip.GzipFile(fileobj=packed)) if path.suffix == ".gz" else packed

        def more(size: int) -> list[bytes]:
            first = text.tell() == 0
            try:
                lines = text.readlines(size)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise DataError(f"{path}: broken gzip file: {error}") from None
            if first and lines:
                lines[0] = lines[0].removeprefix(BOM)
            bar.update(packed.tell() - bar.n)
            return lines

        yield more


def _header(path: Path, lines: list[bytes], columns: Mapping[str, Column], form: Form) -> list[str]:
    needed = [name for name, column in columns.items() if column.required]
    if not lines:
        raise DataError(f"{path} is empty; a first line that names the columns is needed, with {', '.join(needed)}")
    try:
        names = _fields(lines[0], form)
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


def _fields(line: bytes, form: Form) -> list[str]:
    """The fields of one line, none for a blank one. Raises ValueError with the reason."""
    text = _decoded(line, form.encoding)
    if form.separator != ",":
        text = text.rstrip("\r\n")
        return text.split(form.separator) if text else []
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise ValueError(f"fields that cannot be told apart: {error}") from None


def _decoded(line: bytes, encoding: str = "utf-8") -> str:
    try:
        return line.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte {line[error.start]:#04x} in place {error.start + 1} given, {encoding.upper()} is allowed"
        ) from None


def _split(lines: list[bytes], first: int, width: int, form: Form) -> tuple[pl.Series, pl.Series, dict[int, str]]:
    """Numbers and fields (lists of text) of the lines that have `width` of them; by number, why others have not."""
    faults: dict[int, str] = {}
    text = _unquoted(lines, form)
    if text is not None:
        split = pl.Series(text, dtype=pl.String).str.split(form.separator)
        widths = split.list.len().set(pl.Series(text, dtype=pl.String) == "", 0)
    else:
        split = pl.Series(_quoted(lines, first, form, faults), dtype=pl.List(pl.String))
        widths = split.list.len()
    stated = "are in the header" if not form.names else "are allowed"
    for at in ((widths != width) & (widths > 0)).arg_true():
        faults[first + at] = f"{widths[at]} fields given, {width} {stated}"
    whole = widths == width
    return pl.Series(np.arange(first, first + len(lines))).filter(whole), split.filter(whole), faults


def _unquoted(lines: list[bytes], form: Form) -> list[str] | None:
    """The lines as text without their ends; None where telling fields apart takes more than a search for separators."""
    try:
        text = b"".join(lines).decode(form.encoding)
    except UnicodeDecodeError:
        return None
    if form.separator == "," and '"' in text or text.count("\r") != text.count("\r\n"):
        return None
    text = text.replace("\r\n", "\n")
    return text.removesuffix("\n").split("\n") if lines else []


def _quoted(lines: list[bytes], first: int, form: Form, faults: dict[int, str]) -> list[list[str]]:
    """The fields of each line, none where there is a reason, which is added to `faults`."""
    split: list[list[str]] = []
    if form.separator == ",":
        try:
            split = list(csv.reader([line.decode(form.encoding) for line in lines], strict=True))
        except (UnicodeDecodeError, csv.Error):
            pass
    if lines and len(split) == len(lines):
        return split
    split = []  # something is wrong, or a quote runs over a line's end: find out line by line
    for number, line in enumerate(lines, first):
        try:
            split.append(_fields(line, form))
        except ValueError as error:
            split.append([])
            faults[number] = str(error)
    return split


def _table(
    path: Path,
    numbers: pl.Series,
    fields: pl.Series,
    faults: dict[int, str],
    header: list[str],
    columns: Mapping[str, Column],
    bad: BadLines,
) -> pl.DataFrame:
    values: dict[str, pl.Series] = {}
    for name, column in columns.items():
        if name not in header:
            values[name] = pl.Series(name, [None] * len(fields), column.type.dtype)
            continue
        text = fields.list.get(header.index(name)).alias(name)
        text = text.set(text == "", None)
        values[name] = _convert(text, column.type)
        refused = values[name].is_null() & text.is_not_null()
        if column.required:
            refused |= text.is_null()
        for row in refused.arg_true():
            faults.setdefault(numbers[row], _refusal(name, text[row], column.type))
    for number in sorted(faults):
        bad.add(MalformedLine(path, number, faults[number]))
    table = pl.DataFrame(values)
    return table.filter(~numbers.is_in(list(faults))) if faults else table


def _refusal(name: str, value: Any, type: Type) -> str:
    given = "nothing" if value is None else repr(value[:SHOWN] if isinstance(value, str) else value)[: SHOWN + 2]
    return f"{name}: {given} given, {type.allowed} is allowed"


def _checked(line: bytes, columns: Mapping[str, Column]) -> dict[str, Any]:
    """The object of one line, its values of their columns' types. Raises ValueError with the reason."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        record = _literal(_decoded(line).strip())
    if not isinstance(record, dict):
        raise ValueError(f"{repr(record)[:SHOWN]} given, a JSON object is allowed")
    for name, column in columns.items():
        value = record.get(name)
        if column.required if value is None else not _fits(value, column.type):
            raise ValueError(_refusal(name, value, column.type))
    return record


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"{text[:SHOWN]!r} given, a JSON object is allowed") from None


def _fits(value: Any, type: Type) -> bool:
    if type.dtype == pl.List(pl.List(pl.String)):
        return isinstance(value, list) and all(_fits(path, TEXTS) for path in value)
    if type.dtype == pl.List(pl.String):
        return isinstance(value, list) and all(isinstance(text, str) for text in value)
    if type.dtype == pl.Int64:
        return isinstance(value, int) and not isinstance(value, bool) and type.least <= value <= type.most
    return isinstance(value, str)


def _convert(text: pl.Series, type: Type) -> pl.Series:
    """Text as values of a type; null where the type refuses it."""
    if type.dtype == pl.Date:
        return text.str.to_date("%Y-%m-%d", strict=False)
    if type.dtype == pl.List(pl.Int64):
        split = text.str.split(type.separator).list.eval(pl.element().str.replace(r"^([+-]?\d+)\.0+$", "$1"))
        values = split.cast(type.dtype, strict=False)
        return values.set(values.list.eval(pl.element().is_null()).list.any(), None)
    if type.dtype == pl.Int64:
        values = text.str.replace(r"^([+-]?\d+)\.0+$", "$1").cast(pl.Int64, strict=False)
        return values.set(~values.is_between(type.least, type.most), None)
    if type.dtype == pl.Float64:
        numbers = text.cast(pl.Float64, strict=False)
        return numbers.set(~numbers.is_between(type.least, type.most), None)
    return text.set(~text.is_in(type.among), None) if type.among else text
