"""One paper's network per file; a new file here is trained, exported, tested and served under its name.

blocks.py holds their contract (RankingNetwork) and what they share. From the project they import model.features alone.
"""

import importlib
import json
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from model.features.schema import Schema
from model.networks.blocks import RankingNetwork

_SHARED = ("blocks",)
Checked = TypeVar("Checked")


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _SHARED)


def options(name: str) -> dict[str, Any]:
    """The fields of a network's Config, with their defaults. Raises ValueError for a name that is not there."""
    if name not in names():
        raise ValueError(f"network {name!r}, allowed: {', '.join(names())}")
    return {f.name: f.default for f in fields(_module(name).Config)}


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")


def build(
    name: str, schema: Schema, rows: Mapping[str, int], chosen: Mapping[str, Any] | None = None
) -> RankingNetwork:
    """The network `name` for tables of so many `rows`; `chosen` are fields of its Config, others have their defaults.

    Raises ValueError for a name or an option that is not there; says which are.
    """
    of_network = config(name, chosen or {})
    network: RankingNetwork = _module(name).Network(schema, rows, of_network)
    return network


def config(name: str, chosen: Mapping[str, Any]) -> Any:
    """A network's Config. Raises ValueError for a field or a value that it cannot have; says what is allowed."""
    allowed = options(name)
    unknown = set(chosen) - set(allowed)
    if unknown:
        raise ValueError(f"network {name}: unknown {', '.join(sorted(unknown))}; allowed: {', '.join(allowed)}")
    return checked(_module(name).Config, chosen, f"network {name}")


def checked(dataclass: type[Checked], values: Mapping[str, Any], where: str) -> Checked:
    """A dataclass of values that must be of its fields' types as they are: no text for a number, no true for 1.

    Lists become the tuples that the fields are. Raises ValueError in one line.
    """
    try:
        return TypeAdapter(dataclass).validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        if not at:  # the dataclass' own check, which says all
            raise ValueError(first["msg"].removeprefix("Value error, ")) from None
        raise ValueError(f"{where}: {at} {first['input']!r} given: {first['msg'].lower()}") from None
