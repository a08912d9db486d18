"""A kind of feature is one class: what it declares, how raw values become a column, how a column becomes arrays.

A new kind is a class here and its place in KINDS; those that are computed from others are in derived.py. Everything
else asks the feature.

    raw values (JSON, a table's column, the store's text) ─column→ keys or floats ─rows→ rows of its embedding table
                                                                                  └standardised→ a number, if `is_float`

The same functions serve a table of logs and one request.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from decimal import Decimal
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from model.features.ids import (
    ABSENT,
    FIRST,
    MISSING,
    PAD,
    UNKNOWN,
    BadValue,
    IdType,
    hashed_rows,
    is_hole,
    key,
    keys,
    milliseconds,
    plain,
    shown,
    tidied,
)
from model.features.table import Vocabulary
from model.options import Count, Natural, OptionError, check, refuse_missing, refuse_unknown

Side = Literal["user", "item", "context", "cross", "object"]  # object: a group's, never in `[[feature]]`
Column = npt.NDArray[Any]  # raw values: uint64 keys or float64, (n,) or (n, columns)
Rows = npt.NDArray[np.int64]

ITEM_ID, USER_ID = "item_id", "user_id"
LOG_BUCKETS = 80  # of a number x: floor(2·log2(1 + x)), so x up to 2^40 in steps of a half power of two
MOST_DEVIATIONS = 100.0  # a standardised number is cut there: one absurd value must not drown all others
_LARGEST = float(np.finfo(np.float32).max)


class SchemaError(OptionError):
    """A feature table that cannot be used; the message names the feature, what was given and what is allowed."""


@dataclass(frozen=True)
class Feature:
    """What all kinds share: one value, known by its key. A kind overrides what it does otherwise."""

    name: str
    side: Side
    type: IdType = "str"
    width: Natural = 0
    sequence_width: Natural = 0
    min_count: Count = 1
    buckets: Count | None = None
    default: bool | int | float | str | tuple[bool | int | float | str, ...] | None = None
    of: tuple[str, ...] = ()
    seen: bool = True  # false: encoded, and no network looks at it

    kind: ClassVar[str]
    typed: ClassVar[bool] = True  # raw values are of `type`
    listed: ClassVar[bool] = False  # a raw value is a list; as text, a JSON list
    repeats: ClassVar[bool] = True  # a table names few distinct values: each goes through `column` once
    crossable: ClassVar[bool] = False  # can be a part of a cross: its column is one key per row
    whole: ClassVar[bool] = False  # of side cross, and of no parts
    derived: ClassVar[bool] = False  # computed for a candidate, from other features: has no raw value (derived.py)

    def __post_init__(self) -> None:
        checked(self, f"feature {self.name!r}")
        self._require(bool(self.name), "a feature needs a name")
        self._require(not set(self.name) & set("./\\"), "its name stands for files and tables: without . / and \\")
        self._require(self.name != "key", "the catalogue's own column is named so: name the feature otherwise")
        self._require(
            (self.side == "cross" and not self.whole) == bool(self.of),
            "a cross, and only a cross, names its parts in `of`",
        )
        self._require(self.derived or self.side != "cross" or self.buckets is not None, "a cross needs `buckets`")
        self._require(
            self.side in ("item", "object") or not self.sequence_width, "only an item's feature has a sequence_width"
        )
        self._require(self.side != "context" or self.default is not None, "a context feature needs a neutral `default`")
        self._require(self.side == "context" or self.default is None, "only a context feature has a `default`")
        try:
            self._require(self.default is None or not is_hole(self.default), "default nan, allowed: a value")
            self.column([self.default])
        except BadValue as error:
            raise SchemaError(f"feature {self.name!r}: default: {error}") from None
        self._require(not self.sequence_width or not self.is_float, "a standardised number cannot be in the sequence")
        self._require(self.seen or not self.sequence_width, "what is in the sequence is seen")

    def _require(self, holds: bool, message: str) -> None:
        if not holds:
            raise SchemaError(f"feature {self.name!r}: {message}")

    def as_dict(self) -> dict[str, Any]:
        """What `declared` reads: name, side, kind and type, and where it departs from the defaults."""
        always = {"name": self.name, "side": self.side, "kind": self.kind, "type": self.type}
        return always | {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    @property
    def is_float(self) -> bool:
        """Enters the network as a number; all other features are table rows."""
        return False

    @property
    def ordered(self) -> bool:
        """Whether its rows rise with what they tell, so evenly that a network starts best by that order."""
        return False

    @property
    def columns(self) -> int:
        """Columns in the encoded arrays."""
        return 1

    @property
    def has_vocabulary(self) -> bool:
        """Its rows are fitted to the training split's values."""
        return self.fixed_rows is None and not self.is_float

    @property
    def fixed_rows(self) -> int | None:
        """Rows of the embedding table where the declaration alone decides them, else None (a vocabulary does)."""
        return None if self.buckets is None else FIRST + self.buckets

    def may_be_of(self, part: "Feature") -> bool:
        """Whether `of` may name this feature."""
        return part.crossable and part.side != "cross"

    def empty(self, count: int) -> Column:
        """A column in which every value is missing."""
        return np.full(count, MISSING)

    def column(self, values: Sequence[Any]) -> Column:
        """The column of raw values; None is missing. Raises BadValue where the declared type refuses one."""
        return keys(values, self.type)

    def missing(self, column: Column) -> npt.NDArray[np.bool_]:
        """Which rows of a column have no value, (n,)."""
        missing: npt.NDArray[np.bool_] = column == MISSING
        return missing

    def from_table(self, value: Any) -> Any:
        """A table's value as `column` takes it: whole numbers as integers where these are declared, None for NaN."""
        return tidied(value, self.type) if self.typed else value

    def holes(self, values: Sequence[Any]) -> int:
        """How many elements of raw values hold nothing and are left out: the null of ["a", null]."""
        return 0

    def from_text(self, text: str) -> Any:
        """The store's text as a raw value; `stored` wrote it. Raises BadValue."""
        return text

    def stored(self, value: Any) -> str | None:
        """The store's text of a table's value, which `from_text` reads back; None: it is missing. Raises BadValue."""
        value = self.from_table(value)
        if value is None:
            return None
        self.column([value])
        return to_text(value)

    def rows(self, column: Column, vocabularies: Mapping[str, Vocabulary]) -> Rows:
        """Rows of the embedding table, (n, columns). Not of a float."""
        if self.buckets is not None:
            return hashed_rows(column, self.buckets)[..., None]
        return vocabularies[self.name].rows(column)[..., None]


class Category(Feature):
    """One of many values: a text or an integer."""

    kind = "category"
    crossable = True


class Id(Category):
    """Who the user or which the item is."""

    kind = "id"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.name in (ITEM_ID, USER_ID), "kind id is for item_id and user_id")


@dataclass(frozen=True)
class Multi(Feature):
    """Several values of one category: tags. The network reads the mean of their embeddings.

    An element that holds nothing is no value: it is left out before the cut to `max_values`.
    """

    max_values: Count = 1  # more are cut off

    kind = "multi"
    listed = True
    repeats = False

    @property
    def columns(self) -> int:
        return self.max_values

    def empty(self, count: int) -> Column:
        return np.full((count, self.max_values), ABSENT)

    def column(self, values: Sequence[Any]) -> Column:
        column = self.empty(len(values))
        for row, several in enumerate(values):
            if not isinstance(several, list | tuple | None):
                raise BadValue(f"{shown(several)} given, a list is allowed")
            held = (value for value in several or () if not is_hole(value))
            for place, value in enumerate(islice(held, self.max_values)):  # a caller's list may be long
                column[row, place] = key(value, self.type)
        return column

    def missing(self, column: Column) -> npt.NDArray[np.bool_]:
        missing: npt.NDArray[np.bool_] = column[:, 0] == ABSENT
        return missing

    def from_table(self, value: Any) -> Any:
        """A table without lists (a CSV) holds JSON lists as text; an empty text is missing."""
        value = plain(value)
        if isinstance(value, str):
            value = self.from_text(value) if value.strip() else None
        return [tidied(v, self.type) for v in value if not is_hole(v)] if isinstance(value, list | tuple) else value

    def holes(self, values: Sequence[Any]) -> int:
        return sum(is_hole(value) for several in values if isinstance(several, list | tuple) for value in several)

    def from_text(self, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise BadValue(f'{text[:60]!r} given, a JSON list is allowed: ["a", "b"]') from None

    def rows(self, column: Column, vocabularies: Mapping[str, Vocabulary]) -> Rows:
        rows = super().rows(column, vocabularies)[..., 0]  # (n, columns), as the keys are
        np.copyto(rows, PAD, where=column == ABSENT)
        return rows


@dataclass(frozen=True)
class Number(Feature):
    """A number: `standard` enters the network as it is, mean 0 and deviation 1; `log` by embedded buckets.

    A missing one (None, NaN, no key in a request or a profile) is the mean, or UNKNOWN, a row of its own.
    """

    transform: Literal["standard", "log"] | None = None

    kind = "number"
    typed = False
    repeats = False

    def __post_init__(self) -> None:
        self._require(self.transform is not None, "transform is missing, allowed: standard, log")
        super().__post_init__()
        self._require(self.buckets is None and self.min_count == 1, "a number has no vocabulary: no min_count, buckets")

    @property
    def is_float(self) -> bool:
        return self.transform == "standard"

    @property
    def fixed_rows(self) -> int | None:
        return None if self.is_float else FIRST + LOG_BUCKETS

    def empty(self, count: int) -> Column:
        return np.full(count, np.nan)

    def column(self, values: Sequence[Any]) -> Column:
        return np.array([_number(value) for value in values], np.float64)

    def missing(self, column: Column) -> npt.NDArray[np.bool_]:
        return np.isnan(column)

    def from_table(self, value: Any) -> Any:
        """DECIMAL, booleans and times (milliseconds) are numbers too; an empty text (a CSV's) is missing."""
        value = plain(value)
        if isinstance(value, date):
            return milliseconds(value)
        if isinstance(value, str):
            return value if value.strip() else None
        return float(value) if isinstance(value, bool | Decimal) else value

    def rows(self, column: Column, vocabularies: Mapping[str, Vocabulary]) -> Rows:
        steps = np.floor(2 * np.log2(1 + np.fmax(column, 0)))  # a NaN is 0 here
        rows: Rows = FIRST + np.minimum(steps, LOG_BUCKETS - 1).astype(np.int64)
        np.copyto(rows, UNKNOWN, where=np.isnan(column))
        return rows[..., None]


KINDS: dict[str, type[Feature]] = {cls.kind: cls for cls in (Id, Category, Number, Multi)}


def standardised(values: npt.NDArray[np.float64], mean: Any, deviation: Any) -> npt.NDArray[np.float64]:
    """Values by their means and deviations, arrays that broadcast; a missing value is 0, the mean."""
    standard: npt.NDArray[np.float64] = values - mean
    standard /= deviation
    np.minimum(standard, MOST_DEVIATIONS, out=standard)
    np.maximum(standard, -MOST_DEVIATIONS, out=standard)
    np.copyto(standard, 0, where=np.isnan(standard))
    return standard


def declared(row: Mapping[str, Any]) -> Feature:
    """The feature of one `[[feature]]`. Raises SchemaError, also for unknown keys (a misspelt one would be ignored)."""
    where, kind = f"feature {row.get('name')!r}", row.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        wrong = "is missing" if kind is None else repr(kind)
        raise SchemaError(f"{where}: kind {wrong}, allowed: {', '.join(KINDS)}")
    feature: Feature = made(KINDS[kind], row, where, ("kind",))
    return feature


def made(kind: Any, row: Mapping[str, Any], where: str, besides: Sequence[str] = ()) -> Any:
    """The dataclass of one table of `features.toml`; keys `besides` are no fields of it. Raises SchemaError."""
    names = [field.name for field in fields(kind)]
    try:
        refuse_unknown(row, (*names, *besides), where)
        refuse_missing(row, kind, where)
    except OptionError as error:
        raise SchemaError(str(error)) from None
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in row.items() if name in names})


def checked(table: Any, where: str) -> None:
    """Holds a dataclass of the feature table to the types of its fields. Raises SchemaError."""
    try:
        check(table, where)
    except OptionError as error:
        raise SchemaError(str(error)) from None


def to_text(value: Any) -> str:
    """A raw value as the store's text, which `from_text` reads back, without a list's holes.

    Raises BadValue for what no kind holds.
    """
    match value:
        case str():
            return value
        case int():
            return str(int(value))  # True is 1
        case float():
            return repr(value)
        case list() | tuple() if all(isinstance(element, str | int | float | None) for element in value):
            held = [int(v) if isinstance(v, bool) else v for v in value if not is_hole(v)]
            return json.dumps(held, ensure_ascii=False)
    raise BadValue(f"{shown(value)} given, text, a number or a list of these is allowed")


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise BadValue(f"{value[:60]!r} given, a number is allowed") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadValue(f"{shown(value)} given, a number is allowed")
    if value != value:  # NaN: no number
        return math.nan
    if not -_LARGEST <= value <= _LARGEST:
        raise BadValue(f"{str(value)[:60]} given, a finite number of 32 bits is allowed")
    return float(value)


def span(places: Sequence[int]) -> slice | list[int]:
    """The places; where they follow each other as a slice, which costs an array less."""
    begin = places[0] if places else 0
    return slice(begin, begin + len(places)) if list(places) == [*range(begin, begin + len(places))] else list(places)
