"""Raw values → a column: keys for ids, categories and multis, floats for numbers.

The same for a table of logs and for one request.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model.features.ids import ABSENT, MISSING, BadValue, key, keys
from model.features.schema import Feature

Column = npt.NDArray[Any]  # uint64 keys, or float64; (n,) or, for a multi, (n, max_values)


_LARGEST = float(np.finfo(np.float32).max)


def empty(feature: Feature, rows: int) -> Column:
    """A column in which every value is missing."""
    if feature.kind == "number":
        return np.full(rows, np.nan)
    if feature.kind == "multi":
        return np.full((rows, feature.max_values), ABSENT)
    return np.full(rows, MISSING)


def column(feature: Feature, values: Sequence[Any]) -> Column:
    """The column of raw values; None is missing. Raises BadValue where the feature's type refuses one."""
    if feature.kind == "number":
        return np.array([_number(value) for value in values], np.float64)
    if feature.kind == "multi":
        made = empty(feature, len(values))
        for row, several in enumerate(values):
            if several is None:
                continue
            if not isinstance(several, list | tuple):
                raise BadValue(f"{several!r} given, a list is allowed")
            for place, value in enumerate(several[: feature.max_values]):
                made[row, place] = key(value, feature.type) if value is not None else ABSENT
        return made
    return keys(values, feature.type)


def from_text(feature: Feature, text: str) -> Any:
    """A profile's text as a raw value: the store keeps text, a multi as a JSON list. Raises BadValue."""
    if feature.kind != "multi":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadValue(f"{text[:60]!r} given, a JSON list is allowed") from None


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise BadValue(f"{value[:60]!r} given, a number is allowed") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadValue(f"{value!r} given, a number is allowed")
    if not -_LARGEST <= value <= _LARGEST:  # NaN neither
        raise BadValue(f"{str(value)[:60]} given, a finite number of 32 bits is allowed")
    return float(value)


def to_text(value: Any) -> str:
    """A raw value as the store's text; `from_text` reads it back. Raises BadValue for what no feature holds."""
    match value:
        case str():
            return value
        case int():
            return str(int(value))  # True is 1
        case float():
            return repr(value)
        case list() if all(isinstance(element, str | int | float) for element in value):
            return json.dumps(value, ensure_ascii=False)
    raise BadValue(f"{value!r} given, text, a number or a list of these is allowed")
