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

from model.datasets.sources import BOM, OBJECTS, PARQUET, TEXT, Scan, Source, csv_relation, objects_relation, unpacked
from model.datasets.tables import DataError, MalformedLine
from model.engine import first_line, literal, quoted

REJECTS = 100_000  # lines of one file that are kept to be told; the file is hopeless where there are more
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

    @property
    def not_a_record(self) -> str | None:
        """SQL that is true where a row stands for a line that is no record."""
        return f"NOT {quoted(IS_OBJECT)}" if self.format == OBJECTS else None

    def places(self, rows: Sequence[tuple[int, int]]) -> list[tuple[Path, int, str]]:
        """File, place and its unit of rows, told as (number of the file, number of the row from 0)."""
        if self.format == PARQUET:
            return [(self.files[file], row + 1, "row") for file, row in rows]
        wanted = [row for _, row in rows]
        file = self.files[0]
        if self.format == OBJECTS:
            lines = _object_lines(file, wanted)
        else:
            lines = _record_lines(file, self.separator, wanted, {reject.line for reject in self.rejects})
        return [(file, lines[row], "line") for row in wanted]


def staged(con: duckdb.DuckDBPyConnection, source: Source, folder: Path) -> list[Piece]:
    """The table's pieces, in the order of its rows. Text goes into Parquet files in `folder`. Raises DataError."""
    if source.format == PARQUET:
        return [_parquet(con, scan) for scan in source.scans]
    pieces: list[Piece] = []
    for scan in source.scans:
        for file in scan.files:
            to = folder / f"{source.table}-{len(pieces):06d}.parquet"
            pieces.append(_text(con, scan, file, to) if scan.format == TEXT else _objects(con, scan, file, to))
    return pieces


def _parquet(con: duckdb.DuckDBPyConnection, scan: Scan) -> Piece:
    rows = con.execute(f"SELECT count(*) FROM {scan.relation}").fetchall()[0][0]
    return Piece(scan.files, PARQUET, scan.relation, scan.columns, scan.expressions, rows)


def _text(con: duckdb.DuckDBPyConnection, scan: Scan, file: Path, to: Path) -> Piece:
    rejects = f"store_rejects=true, rejects_table='rejects', rejects_scan='rejects_scan', rejects_limit={REJECTS}"
    relation = csv_relation(f"[{literal(str(file))}]", scan.header, scan.separator, scan.hive, scan.lenient, rejects)
    rows = _copy(con, f"SELECT {_named(scan)} FROM {relation}", to, file)
    found = con.execute(
        "SELECT line_byte_position, error_type, error_message, csv_line FROM rejects ORDER BY line_byte_position"
    ).fetchall()
    con.execute("DROP TABLE rejects")
    con.execute("DROP TABLE rejects_scan")
    return Piece(
        (file,),
        TEXT,
        f"read_parquet({literal(str(to))})",
        scan.columns,
        {name: quoted(name) for name in scan.columns},
        rows,
        scan.separator,
        tuple(_rejected(file, len(scan.header), found)),
    )


def _objects(con: duckdb.DuckDBPyConnection, scan: Scan, file: Path, to: Path) -> Piece:
    objects = objects_relation(f"[{literal(str(file))}]")
    is_object = f"coalesce(json_type(json) = 'OBJECT', false) AS {quoted(IS_OBJECT)}"
    rows = _copy(con, f"SELECT {_named(scan)}, {is_object} FROM {objects}", to, file)
    expressions = {name: quoted(name) for name in scan.columns}
    return Piece((file,), OBJECTS, f"read_parquet({literal(str(to))})", scan.columns, expressions, rows)


def _named(scan: Scan) -> str:
    return ", ".join(f"{sql} AS {quoted(name)}" for name, sql in scan.expressions.items())


def _copy(con: duckdb.DuckDBPyConnection, query: str, to: Path, file: Path) -> int:
    try:
        return int(con.execute(f"COPY ({query}) TO {literal(str(to))} (FORMAT parquet)").fetchall()[0][0])
    except duckdb.Error as error:
        raise DataError(f"{file} cannot be read: {first_line(error)}") from None


def _rejected(file: Path, width: int, rejects: Sequence[tuple[int, str, str, str]]) -> list[MalformedLine]:
    """Each rejected line with its number and the reason, once."""
    lines: dict[int, str] = {}
    numbers = _numbers(file, [max(at - 1, 0) for at, *_ in rejects])
    for (_, kind, message, text), number in zip(rejects, numbers, strict=True):
        lines.setdefault(number, _reason(kind, message, text, width))
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
            if row and begin not in rejected:
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
