"""What a search may draw, and that it finds its own start."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from model import networks, search
from model.options import OptionError
from model.prepared.loader import Prepared
from model.training.choosing.defaults import suited
from model.training.choosing.space import Space, load_rooms
from model.training.choosing.trials import AGAIN
from model.training.choosing.trials import search as searched
from model.training.recipe import Recipe, Training
from tests.worlds import SMALL, make_schema


def space(tmp_path: Path, text: str, start: Recipe | None = None, network: str = "bst") -> Space:
    (tmp_path / "space.toml").write_text(text)
    return Space(load_rooms(tmp_path / "space.toml", network), network, start or Recipe(), make_schema())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[training.learning_rat]\nlow = 1\nhigh = 2", r"\[training\]: unknown learning_rat; allowed: "),
        ("[training.learning_rate]\nlow = 1", "allowed: numbers low < high"),
        ("[training.learning_rate]\nlow = 1\nhigh = 0.1", "allowed: numbers low < high"),
        ("[training.learning_rate]\nlow = 0\nhigh = 0.1\nlog = true", "with log above 0"),
        ("[training.learning_rate]\nlow = 'a'\nhigh = 0.1", "allowed: numbers low < high"),
        ("[training.learning_rate]\nlow = 0.1\nhigh = 0.2\nchoices = [0.1]", "or choices"),
        ("[training.epochs]\nchoices = 'abc'", "or choices"),
        ("[training]\nepochs = 3", "or choices"),
        ("[network.factors]\nchoices = [8]", "names no setting that bst has"),
        ("[network", "Expected"),
        ("[features.item_id]\nchoices = [8]", r"\[features\]: unknown item_id; allowed: width, sequence_width"),
        ("[training.lazy]\nchoices = [true]\nwhen = { optimiser = 'adam' }", "when of lazy: unknown optimiser"),
        ("[training.lazy]\nchoices = [true]\nwhen = 'adam'", "when = { setting = value }"),
        ("[training.l2]\nchoices = [0.1]\npairs = 0.1", r"pairs = \[\.\.\.\]"),
        ("[training.optimiser]\nchoices = ['sgd']", r"\[training\]: optimiser 'sgd', allowed: adagrad, adam"),
        ("[training.epochs]\nlow = 1\nhigh = 2.5", r"epochs 2\.5, allowed: whole number from 1"),
        ("[training.epochs]\nchoices = [0, 4]", "epochs 0, allowed: whole number from 1"),
        ("[history.length]\nlow = -1\nhigh = 4", "length -1, allowed: whole number from 1"),
        ("[features.width]\nchoices = [0.0]", r"width 0\.0, allowed: number above 0"),
        ("[network.mlp]\nchoices = ['a-b']", "mlp 'a-b', allowed: list of: whole number"),
    ],
)
def test_a_wrong_space_says_what_is_allowed(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        space(tmp_path, text)


@pytest.mark.parametrize("network", networks.names())
def test_the_space_that_comes_along_holds_the_default_of_every_network(small_data: Prepared, network: str) -> None:
    start = suited(small_data, network).recipe
    around = Space(load_rooms(search.SPACE, network), network, start, small_data.schema)
    fixed = optuna.trial.FixedTrial(dict(around.starting()))
    assert around.drawn(fixed) == around.starting()
    again = around.recipe(around.starting())
    assert again.training == start.training and again.features == start.features
    assert networks.config(network, again.network) == networks.config(network, start.network)


def test_every_draw_of_that_space_is_a_recipe(small_data: Prepared) -> None:
    """So no trial is wasted on Adagrad with dense steps."""
    start = suited(small_data, "bst").recipe
    around = Space(load_rooms(search.SPACE, "bst"), "bst", start, small_data.schema)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    recipes = [around.recipe(around.drawn(study.ask())) for _ in range(60)]
    assert {(r.training.optimiser, r.training.lazy) for r in recipes} == {
        ("adam", True),
        ("adam", False),
        ("adagrad", True),
    }
    for recipe in recipes:
        networks.config("bst", recipe.network)
        widths = sum(of.get("sequence_width", 0) for of in recipe.features.values())
        assert widths % 8 == 0, "BST's heads split what is scaled"


@pytest.mark.parametrize(
    ("text", "training", "name", "holds"),
    [
        ("[training.batch_size]\nchoices = [256, 512]", {"batch_size": 64}, "batch_size", [64, 256, 512]),
        ("[training.batch_size]\nchoices = [256, 512]", {"batch_size": 512}, "batch_size", [256, 512]),
        ("[training.learning_rate]\nlow = 0.1\nhigh = 0.2", {"learning_rate": 0.05}, "learning_rate", (0.05, 0.2)),
        ("[training.learning_rate]\nlow = 0.1\nhigh = 0.2", {"learning_rate": 0.5}, "learning_rate", (0.1, 0.5)),
    ],
)
def test_a_space_is_widened_to_hold_the_start(
    tmp_path: Path, text: str, training: dict[str, Any], name: str, holds: Any
) -> None:
    around = space(tmp_path, text, Recipe(training=Training(**training)))
    bounds = around.rooms["training"][name]
    assert (bounds.get("choices") or (bounds["low"], bounds["high"])) == holds
    assert around.starting() == {f"training.{name}": training[name]}


def test_factors_scale_the_widths_that_the_start_has(tmp_path: Path) -> None:
    start = Recipe(features={"category_id": {"sequence_width": 24}}, history={"length": 7})
    text = (
        "[features.width]\nchoices = [2.0]\n[features.sequence_width]\nchoices = [0.5]\n[history.length]\nchoices = [5]"
    )
    around = space(tmp_path, text, start)
    assert around.starting() == {"features.width": 1.0, "features.sequence_width": 1.0, "history.length": 7}
    recipe = around.recipe({"features.width": 2.0, "features.sequence_width": 0.5, "history.length": 5})
    assert recipe.features["category_id"] == {"width": 16, "sequence_width": 16}  # 24 / 2, to a multiple of 8
    assert recipe.features["item_id"] == {"sequence_width": 16}  # it has no width of its own, and gets none
    assert recipe.features["age"] == {"width": 8} and recipe.history == {"length": 5}
    assert around.recipe(around.starting()).features == start.features


def test_a_network_of_pairs_searches_a_paper_of_pairs(small_data: Prepared) -> None:
    """BPR's λ is a pair's, and hundreds of times that of a step; DIN's it refuses."""
    rooms = {network: load_rooms(search.SPACE, network)["training"] for network in ("bpr", "din")}
    assert "batch_l2" not in rooms["bpr"] and 0.01 in rooms["din"]["batch_l2"]["choices"]
    assert max(rooms["bpr"]["l2"]["choices"]) >= 0.2 > 0.01 > max(rooms["din"]["l2"]["choices"])
    around = Space(load_rooms(search.SPACE, "bpr"), "bpr", suited(small_data, "bpr").recipe, small_data.schema)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = [around.recipe(around.drawn(study.ask())).training for _ in range(30)]
    assert {training.batch_l2 for training in drawn} == {0.0} and len({training.l2 for training in drawn}) > 3


def test_lists_are_drawn_as_texts_and_come_back_as_lists(tmp_path: Path) -> None:
    around = space(tmp_path, "[network.mlp]\nchoices = [[64, 32], [128]]")
    assert around.rooms["network"]["mlp"]["choices"] == ["1024-512-256", "64-32", "128"]
    assert around.recipe({"network.mlp": "64-32"}).network["mlp"] == (64, 32)
    assert around.recipe({"network.mlp": "128"}).network["mlp"] == (128,)


def test_trials_that_cannot_be_kept_are_one_line(tmp_path: Path, small_data: Prepared) -> None:
    (tmp_path / "kept.db").write_text("no database")
    with pytest.raises(OptionError, match="kept.db, which keeps the trials, cannot be read or written: .*database$"):
        searched(small_data, space(tmp_path, "[training.epochs]\nlow = 1\nhigh = 2"), 1, 1, tmp_path / "kept.db")


def test_a_history_length_is_searched_by_training_once_for_each(tmp_path: Path, tiny_data: Prepared) -> None:
    start = replace(SMALL, training=replace(SMALL.training, epochs=1, evaluations=1))
    (tmp_path / "space.toml").write_text("[history.length]\nchoices = [5]")
    around = Space(load_rooms(tmp_path / "space.toml", "bst"), "bst", start, tiny_data.schema)
    study = searched(tiny_data, around, 3, 1, tmp_path / "kept.db")
    trained = {trial.number: trial for trial in study.trials if AGAIN not in trial.user_attrs}
    drawn = [trial.params["history.length"] for trial in trained.values()]
    assert len(study.trials) == 3 and drawn == [20, 5]
    assert len({trial.value for trial in trained.values()}) == len(drawn), "what a network sees changes its AUC"
    for trial in study.trials:
        known = trained[trial.user_attrs.get(AGAIN, trial.number)]
        assert (trial.params, trial.value) == (known.params, known.value)
