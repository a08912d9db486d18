"""Settings that suit a log nobody made a recipe for, and patience that waits for one that begins at chance."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model import networks
from model.features.ids import UNKNOWN
from model.prepared.loader import Prepared
from model.training.choosing.choice import choose
from model.training.choosing.defaults import suited
from model.training.choosing.trying import asked, tried
from model.training.patience import at_chance
from model.training.recipe import Recipe, Training
from model.training.run import Run


@pytest.mark.parametrize("network", networks.names())
def test_the_default_of_every_network_trains_on_a_small_log(small_data: Prepared, network: str, tmp_path: Path) -> None:
    choice = suited(small_data, network)
    run = Run(small_data, network, choice.recipe, 1, tmp_path / "x.pt")
    rows = small_data.of_split("train")[:128]
    loss = run.step(rows[:64], rows[64:] if run.objective == "pairs" else None)
    assert np.isfinite(float(loss)) and choice.reasons
    assert choice.recipe.training.optimiser == "adam" and choice.recipe.training.select == "validation"


class Large(Prepared):
    """The same log with so many rows to train on."""

    train = 0

    def of_split(self, split: str) -> np.ndarray:
        return np.broadcast_to(0, (self.train,)) if split == "train" else super().of_split(split)


def of_size(data: Prepared, train: int) -> Recipe:
    large = Large(data.folder)
    large.train = train
    return suited(large, "bst").recipe


def test_the_more_rows_the_larger_batch_and_mlp_and_the_fewer_epochs(small_data: Prepared) -> None:
    sizes = [of_size(small_data, rows) for rows in (4_000, 40_000, 400_000, 4_000_000, 400_000_000)]
    batches = [recipe.training.batch_size for recipe in sizes]
    epochs = [recipe.training.epochs for recipe in sizes]
    first = [recipe.network.get("mlp", [1024])[0] for recipe in sizes]
    assert batches == sorted(batches) and first == sorted(first) and epochs == sorted(epochs, reverse=True)
    assert (batches[0], first[0], first[-1], epochs[0], epochs[-1]) == (128, 64, 1024, 40, 1)


def test_tables_start_anew_unless_a_large_log_shows_items_seldom_and_validation_tells_where_it_can(
    small_data: Prepared,
) -> None:
    large, ways = Large(small_data.folder), {}
    large.rows = large.rows | {"item_id": 100_000}
    for large.train in (2_000, 10_000, 1_000_000, 1_500_000, 3_000_000):
        choice = suited(large, "wdl")
        how = choice.recipe.training
        ways[large.train] = bool(how.fresh_tables), choice.rival is not None
        assert (how.evaluations, how.average) == ((1, 0.0) if how.fresh_tables else (2, 0.25)), (
            "a look amid an epoch would see tables half learnt; a mean is for where the rate stays"
        )
    anew, both, kept = (True, False), (True, True), (False, False)
    assert list(ways.values()) == [anew, both, both, kept, anew]


def log_of_ones_own(small_data: Prepared, folder: Path) -> Prepared:
    """The small log under a name that the project has no recipe for."""
    shutil.copytree(small_data.folder, folder)
    meta = json.loads((folder / "meta.json").read_text()) | {"dataset": "parquet"}
    (folder / "meta.json").write_text(json.dumps(meta))
    return Prepared(folder)


def test_where_no_rule_tells_validation_does(small_data: Prepared, tmp_path: Path) -> None:
    data = log_of_ones_own(small_data, tmp_path / "data")
    both = suited(data, "bst")
    assert both.rival and both.recipe.training.fresh_tables and not both.rival.recipe.training.fresh_tables
    assert any("start anew" in reason for reason in both.reasons)
    assert not any("start anew" in reason for reason in both.rival.reasons)
    means = [any("running mean" in reason for reason in each.reasons) for each in (both, both.rival)]
    assert means == [False, True] == [bool(each.recipe.training.average) for each in (both, both.rival)]
    question = asked(data, "bst", [both.recipe, both.rival.recipe])
    for aucs, better in (([0.7, 0.6], both), ([0.6, 0.7], both.rival)):
        (data.folder / "tried").mkdir(exist_ok=True)
        (data.folder / "tried" / "bst.json").write_text(json.dumps({"asked": question, "auc": aucs}))
        choice = choose("bst", data)
        assert choice.recipe == better.recipe and choice.reasons[:-1] == better.reasons
        assert f"anew at every epoch {aucs[0]:.4f}, tables kept {aucs[1]:.4f}" in choice.reasons[-1]


def test_what_was_tried_is_kept_and_asked_anew_for_other_settings(small_data: Prepared, tmp_path: Path) -> None:
    data = log_of_ones_own(small_data, tmp_path / "data")
    how = Training(optimiser="adam", learning_rate=0.002, batch_size=512, evaluations=1)
    slow = replace(how, learning_rate=1e-6)
    recipes = [Recipe({"mlp": (16,)}, training) for training in (how, slow)]
    aucs = tried(data, "wdl", recipes)
    assert aucs[0] > aucs[1] and tried(data, "wdl", recipes) == aucs
    kept = json.loads((data.folder / "tried" / "wdl.json").read_text())
    assert kept == {"asked": asked(data, "wdl", recipes), "auc": aucs}
    assert asked(data, "wdl", recipes[:1]) != kept["asked"] != asked(data, "din", recipes)


def test_where_items_do_not_come_back_the_sequence_says_what_they_are(small_data: Prepared) -> None:
    assert "item_id" not in suited(small_data, "bst").recipe.features
    changed = Prepared(small_data.folder)
    items = np.array(changed.arrays["items"])
    items[:, changed.schema.places("item")["item_id"].start] = UNKNOWN
    changed.arrays = changed.arrays | {"items": items}
    choice = suited(changed, "bst")
    before = {f.name: f.sequence_width for f in changed.schema.sequence}
    widths = {name: of["sequence_width"] for name, of in choice.recipe.features.items() if "sequence_width" in of}
    assert widths["item_id"] == 8 and sum(widths.values()) == sum(before[name] for name in widths)
    assert any("0% show an item that training knows" in reason for reason in choice.reasons)


def test_tables_too_large_for_dense_steps_are_trained_lazily(small_data: Prepared) -> None:
    changed = Prepared(small_data.folder)
    changed.rows = changed.rows | {"item_id": 10_000_000}
    assert suited(changed, "bst").recipe.training.lazy and not suited(small_data, "bst").recipe.training.lazy


def labels(rows: int, clicks: int) -> np.ndarray:
    return np.repeat([1, 0], [clicks, rows - clicks]).astype(np.int8)


@pytest.mark.parametrize(
    ("auc", "rows", "clicks", "chance"),
    [
        (0.503, 10_000, 5_000, True),
        (0.498, 10_000, 5_000, True),
        (0.564, 10_000, 5_000, False),
        (0.3, 10_000, 5_000, True),
        (0.55, 700, 80, True),  # its standard error is 0.034
        (0.58, 700, 80, False),
        (0.505, 2_000_000, 1_000_000, True),  # 12 standard errors, and nothing learnt
        (0.52, 2_000_000, 1_000_000, False),
    ],
)
def test_chance_is_what_the_size_of_the_split_cannot_tell_from_nothing(
    auc: float, rows: int, clicks: int, chance: bool
) -> None:
    assert at_chance(auc, labels(rows, clicks)) is chance


class Looking(Run):
    """A run whose looks see these AUCs instead of its own."""

    curve: list[float]

    def look(self) -> None:
        seen = self.curve[len(self.progress["curve"])]
        self.judge({"auc": seen, "train_loss": 0.0, "picked_by": seen})


def looks_until_it_stops(data: Prepared, curve: list[float], patience: int, tmp_path: Path) -> int:
    how = Training(batch_size=len(data.of_split("train")), epochs=len(curve), evaluations=1, patience=patience)
    run = Looking(data, "wdl", Recipe({"mlp": [4]}, how), 1, tmp_path / "x.pt")
    run.curve = curve
    run.fit()
    return len(run.progress["curve"])


@pytest.mark.parametrize(
    ("curve", "patience", "looks"),
    [
        ([0.503, 0.498, 0.492, 0.564, 0.726, 0.918], 1, 6),  # it begins at chance, and is waited for
        ([0.503, 0.498, 0.564, 0.726, 0.720, 0.918], 1, 5),  # once it has learnt, a look without a better AUC counts
        ([0.726, 0.720, 0.71, 0.70, 0.9], 3, 4),
        ([0.503, 0.498, 0.501, 0.499], 1, 4),  # nothing is ever learnt: the epochs end it
        ([0.56, 0.498, 0.501, 0.918], 2, 3),  # it was above chance before
    ],
)
def test_a_look_at_chance_is_not_waited_in_vain(
    small_data: Prepared, curve: list[float], patience: int, looks: int, tmp_path: Path
) -> None:
    assert looks_until_it_stops(small_data, curve, patience, tmp_path) == looks
