"""Recipes: what a training run does otherwise than the defaults, which are the paper's where it prints them.

`model/recipes/<network>_<dataset>.toml` is taken where it exists; each setting there carries its reason.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from model.features.schema import Schema

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Training:
    """How the optimiser goes; BST's Table 3 and §3.1 where the paper says."""

    optimiser: str = "adagrad"  # §3.1; or adam (lazy on the tables, as gradients are sparse)
    learning_rate: float = 0.01  # Table 3
    decay: float = 1.0  # what the learning rate has fallen to, linearly, at the end of every epoch; 1: it stays
    accumulator: float = 0.1  # Adagrad's start, as in TensorFlow 1.4, with which the paper trained
    weight_decay: float = 0.0  # adam only, and not on the embedding tables
    fresh_tables: int = 0  # tables of more rows start anew at every epoch (MEDA, Liu et al. 2023); 0: none does
    batch_size: int = 256  # Table 3
    epochs: int = 1  # Table 3
    evaluations: int = 4  # looks at validation an epoch
    patience: int = 4  # looks without a better validation AUC until it stops
    refit: bool = False  # then train anew on train + validation, for as many epochs as were best; test stays unseen
    checkpoint_s: float = 60.0  # seconds between checkpoints

    def __post_init__(self) -> None:
        if self.optimiser not in ("adagrad", "adam"):
            raise RecipeError(f"optimiser {self.optimiser!r}, allowed: adagrad, adam")
        if min(self.learning_rate, self.batch_size, self.epochs, self.evaluations, self.patience) <= 0:
            raise RecipeError("learning_rate, batch_size, epochs, evaluations and patience are above 0")


@dataclass(frozen=True)
class Recipe:
    """What differs from the defaults: the network's Config, Training, and widths of features by name."""

    network: dict[str, Any] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    features: dict[str, dict[str, int]] = field(default_factory=dict)  # {"item_id": {"sequence_width": 16}}


class RecipeError(ValueError):
    """A recipe that cannot be used; says what was given and what is allowed."""


def load_recipe(path: Path) -> Recipe:
    try:
        content = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: {error}") from None
    _known(path, content, [f.name for f in fields(Recipe)])
    training = content.get("training", {})
    _known(path, training, [f.name for f in fields(Training)])
    try:
        return Recipe(content.get("network", {}), Training(**training), content.get("features", {}))
    except TypeError as error:
        raise RecipeError(f"{path}: {error}") from None


def _known(path: Path, table: Mapping[str, Any], allowed: Sequence[str]) -> None:
    unknown = set(table) - set(allowed)
    if unknown:
        raise RecipeError(f"{path}: unknown {', '.join(sorted(unknown))}; allowed: {', '.join(allowed)}")


def with_widths(schema: Schema, features: Mapping[str, Mapping[str, int]]) -> Schema:
    """The schema with other widths: they change the network, not the encoding."""
    names = [f.name for f in schema.features]
    for name, changes in features.items():
        if name not in names or set(changes) - {"width", "sequence_width"}:
            raise RecipeError(
                f"recipe: features.{name} {dict(changes)}; allowed: width, sequence_width of {', '.join(names)}"
            )
        if (schema.features[names.index(name)].sequence_width == 0) != (changes.get("sequence_width", 0) == 0):
            if "sequence_width" in changes:
                raise RecipeError(f"recipe: features.{name} cannot enter or leave the sequence: the data is encoded so")
    made = []
    for f in schema.features:
        own = features.get(f.name, {})
        sequence_width = own.get("sequence_width", f.sequence_width)
        made.append(replace(f, width=own.get("width", f.width), sequence_width=sequence_width))
    return replace(schema, features=tuple(made))


def choose_recipe(network: str, dataset: str, given: Path | None) -> Path | None:
    """The recipe to use: the one given, else the one made for this pair, else none (the defaults)."""
    made = RECIPES / f"{network}_{dataset}.toml"
    return given or (made if made.exists() else None)
