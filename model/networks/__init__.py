"""One paper's network a file; a new file here is trained, exported, tested and served under its name."""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import nn

from model.features.schema import Schema

_SHARED = ("blocks",)


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _SHARED)


def options(name: str) -> dict[str, Any]:
    """The fields of a network's Config, with their defaults. Raises ValueError for a name that is not there."""
    if name not in names():
        raise ValueError(f"network {name!r}, allowed: {', '.join(names())}")
    return {f.name: f.default for f in fields(_module(name).Config)}


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")


def build(name: str, schema: Schema, rows: Mapping[str, int], given: Mapping[str, Any] | None = None) -> nn.Module:
    """The network `name` for tables of so many `rows`; `given` are fields of its Config.

    Raises ValueError for a name or an option that is not there; says which are.
    """
    allowed = options(name)
    unknown = set(given or {}) - set(allowed)
    if unknown:
        raise ValueError(f"network {name}: unknown {', '.join(sorted(unknown))}; allowed: {', '.join(allowed)}")
    module = _module(name)
    network: nn.Module = module.Network(schema, rows, module.Config(**(given or {})))
    return network
