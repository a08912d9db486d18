"""One table of a user's log: cast to canonical columns; what cannot be cast is told by file, row, column and value.

The good rows are written in one pass. Only where some are missing then, a second one finds out which, and why.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from model.datasets.own import casting
from model.datasets.own.casting import Cast
from model.datasets.own.sources import Source, listed, near
from model.datasets.own.staged import Piece, no_object
from model.datasets.tables import ITEM, BadLines, DataError, MalformedLine
from model.engine import first_line, literal, quoted
from model.features.behaviour import looks_like
from model.features.ids import IdType

COLUMNS = {  # what each table must have
    "impressions": ("user_id", "item_id", "timestamp", "label"),
    "behaviours": ("user_id", "action", "object_type", "object_id", "timestamp"),
    "items": ("item_id",),
    "users": ("user_id",),
}
OPTIONAL = {"impressions": ("watch_ms", "true_probability", "split")}
IDS = {"user_id": "user_id", "item_id": "item_id", "object_id": "item_id"}  # column → whose ids they are
SPLIT = ("train", "validation", "test")  # in the order of TRAIN, VALIDATION, TEST
LONGEST_MS = 10**14  # that somebody can have watched
ENTITIES = ("items", "users")


@dataclass(frozen=True)
class Form:
    """What features.toml says of the tables' columns, as far as reading them goes."""

    ids: Mapping[str, IdType]  # user_id, item_id, object_id → their type
    features: Mapping[str, Mapping[str, tuple[str, IdType]]]  # table → column → how it is read, and its type
    object_type: str = ITEM  # of the behaviours whose objects are items


HELD = {  # what a column may hold, for messages
    "timestamp": "timestamps, days, milliseconds or text like 2026-01-31T10:00:00Z",
    "label": "0 and 1, or true and false,",
    "action": "strings",
    "object_type": "strings",
    "split": "train, validation, test or 0 to 2",
    "watch_ms": "whole numbers",
    "true_probability": "numbers from 0 to 1",
}
WORDS = {"int": "integers", "str": "strings"}
DAY = re.compile(r"\s*\d{4,}-\d{2}-\d{2}")
ISO_TOO = ", or text like 2026-01-31T10:00:00Z"
REPEATED = "stands in an earlier row, one row each is allowed"
PLACE = ('"{piece}"', '"{file}"', '"{row}"')  # names that no column has
AGAIN = '"{again}"'


def check_columns(source: Source, pieces: Sequence[Piece]) -> None:
    """Raises DataError where a part lacks a column that its table must have, or that another part has of those."""
    optional = [name for name in OPTIONAL.get(source.table, ()) if name in source.columns]
    for piece in pieces:
        absent = [name for name in (*COLUMNS[source.table], *optional) if name not in piece.columns]
        if absent:
            raise DataError(no_columns(source, piece.files[0], absent, list(piece.columns)))


def no_columns(source: Source, path: Path, absent: Sequence[str], there: Sequence[str], why: str = "") -> str:
    """That columns are absent, which there are, and what may be meant."""
    text = f"{path} has no column {', '.join(absent)}{why}; there are {listed(there)}"
    free = [column for column in there if column not in COLUMNS[source.table]]
    for name in absent:
        if meant := near(name, free):
            text += f"; --map {source.table}.{meant}={name} may be meant"
    return text


class Table:
    """One table of the user's, on its way to the canonical one."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, source: Source, pieces: Sequence[Piece], form: Form, bad: BadLines
    ):
        self.con, self.source, self.pieces, self.form, self.bad = con, source, pieces, form, bad
        self.needed = (*COLUMNS[source.table], *(c for c in OPTIONAL.get(source.table, ()) if c in source.columns))
        self.features = {
            name: how for name, how in form.features.get(source.table, {}).items() if name not in self.needed
        }
        absent = [name for name in self.features if name not in source.columns]
        if absent:
            raise DataError(no_columns(source, source.path, absent, list(source.columns), " that features.toml names"))

    def write(self, to: Path) -> list[str]:
        """Writes the table, passes malformed rows over; returns what must be known. Raises DataError, MalformedLine."""
        chosen = [self._values(piece) for piece in self.pieces]
        casts = [self._casts(piece) for piece in self.pieces]
        parts = [
            f"SELECT {values} FROM {piece.relation} WHERE NOT coalesce({self._is_wrong(piece, cast)}, false)"
            for piece, values, cast in zip(self.pieces, chosen, casts, strict=True)
        ]
        written = self._run(f"COPY ({' UNION ALL BY NAME '.join(parts)}) TO {literal(str(to))} (FORMAT parquet)")[0][0]
        repeated = self.source.table in ENTITIES and self._repeats(to)
        rejects = any(piece.rejects for piece in self.pieces)
        if written < sum(piece.rows for piece in self.pieces) or rejects or repeated:
            self._tell(casts, repeated)
        if repeated:
            self._write_once(to, chosen, casts)
        unused = sorted({name for piece in self.pieces for name in self._unused(piece)})
        return [f"{self.source.table}: {listed(unused)} not used, nested values are no features"] if unused else []

    def _casts(self, piece: Piece) -> dict[str, Cast]:
        casts = {name: self._cast(name, piece) for name in self.needed}
        return casts | {name: self._feature(name, piece) for name in self.features if name in piece.columns}

    def _cast(self, name: str, piece: Piece) -> Cast:
        x, type = piece.expressions[name], piece.columns[name]
        cast: Cast | None
        if name in IDS:
            cast = self._id(name, piece)
        elif name == "timestamp":
            cast = casting.moment(x, type)
        elif name == "label":
            cast = casting.flag(x, type)
        elif name == "split":
            cast = casting.choice(x, type, SPLIT)
        elif name == "watch_ms":
            cast = casting.integer_id(x, type)
            cast = cast and cast.within(0, LONGEST_MS, "0 or more")
        elif name == "true_probability":
            cast = casting.number(x, type)
            cast = cast and cast.within(0, 1, "0 to 1")
        else:
            cast = casting.text(x, type)
        return self._held(cast, name, type, piece, "integers or strings" if name in IDS else HELD[name])

    def _id(self, name: str, piece: Piece) -> Cast | None:
        x, type = piece.expressions[name], piece.columns[name]
        if casting.family(type) in ("switch", "time", "list"):
            return None
        declared = self.form.ids[name]
        if declared == "int":
            return casting.integer_id(x, type)
        cast = casting.text_id(x, type)
        if name == "object_id" and self.form.ids["item_id"] == "int" and cast:  # other objects have text for ids
            whole = casting.integer_id(x, type)
            if whole is not None:
                of_items = f"{piece.expressions['object_type']} = {literal(self.form.object_type)}"
                sql = f"CASE WHEN {of_items} THEN CAST({whole.sql} AS VARCHAR) ELSE {cast.sql} END"
                return Cast(sql, cast.missing, "integers (of items), strings (of other objects)", x)
        return cast

    def _feature(self, name: str, piece: Piece) -> Cast:
        x, type = piece.expressions[name], piece.columns[name]
        kind, declared = self.features[name]
        if kind == "several":
            cast, allowed = casting.several(x, type, declared), "lists"
        elif kind == "number":
            cast, allowed = casting.number(x, type), "numbers"
        else:
            cast, allowed = (casting.integer if declared == "int" else casting.text)(x, type), WORDS[declared]
        return self._held(cast, name, type, piece, allowed)

    def _held(self, cast: Cast | None, name: str, type: str, piece: Piece, allowed: str) -> Cast:
        if cast is None:
            raise DataError(f"{piece.files[0]}: {name} is {type}, {allowed} are allowed")
        return cast

    def _values(self, piece: Piece) -> str:
        """The canonical columns of a piece, as SQL."""
        values = {name: cast.sql for name, cast in self._casts(piece).items()}
        for name, narrow in (("label", "TINYINT"), ("split", "TINYINT")):
            if name in values and name in self.needed:
                values[name] = f"CAST({values[name]} AS {narrow})"
        for name in piece.columns:
            if name not in values and (sql := self._plain(name, piece)):
                values[name] = sql
        return ", ".join(f"{values[name]} AS {quoted(name)}" for name in piece.columns if name in values)

    def _unused(self, piece: Piece) -> list[str]:
        known = (*self.needed, *self.features)
        return [name for name in piece.columns if name not in known and self._plain(name, piece) is None]

    def _plain(self, name: str, piece: Piece) -> str | None:
        """A column that no feature names, passed on; None where it is nested, or a list in some of the parts alone."""
        lists = {piece.columns[name].count("[") for piece in self.pieces if name in piece.columns}
        return casting.plain(piece.expressions[name], piece.columns[name]) if len(lists) == 1 else None

    def _faults(self, piece: Piece, casts: Mapping[str, Cast]) -> list[tuple[str, str, str]]:
        """What can be wrong with a row: (column, SQL that is true then, the value as SQL)."""
        faults = [("", piece.not_a_record, "NULL")] if piece.not_a_record else []
        for name, cast in casts.items():
            wrong = f"({cast.sql}) IS NULL" if name in self.needed else cast.refused
            faults.append((name, wrong, f"CAST({cast.raw} AS VARCHAR)"))
        return faults

    def _is_wrong(self, piece: Piece, casts: Mapping[str, Cast]) -> str:
        return " OR ".join(f"({wrong})" for _, wrong, _ in self._faults(piece, casts))

    def _number(self, piece: Piece, casts: Mapping[str, Cast]) -> str:
        """SQL: which of a row's faults is the first, null for a row without."""
        return f"CASE {' '.join(f'WHEN {w} THEN {n}' for n, (_, w, _) in enumerate(self._faults(piece, casts)))} END"

    def _tell(self, casts: Sequence[Mapping[str, Cast]], repeated: bool) -> None:
        """Counts the malformed rows in the order of files and rows; the one after the last allowed is raised."""
        most = self.bad.allowed - self.bad.count + 1
        again = self._again(casts, most) if repeated else {}
        for place, (piece, cast) in enumerate(zip(self.pieces, casts, strict=True)):
            faults = self._faults(piece, cast)
            values = ", ".join(value for _, _, value in faults)
            rows = self._run(
                f"SELECT file, row, fault, shown[fault + 1] "
                f"FROM (SELECT {piece.place[0]} AS file, {piece.place[1]} AS row, "
                f"{self._number(piece, cast)} AS fault, [{values}] AS shown FROM {piece.relation}) "
                f"WHERE fault IS NOT NULL ORDER BY file, row LIMIT {most}"
            )
            rows = sorted([*rows, *again.get(place, [])])[:most]
            errors = [(piece.files.index(reject.file), reject.line, reject) for reject in piece.rejects]
            where = piece.places([(file, row) for file, row, *_ in rows])
            for (number, _, fault, value), (file, line, unit) in zip(rows, where, strict=True):
                name = faults[fault][0] if fault >= 0 else self.needed[0]
                reason = self._reason(name, value, cast, file, line) if fault >= 0 else f"{name}: {value} {REPEATED}"
                errors.append((number, line, MalformedLine(file, line, reason, unit)))
            for *_, error in sorted(errors, key=lambda error: error[:2]):
                self.bad.add(error)

    def _reason(self, name: str, value: str | None, casts: Mapping[str, Cast], file: Path, line: int) -> str:
        if not name:
            return no_object(file, line)
        allowed = casts[name].allowed
        if value is None or not value.strip():
            return f"{name}: nothing given, {'integers or strings' if name in IDS else allowed} are allowed"
        if name == "timestamp":
            if DAY.match(value):
                return f"{name}: {value[:60]} given, times from 1973 to 5138 like 2026-01-31T10:00:00Z are allowed"
            return f"{name}: {looks_like(value)}{'' if value.strip('-.0123456789') == '' else ISO_TOO}"
        shown = "NaN" if value.lower() == "nan" else value if len(value) <= 60 else value[:57] + "..."
        kind, type = self.features.get(name, ("number", "str"))
        remedy = ""
        if name in IDS and self.form.ids[name] == "int":
            remedy = f", or {IDS[name]} declared str in features.toml"
        elif kind != "number":
            remedy = f", as features.toml declares it {type}"
        return f"{name}: {shown} given, {allowed} are allowed{remedy}"

    # --- the second row of an item or a user ---

    def _repeats(self, to: Path) -> bool:
        (name,) = COLUMNS[self.source.table]
        distinct = f"SELECT count(*) > count(DISTINCT {quoted(name)}) FROM read_parquet({literal(str(to))})"
        return bool(self._run(distinct)[0][0])

    def _numbered(self, casts: Sequence[Mapping[str, Cast]], values: Sequence[str]) -> str:
        """All good rows with their places (`piece`, `file`, `row`) and, as `again`, whether their id stands before."""
        (name,) = COLUMNS[self.source.table]
        parts = [
            f"SELECT {chosen}, {place} AS {PLACE[0]}, {piece.place[0]} AS {PLACE[1]}, {piece.place[1]} AS {PLACE[2]} "
            f"FROM {piece.relation} WHERE NOT coalesce({self._is_wrong(piece, cast)}, false)"
            for place, (piece, cast, chosen) in enumerate(zip(self.pieces, casts, values, strict=True))
        ]
        order = ", ".join(PLACE)
        before = f"row_number() OVER (PARTITION BY {quoted(name)} ORDER BY {order}) > 1 AS {AGAIN}"
        return f"SELECT *, {before} FROM ({' UNION ALL BY NAME '.join(parts)})"

    def _again(self, casts: Sequence[Mapping[str, Cast]], most: int) -> dict[int, list[tuple[int, int, int, str]]]:
        """By piece the places of rows whose id stands in an earlier one, in the form of a fault with number -1."""
        (name,) = COLUMNS[self.source.table]
        ids = [f"{cast[name].sql} AS {quoted(name)}" for cast in casts]
        order = ", ".join(PLACE)
        rows = self._run(
            f"SELECT {order}, CAST({quoted(name)} AS VARCHAR) FROM ({self._numbered(casts, ids)}) "
            f"WHERE {AGAIN} ORDER BY {order} LIMIT {most}"
        )
        again: dict[int, list[tuple[int, int, int, str]]] = {}
        for place, file, row, value in rows:
            again.setdefault(place, []).append((file, row, -1, value))
        return again

    def _write_once(self, to: Path, values: Sequence[str], casts: Sequence[Mapping[str, Cast]]) -> None:
        places = ", ".join((*PLACE, AGAIN))
        once = f"SELECT * EXCLUDE ({places}) FROM ({self._numbered(casts, values)}) WHERE NOT {AGAIN}"
        query = f"{once} ORDER BY {', '.join(PLACE)}"
        self._run(f"COPY ({query}) TO {literal(str(to))} (FORMAT parquet)")

    def _run(self, query: str) -> list[tuple[Any, ...]]:
        try:
            return self.con.execute(query).fetchall()
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            raise DataError(f"{self.source.path} cannot be read: {first_line(error)}") from None
