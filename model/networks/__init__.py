"""One paper's network per file; a new file here is trained, exported, tested and served under its name.

blocks.py holds their contract (RankingNetwork) and what they share, cross_layers.py what some may add. From the
project they import model.features and model.options alone.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from model.features.schema import Schema
from model.options import OptionError, read

if TYPE_CHECKING:  # names and options of commands are told without torch, which takes seconds to import
    from model.networks.blocks import RankingNetwork

_SHARED = ("blocks", "cross_layers")


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _SHARED)


def options(name: str) -> dict[str, Any]:
    """The fields of a network's Config, with their defaults. Raises OptionError for a name that is not there."""
    return {f.name: f.default for f in fields(config_type(name))}


def config_type(name: str) -> Any:
    """The dataclass of a network's options. Raises OptionError for a name that is not there."""
    return _module(name).Config


def network_type(name: str) -> "type[RankingNetwork]":
    """The class, for what it says of itself (blocks.RankingNetwork). Raises OptionError for an unknown name."""
    kind: type[RankingNetwork] = _module(name).Network  # a local annotation is not evaluated
    return kind


def _module(name: str) -> Any:
    if name not in names():
        raise OptionError(f"network {name!r}, allowed: {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")


def build(
    name: str, schema: Schema, rows: Mapping[str, int], chosen: Mapping[str, Any] | None = None
) -> "RankingNetwork":
    """The network `name` for tables of so many `rows`; `chosen` are fields of its Config, others have their defaults.

    Raises OptionError for a name or an option that is not there; says which are.
    """
    of_network = config(name, chosen or {})
    network: RankingNetwork = _module(name).Network(schema, rows, of_network)
    return network


def config(name: str, chosen: Mapping[str, Any]) -> Any:
    """A network's Config. Raises OptionError for a field or a value that it cannot have; says what is allowed."""
    return read(config_type(name), chosen, f"network {name}")
