"""How trees are fitted and what they see: the same for every log."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PARAMETERS = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Parameters:
    """What parameters.toml holds, where each has its reason."""

    most_rows: int
    blocks: int
    smoothing: float
    most_values: int
    most_trees: int
    patience: int
    blind_trees: int
    lightgbm: dict[str, Any]


@cache
def parameters() -> Parameters:
    return Parameters(**tomllib.loads(PARAMETERS.read_text()))
