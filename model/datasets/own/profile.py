"""What stands in the columns of a log's tables, measured by DuckDB: of what sort the values are, how many, how often.

A table of text (CSV) and one of types (Parquet) are told apart by their values alone: a column of texts that are all
whole numbers is one of whole numbers. Of a log too large to be looked at whole, every n-th user's rows are.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

import duckdb

from model.datasets.own.casting import FALSE, NO_VALUE, TRUE
from model.engine import literal, quoted

LARGEST = 2_000_000  # rows of a table that are looked at
OF_WHOM = {"impressions": "user_id", "behaviours": "user_id", "users": "user_id", "items": "item_id"}

Sort = Literal["int", "float", "bool", "text", "list", "time", "other"]

# What a text can be; the first sort that holds for all of a column's texts (NEARLY all: the last four) is the column's.
_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
PATTERNS = {
    "int": r"-?(0|[1-9]\d{0,17})",  # as it would be written back; 007 and +7 are texts
    "number": _NUMBER,
    "padded": r"-?0\d+",
    "bool": r"(?i)true|false|t|f",  # Postgres writes t and f
    "date": r"\d{4}-\d{2}(-\d{2}([T ]\d{1,2}:\d{2}.*)?)?|\d{1,2}[./]\d{1,2}[./]\d{4}( .*)?|\d{4}/\d{1,2}/\d{1,2}.*",
    "clock": r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[aApP][mM])?",
    "list": r"\[[\s\S]*\]",
    "object": r"\{[\s\S]*\}",
    "email": r"[^@\s]+@[^@\s]+\.[^@\s]+",
    "abroad": r"\+[1-9]\d{7,14}",  # a telephone number, though it could be cast to a number
    "phone": r"(\+|00)[\d\s().\-/]{7,}|\(?\d{2,5}\)?[\s\-/]\d{2,4}([\s\-/]\d{2,5})+",
    "url": r"(?i)(https?|s3|gs|ftp)://\S+|www\.\S+|/?(\S+/)+\S+\.(jpe?g|png|webp|gif|mp[34]|html?)",
    "several": r"[^|]+\|[^\s].*",
    "semicolons": r"[^;]+;\s?\S.*",
    "commas": r"[^,\s\[(]+,[^\s]*[^\s)\]]",
    "ip": r"\d{1,3}(\.\d{1,3}){3}|[0-9a-fA-F]{0,4}(:[0-9a-fA-F]{0,4}){4,7}",
}
NEARLY = 0.95  # a few bad addresses do not make a column of e-mail one of words


@dataclass(frozen=True)
class Column:
    """One column of one table. Shares are of the values that are there; numbers are None where it has none."""

    table: str
    name: str
    declared: str  # DuckDB's type
    sort: Sort
    rows: int
    present: int
    distinct: int
    common: Any = None  # the most frequent value
    looks: str = ""  # of texts: email, phone, url, ip, date, clock, object, padded
    separator: str = ""  # of texts that seem to hold several values
    words: float = 0.0  # of texts, in the mean
    characters: float = 0.0
    low: float | None = None
    high: float | None = None
    quantiles: tuple[float, float, float] | None = None  # at .01, .5, .99
    middle: float | None = None  # the median of its distinct values
    whole: bool = False  # of floats: each has no fraction
    element: Sort | None = None  # of lists
    listed: int = 0  # of lists: how many values 95 % of the rows have at most

    @property
    def missing(self) -> float:
        return 1 - self.present / self.rows if self.rows else 1.0

    @property
    def integers(self) -> bool:
        """Whether it has whole numbers; as floats where some are missing, as pandas writes them."""
        return self.sort == "int" or self.sort == "float" and self.whole and self.missing > 0

    @property
    def expression(self) -> str:
        """Its values in SQL, of its sort; null is missing."""
        return value(self.name, self.declared, self.sort)

    @property
    def tokens(self) -> frozenset[str]:
        """The words of its name."""
        return frozenset(re.findall(r"[a-z]+|\d+", re.sub(r"([a-z\d])([A-Z])", r"\1_\2", self.name).lower()))


def look(con: duckdb.DuckDBPyConnection, table: str) -> int:
    """Makes `seen_<table>` of `raw_<table>`, at most about LARGEST rows; returns how many rows the raw one has."""
    (rows,) = _one(con, f"SELECT count(*) FROM raw_{table}")
    every = -(-rows // LARGEST)
    chosen = f"WHERE hash(CAST({quoted(OF_WHOM[table])} AS VARCHAR)) % {every} = 0" if every > 1 else ""
    con.execute(f"CREATE OR REPLACE TEMP TABLE seen_{table} AS SELECT * FROM raw_{table} {chosen}")
    return int(rows)


def columns(con: duckdb.DuckDBPyConnection, table: str) -> dict[str, Column]:
    """The columns of `seen_<table>` by name."""
    described = con.execute(f"DESCRIBE seen_{table}").fetchall()
    declared = {str(name): str(kind) for name, kind, *_ in described}
    return {name: _column(con, table, name, kind) for name, kind in declared.items()}


def _column(con: duckdb.DuckDBPyConnection, table: str, name: str, declared: str) -> Column:
    rows, sort, facts = _sort(con, table, name, declared)
    expression = value(name, declared, sort)
    if sort == "other":
        (present,) = _one(con, f"SELECT count({quoted(name)}) FROM seen_{table}")
        return Column(table, name, declared, sort, rows, present, present)
    exact = (
        f"CREATE OR REPLACE TEMP TABLE counted AS SELECT {expression} AS v, count(*) AS n FROM seen_{table} GROUP BY v"
    )
    con.execute(exact)
    present, distinct = _one(con, "SELECT coalesce(sum(n), 0), count(*) FROM counted WHERE v IS NOT NULL")
    common = con.execute("SELECT v FROM counted WHERE v IS NOT NULL ORDER BY n DESC, v LIMIT 1").fetchone()
    column = {"common": common[0] if common else None, **facts}
    if sort == "list":
        distinct, longest = _one(
            con,
            "SELECT (SELECT count(DISTINCT e) FROM (SELECT unnest(v) AS e FROM counted)), (SELECT"
            f" quantile_disc(len(v), .95) FROM (SELECT {expression} AS v FROM seen_{table}) WHERE v IS NOT NULL)",
        )
        column["listed"] = int(longest or 0)
    if sort in ("int", "float") and distinct:
        low, high, middle, whole = _one(
            con,
            "SELECT min(v)::DOUBLE, max(v)::DOUBLE, median(v)::DOUBLE, bool_and(v = floor(v))"
            " FROM counted WHERE v IS NOT NULL",
        )
        (quantiles,) = _one(con, f"SELECT quantile_disc({expression}::DOUBLE, [.01, .5, .99]) FROM seen_{table}")
        column |= {"low": low, "high": high, "middle": middle, "whole": whole, "quantiles": tuple(quantiles)}
    return Column(table, name, declared, sort, rows, int(present), int(distinct), **column)


def _sort(con: duckdb.DuckDBPyConnection, table: str, name: str, declared: str) -> tuple[int, Sort, dict[str, Any]]:
    """Rows, sort, and what else the same look tells."""
    (rows,) = _one(con, f"SELECT count(*) FROM seen_{table}")
    if declared.endswith("]"):
        inner = declared.rpartition("[")[0]
        if inner.endswith("]") or _typed(inner) in ("other", "time"):
            return rows, "other", {}
        return rows, "list", {"element": _elements(con, table, value(name, declared, "list"), _typed(inner))}
    sort = _typed(declared)
    if sort != "text":
        return rows, sort, {}
    text = _text(name, declared)
    asked = ", ".join(f"count(*) FILTER (regexp_full_match({text}, {literal(p)}))" for p in PATTERNS.values())
    present, gaps, characters, words, *matching = _one(
        con,
        f"SELECT count({text}), count(*) FILTER (lower(trim({text})) IN {NO_VALUE}), avg(length({text})),"
        f" avg(1 + length({text}) - length(replace({text}, ' ', ''))),"
        f" {asked} FROM seen_{table}",
    )
    of = dict(zip(PATTERNS, matching, strict=True))
    facts: dict[str, Any] = {"characters": float(characters or 0), "words": float(words or 0)}
    if not present:
        return rows, "text", facts
    known = present - gaps  # numbers and lists have words for what is missing, as NULL; texts have none
    if known and of["list"] == known:
        valid, kind = _one(
            con,
            f"SELECT bool_and(json_valid({text})), mode(json_type({text}, '$[0]')) FILTER (json_valid({text}))"
            f" FROM seen_{table} WHERE lower(trim({text})) NOT IN {NO_VALUE}",
        )
        if valid and kind in ("OBJECT", "ARRAY"):
            return rows, "other", {}
        if valid:
            return rows, "list", {"element": _elements(con, table, value(name, declared, "list"), "text")}
        return rows, "text", facts | {"looks": "object"}
    for sort_of_text, pattern in (("int", "int"), ("bool", "bool"), ("time", "date"), ("time", "clock")):
        if known and of[pattern] == known:
            return rows, sort_of_text, facts | {"looks": pattern}  # type: ignore[return-value]
    if known and of["number"] == known and not of["padded"] and of["abroad"] < NEARLY * known:
        return rows, "float", facts
    for pattern in ("email", "ip", "phone", "url", "object", "padded"):
        if of[pattern] >= (NEARLY * present if pattern != "padded" else 1):
            return rows, "text", facts | {"looks": pattern}
    for separator, pattern in (("|", "several"), (";", "semicolons"), (",", "commas")):
        if of[pattern] >= 0.3 * present:
            facts["separator"] = separator
    return rows, "text", facts


def _elements(con: duckdb.DuckDBPyConnection, table: str, lists: str, typed: Sort) -> Sort:
    """The sort of what stands in lists: texts may be numbers, as JSON and CSV have them."""
    if typed != "text":
        return typed
    whole, number = _one(
        con,
        f"SELECT bool_and(regexp_full_match(e, {literal(PATTERNS['int'])})),"
        f" bool_and(regexp_full_match(e, {literal(PATTERNS['number'])}))"
        f" FROM (SELECT unnest({lists}) AS e FROM seen_{table})",
    )
    return "int" if whole else "float" if number else "text"


def _typed(declared: str) -> Sort:
    """The sort of a declared type."""
    if declared in ("VARCHAR", "UUID", "BLOB", '"NULL"') or declared.startswith("ENUM"):
        return "text"
    if declared.startswith("DECIMAL") or declared in ("FLOAT", "DOUBLE"):
        return "float"
    if re.fullmatch(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|BIGNUM", declared):
        return "int"
    if declared == "BOOLEAN":
        return "bool"
    return "time" if declared.startswith(("DATE", "TIMESTAMP", "TIME")) else "other"


def value(name: str, declared: str, sort: Sort) -> str:
    """SQL of a column's values, of its sort."""
    plain = quoted(name)
    of_text = _typed(declared) == "text"
    text = _text(name, declared)
    match sort:
        case "int":
            return f"TRY_CAST({text} AS BIGINT)" if of_text else f"CAST({plain} AS HUGEINT)"
        case "float":
            number = f"TRY_CAST({text if of_text else plain} AS DOUBLE)"
            return f"CASE WHEN isfinite({number}) THEN {number} END"
        case "bool":
            return f"TRY_CAST({text} AS BOOLEAN)" if of_text else plain
        case "list":
            listed = f"TRY(from_json({text}, '[\"VARCHAR\"]'))" if of_text else plain
            return f"list_filter({listed}, lambda e: e IS NOT NULL)"
        case "time" if not of_text:
            return plain
    return text


def _text(name: str, declared: str) -> str:
    """A column as text; what is empty is missing. A BLOB is the text of writers that do not say so."""
    plain = quoted(name)
    return f"nullif({f'TRY(decode({plain}))' if declared == 'BLOB' else f'CAST({plain} AS VARCHAR)'}, '')"


def moment(column: Column) -> str:
    """SQL of a time in milliseconds, whatever unit or type it stands in."""
    if column.sort in ("int", "float"):
        v = column.expression
        return (
            f"CAST({v} * CASE WHEN abs({v}) < 1e11 THEN 1000 WHEN abs({v}) < 1e14 THEN 1"
            f" WHEN abs({v}) < 1e17 THEN 1e-3 ELSE 1e-6 END AS DOUBLE)"
        )
    return f"CAST(epoch_ms(TRY_CAST({quoted(column.name)} AS TIMESTAMP)) AS DOUBLE)"


def truth(column: Column) -> str:
    """SQL of a label, 1 or 0."""
    text = f"lower(CAST({quoted(column.name)} AS VARCHAR))"
    return (
        f"CASE WHEN {text} IN {TRUE} OR TRY_CAST({text} AS DOUBLE) = 1 THEN 1"
        f" WHEN {text} IN {FALSE} OR TRY_CAST({text} AS DOUBLE) = 0 THEN 0 END"
    )


def auc(con: duckdb.DuckDBPyConnection, column: Column) -> tuple[float, float]:
    """How well a column of impressions alone tells their `_label`, and which share of the clicks it gives away.

    The AUC is of the value itself or, of categories, of the click rate that its value has in the other half of the
    rows; .5 tells nothing. A click is given away by a value that so many clicks and next to nothing else have that
    chance is out of the question: of numbers, `not 0` and `there` are such values.
    """
    number = column.sort in ("int", "float")
    v = column.expression if column.sort != "list" else f"CAST({column.expression} AS VARCHAR)"
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE told AS SELECT {v} AS v, _label AS y, hash(rowid) % 2 AS half"
        " FROM seen_impressions WHERE _label IS NOT NULL"
    )
    by_rate = (
        "SELECT coalesce(r, (SELECT avg(y) FROM told)) AS s, y FROM (SELECT v, y FROM told WHERE half = 1)"
        " LEFT JOIN (SELECT v, (sum(y) + 1) / (count(*) + 2) AS r FROM told WHERE half = 0 GROUP BY v) USING (v)"
    )
    scores = [by_rate] + (["SELECT v::DOUBLE AS s, y FROM told WHERE v IS NOT NULL"] if number else [])
    best = 0.5
    for scored in scores:
        (area,) = _one(
            con,
            f"WITH g AS (SELECT s, sum(y) AS p, count(*) - sum(y) AS n FROM ({scored}) GROUP BY s),"
            " c AS (SELECT p, n, sum(n) OVER (ORDER BY s) - n AS below FROM g)"
            " SELECT sum(p * (below + n / 2)) / nullif(sum(p) * sum(n), 0) FROM c",
        )
        best = max(best, area or 0.5, 1 - (area or 0.5) if number else 0)
    group = "CASE WHEN v IS NULL THEN 0 WHEN v = 0 THEN 1 ELSE 2 END" if number and column.distinct > 30 else "v"
    (given,) = _one(
        con,
        f"WITH base AS (SELECT least(avg(y), .999999) AS r, sum(y) AS clicks FROM told),"
        f" g AS (SELECT count(*) AS n, sum(y) AS p FROM told GROUP BY {group})"
        " SELECT sum(p) FILTER (p >= .98 * n AND n * ln(r) < -14) / nullif(max(clicks), 0) FROM g, base",
    )
    return float(best), float(given or 0)


def comes_back(con: duckdb.DuckDBPyConnection, column: Column) -> float:
    """Of the newest tenth of the impressions, the share whose value stood in an earlier row."""
    v = column.expression
    (share,) = _one(
        con,
        f"WITH old AS (SELECT DISTINCT {v} AS v FROM seen_impressions WHERE NOT _late AND {v} IS NOT NULL)"
        f" SELECT avg(CASE WHEN {v} IN (SELECT v FROM old) THEN 1 ELSE 0 END)"
        f" FROM seen_impressions WHERE _late AND {v} IS NOT NULL",
    )
    return float(share if share is not None else 1.0)


def _one(con: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    row = con.execute(query).fetchone()
    assert row is not None  # an aggregate has one row
    return row
