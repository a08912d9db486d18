"""Options that people write, in recipes, names of variants, search spaces and commands: checked here and nowhere else.

An option is a field of a dataclass, and the field's type says all that its value may be: `Literal["adagrad", "adam"]`,
`Positive`. What a message says is allowed is derived from the type:

    <where>: <name> <value>, allowed: <what is>
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import TypeAdapter, ValidationError

Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Count = Annotated[int, Ge(1)]  # of things of which there is at least one
Natural = Annotated[int, Ge(0)]
Share = Annotated[float, Gt(0), Le(1)]
Part = Annotated[float, Ge(0), Le(1)]
Dropout = Annotated[float, Ge(0), Lt(1)]  # the share that is left out
Layers = Annotated[tuple[Count, ...], MinLen(1)]  # their widths
Names = Annotated[tuple[str, ...], MinLen(1)]

UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class OptionError(ValueError):
    """An option or a value that is not allowed; one line that says where, what it is and what is allowed."""


def hints(kind: Any) -> dict[str, Any]:
    """The types of a dataclass' fields, with their limits."""
    every = get_type_hints(kind, include_extras=True)
    return {field.name: every[field.name] for field in fields(kind)}


def required(kind: Any) -> list[str]:
    """The fields of a dataclass that have no default."""
    return [field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING]


def refuse_unknown(names: Iterable[str], allowed: Collection[str], where: str) -> None:
    """Raises OptionError for names that no option has: a misspelt one would be silently ignored."""
    unknown = sorted(set(names) - set(allowed))
    if unknown:
        raise OptionError(f"{where}: unknown {', '.join(unknown)}; allowed: {', '.join(allowed)}")


def refuse_missing(names: Iterable[str], kind: Any, where: str) -> None:
    """Raises OptionError where a field of a dataclass that has no default is not among those named."""
    for name in required(kind):
        if name not in names:
            raise OptionError(f"{where}: {name} is missing, allowed: {words(hints(kind)[name])}")


def read(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    """The dataclass of values from a file. They must be of its fields' types: no text for a number, no true for 1.

    Raises OptionError.
    """
    refuse_unknown(values, hints(kind), where)
    refuse_missing(values, kind, where)
    try:
        return _adapter(kind).validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # the dataclass' own check, which says all
            raise OptionError(first["msg"].removeprefix("Value error, ")) from None
        name = ".".join(str(part) for part in first["loc"])
        raise wrong(where, name, first["input"], words(hints(kind)[str(first["loc"][0])])) from None


def check(options: Any, where: str) -> None:
    """Holds a dataclass that was made in Python to its fields' types. Raises OptionError."""
    for name, hint in hints(type(options)).items():
        check_value(hint, getattr(options, name), where, name)


def check_value(hint: Any, value: Any, where: str, name: str) -> None:
    try:
        _adapter(hint).validate_python(value, strict=True)
    except ValidationError:
        raise wrong(where, name, value, words(hint)) from None


def from_text(hint: Any, text: str, where: str, name: str) -> Any:
    """The value that a text stands for; a list's text has dashes in between: 64-32. Raises OptionError."""
    try:
        plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        return _adapter(hint).validate_python(text.split("-") if get_origin(plain) is tuple else text)
    except ValidationError:
        raise wrong(where, name, text, words(hint)) from None


def seconds(text: str, where: str, name: str) -> float:
    """The seconds of a duration that people write: 90, 90s, 10m, 1.5h, 2d. Raises OptionError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is None:
        raise wrong(where, name, text, "seconds, or a number with one of s, m, h, d: 3600, 10m, 1h")
    return float(match[1]) * UNITS_S[match[2]]


def durations(text: str, where: str, name: str) -> list[float]:
    """The seconds of several durations, with commas in between: 0,10m,1h. Raises OptionError."""
    return [seconds(one, where, name) for one in text.split(",")]


def wrong(where: str, name: str, value: Any, allowed: str) -> OptionError:
    return OptionError(f"{where}: {name} {value!r}, allowed: {allowed}")


def words(hint: Any) -> str:
    """What a type allows, for people."""
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is Literal:
        return ", ".join(map(str, arguments))
    if kind is Annotated:
        limits = {Gt: "above {0.gt}", Ge: "from {0.ge}", Le: "up to {0.le}", Lt: "below {0.lt}"}
        limits |= {MinLen: "and at least {0.min_length} of them"}
        return " ".join([words(arguments[0]), *(limits[type(limit)].format(limit) for limit in arguments[1:])])
    if kind in (tuple, list):
        return f"list of: {words(arguments[0])}"
    if kind in (Union, UnionType):
        return ", ".join(words(one) for one in arguments if one is not NoneType)
    if kind is dict:
        return f"{{{' = '.join(map(words, arguments))}}}"
    return {bool: "true, false", int: "whole number", float: "number", str: "text"}.get(hint, str(hint))


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)
