"""Tables ready to be cast: Parquet as it lies, text read once into Parquet; and where a row stood in the user's file.

Row numbers of Parquet come from its reader. A text file's records are counted as they are read; only where one of them
is refused the file is read again up to it, to tell its line. Lines that cannot be told apart into fields are no
records: DuckDB keeps them as rejects, with the reason.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from model.datasets.own.sources import (
    OBJECTS,
    PARQUET,
    TEXT,
    Scan,
    Source,
    csv_relation,
    objects_relation,
)
from model.datasets.tables import BOM, DataError, MalformedLine, unpacked
from model.engine import first_line, literal, quoted

REJECTS = 100_000  # lines of one file that are kept to be told; the file is hopeless where there are more
VIRTUAL = ("file_index", "file_row_number")  # columns that DuckDB adds to Parquet's own
ROW = '"{row of the file}"'
Reject = tuple[int, str, str, str]  # place of its first byte from 1, kind, message, text
IS_OBJECT = "{is an object}"  # beside the keys of JSON lines


@dataclass(frozen=True)
class Piece:
    """Files of Parquet with the same columns, and what they hold of the user's table."""

    files: tuple[Path, ...]  # the user's own
    format: str
    relation: str
    columns: Mapping[str, str]
    expressions: Mapping[str, str]
    rows: int
    separator: str = ","
    rejects: tuple[MalformedLine, ...] = ()  # lines that are no records
    place: tuple[str, str] = ("file_index", "file_row_number")  # SQL: which file, and which of its rows, from 0
    contents: tuple[Path, ...] = ()  # the text files, or their copies with even line ends

    @property
    def not_a_record(self) -> str | None:
        """SQL that is true where a row stands for a line that is no record."""
        return f"NOT {quoted(IS_OBJECT)}" if self.format == OBJECTS else None

    def places(self, rows: Sequence[tuple[int, int]]) -> list[tuple[Path, int, str]]:
        """File, place and its unit of rows, told as (number of the file, number of the row from 0)."""
        if self.format == PARQUET:
            return [(self.files[file], row + 1, "row") for file, row in rows]
        lines: dict[int, dict[int, int]] = {}
        for file in {file for file, _ in rows}:
            wanted = [row for other, row in rows if other == file]
            if self.format == OBJECTS:
                lines[file] = _object_lines(self.files[file], wanted)
            else:
                rejected = {reject.line for reject in self.rejects if reject.file == self.files[file]}
                lines[file] = _record_lines(self.contents[file], self.separator, wanted, rejected)
        return [(self.files[file], lines[file][row], "line") for file, row in rows]


def staged(con: duckdb.DuckDBPyConnection, source: Source, folder: Path) -> list[Piece]:
    """The table's pieces, in the order of its rows. Text goes into Parquet files in `folder`. Raises DataError."""
    how = {PARQUET: _parquet, TEXT: _text, OBJECTS: _objects}[source.format]
    return [
        piece
        for number, scan in enumerate(source.scans)
        for piece in how(con, scan, folder / f"{source.table}-{number:06d}")
    ]


def _parquet(con: duckdb.DuckDBPyConnection, scan: Scan, _: Path) -> list[Piece]:
    if {name.lower() for name in scan.own}.isdisjoint(VIRTUAL):
        rows = _count(con, scan.relation, scan.files[0])
        return [Piece(scan.files, PARQUET, scan.relation, scan.columns, scan.expressions, rows)]
    # The table's own columns hide the reader's numbers: files one by one, whose rows are counted.
    pieces = []
    for file in scan.files:
        alone = f"read_parquet({literal(str(file))}, hive_partitioning={str(scan.hive).lower()})"
        numbered = f"(SELECT *, row_number() OVER () - 1 AS {ROW} FROM {alone})"
        rows = _count(con, alone, file)
        pieces.append(
            Piece((file,), PARQUET, numbered, scan.columns, scan.expressions, rows, place=("0", ROW)),
        )
    return pieces


def _count(con: duckdb.DuckDBPyConnection, relation: str, file: Path) -> int:
    try:
        return int(con.execute(f"SELECT count(*) FROM {relation}").fetchall()[0][0])
    except duckdb.Error as error:
        raise DataError(f"{file} cannot be read: {first_line(error)}") from None


def _text(con: duckdb.DuckDBPyConnection, scan: Scan, folder: Path) -> list[Piece]:
    folder.mkdir()
    contents, rejects, count = [], [], 0
    for number, file in enumerate(scan.files):
        content, to = file, folder / f"{number:08d}.parquet"
        try:
            rows, rejected = _copy_text(con, scan, file, to)
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error:  # of mixed line ends, most often
            content = to.with_suffix(".csv")
            try:
                _even_ends(file, content)
                rows, rejected = _copy_text(con, scan, content, to)
            except duckdb.Error as error:
                raise DataError(f"{file} cannot be read: {first_line(error)}") from None
        contents.append(content)
        rejects += _rejected(file, content, len(scan.header), rejected)
        count += rows
    return [_staged(scan, folder, count, tuple(rejects), tuple(contents))]


def _objects(con: duckdb.DuckDBPyConnection, scan: Scan, folder: Path) -> list[Piece]:
    folder.mkdir()
    count = 0
    is_object = f"coalesce(json_type(json) = 'OBJECT', false) AS {quoted(IS_OBJECT)}"
    for number, file in enumerate(scan.files):
        objects = f"SELECT {_named(scan)}, {is_object} FROM {objects_relation(f'[{literal(str(file))}]')}"
        try:
            count += _copy(con, objects, folder / f"{number:08d}.parquet")
        except duckdb.Error as error:
            raise DataError(f"{file} cannot be read: {first_line(error)}") from None
    return [_staged(scan, folder, count)]


def _staged(
    scan: Scan, folder: Path, rows: int, rejects: tuple[MalformedLine, ...] = (), contents: tuple[Path, ...] = ()
) -> Piece:
    paths = ", ".join(literal(str(folder / f"{number:08d}.parquet")) for number in range(len(scan.files)))
    return Piece(
        scan.files,
        scan.format,
        f"read_parquet([{paths}])",
        scan.columns,
        {name: f"c{number}" for number, name in enumerate(scan.expressions)},
        rows,
        scan.separator,
        rejects,
        contents=contents,
    )


def _copy_text(con: duckdb.DuckDBPyConnection, scan: Scan, file: Path, to: Path) -> tuple[int, list[Reject]]:
    """How many records went to `to`, and what was none."""
    con.execute("DROP TABLE IF EXISTS rejects")
    con.execute("DROP TABLE IF EXISTS rejects_scan")
    rejects = f"store_rejects=true, rejects_table='rejects', rejects_scan='rejects_scan', rejects_limit={REJECTS}"
    relation = csv_relation(f"[{literal(str(file))}]", scan.header, scan.separator, scan.hive, False, rejects)
    query = f"SELECT {_named(scan)} FROM {relation}"
    if len(scan.header) == 1:  # a blank line, which is none where there are more columns
        query += f" WHERE {quoted(scan.header[0])} IS NOT NULL"
    rows = _copy(con, query, to)
    places = "SELECT line_byte_position, error_type, error_message, csv_line FROM rejects ORDER BY line_byte_position"
    return rows, con.execute(places).fetchall()


def _even_ends(file: Path, to: Path) -> None:
    """A copy whose lines all end in LF."""
    with unpacked(file) as text, to.open("wb") as copy:
        held = b""
        while block := text.read(1 << 22):
            block = held + block
            held = b"\r" if block.endswith(b"\r") else b""  # its LF may come
            copy.write(block.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
        copy.write(held.replace(b"\r", b"\n"))


def _named(scan: Scan) -> str:
    """The columns under names that hide none of the reader's."""
    return ", ".join(f"{sql} AS c{number}" for number, sql in enumerate(scan.expressions.values()))


def _copy(con: duckdb.DuckDBPyConnection, query: str, to: Path) -> int:
    """Writes the query's rows and returns how many they are."""
    return int(con.execute(f"COPY ({query}) TO {literal(str(to))} (FORMAT parquet)").fetchall()[0][0])


def _rejected(file: Path, content: Path, width: int, rejects: Sequence[Reject]) -> list[MalformedLine]:
    """Each rejected line with its number and the reason, once; a stray quote's record has as many as it swallowed."""
    lines: dict[int, str] = {}
    numbers = _numbers(content, [max(at - 1, 0) for at, *_ in rejects])
    for (_, kind, message, text), number in zip(rejects, numbers, strict=True):
        for line in range(number, number + 1 + (text or "").strip().count("\n")):
            lines.setdefault(line, _reason(kind, message, text, width))
    return [MalformedLine(file, number, reason) for number, reason in lines.items()]


def _reason(kind: str, message: str, text: str, width: int) -> str:
    if kind in ("TOO MANY COLUMNS", "MISSING COLUMNS"):
        return f"{message.rpartition(' ')[2]} fields given, {width} are in the header"
    if kind == "UNQUOTED VALUE":
        over = (text or "").strip().count("\n")
        more = f", over {over + 1} lines" if over else ""
        return f"fields that cannot be told apart: a quote is not closed, or text stands beside it{more}"
    if kind == "INVALID ENCODING":
        return "bytes that are not UTF-8, which alone is allowed"
    return message.partition("\n")[0]


def _numbers(file: Path, positions: Sequence[int]) -> list[int]:
    """The numbers of the lines that hold these places, which rise, of the (unpacked) file."""
    numbers, number, at = [], 1, 0
    with unpacked(file) as text:
        for position in positions:
            while at < position:
                block = text.read(min(1 << 20, position - at))
                if not block:
                    break
                number, at = number + block.count(b"\n"), at + len(block)
            numbers.append(number)
    return numbers


def _record_lines(file: Path, separator: str, records: Sequence[int], rejected: set[int]) -> dict[int, int]:
    """The line on which each record (from 0) begins."""
    lines: dict[int, int] = {}
    wanted, record = set(records), 0
    csv.field_size_limit(1 << 30)
    with unpacked(file) as packed, io.TextIOWrapper(packed, "utf-8-sig", errors="replace", newline="") as text:
        rows = csv.reader(text, delimiter=separator)
        next(rows, None)
        begin = rows.line_num + 1
        for row in rows:
            if row not in ([], [""]) and begin not in rejected:
                if record in wanted:
                    lines[record] = begin
                    if len(lines) == len(wanted):
                        break
                record += 1
            begin = rows.line_num + 1
    return {row: lines.get(row, begin) for row in records}


def _object_lines(file: Path, records: Sequence[int]) -> dict[int, int]:
    """The line of each object (from 0): blank ones are none."""
    lines: dict[int, int] = {}
    wanted, record = set(records), 0
    with unpacked(file) as text:
        for number, line in enumerate(text, 1):
            if not line.removeprefix(BOM).strip():
                continue
            if record in wanted:
                lines[record] = number
                if len(lines) == len(wanted):
                    break
            record += 1
    return lines


def no_object(file: Path, line: int) -> str:
    """Why a line is no JSON object."""
    with unpacked(file) as text:
        for number, content in enumerate(text, 1):
            if number == line:
                shown = content.removeprefix(BOM).strip()[:60].decode(errors="replace")
                try:
                    json.loads(content.removeprefix(BOM))
                except ValueError as error:
                    return f"{shown!r} given, a JSON object is allowed: {error}"
                return f"{shown!r} given, a JSON object is allowed"
    return "a JSON object is allowed"
