"""Recipes: what a training run does otherwise than the defaults, which are the paper's where it prints them.

`model/recipes/<dataset>.toml` holds for all networks on a data set, `<network>_<dataset>.toml` goes on top of it; both
are taken where they exist, and each setting there carries its reason. For a log without either
model/training/choosing/defaults.py has settings.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from model import networks
from model.features.schema import Schema
from model.options import (
    Count,
    Natural,
    NotNegative,
    OptionError,
    Part,
    Positive,
    Share,
    check,
    read,
    refuse_unknown,
    wrong,
)

RECIPES = Path(__file__).parents[1] / "recipes"


Widths = dict[Literal["width", "sequence_width"], Natural]
Derived = Literal["match", "statistic", "today"]  # kinds that are computed from others (model/features/derived.py)


@dataclass(frozen=True)
class Training:
    """How the optimiser goes; BST's Table 3 and §3.1 where the paper says."""

    objective: Literal["click", "watch_time"] = "click"  # model/training/objective.py
    exposures: Literal["unclicked", "all"] = "unclicked"  # watch_time: the negatives, as Covington et al. print it
    optimiser: Literal["adagrad", "adam"] = "adagrad"  # §3.1
    lazy: bool = True  # steps and l2 move a batch's table rows alone; false (adam, small tables, no warm start): all
    learning_rate: Positive = 0.01  # Table 3
    decay: Share = 1.0  # what the learning rate has fallen to, linearly, at the end of every epoch; 1: it stays
    accumulator: NotNegative = 0.1  # Adagrad's start, as in TensorFlow 1.4, with which the paper trained
    weight_decay: NotNegative = 0.0  # adam only, and not on the embedding tables
    l2: NotNegative = 0.0  # pulls at the table rows that a step moves, by l2·w; bpr: the paper's λ, of each pair's rows
    batch_l2: NotNegative = 0.0  # DIN's mini-batch aware λ (§5.2): λ/n_j·w of the batch's rows; n_j: samples holding j
    wide_learning_rate: Positive = 0.1  # FTRL's α of a wide part (wdl, wdl_seq), whatever the optimiser of the rest
    wide_l1: NotNegative = 1.0  # its λ1: an id or a cross must have earned its weight
    fresh_tables: Natural = 0  # tables of more rows start anew at every epoch (MEDA, Liu et al. 2023); 0: none does
    table_deviation: Part = 0.0  # of the normal numbers that tables start as; 0: Glorot uniform
    average: Part = 0.0  # share of an epoch over whose steps the weights to keep are a running mean; 0: as they stand
    batch_size: Count = 256  # Table 3
    epochs: Count = 1  # Table 3
    evaluations: Natural = 4  # looks at validation an epoch; 0: none, and the last epoch's weights are taken
    patience: Count = 4  # looks without a better AUC until it stops; none counts while that is chance (patience.py)
    select: Literal["validation", "test"] = "validation"  # picks the checkpoint; test shows how misleading that is
    refit: bool = False  # then train anew on train + validation, to the look that was best; test stays unseen
    checkpoint_s: NotNegative = 60.0  # seconds between checkpoints

    def __post_init__(self) -> None:
        check(self, "[training]")
        if not self.lazy and self.optimiser != "adam":
            raise wrong("[training]", "lazy false with optimiser", self.optimiser, "adam")
        if self.refit and not self.evaluations:
            raise wrong("[training]", "refit with evaluations", 0, "from 1: they pick where it ends")


@dataclass(frozen=True)
class Recipe:
    """What differs from the defaults: the network's Config, Training, features' widths, history, inputs left out."""

    network: dict[str, Any] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    features: dict[str, Widths] = field(default_factory=dict)  # {"item_id": {"sequence_width": 16}}
    history: dict[Literal["length"], Natural] = field(default_factory=dict)  # {"length": 50}
    inputs: dict[Literal["without"], list[Derived]] = field(default_factory=dict)  # {"without": ["match"]}: not seen

    def __post_init__(self) -> None:
        check(self, "recipe")


def completed(identity: dict[str, Any]) -> dict[str, Any]:
    """What a run was made by, as an earlier release kept it, with the settings that came since then.

    They had their defaults, by which all is as it was before they came.
    """
    recipe = identity["recipe"]
    training = {f.name: f.default for f in fields(Training)} | recipe["training"]
    return {**identity, "recipe": {**recipe, "training": training}}


class RecipeError(OptionError):
    """A recipe that cannot be used; says what was given and what is allowed."""


def load_recipe(paths: Sequence[Path], network: str) -> Recipe:
    """The recipe of files, later ones on top of earlier ones; raises OptionError, also for unknown keys."""
    merged: dict[str, dict[str, Any]] = {f.name: {} for f in fields(Recipe)}
    for path in paths:
        try:
            content = tomllib.loads(path.read_text("utf-8-sig"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: {error}") from None
        refuse_unknown(content, merged, str(path))
        for name, settings in content.items():
            if not isinstance(settings, dict):
                raise RecipeError(f"{path}: {name} is a table: [{name}]")
            if name == "network" and _is_shared(path, network):  # for all networks: not all have each field
                settings = {key: value for key, value in settings.items() if key in networks.options(network)}
            merged[name] |= settings
    return parse(merged, network, ", ".join(map(str, paths)))


def parse(content: dict[str, Any], network: str, where: str) -> Recipe:
    """The recipe of tables as a file has them. Raises RecipeError."""
    try:
        training = read(Training, content["training"], "[training]")
        networks.config(network, content["network"])
        return Recipe(**content | {"training": training})
    except (ValueError, TypeError, KeyError) as error:
        raise RecipeError(f"{where}: {error}") from None


def _is_shared(path: Path, network: str) -> bool:
    return path.parent == RECIPES and not path.stem.startswith(f"{network}_")


def adapted(schema: Schema, recipe: Recipe) -> Schema:
    """The schema with the recipe's widths, history length and inputs: they change the network, not a row's encoding.

    Raises RecipeError, also where there is nothing to leave out: a comparison would compare a network with itself.
    """
    refuse_unknown(recipe.features, [f.name for f in schema.features], "recipe: features")
    for f in schema.features:
        width = recipe.features.get(f.name, {}).get("sequence_width", f.sequence_width)
        if (width == 0) != (f.sequence_width == 0):
            raise RecipeError(f"recipe: features.{f.name} cannot enter or leave the sequence: the data is encoded so")
    without = recipe.inputs.get("without", ())
    for kind in without:
        if kind not in {f.kind for f in schema.features}:
            raise RecipeError(f"recipe: inputs without {kind}, and features.toml has no feature of that kind")
    features = tuple(
        replace(f, seen=f.seen and f.kind not in without, **recipe.features.get(f.name, {})) for f in schema.features
    )
    return replace(schema, features=features, history=replace(schema.history, **recipe.history))


def choose_recipe(network: str, dataset: str, named: str | Path | None) -> list[Path]:
    """The files to use: those named, else those made for the data set and for this pair; none: there is no such file.

    `named` is a path, or the name of a recipe in the project. Raises RecipeError for a name that is not there.
    """
    if named is None:
        return _of_project(network, dataset)
    if Path(named).is_file():
        return [Path(named)]
    if isinstance(named, str) and (paths := _of_project(network, named)):
        return paths
    allowed = f"a TOML file, or one of {', '.join(recipe_names())}"
    raise RecipeError(f"--recipe {named}: there is no such file, and no recipe of that name; allowed: {allowed}")


def recipe_names() -> list[str]:
    """The recipes in the project, by name."""
    return sorted(path.stem for path in RECIPES.glob("*.toml") if not path.stem.endswith("_features"))


def _of_project(network: str, name: str) -> list[Path]:
    names = recipe_names()
    return [RECIPES / f"{each}.toml" for each in (name, f"{network}_{name}") if each in names]
