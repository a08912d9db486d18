"""One paper's network a file; a new file here is trained, exported, tested and served under its name."""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import nn

from model.features.schema import Schema
from model.options import OptionError, read

_SHARED = ("blocks",)


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _SHARED)


def options(name: str) -> dict[str, Any]:
    """The fields of a network's Config, with their defaults. Raises OptionError for a name that is not there."""
    return {f.name: f.default for f in fields(config_type(name))}


def config_type(name: str) -> Any:
    """The dataclass of a network's options. Raises OptionError for a name that is not there."""
    return _module(name).Config


def _module(name: str) -> Any:
    if name not in names():
        raise OptionError(f"network {name!r}, allowed: {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")


def build(name: str, schema: Schema, rows: Mapping[str, int], given: Mapping[str, Any] | None = None) -> nn.Module:
    """The network `name` for tables of so many `rows`; `given` are fields of its Config.

    Raises OptionError for a name or an option that is not there; says which are.
    """
    of_network = config(name, given or {})
    network: nn.Module = _module(name).Network(schema, rows, of_network)
    return network


def config(name: str, given: Mapping[str, Any]) -> Any:
    """A network's Config. Raises OptionError for a field or a value that it cannot have; says what is allowed."""
    return read(config_type(name), given, f"network {name}")
