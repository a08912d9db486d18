"""A user's tables where they lie: which files hold which table, how they are read, and what their columns are called.

A table is a file or a folder of part files, of one format:

    impressions.parquet                  or a folder impressions.parquet/ or impressions/ with part-00000-….parquet
    impressions.csv, .tsv                a header is needed; quotes, CRLF, a byte-order mark; also .gz
    impressions.jsonl, .ndjson, .json    an object a line; blank lines, a byte-order mark; also .gz

Hidden files and those that begin with _ (Spark's _SUCCESS) are no parts. Parts are read in the order of their names, 2
before 10; folders called key=value on the way to a part are columns. Parquet's columns have their own types; of CSV and
TSV all are text; of JSON lines values are text, as they are written, and lists are lists of text.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path

import duckdb

from model.datasets.own.casting import MIXED
from model.datasets.tables import BOM, TABLES, DataError, unpacked
from model.engine import first_line, literal, quoted

PARQUET, TEXT, OBJECTS = "Parquet", "CSV", "JSON lines"
SUFFIXES = {
    ".parquet": PARQUET,
    ".csv": TEXT,
    ".tsv": TEXT,
    ".jsonl": OBJECTS,
    ".ndjson": OBJECTS,
    ".json": OBJECTS,
}
PLAIN = ("VARCHAR", "BIGINT", "UBIGINT", "NULL")  # types of JSON whose text is the value; others are told apart later
ALLOWED = "a file or a folder of Parquet, CSV, TSV or JSON lines"
MAGIC = (  # first bytes of a file, of which form they tell, and how its name ends
    (b"PAR1", PARQUET, ".parquet"),
    (b"\x1f\x8b", "gzip", ".gz"),
    (b"PK\x03\x04", "a zip archive or an Excel sheet", ""),
    (b"\x28\xb5\x2f\xfd", "packed by zstd", ""),
    (b"ORC", "ORC", ""),
    (b"Obj\x01", "Avro", ""),
    (b"\xff\xfe", "text in UTF-16", ""),
    (b"\xfe\xff", "text in UTF-16", ""),
)
SHOWN = 40  # columns that a message names


@dataclass(frozen=True)
class Scan:
    """Files that have the same columns, and how one query reads them."""

    files: tuple[Path, ...]
    format: str
    relation: str  # what stands after FROM
    columns: Mapping[str, str]  # name, as renamed → DuckDB's type
    expressions: Mapping[str, str]  # name, as renamed → its SQL over the relation
    header: tuple[str, ...] = ()  # of delimited text, as the file has it
    separator: str = ","
    lenient: bool = False  # its line ends are mixed, which its view reads only so (and less strictly)
    hive: bool = False  # folders on the way to its files are columns
    own: frozenset[str] = frozenset()  # the columns' names before they were renamed

    @property
    def query(self) -> str:
        """All columns; JSON's mixed values as text."""
        texts = {MIXED: "({} ->> '$')", f"{MIXED}[]": "list_transform({}, lambda e: e ->> '$')"}
        chosen = ", ".join(
            f"{texts.get(self.columns[name], '{}').format(sql)} AS {quoted(name)}"
            for name, sql in self.expressions.items()
        )
        return f"SELECT {chosen} FROM {self.relation}"


@dataclass(frozen=True)
class Source:
    """One table: where it lies, and the scans that read it, in the order of its rows."""

    table: str
    path: Path
    format: str
    scans: tuple[Scan, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(file for scan in self.scans for file in scan.files)

    @property
    def columns(self) -> dict[str, str]:
        """Name → type, of the first part that has it."""
        return {name: type for scan in reversed(self.scans) for name, type in scan.columns.items()}


def opened(con: duckdb.DuckDBPyConnection, raw: Path, renames: Sequence[str] = ()) -> dict[str, Source]:
    """The tables that lie in `raw`, each also a view `raw_<table>` of the connection. Raises DataError.

    `renames` are texts like impressions.ts=timestamp.
    """
    places = {table: _places(raw, table) for table in TABLES}
    for table, there in places.items():
        if len(there) > 1:
            names = " and ".join(path.name for path in there)
            raise DataError(f"{raw} holds the table {table} {len(there)} times, as {names}; one of them is allowed")
    named = _renames(renames, [table for table, there in places.items() if there])
    sources = {}
    for table, there in places.items():
        if there:
            sources[table] = _source(con, table, there[0], named.get(table, {}))
            union = " UNION ALL BY NAME ".join(f"({scan.query})" for scan in sources[table].scans)
            try:
                con.execute(f"CREATE OR REPLACE TEMP VIEW raw_{table} AS {union}")
            except duckdb.Error as error:
                raise DataError(f"{there[0]}: its parts do not go together: {first_line(error)}") from None
    return sources


def refuse_missing(raw: Path, sources: Mapping[str, Source], needed: Sequence[str], derived: bool) -> None:
    """Raises DataError where a table is missing, or where behaviours are derived that are a table already."""
    if derived and "behaviours" in sources:
        there = sources["behaviours"].path.name
        raise DataError(f"--behaviours-from impressions: {raw} holds {there}; one source of behaviours is allowed")
    missing = [name for name in needed if name not in sources and not (derived and name == "behaviours")]
    if missing:
        forms = f"{missing[0]}.parquet, .csv, .tsv, .jsonl or a folder {missing[0]} of parts is needed"
        derive = "; or --behaviours-from impressions, which takes every clicked impression for a behaviour"
        hint = derive if missing == ["behaviours"] else ""
        there = listed(sorted(path.name for path in raw.iterdir() if path.name not in ("features.toml", "meta.json")))
        raise DataError(f"{raw} holds no {' and no '.join(missing)}; {forms}{hint}; there are {there or 'none'}")


def near(name: str, there: Sequence[str]) -> str | None:
    """Which column is probably meant by a name that no column has."""
    synonyms = SYNONYMS.get(name, "").split()
    plain = {re.sub(r"[^a-z0-9]", "", column.lower()): column for column in reversed(there)}
    for word in (name, *synonyms):
        if column := plain.get(word.replace("_", "")):
            return column
    close = get_close_matches(name, there, 1, 0.75)
    return close[0] if close else None


SYNONYMS = {  # what others call the columns, likeliest first
    "user_id": "user uid userid customer_id customer member_id visitor_id account_id session_id",
    "item_id": "item iid product_id product article_id video_id movie_id sku asin content_id",
    "object_id": "object item_id item product_id product article_id video_id movie_id sku",
    "object_type": "type object_kind entity_type kind",
    "action": "event event_type event_name behavior behaviour action_type verb",
    "timestamp": "ts time event_time event_timestamp time_ms timestamp_ms datetime date created_at at",
    "label": "click clicked is_click is_clicked target y",
}


def _places(raw: Path, table: str) -> list[Path]:
    """Where the table lies: its file, or a folder that holds parts."""
    there = []
    for path in sorted(raw.iterdir()):
        stem = path.name.removesuffix(".gz")
        base, dot, suffix = stem.rpartition(".")
        if path.name == table and path.is_dir():
            there.append(path)
        elif base == table and dot + suffix in SUFFIXES:
            there.append(path)
    full = [path for path in there if not path.is_dir() or _parts(path)]
    return full or there[:1]


def _parts(folder: Path) -> list[Path]:
    """The part files below a folder, in the order of their names, 2 before 10."""
    below = (path for path in folder.rglob("*") if path.is_file())
    shown = [path for path in below if not any(name[0] in "._" for name in path.relative_to(folder).parts)]
    ours = [path for path in shown if _format(path, folder)]
    return sorted(ours, key=lambda path: [_numbered(name) for name in path.relative_to(folder).parts])


def _numbered(name: str) -> list[tuple[int, str]]:
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def _format(path: Path, folder: Path | None = None) -> str | None:
    """By its name; a part without a suffix (Hadoop's part-00000) has that of its folder."""
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    return SUFFIXES.get(folder.suffix) if folder and not Path(path.name).suffix else None


def _source(con: duckdb.DuckDBPyConnection, table: str, path: Path, names: Mapping[str, str]) -> Source:
    files = _parts(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} holds no part of a table; {ALLOWED} is allowed")
    formats = sorted({_format(file, path) or "" for file in files})
    if len(formats) > 1:
        raise DataError(f"{path} holds parts as {' and '.join(formats)}; one format is allowed")
    if formats[0] != PARQUET and path.is_dir():  # Spark writes a part without rows so
        files = [file for file in files if file.stat().st_size] or files[:1]
    for file in files:
        if not file.stat().st_size:
            raise DataError(f"{file} is empty; {ALLOWED} is needed, with its columns' names")
        _refuse_other_form(file, formats[0])
    hive = path.is_dir() and any("=" in name for file in files for name in file.relative_to(path).parts[:-1])
    # Consecutive files alone are read together: the order of rows is that of the files.
    forms = [(file, _form(con, file, formats[0], path)) for file in files]
    if formats[0] == OBJECTS:  # a key may be left out where it has no value
        forms = [(file, "") for file in files]
    scans = [
        _scan(con, formats[0], [file for file, _ in group], form, hive, names)
        for form, group in groupby(forms, key=lambda pair: pair[1])
    ]
    source = Source(table, path, formats[0], tuple(scans))
    absent = [name for name in names if not any(name in scan.own for scan in scans)]
    if absent:
        raise DataError(f"--map {table}.{absent[0]}: {_no_column(path, absent[0], list(source.columns))}")
    return source


def _refuse_other_form(file: Path, format: str) -> None:
    """Refuses a file that is of another form than its name says, which its first bytes tell."""
    with file.open("rb") as raw:
        start = raw.read(4)
    for magic, form, suffix in MAGIC:
        named = format if format != TEXT and format != OBJECTS or file.suffix != ".gz" else "gzip"
        if start.startswith(magic) and form != named:
            raise DataError(f"{file} is {form}; {f'call it so ({suffix})' if suffix else ALLOWED + ' is allowed'}")


def _no_column(path: Path, name: str, there: Sequence[str]) -> str:
    return f"{path} has no column {name}; there are {listed(there)}"


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _form(con: duckdb.DuckDBPyConnection, file: Path, format: str, folder: Path) -> str:
    """What files must have in common to be read together: types of columns, or the header and the separator."""
    if format == PARQUET:
        try:
            parquet = con.sql(f"SELECT * FROM read_parquet({literal(str(file))}, hive_partitioning=false)")
            return str([*zip(parquet.columns, map(str, parquet.types), strict=True)])
        except duckdb.Error as error:
            raise DataError(f"{file} cannot be read: {first_line(error)}") from None
    if format == TEXT:
        tab = ".tsv" in (Path(file.name.removesuffix(".gz")).suffix, folder.suffix)
        return json.dumps(_header(file, tab))
    _first_line(file)
    return ""


def _scan(
    con: duckdb.DuckDBPyConnection, format: str, files: Sequence[Path], form: str, hive: bool, names: Mapping[str, str]
) -> Scan:
    header, separator, lenient = (), ",", False
    paths = "[" + ", ".join(literal(str(file)) for file in files) + "]"
    if format == PARQUET:
        relation = f"read_parquet({paths}, hive_partitioning={str(hive).lower()}, hive_types_autocast=false)"
        columns = {name: str(type) for name, type, *_ in _described(con, relation, files[0])}
        expressions = {name: quoted(name) for name in columns}
    elif format == TEXT:
        header, separator, lenient = json.loads(form)
        relation = csv_relation(paths, header, separator, hive, lenient)
        columns = {name: "VARCHAR" for name, *_ in _described(con, relation, files[0])}
        expressions = {name: quoted(name) for name in columns}
    else:
        relation = objects_relation(paths)
        columns, expressions = _keys(con, relation, files)
    for old, new in names.items():
        if old in columns and new in columns and new not in names:
            raise DataError(f"{files[0]}: {old} cannot be called {new}, which another column is; rename that one too")
    renamed = {name: names.get(name, name) for name in columns}
    if len(set(renamed.values())) < len(renamed):
        there = listed(list(renamed.values()))
        raise DataError(f"{files[0]}: --map gives two columns one name; there would be {there}")
    return Scan(
        tuple(files),
        format,
        relation,
        {renamed[name]: type for name, type in columns.items()},
        {renamed[name]: sql for name, sql in expressions.items()},
        tuple(header),
        separator,
        lenient,
        hive,
        frozenset(columns),
    )


def csv_relation(
    paths: str, header: Sequence[str], separator: str, hive: bool, lenient: bool, rejects: str = "ignore_errors=true"
) -> str:
    """What reads delimited text: all fields are text, and lines that cannot be told apart are passed over."""
    columns = "{" + ", ".join(f"{literal(name)}: 'VARCHAR'" for name in header) + "}"
    return (
        f"read_csv({paths}, auto_detect=false, header=true, columns={columns}, delim={literal(separator)}, quote='\"', "
        f"escape='\"', hive_partitioning={str(hive).lower()}, hive_types_autocast=false, "
        f"strict_mode={str(not lenient).lower()}, {rejects})"
    )


def objects_relation(paths: str) -> str:
    """What reads JSON lines: a column `json`, null where a line is no JSON; blank lines are no rows."""
    return f"read_ndjson_objects({paths}, ignore_errors=true)"


def _described(con: duckdb.DuckDBPyConnection, relation: str, file: Path) -> list[tuple[str, ...]]:
    try:
        return con.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
    except duckdb.Error as error:
        raise DataError(f"{file} cannot be read: {first_line(error)}") from None


def _keys(
    con: duckdb.DuckDBPyConnection, relation: str, files: Sequence[Path]
) -> tuple[dict[str, str], dict[str, str]]:
    """The keys of all objects: their types, and the SQL that takes them out."""
    objects = f"SELECT json_group_structure(json) FROM {relation} WHERE json_type(json) = 'OBJECT'"
    try:
        structure = json.loads(con.execute(objects).fetchone()[0] or "{}")  # type: ignore[index]  # an aggregate has a row
    except duckdb.Error as error:
        raise DataError(f"{files[0]} cannot be read: {first_line(error)}") from None
    if not isinstance(structure, dict) or not structure:
        raise DataError(f"{files[0]} holds no JSON object; one a line is needed")
    columns, expressions = {}, {}
    for key, kind in structure.items():
        value = f"json -> {literal('/' + key.replace('~', '~0').replace('/', '~1'))}"
        of = (kind or ["NULL"])[0] if isinstance(kind, list) else kind
        if not key:
            continue  # no column can be called so
        if not isinstance(of, str):
            columns[key], expressions[key] = "JSON", value
        elif of in PLAIN:
            columns[key] = "VARCHAR[]" if isinstance(kind, list) else "VARCHAR"
            listed = f"from_json({value}, '[\"VARCHAR\"]')"
            expressions[key] = listed if isinstance(kind, list) else value.replace("->", "->>", 1)
        else:
            columns[key] = f"{MIXED}[]" if isinstance(kind, list) else MIXED
            expressions[key] = f"from_json({value}, '[\"JSON\"]')" if isinstance(kind, list) else value
    return columns, expressions


def _header(file: Path, tab: bool) -> tuple[list[str], str, bool]:
    """The columns' names, what separates them, and if line ends are mixed."""
    with unpacked(file) as packed, io.TextIOWrapper(packed, "utf-8-sig", errors="replace", newline="") as text:
        start = text.read(1 << 20)
    # A .csv is split by what splits its first line into most fields.
    separators = ("\t",) if tab else (",", ";", "\t", "|")
    splits = {sep: next(csv.reader(io.StringIO(start, newline=""), delimiter=sep), []) for sep in separators}
    separator = max(splits, key=lambda sep: len(splits[sep]))  # the first of equals: a comma
    names = splits[separator]
    if not any(names):
        raise DataError(f"{file} has no first line that names the columns")
    if any("\ufffd" in name or "\0" in name for name in names):
        raise DataError(f"{file}, line 1: its names are not in UTF-8, which alone is allowed")
    names = [name.strip() or f"unnamed_{place}" for place, name in enumerate(names, 1)]  # pandas writes its index so
    twice = sorted({name for name in names if [other.lower() for other in names].count(name.lower()) > 1})
    if twice:
        raise DataError(f"{file} has several columns called {', '.join(twice)}; one of each is allowed")
    bare = re.sub(r'"[^"]*"', "", start).removesuffix("\r")  # within quotes a line end is text
    ends = bare.count("\r\n")
    return names, separator, 0 < ends < max(bare.count("\n"), bare.count("\r"))


def _first_line(file: Path) -> None:
    """Refuses a JSON file that is no lines of objects."""
    with unpacked(file) as text:
        start = text.read(4096).removeprefix(BOM).lstrip()
    if start[:1] == b"[":
        raise DataError(f"{file} is one JSON array; an object a line is allowed, as `jq -c '.[]'` makes them")
    if not start:
        raise DataError(f"{file} is empty; a JSON object a line is needed")


def _renames(texts: Sequence[str], there: Sequence[str]) -> dict[str, dict[str, str]]:
    """Table → its columns' new names."""
    named: dict[str, dict[str, str]] = {}
    for text in texts:
        column, equals, name = text.rpartition("=")
        table, dot, column = column.partition(".")
        if not (equals and dot and column and name):
            raise DataError(f"--map {text}: TABLE.COLUMN=NAME is allowed, as in impressions.ts=timestamp")
        if table not in there:
            raise DataError(f"--map {text}: there is no table {table}; there are {listed(there) or 'none'}")
        if column in named.setdefault(table, {}):
            raise DataError(f"--map {text}: {column} has the name {named[table][column]} already")
        named[table][column] = name
    return named
