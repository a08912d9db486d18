"""Training: it resumes to the same bits, looks at validation only, and refuses what it cannot use."""

import json
import tomllib
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model import networks, train
from model.bundle.reading import Bundle
from model.evaluation.metrics import auc
from model.features.table import Vocabulary
from model.options import OptionError
from model.prepared.loader import Prepared
from model.training import warm
from model.training.optimisers import average as averaging
from model.training.optimisers.lazy import LazyAdagrad
from model.training.recipe import RECIPES, Recipe, RecipeError, Training, choose_recipe, load_recipe
from model.training.run import Run, TrainingError, predict
from tests.processes import finished, started, wait_until
from tests.worlds import SMALL


class Killed(Exception):
    pass


def weights(run: Run) -> dict[str, torch.Tensor]:
    return run.network.state_dict()


@pytest.mark.parametrize(("optimiser", "dies_in", "average"), [("adagrad", "select", 0.0), ("adam", "refit", 0.5)])
def test_a_killed_run_goes_on_to_the_same_bits(
    tiny_data: Prepared, tmp_path: Path, optimiser: str, dies_in: str, average: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(averaging, "SMALL", 100)  # so that tables of both kinds are there
    how = Training(
        optimiser=optimiser,
        batch_size=256,
        epochs=2,
        evaluations=2,
        checkpoint_s=0,
        fresh_tables=100,
        decay=0.1,
        average=average,
        refit=True,
    )
    recipe = Recipe(network={"mlp": [32, 16]}, training=how)
    whole = Run(tiny_data, "bst", recipe, 5, tmp_path / "whole.pt")
    whole.fit()

    epoch = 1 if dies_in == "select" else 0  # refit may take one epoch alone

    class Dying(Run):
        def step(self, rows: Any, inputs: Any) -> torch.Tensor:
            if (self.progress["phase"], self.progress["epoch"], self.progress["batch"]) == (dies_in, epoch, 3):
                raise Killed  # what survives is what `fit` saved on its way
            return super().step(rows, inputs)

    first = Dying(tiny_data, "bst", recipe, 5, tmp_path / "killed.pt")
    with pytest.raises(Killed):
        first.fit()
    second = Run(tiny_data, "bst", recipe, 5, tmp_path / "killed.pt")
    torch.rand(7)  # whatever else drew random numbers meanwhile
    assert second.resume() and (second.progress["epoch"], second.progress["batch"]) == (epoch, 3)
    second.fit()
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(second)[name]), name
    assert [p["auc"] for p in whole.progress["curve"]] == [p["auc"] for p in second.progress["curve"]]


def test_a_refit_sees_validation_and_never_test(tiny_data: Prepared, tmp_path: Path) -> None:
    how = Training(optimiser="adam", learning_rate=0.005, batch_size=512, epochs=3, evaluations=1, refit=True)

    class Watched(Run):
        seen: dict[str, set[int]] = {"select": set(), "refit": set()}

        def step(self, rows: Any, inputs: Any) -> torch.Tensor:
            self.seen[self.progress["phase"]] |= set(rows.tolist())
            return super().step(rows, inputs)

    run = Watched(tiny_data, "bst", Recipe({"mlp": [32]}, how), 1, tmp_path / "x.pt")
    run.fit()
    train_rows, validation = (set(tiny_data.of_split(split).tolist()) for split in ("train", "validation"))
    assert run.seen == {"select": train_rows, "refit": train_rows | validation}
    curve = [look["auc"] for look in run.progress["curve"]]
    assert run.progress["refit_epochs"] == curve.index(max(curve)) + 1 and run.trained_on == ["train", "validation"]


def test_a_refit_goes_on_for_the_looks_that_were_best(small_data: Prepared, tmp_path: Path) -> None:
    """The best look came after three quarters of the second epoch: so much of it is done with more days, too."""
    how = Training(optimiser="adam", batch_size=256, epochs=3, evaluations=4, patience=2, decay=0.1, refit=True)

    class Planted(Run):
        done = {"select": 0, "refit": 0, "final": 0}
        rates: list[float] = []

        def step(self, rows: Any, inputs: Any) -> torch.Tensor:
            self.done[self.progress["phase"]] += 1
            self.rates.append(self.optimiser.parts[0].param_groups[0]["lr"])
            return super().step(rows, inputs)

        def look(self) -> None:
            looks = len(self.progress["curve"])
            figure = 0.7 if looks == 6 else 0.6 + looks / 1000  # the seventh: the third of the second epoch
            self.judge({"auc": figure, "picked_by": figure})
            if looks == 6:
                self.rate_there = self.rates[-1]

    run = Planted(small_data, "wdl", Recipe({"mlp": [16]}, how), 1, tmp_path / "x.pt")
    run.fit()
    refit_rate = run.rates[-1]
    run.fit_final()
    rows = {split: len(small_data.of_split(split)) for split in ("train", "validation", "test")}
    steps = {
        phase: -(-sum(rows[split] for split in splits) // 256)
        for phase, splits in (("refit", ("train", "validation")), ("final", tuple(rows)))
    }
    at_best = round(-(-rows["train"] // 256) * 3 / 4) / -(-rows["train"] // 256)
    assert run.done["refit"] == steps["refit"] + round(steps["refit"] * at_best)
    assert run.done["final"] == steps["final"] + round(steps["final"] * at_best)
    assert refit_rate == pytest.approx(run.rate_there, rel=0.05), "the rate has fallen as far as it had"


def test_a_checkpoint_of_another_run_is_refused(small_run: Run, small_data: Prepared) -> None:
    small_run.save()
    other = Run(small_data, "bst", SMALL, small_run.seed + 1, small_run.checkpoint)
    with pytest.raises(RecipeError, match="another recipe, seed or data"):
        other.resume()


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not(tiny_data: Prepared, tmp_path: Path) -> None:
    def trained(seed: int) -> torch.Tensor:
        run = Run(tiny_data, "bst", SMALL, seed, tmp_path / "x.pt")
        run.fit()
        return weights(run)["head.rest.2.weight"]

    assert torch.equal(trained(1), trained(1)) and not torch.equal(trained(1), trained(2))


def test_neither_test_labels_nor_later_validation_rows_touch_the_weights(small_data: Prepared, tmp_path: Path) -> None:
    """The same run on data whose test labels are turned upside down, at a rate at which looks differ."""
    how = Training(optimiser="adam", learning_rate=0.02, batch_size=256, epochs=2, evaluations=3)
    turning = Recipe({"mlp": [32]}, how)
    one = Run(small_data, "bst", turning, 1, tmp_path / "x.pt")
    one.fit()
    curve = [point["auc"] for point in one.progress["curve"]]
    assert curve.index(max(curve)) != len(curve) - 1, "the last look was the best: nothing was selected"
    spoiled = Prepared(small_data.folder)
    spoiled.label = np.array(spoiled.label)
    spoiled.label[spoiled.of_split("test")] ^= 1
    two = Run(spoiled, "bst", turning, 1, tmp_path / "x.pt")
    two.fit()
    assert all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(two).values(), strict=True))


def test_the_best_checkpoint_on_validation_is_the_one_kept(tiny_data: Prepared, tmp_path: Path) -> None:
    how = Training(optimiser="adam", learning_rate=0.02, batch_size=256, epochs=6, evaluations=2, patience=3)
    run = Run(tiny_data, "bst", Recipe({"mlp": [32]}, how), 1, tmp_path / "x.pt")
    run.fit()
    curve = [point["auc"] for point in run.progress["curve"]]
    assert len(curve) < 12 or curve.index(max(curve)) < 11, "it never got worse: the test shows nothing"
    rows = tiny_data.of_split("validation")
    score = predict(run.network, tiny_data, rows)
    assert auc(tiny_data.label[rows], score) == pytest.approx(max(curve), abs=1e-9)
    if len(curve) < 12:
        assert len(curve) == curve.index(max(curve)) + 1 + 3


def test_large_tables_start_anew_at_every_epoch_and_small_ones_go_on(tiny_data: Prepared, tmp_path: Path) -> None:
    how = Training(optimiser="adagrad", batch_size=1024, epochs=1, fresh_tables=150)
    run = Run(tiny_data, "bst", Recipe({"mlp": [32]}, how), 1, tmp_path / "x.pt")
    run.fit()
    before = {name: tensor.clone() for name, tensor in weights(run).items()}
    run.start_tables_anew()
    changed = {name for name, tensor in weights(run).items() if not torch.equal(tensor, before[name])}
    assert "embed.sequence.item_id.weight" in changed and "embed.other.age_x_item.weight" in changed
    assert not any(name.startswith(("position", "blocks", "head")) for name in changed)
    assert "embed.sequence.category_id.weight" not in changed
    assert run.network.embed.sequence["item_id"].weight not in run.optimiser.parts[0].state


def test_the_papers_optimiser_starts_as_the_papers(small_data: Prepared, tmp_path: Path) -> None:
    tables, dense = Run(small_data, "bst", Recipe(), 1, tmp_path / "x.pt").optimiser.parts
    assert isinstance(tables, LazyAdagrad) and isinstance(dense, torch.optim.Adagrad)
    assert (tables.defaults["lr"], tables.defaults["accumulator"]) == (0.01, 0.1)
    assert (dense.defaults["lr"], dense.defaults["initial_accumulator_value"]) == (0.01, 0.1)
    assert (Training().batch_size, Training().epochs) == (256, 1)


@pytest.mark.long
def test_the_command_goes_on_after_a_kill(
    small_data: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL in the middle of `python -m model.train`, then the same with --resume."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[network]\nmlp = [16]\n[training]\noptimiser = 'adam'\nbatch_size = 128\ncheckpoint_s = 0.0\n")
    arguments = ["--data", str(small_data.folder), "--network", "bst", "--out", str(tmp_path), "--recipe", str(recipe)]
    arguments.append("--publish-anyway")
    checkpoint = tmp_path / "bst_simulated" / ".training-1.pt"
    with started("-m", "model.train", *arguments) as training:
        wait_until(lambda: checkpoint.exists() or training.process.poll() is not None, training)
        training.kill()
    assert torch.load(checkpoint, weights_only=True)["progress"]["batch"] > 0
    assert train.main([*arguments, "--resume"]) == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "bst_simulated" / "current" / "report.json").read_text())
    assert report["validation"]["rows"] == len(small_data.of_split("validation")) and len(report["curve"]) == 4
    assert "resumed" in out and json.loads(out.splitlines()[-1])["rows"] == len(small_data.of_split("test"))
    assert not checkpoint.exists()


def test_it_learns(small_run: Run, small_data: Prepared) -> None:
    rows = small_data.of_split("test")
    found = auc(small_data.label[rows], predict(small_run.network, small_data, rows))
    assert found is not None and found > 0.62


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda p: p.stem)
def test_every_recipe_in_the_project_can_be_used(path: Path, small_data: Prepared, tmp_path: Path) -> None:
    if path.stem.endswith("_features"):
        return
    network = next(
        (name for name in sorted(networks.names(), key=len, reverse=True) if path.stem.startswith(name)), "bst"
    )
    recipe = load_recipe([path], network)
    assert set(tomllib.loads(path.read_text()).get("network", {})) <= {
        o for n in networks.names() for o in networks.options(n)
    }
    if not recipe.features:
        Run(small_data, network, recipe, 1, tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "[training]\nlearning_rat = 1",
            r"\[training\]: unknown learning_rat; allowed: objective, exposures",
        ),
        ("[trainin]\n", "unknown trainin; allowed: network, training, features, history, inputs"),
        ("history = 7", r"history is a table: \[history\]"),
        ("[training]\nobjective = 'likes'", "objective 'likes', allowed: click, watch_time"),
        ("[training]\noptimiser = 'sgd'", "optimiser 'sgd', allowed: adagrad, adam"),
        ("[training]\nepochs = 0", "epochs 0, allowed: whole number from 1"),
        ("[training]\nepochs = 1.5", r"\[training\]: epochs 1.5, allowed: whole number from 1"),
        ("[training]\nepochs = 'two'", r"\[training\]: epochs 'two', allowed"),
        ("[training]\nlearning_rate = true", "learning_rate True, allowed: number above 0"),
        ("[training]\ndecay = -1.0", "decay -1.0, allowed: number above 0 up to 1"),
        ("[training]\naverage = 1.5", "average 1.5, allowed: number from 0 up to 1"),
        ("[network]\nmlp = 16", "network bst: mlp 16, allowed: list of: whole number"),
        ("[network]\nmlp = ['a']", "network bst: mlp.0 'a', allowed: list of: whole number"),
        ("[network]\nblocks = 0", "network bst: blocks 0, allowed: whole number from 1"),
        ("[features]\nitem_id = { sequence_width = 'a' }", "whole number from 0"),
        ("[features]\nitem_id = 3", "recipe: features .*, allowed: .*width"),
        ("[history]\nlength = 'a'", "whole number from 0"),
        ("[training", "Expected"),
    ],
)
def test_a_wrong_recipe_says_what_is_allowed(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(OptionError, match=says):
        load_recipe([path], "bst")


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ({"colour": {"width": 3}}, "recipe: features: unknown colour; allowed: user_id, age"),
        ({"age": {"buckets": 3}}, "allowed: .*width, sequence_width"),
        ({"item_id": {"sequence_width": 0}}, "cannot enter or leave the sequence"),
        ({"shop_id": {"sequence_width": 8}}, "cannot enter or leave the sequence"),
    ],
)
def test_a_recipe_may_change_widths_and_nothing_else_of_a_feature(
    small_data: Prepared, tmp_path: Path, features: dict[str, dict[str, int]], says: str
) -> None:
    with pytest.raises(OptionError, match=says):
        Run(small_data, "bst", Recipe(features=features), 1, tmp_path / "x.pt")
    narrower = Run(small_data, "bst", Recipe(features={"item_id": {"sequence_width": 16}}), 1, tmp_path / "x.pt")
    assert narrower.network.embed.width_D == 32


def test_the_recipe_made_for_network_and_data_set_is_taken_unless_one_is_given(tmp_path: Path) -> None:
    shared, own = RECIPES / "simulated.toml", RECIPES / "bst_simulated.toml"
    assert choose_recipe("bst", "simulated", None) == [shared, own]
    assert choose_recipe("bst", "nowhere", None) == []
    given = tmp_path / "given.toml"
    given.touch()
    assert choose_recipe("bst", "simulated", given) == [given]
    both = load_recipe([shared, own], "bst")
    assert both.training == load_recipe([shared], "bst").training and both.network["dropout"] == 0.1
    assert "dropout" not in load_recipe([shared], "wdl").network


def test_a_loss_that_is_no_number_stops_before_the_weights_do(small_data: Prepared, tmp_path: Path) -> None:
    class Exploding(Run):
        def losses(self, logit: Any, rows: Any) -> torch.Tensor:
            return super().losses(logit, rows) * (float("nan") if self.progress["batch"] == 4 else 1.0)

    recipe = Recipe({"mlp": [16]}, Training(optimiser="adam", batch_size=256, checkpoint_s=0))
    run = Exploding(small_data, "bst", recipe, 1, tmp_path / "x.pt")
    with pytest.raises(
        TrainingError, match=r"loss is nan at epoch 1, batch 5; the last good state is the checkpoint .*x.pt"
    ):
        run.fit()
    again = Run(small_data, "bst", recipe, 1, tmp_path / "x.pt")
    assert again.resume() and again.progress["batch"] == 4
    assert all(torch.isfinite(tensor).all() for tensor in weights(again).values())


def test_a_checkpoint_is_never_written_with_weights_that_are_no_numbers(small_data: Prepared, tmp_path: Path) -> None:
    run = Run(small_data, "bst", SMALL, 1, tmp_path / "x.pt")
    with torch.no_grad():
        run.network.head.of_candidate.weight[0, 0] = float("nan")
    run.save()
    assert not (tmp_path / "x.pt").exists()


def test_a_training_split_of_one_class_is_one_line(small_data: Prepared, tmp_path: Path) -> None:
    spoiled = Prepared(small_data.folder)
    spoiled.label = np.zeros_like(spoiled.label)
    with pytest.raises(RecipeError, match="0 clicks among .* impressions of train; both classes are needed"):
        Run(spoiled, "bst", SMALL, 1, tmp_path / "x.pt")


def test_a_recipe_may_lengthen_the_history_and_the_bundle_knows(small_data: Prepared, tmp_path: Path) -> None:
    run = Run(small_data, "bst", Recipe({"mlp": [16]}, SMALL.training, history={"length": 3}), 1, tmp_path / "x.pt")
    assert run.data.batch(np.arange(5))["gap"].shape == (5, 3)
    assert small_data.batch(np.arange(5))["gap"].shape == (5, 20)
    with pytest.raises(OptionError, match="allowed: .*length"):
        Run(small_data, "bst", Recipe(history={"actions": 3}), 1, tmp_path / "x.pt")


def test_a_table_that_grew_keeps_the_rows_it_had(small_run: Run, small_data: Prepared, tmp_path: Path) -> None:
    grown = Prepared(small_data.folder)
    grown.rows = grown.rows | {"item_id": grown.rows["item_id"] + 5}
    bigger = Run(grown, "bst", SMALL, 7, tmp_path / "x.pt").network
    table = bigger.embed.sequence["item_id"].weight
    fresh = table.detach().clone()
    warm.take_over(bigger, weights(small_run))
    for name, tensor in weights(small_run).items():
        assert torch.equal(bigger.state_dict()[name][: len(tensor)] if tensor.ndim else tensor, tensor), name
    assert torch.equal(table[-5:], fresh[-5:]) and not torch.equal(table[:-5], fresh[:-5])
    with pytest.raises(RecipeError, match="prepare it with --grow"):
        warm.take_over(small_run.network, bigger.state_dict())
    with pytest.raises(RecipeError, match="made by another network or recipe"):
        warm.take_over(Run(small_data, "bst", Recipe({"mlp": [16]}), 1, tmp_path / "x.pt").network, weights(small_run))


def test_l2_pulls_at_the_rows_a_batch_touches_and_at_no_others(small_data: Prepared, tmp_path: Path) -> None:
    how = Training(optimiser="adagrad", batch_size=64)
    plain = Run(small_data, "bst", Recipe({"mlp": [16], "dropout": 0.0}, how), 1, tmp_path / "x.pt")
    pulled = Run(small_data, "bst", Recipe({"mlp": [16], "dropout": 0.0}, replace(how, l2=0.5)), 1, tmp_path / "x.pt")
    start = plain.network.embed.sequence["item_id"].weight.detach().clone()
    rows = small_data.of_split("train")[:64]
    for run in (plain, pulled):
        run.step(rows)
    one, other = (run.network.embed.sequence["item_id"].weight.detach() for run in (plain, pulled))
    touched = (one != start).any(1)
    assert 0 < touched.sum() < len(start) and torch.equal(one[~touched], other[~touched])
    assert not torch.equal(one[touched], other[touched])


def test_without_lazy_the_tables_are_trained_by_torchs_adam_on_every_row(small_data: Prepared, tmp_path: Path) -> None:
    how = Training(optimiser="adam", learning_rate=0.01, batch_size=64, lazy=False, l2=0.001)
    run = Run(small_data, "bst", Recipe({"mlp": [16], "dropout": 0.0}, how), 1, tmp_path / "x.pt")
    theirs = Run(small_data, "bst", Recipe({"mlp": [16], "dropout": 0.0}, how), 1, tmp_path / "x.pt")
    for module in theirs.network.modules():
        if isinstance(module, torch.nn.Embedding):
            module.sparse = False
    tables = theirs.optimiser.tables
    rest = [p for p in theirs.network.parameters() if all(p is not table for table in tables)]
    torchs = [torch.optim.Adam(tables, 0.01, weight_decay=0.001), torch.optim.Adam(rest, 0.01)]
    start = run.network.embed.sequence["item_id"].weight.detach().clone()
    for at in range(3):
        rows = small_data.of_split("train")[64 * at : 64 * (at + 1)]
        run.step(rows)
        theirs.losses(theirs.logit(rows), rows).mean().backward()
        for optimiser in torchs:
            optimiser.step()
            optimiser.zero_grad()
    for name, tensor in theirs.network.state_dict().items():
        torch.testing.assert_close(run.network.state_dict()[name], tensor, atol=2e-5, rtol=1e-3, msg=name)
    assert (run.network.embed.sequence["item_id"].weight[2:] != start[2:]).any(1).all()
    with pytest.raises(OptionError, match="lazy false with optimiser 'adagrad', allowed: adam"):
        Training(lazy=False)


def test_a_warm_start_leaves_the_rows_that_no_batch_touches(
    small_bundle: Bundle, small_run: Run, small_data: Prepared, tmp_path: Path
) -> None:
    how = Training(optimiser="adam", batch_size=64, lazy=False, l2=0.5)
    run = Run(small_data, "bst", Recipe(SMALL.network, how), 1, tmp_path / "x.pt", warm=small_bundle)
    run.step(small_data.of_split("train")[:64])
    trained, brought = (each.network.embed.sequence["item_id"].weight.detach() for each in (run, small_run))
    moved = (trained != brought).any(1)
    assert 0 < moved.sum() < len(moved) / 2


@pytest.mark.long
def test_two_processes_train_the_model_of_one(tiny_data: Prepared, tmp_path: Path) -> None:
    """torchrun's environment, dropout 0; the last batch has fewer rows than there are processes."""
    recipe = tmp_path / "recipe.toml"
    size = len(tiny_data.of_split("train")) - 1  # a batch of all but one row, and one of one row
    recipe.write_text(
        f"[network]\nmlp = [16]\ndropout = 0.0\n[training]\noptimiser = 'adagrad'\nbatch_size = {size}\n"
        "epochs = 2\nevaluations = 1\nbatch_l2 = 0.5\naverage = 1.0\n"
    )
    arguments = ["--data", str(tiny_data.folder), "--network", "bst", "--recipe", str(recipe), "--device", "cpu"]
    arguments.append("--publish-anyway")
    assert train.main([*arguments, "--out", str(tmp_path / "one")]) == 0
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "model.train"]
    done = finished(*two, *arguments, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (
        torch.load(tmp_path / name / "bst_simulated" / "current" / "weights.pt", weights_only=True)
        for name in ("one", "two")
    )
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=1e-4)
    reports = [json.loads((tmp_path / n / "bst_simulated/current/report.json").read_text()) for n in ("one", "two")]
    assert reports[0]["curve"][-1]["auc"] == pytest.approx(reports[1]["curve"][-1]["auc"], abs=1e-3)


@pytest.mark.long
def test_tensorboard_gets_the_curve(tiny_data: Prepared, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[network]\nmlp = [16]\n[training]\nbatch_size = 1024\nevaluations = 2\n")
    arguments = ["--data", str(tiny_data.folder), "--network", "bst", "--recipe", str(recipe)]
    assert train.main([*arguments, "--out", str(tmp_path), "--tensorboard", str(tmp_path / "board")]) == 3
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    assert len(events.Scalars("auc/validation")) == 2


def test_training_on_what_is_no_data_set_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--data", str(tmp_path), "--network", "bst", "--out", str(tmp_path)]) == 1
    assert "no prepared data set" in capsys.readouterr().err


def test_a_warm_start_wants_the_encoding_of_its_bundle_or_one_grown_from_it(
    small_bundle: Bundle, small_data: Prepared, tmp_path: Path
) -> None:
    """Weights under other ids' rows would be learnt on without a word."""
    warm.check_rows_stayed(small_bundle, small_data)
    other = Prepared(small_data.folder)
    vocabulary = small_data.encoder.vocabularies["category_id"]
    known, bucket, slot = vocabulary.table.items()
    moved = Vocabulary.build(known, np.roll(vocabulary.rows(known), 1))
    other.encoder = copy(other.encoder)
    other.encoder.vocabularies = {**other.encoder.vocabularies, "category_id": moved}
    with pytest.raises(RecipeError, match="encodes category_id otherwise; prepare the data with --grow"):
        Run(other, "bst", SMALL, 1, tmp_path / "x.pt", warm=small_bundle)
    grown = vocabulary.grown(np.array([12345], np.uint64))
    other.encoder.vocabularies = {**other.encoder.vocabularies, "category_id": grown}
    warm.check_rows_stayed(small_bundle, other)


def test_what_is_tuned_on_test_is_tuned_there_after_a_refit_too(tiny_data: Prepared, tmp_path: Path) -> None:
    how = Training(optimiser="adam", learning_rate=0.02, batch_size=256, epochs=2, evaluations=3, refit=True)
    peeking = Run(tiny_data, "bst", Recipe({"mlp": [16]}, replace(how, select="test")), 1, tmp_path / "x.pt")
    peeking.fit()
    rows = tiny_data.of_split("test")
    reached = auc(tiny_data.label[rows], predict(peeking.network, tiny_data, rows))
    curve = peeking.progress["curve"]
    at = [(look["epoch"], look["batch"]) for look in curve]
    begins = next(n for n in range(1, len(at)) if at[n] <= at[n - 1])
    after = curve[begins:]
    assert reached == pytest.approx(max(look["auc"] for look in after), abs=1e-9)


def test_scores_that_are_no_numbers_are_never_the_best(small_data: Prepared, tmp_path: Path) -> None:
    run = Run(small_data, "bst", SMALL, 1, tmp_path / "x.pt")
    with torch.no_grad():
        run.network.head.of_candidate.weight[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="scores are no numbers at epoch 1, batch 0"):
        run.look()
    assert not run.best
