"""What a column means, whatever its type: SQL that turns it into its canonical form, and that says where it cannot.

A type is taken where it holds the meaning without loss: 21.0 for 21, a decimal for a number, a text of digits for an
integer. A value that would lose something is refused, and a message names it.

    missing   null, NaN, and in a text that stands for a number or a time also "", nan, null, none, na and \\N
    integer   integers of all widths that fit 64 bits, whole decimals, whole floats below 2^53 (above, floats have gaps)
    text      text, UUIDs; integers as their digits, switches as 1 and 0; times as ISO 8601 in UTC
    number    integers, floats, decimals, switches; times as milliseconds
    moment    milliseconds since 1970: integers, whole or broken decimals and floats (what is below a millisecond is cut
              off), times with or without a zone (without: UTC), days (midnight UTC), text of ISO 8601
"""

from dataclasses import dataclass

from model.features.behaviour import EARLIEST_MS, LATEST_MS, MS_ALLOWED

INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")
WIDE = ("UBIGINT", "HUGEINT", "UHUGEINT", "BIGNUM")
FLOATS = {"FLOAT": 1 << 24, "DOUBLE": 1 << 53}  # up to where they hold every integer
LEAST_ID = -(1 << 63) + 2  # the two below are reserved (model/features/ids.py)
LARGEST = 3.4028234663852886e38  # of 32 bits, which is what networks read
MIXED = "MIXED"  # JSON values of several types, or fractions among them: each is taken as its own type
TRUE, FALSE = "('true', 't')", "('false', 'f')"  # as texts, lower case; Postgres writes the short ones
NO_VALUE = "('', 'nan', 'null', 'none', 'na', '\\n')"  # lower case, as texts


@dataclass(frozen=True)
class Cast:
    """The canonical value of a column, null where it is missing or refused, and which of the two."""

    sql: str
    missing: str  # SQL that is true where nothing stands
    allowed: str  # in words
    raw: str  # the column itself, for messages

    @property
    def refused(self) -> str:
        return f"({self.sql}) IS NULL AND NOT ({self.missing})"

    def within(self, lowest: float, highest: float, allowed: str) -> "Cast":
        inside = f"CASE WHEN ({self.sql}) BETWEEN {lowest} AND {highest} THEN {self.sql} END"
        return Cast(inside, self.missing, allowed, self.raw)


def family(type: str) -> str:
    """The kind of a DuckDB type: integer, float, decimal, text, switch, time, list, or other."""
    if type.endswith("]"):
        return "list"
    if type in INTEGERS or type in WIDE:
        return "integer"
    if type in FLOATS:
        return "float"
    if type == "BOOLEAN":
        return "switch"
    if type.startswith("DECIMAL"):
        return "decimal"
    if type.startswith(("TIMESTAMP", "DATE")):
        return "time"
    if type.startswith(("VARCHAR", "ENUM", "UUID", "BLOB", "TIME", MIXED)) or type == '"NULL"':  # TIME: of a day
        return "text"
    return "other"


def element(type: str) -> str:
    """The type of a list's elements."""
    return type[: type.rindex("[")]


def _raw(x: str, type: str) -> str:
    """A value as messages show it."""
    return _text(x, type) if type == MIXED else x


def _text(x: str, type: str) -> str:
    if type == "BLOB":  # text of old writers, which do not say so
        return f"TRY(decode({x}))"
    if type == MIXED:
        return f"({x} ->> '$')"
    return x if type == "VARCHAR" else f"CAST({x} AS VARCHAR)"


def _missing(x: str, type: str) -> str:
    if type == MIXED:
        return f"({_text(x, type)} IS NULL OR (json_type({x}) = 'DOUBLE' AND lower({_text(x, type)}) = 'nan'))"
    return f"({x} IS NULL OR {_nan(x)})" if type in FLOATS else f"{x} IS NULL"


def _nan(x: str) -> str:
    """That a float is no number. DuckDB's isnan and its comparisons believe Parquet's statistics, which know no NaN."""
    return f"(NOT isfinite({x}) AND NOT isinf({x}))"


def _no_value(x: str, type: str) -> str:
    """Missing, also as texts say it where a number is meant."""
    if family(type) == "text" and type != "UUID":
        return f"({_text(x, type)} IS NULL OR lower(trim({_text(x, type)})) IN {NO_VALUE})"
    return _missing(x, type)


def _whole(x: str, type: str) -> str | None:
    """A column as BIGINT, null where that would lose something; None where its type is no number."""
    kind = family(type)
    if kind == "integer":
        return f"TRY_CAST({x} AS BIGINT)" if type in WIDE else f"CAST({x} AS BIGINT)"
    if kind == "float":
        whole = f"isfinite({x}) AND {x} = trunc({x}) AND abs({x}) < {FLOATS[type]}"
        return f"CASE WHEN {whole} THEN TRY_CAST({x} AS BIGINT) END"
    if kind == "decimal":
        return f"CASE WHEN {x} = trunc({x}) THEN TRY_CAST({x} AS BIGINT) END"
    if kind == "text":
        text = _text(x, type)
        digits = f"TRY_CAST(split_part({text}, '.', 1) AS BIGINT)"
        return f"CASE {_digits(text)} WHEN regexp_full_match({text}, '\\s*-?[0-9]+(\\.0*)?\\s*') THEN {digits} END"
    return None


def _digits(text: str) -> str:
    """A branch of a CASE for the usual text of an integer: told by its way back, far faster than by its form."""
    return f"WHEN CAST(TRY_CAST({text} AS BIGINT) AS VARCHAR) = {text} THEN TRY_CAST({text} AS BIGINT)"


def integer(x: str, type: str) -> Cast | None:
    """An id or a category that is declared int; None where the type cannot hold one."""
    if family(type) == "time":
        return Cast(f"epoch_ms(CAST({x} AS TIMESTAMP))", _missing(x, type), "integers", x)
    sql = f"CAST({x} AS BIGINT)" if type == "BOOLEAN" else _whole(x, type)
    if sql is None:
        return None
    if family(type) == "text":
        text = _text(x, type)
        low = f"lower(trim({text}))"
        sql = f"coalesce({sql}, CASE WHEN {low} IN {TRUE} THEN 1 WHEN {low} IN {FALSE} THEN 0 END)"
    return Cast(sql, _no_value(x, type), "integers", _raw(x, type))


def integer_id(x: str, type: str) -> Cast | None:
    """An id that is declared int: a switch or a time is none."""
    sql = _whole(x, type)
    if sql is None:
        return None
    allowed = f"integers of 64 bits ({LEAST_ID} to {(1 << 63) - 1})"
    if type in FLOATS:
        allowed = f"whole numbers below 2^{FLOATS[type].bit_length() - 1}, where floats have no gaps,"
    return Cast(sql, _no_value(x, type), allowed, _raw(x, type)).within(LEAST_ID, (1 << 63) - 1, allowed)


def text(x: str, type: str) -> Cast | None:
    """An id or a category that is declared str; None where the type cannot hold one."""
    kind = family(type)
    if type == MIXED:
        return Cast(_mixed(x), _missing(x, type), "strings or whole numbers", _text(x, type))
    if kind == "text":
        return Cast(_text(x, type), f"{x} IS NULL", "strings", x)
    if kind == "integer":
        return Cast(f"CAST({x} AS VARCHAR)", f"{x} IS NULL", "strings", x)
    if kind == "switch":
        return Cast(f"CAST(CAST({x} AS TINYINT) AS VARCHAR)", f"{x} IS NULL", "strings", x)
    if kind == "float":
        return Cast(f"CAST({_whole(x, type)} AS VARCHAR)", _missing(x, type), "strings or whole numbers", x)
    if kind == "decimal":  # also wider than 64 bits: some export all integers as DECIMAL(38, 0)
        digits = f"CASE WHEN {x} = trunc({x}) THEN CAST(trunc({x}) AS VARCHAR) END"
        return Cast(digits, f"{x} IS NULL", "strings or whole numbers", x)
    if kind == "time":
        return Cast(_iso(x, type), f"{x} IS NULL", "strings", x)
    return None


def text_id(x: str, type: str) -> Cast | None:
    """An id that is declared str: a blank one is none, or all who have none would be one."""
    cast = text(x, type)
    if cast is None or family(type) != "text":
        return cast
    blank = f"trim({_text(x, type)}) = ''"
    return Cast(f"CASE WHEN NOT ({blank}) THEN {cast.sql} END", f"({cast.missing} OR {blank})", cast.allowed, cast.raw)


def _mixed(x: str) -> str:
    """JSON's own types as columns of these are taken: 21.0 is 21, true is 1; nested values are refused."""
    value = f"({x} ->> '$')"
    whole = f"CAST({_whole(f'TRY_CAST({value} AS DOUBLE)', 'DOUBLE')} AS VARCHAR)"
    return (
        f"CASE json_type({x}) WHEN 'DOUBLE' THEN {whole} "
        f"WHEN 'BOOLEAN' THEN CASE {value} WHEN 'true' THEN '1' ELSE '0' END "
        f"WHEN 'ARRAY' THEN NULL WHEN 'OBJECT' THEN NULL ELSE {value} END"
    )


def _iso(x: str, type: str) -> str:
    if type == "DATE":
        return f"CAST({x} AS VARCHAR)"
    return f"replace(CAST(CAST({x} AS TIMESTAMP) AS VARCHAR), ' ', 'T') || 'Z'"


def number(x: str, type: str) -> Cast | None:
    """A double; None where the type is no number."""
    kind = family(type)
    if kind == "float":
        sql = f"CASE WHEN isfinite({x}) THEN CAST({x} AS DOUBLE) END"
    elif kind in ("integer", "decimal", "switch"):
        sql = f"CAST({x} AS DOUBLE)"
    elif kind == "time":
        sql = f"CAST(epoch_ms(CAST({x} AS TIMESTAMP)) AS DOUBLE)"
    elif kind == "text":
        text = _text(x, type)
        written = r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*"
        sql = f"CASE WHEN regexp_full_match({text}, '{written}') THEN TRY_CAST({text} AS DOUBLE) END"
        low = f"lower(trim({text}))"
        sql = f"CASE WHEN {low} IN {TRUE} THEN 1.0 WHEN {low} IN {FALSE} THEN 0.0 ELSE {sql} END"
    else:
        return None
    return Cast(sql, _no_value(x, type), "", _raw(x, type)).within(-LARGEST, LARGEST, "finite numbers of 32 bits")


def moment(x: str, type: str) -> Cast | None:
    """Milliseconds since 1970; None where the type holds no time."""
    kind = family(type)
    if kind == "time":
        sql = f"epoch_ms(CAST({x} AS TIMESTAMP))"
    elif kind in ("integer", "float", "decimal"):
        sql = _milliseconds(x, type)
    elif kind == "text":
        text = _text(x, type)
        digits = f"regexp_full_match({text}, '\\s*-?[0-9]+(\\.[0-9]*)?\\s*')"
        date = f"regexp_full_match({text}, '\\s*[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}.*')"
        sql = (
            f"CASE {_digits(text)} WHEN {digits} THEN TRY_CAST(split_part({text}, '.', 1) AS BIGINT) "
            f"WHEN {date} THEN epoch_ms(TRY_CAST({text} AS TIMESTAMPTZ)) END"
        )
    else:
        return None
    return Cast(sql, _no_value(x, type), "", _raw(x, type)).within(EARLIEST_MS, LATEST_MS, MS_ALLOWED)


def _milliseconds(x: str, type: str) -> str:
    if family(type) == "integer":
        return f"TRY_CAST({x} AS BIGINT)"
    whole = f"TRY_CAST(floor({x}) AS BIGINT)"
    return f"CASE WHEN isfinite({x}) THEN {whole} END" if type in FLOATS else whole


def flag(x: str, type: str) -> Cast | None:
    """0 or 1; None where the type is no number."""
    cast = integer(x, type) if family(type) != "time" else None
    return cast and Cast(f"CAST({cast.sql} AS BIGINT)", cast.missing, "", cast.raw).within(0, 1, "0 or 1")


def choice(x: str, type: str, names: tuple[str, ...]) -> Cast | None:
    """One of the names, or its place among them."""
    cast = integer_id(x, type)
    if cast is None:
        return None
    sql = f"CASE WHEN ({cast.sql}) BETWEEN 0 AND {len(names) - 1} THEN {cast.sql} END"
    if family(type) == "text":
        whens = " ".join(f"WHEN '{name}' THEN {place}" for place, name in enumerate(names))
        sql = f"CASE lower(trim({_text(x, type)})) {whens} ELSE {sql} END"
    allowed = ", ".join(names) + f" or 0 to {len(names) - 1}"
    return Cast(sql, cast.missing, allowed, cast.raw)


def several(x: str, type: str, declared: str) -> Cast | None:
    """A list of integers or texts, its holes kept; None where the type is no list. A text may hold a JSON list."""
    if family(type) == "text":
        listed = f"from_json(CASE WHEN json_valid({_text(x, type)}) THEN {_text(x, type)} END, '[\"JSON\"]')"
        inner = _listed(f"TRY({listed})", MIXED, declared)
        words = f'lists of {"integers" if declared == "int" else "strings"}, in text as JSON (["a", "b"]),'
        return inner and Cast(inner.sql, _no_value(x, type), words, _raw(x, type))
    if family(type) != "list":
        return None
    return _listed(x, type.rpartition("[")[0], declared)


def _listed(x: str, type: str, declared: str) -> Cast | None:
    of = (integer if declared == "int" else text)("e", type)
    if of is None:
        return None
    whole = f"len(list_filter({x}, lambda e: {of.refused})) = 0"
    sql = f"CASE WHEN {whole} THEN list_transform({x}, lambda e: {of.sql}) END"
    return Cast(sql, f"{x} IS NULL", f"lists of {of.allowed}", x)


def plain(x: str, type: str) -> str | None:
    """A column that no feature names, as another engine reads it; None where it is nested or has no plain form."""
    kind = family(type)
    if kind == "list":
        inner = plain("e", element(type))
        return inner and f"list_transform({x}, lambda e: {inner})"
    if type in FLOATS:
        return f"CASE WHEN NOT {_nan(x)} THEN {x} END"
    if type == "BLOB" or kind == "other":
        return None
    if kind == "text":
        return _text(x, type)
    if kind == "decimal" or type in ("HUGEINT", "UHUGEINT", "BIGNUM"):
        return f"CAST({x} AS DOUBLE)"
    return _iso(x, type) if kind == "time" else x
