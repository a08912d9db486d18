"""Raw value → 64-bit key → table row: the one place where an id is coerced, refused, hashed and numbered.

An integer is its own key (two's complement), a string is hashed by XXH3-64, whose values are fixed by its
specification. Rows begin with PAD (a slot that holds nothing) and UNKNOWN (a value without a row of its own).
"""

import reprlib
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xxhash

Keys = npt.NDArray[np.uint64]
IdType = Literal["int", "str"]

PAD, UNKNOWN, FIRST = 0, 1, 2  # rows; a vocabulary's first own row is FIRST

MISSING = np.uint64(1 << 63)  # the key of no value: an unknown age
ABSENT = np.uint64((1 << 63) + 1)  # the key of an unused place in a multi-valued feature
_RESERVED = (int(MISSING), int(ABSENT))
_64_BITS = (1 << 64) - 1
_27, _30, _31 = np.uint64(27), np.uint64(30), np.uint64(31)
_MIX_1, _MIX_2, _ODD = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB), np.uint64(0x9E3779B97F4A7C15)
FEW = 4  # up to so many values are faster one by one than in an array
INT_MIN, INT_MAX = -(1 << 63) + 2, (1 << 63) - 1  # the two smallest would be the reserved keys


class BadValue(ValueError):
    """A raw value that its feature's declared type refuses; says what was given and what is allowed."""


def canonical(value: Any, id_type: IdType) -> int | str:
    """One id in its declared type: `int` takes integers and their decimal text, `str` text and integers.

    Booleans, fractions and everything else are refused: 1.0 is not 1, or one side would call an item what the other
    does not.
    """
    if id_type == "str":
        if type(value) is str:
            return value
        if type(value) is int and INT_MIN <= value <= INT_MAX:  # what JSON and the store can carry
            return str(value)
        raise BadValue(f"{shown(value)} given, a string is allowed{_instead(value)}")
    if type(value) is str and (value.isdecimal() or (value[:1] == "-" and value[1:].isdecimal())) and value.isascii():
        value = int(value) if len(value) <= 20 else INT_MAX + 1
    if type(value) is not int:
        raise BadValue(f"{shown(value)} given, an integer is allowed{_instead(value)}")
    if not INT_MIN <= value <= INT_MAX:
        raise BadValue(f"{shown(value)} given, an integer of 64 bits is allowed")
    return value


def tidied(value: Any, id_type: IdType) -> Any:
    """What a table holds for an id or a category, as `canonical` takes it; tables are of fewer types than values.

    No number (NaN) is None. A whole number is its integer, however the table holds it (21.0 for 21, beside nulls;
    DECIMAL), and a boolean 1 or 0. A time is milliseconds where integers are declared, else ISO 8601 in UTC.
    """
    value = plain(value)
    if isinstance(value, date):
        return milliseconds(value) if id_type == "int" else _iso(value)
    whole = isinstance(value, bool) or (isinstance(value, float | Decimal) and value % 1 == 0)
    return int(value) if whole else value


def milliseconds(value: date) -> int:
    """Since 1970, of a day (its midnight) or a time; UTC where it names no zone."""
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (zoned - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _iso(value: date) -> str:
    if not isinstance(value, datetime):
        return value.isoformat()
    plain_utc = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
    text = plain_utc.isoformat()
    return f"{text.rstrip('0') if '.' in text else text}Z"


def plain(value: Any) -> Any:
    """A value in Python's own types, and no number (NaN, also DECIMAL's) as None."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Decimal) and not value.is_finite():
        value = float(value)
    return None if is_hole(value) else value


def is_hole(value: Any) -> bool:
    """None or no number (NaN): what stands where a table or a list holds nothing."""
    return value is None or (isinstance(value, float | Decimal) and value != value)


def key(value: Any, id_type: IdType) -> int:
    """The 64-bit key of one value; None is MISSING."""
    if value is None:
        return int(MISSING)
    value = canonical(value, id_type)
    if isinstance(value, int):
        return value & 0xFFFF_FFFF_FFFF_FFFF
    hashed = xxhash.xxh3_64_intdigest(value.encode(errors="surrogatepass"))
    return hashed if hashed not in _RESERVED else hashed ^ 0xFF  # two in 2^64 share a key with a neighbour


def keys(
    values: Sequence[Any] | npt.NDArray[np.int64], id_type: IdType, types: AbstractSet[type] | None = None
) -> Keys:
    """Keys of many values, (n,) -> (n,) uint64. Raises BadValue at the first that the type refuses.

    `types` are the values' own, where the caller knows them.
    """
    if types is None:
        types = {np.int64} if isinstance(values, np.ndarray) else set(map(type, values))
    if len(values) <= FEW and np.int64 not in types:
        return np.array([key(value, id_type) for value in values], np.uint64)
    if id_type == "str" and types == {str}:  # the usual case in whole arrays; the mixed one by `key`, alike
        try:
            hashed = np.fromiter(map(xxhash.xxh3_64_intdigest, map(str.encode, values)), np.uint64, len(values))
        except UnicodeEncodeError:  # a lone surrogate
            return np.fromiter((key(value, id_type) for value in values), np.uint64, len(values))
        return _unreserved(hashed)
    if id_type == "int" and types <= {int, np.int64}:
        try:
            numbers = np.asarray(values, np.int64)
        except OverflowError:
            numbers = np.array([INT_MIN - 1])
        if numbers.size and int(numbers.min()) < INT_MIN:
            raise BadValue("an id outside 64 bits given, an integer of 64 bits is allowed")
        return numbers.view(np.uint64)
    return np.fromiter((key(value, id_type) for value in values), np.uint64, len(values))


def mix(key: Keys) -> Keys:
    """Spreads keys over all 64 bits: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014). Any shape."""
    mixed = key ^ (key >> _30)
    mixed *= _MIX_1
    mixed ^= mixed >> _27
    mixed *= _MIX_2
    mixed ^= mixed >> _31
    return mixed


def mix_one(key: int) -> int:
    """`mix` of one key; an array of one costs ten times as much."""
    key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9 & _64_BITS
    key = (key ^ (key >> 27)) * 0x94D049BB133111EB & _64_BITS
    return key ^ (key >> 31)


def hashed_rows(key: Keys, buckets: int | Keys) -> npt.NDArray[np.int64]:
    """Rows of a hashed feature: FIRST..FIRST+buckets-1, UNKNOWN for MISSING. Any shape."""
    rows = (mix(key) % np.asarray(buckets, np.uint64)).view(np.int64)
    rows += FIRST
    np.copyto(rows, UNKNOWN, where=key == MISSING)
    return rows


def crossed(names: Sequence[str], parts: Sequence[Sequence[Keys]]) -> Keys:
    """Keys of crosses of features (age × item_id), those of more parts first, (crosses, n): MISSING where a part is.

    A cross's parts are (n,) or, for all alike, (1,). Its own name seeds the mix, so that two crosses of the same parts
    do not collide in the same places.
    """
    seeds = np.array([_seed(name) for name in names], np.uint64)[:, None]
    length = max({len(column) for of in parts for column in of} - {1}, default=1)
    mixed, missing = np.empty((len(names), length), np.uint64), np.zeros((len(names), length), bool)
    before = seeds
    for place in range(len(parts[0])):
        columns = [of[place] for of in parts if len(of) > place]
        part = np.empty((len(columns), length), np.uint64)
        for row, column in enumerate(columns):
            part[row] = column
        missing[: len(part)] |= part == MISSING
        part ^= before[: len(part)] * _ODD  # times an odd number: a × b is not b × a
        mixed[: len(part)] = mix(part)
        before = mixed
    mixed = _unreserved(mixed)
    np.copyto(mixed, MISSING, where=missing)
    return mixed


@lru_cache
def _seed(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode())


def _unreserved(hashed: Keys) -> Keys:
    """Hashes, in place, without the two that stand for no value: two in 2^64 share a key with a neighbour."""
    reserved = (hashed | np.uint64(1)) == ABSENT
    if reserved.any():
        hashed[reserved] ^= np.uint64(0xFF)
    return hashed


def _instead(value: Any) -> str:
    """What to write in the stead of a value that only looks like an id."""
    if isinstance(value, bool | float) and value % 1 == 0:
        return f": write {int(value)}"
    return ": put it in quotes" if isinstance(value, float) else ""


class _Short(reprlib.Repr):
    """Takes a time that does not depend on the value's size: a caller may have put megabytes where an id belongs."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxlong, self.maxother = 2, 60, 60, 60

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        return super().repr_dict(dict(islice(x.items(), self.maxdict + 1)), level)  # which would sort all of them


_short = _Short()


def shown(value: Any) -> str:
    """A value as a message shows it: up to 60 characters."""
    if isinstance(value, str):
        text = repr(value[:61])
    else:
        text = _short.repr(value) if isinstance(value, list | tuple | dict) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
