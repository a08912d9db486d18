"""Recipes: what a training run does otherwise than the defaults, which are the paper's where it prints them.

`model/recipes/<dataset>.toml` holds for all networks on a data set, `<network>_<dataset>.toml` goes on top of it; both
are taken where they exist, and each setting there carries its reason.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from model import networks
from model.features.schema import Schema

RECIPES = Path(__file__).parents[1] / "recipes"


ALLOWED = {
    "objective": ("click", "watch_time"),
    "exposures": ("unclicked", "all"),
    "optimiser": ("adagrad", "adam"),
    "select": ("validation", "test"),
}


@dataclass(frozen=True)
class Training:
    """How the optimiser goes; BST's Table 3 and §3.1 where the paper says."""

    objective: str = "click"  # or watch_time (model/training/objective.py)
    exposures: str = "unclicked"  # watch_time: what counts as a negative, as Covington et al. print it; or all
    optimiser: str = "adagrad"  # §3.1; or adam
    lazy: bool = True  # steps and l2 move a batch's table rows alone; false (adam, small tables, no warm start): all
    learning_rate: float = 0.01  # Table 3
    decay: float = 1.0  # what the learning rate has fallen to, linearly, at the end of every epoch; 1: it stays
    accumulator: float = 0.1  # Adagrad's start, as in TensorFlow 1.4, with which the paper trained
    weight_decay: float = 0.0  # adam only, and not on the embedding tables
    l2: float = 0.0  # of table rows; lazy: DIN's mini-batch aware regularisation, BPR's λ
    wide_learning_rate: float = 0.1  # FTRL's α of a wide part (wdl, wdl_seq), whatever the optimiser of the rest
    wide_l1: float = 1.0  # its λ1: an id or a cross must have earned its weight
    fresh_tables: int = 0  # tables of more rows start anew at every epoch (MEDA, Liu et al. 2023); 0: none does
    batch_size: int = 256  # Table 3
    epochs: int = 1  # Table 3
    evaluations: int = 4  # looks at validation an epoch; 0: none, and the last epoch's weights are taken
    patience: int = 4  # looks without a better validation AUC until it stops
    select: str = "validation"  # the split that picks the checkpoint; test shows by how much one would fool oneself
    refit: bool = False  # then train anew on train + validation, for as many epochs as were best; test stays unseen
    checkpoint_s: float = 60.0  # seconds between checkpoints

    def __post_init__(self) -> None:
        for name, allowed in ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise RecipeError(f"{name} {getattr(self, name)!r}, allowed: {', '.join(allowed)}")
        for name in ("learning_rate", "wide_learning_rate", "batch_size", "epochs", "patience", "decay"):
            if getattr(self, name) <= 0:
                raise RecipeError(f"{name} {getattr(self, name)}, allowed: above 0")
        for name in ("accumulator", "weight_decay", "fresh_tables", "l2", "wide_l1", "evaluations", "checkpoint_s"):
            if getattr(self, name) < 0:
                raise RecipeError(f"{name} {getattr(self, name)}, allowed: 0 and more")
        if self.decay > 1:
            raise RecipeError(f"decay {self.decay}, allowed: at most 1")
        if not self.lazy and self.optimiser != "adam":
            raise RecipeError(f"lazy false with optimiser {self.optimiser!r}, allowed: adam")
        if self.refit and not self.evaluations:
            raise RecipeError("refit with evaluations 0: looks at validation pick the number of epochs")


@dataclass(frozen=True)
class Recipe:
    """What differs from the defaults: the network's Config, Training, widths of features by name, history length."""

    network: dict[str, Any] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    features: dict[str, dict[str, int]] = field(default_factory=dict)  # {"item_id": {"sequence_width": 16}}
    history: dict[str, int] = field(default_factory=dict)  # {"length": 50}


class RecipeError(ValueError):
    """A recipe that cannot be used; says what was given and what is allowed."""


def load_recipe(paths: Sequence[Path], network: str) -> Recipe:
    """The recipe of files, later ones on top of earlier ones; raises RecipeError, also for unknown keys."""
    merged: dict[str, dict[str, Any]] = {f.name: {} for f in fields(Recipe)}
    for path in paths:
        try:
            content = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: {error}") from None
        _known(path, content, list(merged))
        for name, settings in content.items():
            if not isinstance(settings, dict):
                raise RecipeError(f"{path}: {name} is a table: [{name}]")
            if name == "network" and _is_shared(path, network):  # for all networks: not all have each field
                settings = {key: value for key, value in settings.items() if key in networks.options(network)}
            merged[name] |= settings
        _known(path, content.get("training", {}), [f.name for f in fields(Training)])
    try:
        training = networks.checked(Training, merged["training"], "[training]")
        networks.config(network, merged["network"])
        widths = [width for changes in merged["features"].values() for width in dict(changes).values()]
        if any(type(number) is not int or number < 0 for number in [*widths, *merged["history"].values()]):
            raise RecipeError("widths in [features] and the length in [history] are whole numbers from 0")
        return Recipe(**merged | {"training": training})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{', '.join(map(str, paths))}: {error}") from None


def _is_shared(path: Path, network: str) -> bool:
    return path.parent == RECIPES and not path.stem.startswith(f"{network}_")


def _known(path: Path, table: Mapping[str, Any], allowed: Sequence[str]) -> None:
    unknown = set(table) - set(allowed)
    if unknown:
        raise RecipeError(f"{path}: unknown {', '.join(sorted(unknown))}; allowed: {', '.join(allowed)}")


def adapted(schema: Schema, recipe: Recipe) -> Schema:
    """The schema with the recipe's widths and history length: they change the network, not a row's encoding."""
    if set(recipe.history) - {"length"}:
        raise RecipeError(f"recipe: history {recipe.history}; allowed: length")
    history = replace(schema.history, length=recipe.history.get("length", schema.history.length))
    return replace(_with_widths(schema, recipe.features), history=history)


def _with_widths(schema: Schema, features: Mapping[str, Mapping[str, int]]) -> Schema:
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


def choose_recipe(network: str, dataset: str, given: Path | None) -> list[Path]:
    """The files to use: the one given, else those made for the data set and for this pair; none: the defaults."""
    if given:
        return [given]
    return [path for path in (RECIPES / f"{dataset}.toml", RECIPES / f"{network}_{dataset}.toml") if path.exists()]
