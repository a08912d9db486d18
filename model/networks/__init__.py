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


def build(name: str, schema: Schema, rows: Mapping[str, int], options: Mapping[str, Any] | None = None) -> nn.Module:
    """The network `name` for tables of so many `rows`; `options` are the fields of its Config.

    Raises ValueError for a name or an option that is not there; says which are.
    """
    if name not in names():
        raise ValueError(f"network {name!r}, allowed: {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    allowed = [f.name for f in fields(module.Config)]
    unknown = set(options or {}) - set(allowed)
    if unknown:
        raise ValueError(f"network {name}: unknown {', '.join(sorted(unknown))}; allowed: {', '.join(allowed)}")
    network: nn.Module = module.Network(schema, rows, module.Config(**(options or {})))
    return network
