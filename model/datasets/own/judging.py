"""What a column of a log can be: a feature of one kind, or none, and why; from its values, then from its name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb

from model.datasets.own.profile import Column

SIDES = {"users": "user", "items": "item", "impressions": "context"}

OWN = 0.9  # distinct values per row from which a column tells rows apart and nothing else
FEW, SOME = 12, 30  # distinct whole numbers that are categories whatever they are called; unless they count something

COUNTS = set(
    "age price cost amount count counts num qty quantity duration length size days years months hours minutes seconds"
    " secs mins ms distance km miles meters weight height width income salary balance followers following views plays"
    " clicks likes comments shares sales reviews score rating ratings stars bpm tempo stock followed friends fans"
    " budget revenue discount percent pct ratio popularity calories words pages nights rooms guests capacity population"
    " area sqm sqft mileage tenure visits orders purchases downloads installs kcal grams volume"
    " time elapsed gap diff delta interval remaining lag".split()
)
CODES = set(
    "id ids uuid guid key code hash token sku isbn ean asin barcode category genre type class group zip".split()
)
RANKS = {"position", "pos", "rank", "slot", "place", "page"}
PLACES = RANKS | {"hour", "week", "month", "weekday", "dow", "day"}
PERSONAL = set(
    "email mail firstname lastname surname fullname username nickname login street address birthday birthdate dob ssn"
    " iban passport phone telephone tel msisdn ip".split()
)
TIMES = {"at", "ts", "time", "timestamp", "date", "datetime", "epoch", "created", "updated"}
AGGREGATES = {"clicks", "ctr", "views", "plays", "purchases", "orders", "sales", "popularity", "downloads", "bookings"}


@dataclass(frozen=True)
class Entry:
    """A `[[feature]]` with its reason, or, without a row, a column that is left out."""

    table: str
    name: str
    why: str
    row: Mapping[str, Any] | None = None


@dataclass
class Log:
    """The tables, looked at."""

    con: duckdb.DuckDBPyConnection
    tables: dict[str, dict[str, Column]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)  # of the whole tables

    def one(self, query: str) -> tuple[Any, ...]:
        row = self.con.execute(query).fetchone()
        assert row is not None  # an aggregate has one row
        return row

    def id(self, table: str, name: str) -> str:
        """SQL of an id as text, so that 7, 7.0 and "7" are one."""
        column = self.tables[table][name]
        whole = column.sort == "int" or (column.sort == "float" and column.whole)
        return f"CAST(CAST({column.expression} AS HUGEINT) AS VARCHAR)" if whole else column.expression


def judged(log: Log, column: Column) -> Entry:
    """A feature, or why it is none; from the column's own values and name alone."""
    reason = _useless(column)
    if reason:
        return Entry(column.table, column.name, reason)
    row: dict[str, Any] = {"name": column.name, "side": SIDES[column.table]}
    gaps = f", missing in {column.missing:.1%} of the rows" if column.missing >= 0.0005 else ""
    held = f"{column.distinct:,} value{'s' if column.distinct != 1 else ''}{gaps}: {width(column.distinct)} wide."
    if min_count(column.distinct) > 1:
        held += f" Those seen less than {min_count(column.distinct)} times in training share one row."
    if column.distinct == 1:
        held += " It tells whether it is there."
    if column.sort == "list":
        of = "int" if column.element == "int" else "str"
        if column.table != "items" and _of_items(log, column):
            why = "lists of item ids: what a user did belongs in behaviours, where it has its time"
            return Entry(column.table, column.name, why)
        row |= {"kind": "multi", "type": of, "max_values": max(1, min(20, column.listed))}
        row |= sized(column.distinct)
        why = f"Lists of {column.distinct:,} different values{gaps}; 95 % of the rows have at most {column.listed}."
        return Entry(column.table, column.name, why, row)
    if _counts(log, column):
        low, middle, high = column.quantiles or (0, 0, 0)
        skewed = (column.low or 0) >= 0 and high >= 8 and high - middle > 3 * (middle - low)
        row |= (
            {"kind": "number", "transform": "log", "width": 4}
            if skewed
            else {"kind": "number", "transform": "standard"}
        )
        spread = f"A number: median {middle:g}, 98 % between {low:g} and {high:g}{gaps}"
        why = f"{spread}: skewed, so by powers of √2, embedded." if skewed else f"{spread}: mean 0 and deviation 1."
        if column.tokens & AGGREGATES and column.table != "impressions":
            why += " If it was counted over all days, it knows the test day: count the days before alone."
        return Entry(column.table, column.name, why, row)
    row |= {"kind": "category", "type": "int" if column.integers or column.sort == "bool" else "str"} | sized(
        column.distinct
    )
    why = held
    if column.sort == "bool":
        why += " true is 1, false 0."
    if column.integers and column.distinct > SOME and not column.tokens & (CODES | PLACES):
        why += ' Whole numbers taken for names of things; if they count something, write kind = "number".'
    if column.separator:
        why += f" Several values between {column.separator!r}? As a list (in CSV a JSON list) it would be a multi."
    if column.looks == "padded":
        why += " Text: as whole numbers they would lose their leading zeros."
    return Entry(column.table, column.name, why, row)


def _of_items(log: Log, column: Column) -> bool:
    (share,) = log.one(
        "SELECT avg(CASE WHEN CAST(e AS VARCHAR) IN (SELECT id FROM known) THEN 1 ELSE 0 END)"
        f" FROM (SELECT unnest({column.expression}) AS e FROM seen_{column.table} LIMIT 100000)"
    )
    return bool((share or 0) > 0.8)


def _useless(column: Column) -> str:
    """Why a column is no feature; empty where nothing speaks against it."""
    words, own = column.tokens, column.distinct >= OWN * column.present and column.present >= 5
    if not column.present or (column.sort == "list" and not column.distinct):
        return "no value in any row"
    if column.sort == "other":
        return "its values have parts (objects, lists of lists); columns of these could be features"
    if column.distinct == 1 and column.sort != "list" and not 0.05 <= column.missing <= 0.95:
        return f"the same value in every row ({str(column.common)[:40]})"
    if column.looks in ("email", "phone", "ip"):
        kind = {"email": "e-mail addresses", "phone": "phone numbers", "ip": "network addresses"}[column.looks]
        return f"personal data: {kind}"
    personal = words & (PERSONAL | {"name"}) if column.table == "users" else words & PERSONAL
    if (
        column.table != "items"
        and personal
        and (column.sort == "text" and column.distinct > 2 or column.whole and (column.low or 0) >= 10**6)
    ):
        return f"personal data, by its name ({column.distinct:,} values)"
    if column.sort == "time" or _is_epoch(column):
        return "a time: what it means (weekday, age in days) could be a feature, the moment itself never comes back"
    if column.looks == "url":
        return "addresses of pages or files"
    if column.looks == "object":
        return "texts of objects or lists that are no JSON lists; columns of their parts could be features"
    if column.sort == "list":
        return "lists of fractions (an embedding?), for which there is no kind" if column.element == "float" else ""
    if own and (column.sort == "text" or column.integers and _is_number_of_rows(column)):
        share = column.distinct / column.present
        return f"a value of its own in nearly every row ({share:.0%}): it names rows, and there is nothing to learn"
    lengthy = column.words >= 4 or column.characters >= 60
    if column.sort == "text" and lengthy and column.distinct > max(50, 0.1 * column.present):
        return f"free text: {column.words:.0f} words in the mean, {column.distinct:,} different ones"
    if set(column.name) & set("./\\\n") or column.name == "key":
        return "its name cannot be a feature's (. / and \\ are none of it, nor is it key): --map gives it another"
    return ""


def _is_number_of_rows(column: Column) -> bool:
    """Whether whole numbers that are all different name rows in the stead of counting something."""
    low, high = column.low or 0, column.high or 0
    dense = column.distinct >= OWN * (high - low + 1)
    return bool(dense or column.tokens & CODES or (low >= 10**7 and high < 10 * low)) and not column.tokens & COUNTS


def _is_epoch(column: Column) -> bool:
    """Whether whole numbers are times, since 1970 or as 20260131."""
    if column.sort not in ("int", "float") or not column.whole and column.sort == "float":
        return False
    low, high, named = column.low or 0, column.high or 0, bool(column.tokens & TIMES)
    since = any(9.4e8 * unit <= low and high <= 2.1e9 * unit for unit in ((1, 1e3, 1e6, 1e9) if named else (1e3, 1e6)))
    written = 19_000_101 <= low and high <= 21_001_231 and column.distinct > 1 and _are_days(column)
    return since or written


def _are_days(column: Column) -> bool:
    return all(1 <= int(v) // 100 % 100 <= 12 and 1 <= int(v) % 100 <= 31 for v in (column.low or 0, column.high or 0))


def _counts(log: Log, column: Column) -> bool:
    """Whether a column is a number: a fraction, or whole numbers that count something."""
    if column.sort == "float" and not column.integers:
        return True
    if not column.integers or column.tokens & CODES or column.distinct <= FEW:
        return False
    if column.tokens & PLACES and column.distinct <= 100 or "year" in column.tokens and (column.low or 0) > 1000:
        return False
    if column.tokens & COUNTS:
        return True
    if column.distinct <= SOME:
        return False
    low, middle, high = column.low or 0, column.middle or 0, column.high or 0
    if high - middle > 3 * (
        middle - low + 1
    ):  # few large among many small: what is counted is spread so, codes are not
        return True
    shown = log.rows["impressions"] * column.present / max(1, column.rows)
    return shown / column.distinct < 30  # too few rows per value to learn each


def sized(distinct: int) -> dict[str, int]:
    count = min_count(distinct)
    return ({"min_count": count} if count > 1 else {}) | {"width": width(distinct)}


def min_count(distinct: int) -> int:
    return 1 if distinct <= 50 else 3


def width(distinct: int) -> int:
    return 4 if distinct <= 50 else 8 if distinct <= 5_000 else 16
