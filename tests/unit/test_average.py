"""Running means of weights are those computed by hand from the weights after every step; training ignores them."""

from pathlib import Path

import pytest
import torch

from model.evaluation.metrics import auc
from model.prepared.loader import Prepared
from model.training.optimisers import average as averaging
from model.training.recipe import Recipe, Training
from model.training.run import Run, predict

Weights = dict[str, torch.Tensor]
STEPS, SPAN, BATCH = 12, 5, 32
TABLE = "embed.sequence.item_id.weight"


def made(data: Prepared, folder: Path, network: str = "wdl", average: float = 0.5, **how: object) -> Run:
    training = Training(**{"optimiser": "adam", "batch_size": BATCH, "average": average} | how)  # type: ignore[arg-type]
    return Run(data, network, Recipe({"mlp": [16]}, training), 1, folder / "x.pt")


def weights(run: Run) -> Weights:
    return {name: tensor.clone() for name, tensor in run.network.state_dict().items()}


def stepped(run: Run, steps: range) -> list[Weights]:
    """The weights after each of these steps; each by other impressions, and so by other rows of the tables."""
    after = []
    for at in steps:
        run.step(run.data.of_split("train")[BATCH * at : BATCH * (at + 1)])
        after.append(weights(run))
    return after


def mean_of(after: list[Weights], name: str) -> torch.Tensor:
    mean = torch.zeros_like(after[0][name], dtype=torch.float64)
    for step, at in enumerate(after, 1):
        mean += (at[name].double() - mean) / min(step, SPAN)
    return mean.float()


@pytest.mark.parametrize(("lazy", "small"), [(True, 0), (True, 1000), (False, 0)])
def test_the_means_are_those_of_the_weights_after_every_step(
    lazy: bool, small: int, small_data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(averaging, "SMALL", small)  # rows up to which a table is no table to go through by rows
    run = made(small_data, tmp_path, lazy=lazy)
    run.optimiser.begin(2 * SPAN)  # half an epoch of so many steps
    after = stepped(run, range(STEPS))
    with run.optimiser.averaged():
        means = weights(run)
    for name, mean in means.items():
        torch.testing.assert_close(mean, mean_of(after, name), atol=1e-6, rtol=1e-4, msg=name)
        assert torch.equal(run.network.state_dict()[name], after[-1][name]), "the weights are back, to the bit"
    stood = torch.stack([(at[TABLE] == after[-1][TABLE]).all(1) for at in after]).all(0)
    assert not lazy or len(stood) > stood.sum() > 10, "rows that nothing touched"
    assert torch.equal(means[TABLE][stood], after[0][TABLE][stood])
    assert any("wide" in name and not torch.equal(mean, after[-1][name]) for name, mean in means.items())


@pytest.mark.parametrize("small", [0, 1000])
def test_a_table_that_starts_anew_has_the_mean_since_then(
    small: int, small_data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(averaging, "SMALL", small)
    run = made(small_data, tmp_path, fresh_tables=100)
    run.optimiser.begin(2 * SPAN)
    before = stepped(run, range(4))
    run.start_tables_anew()
    after = stepped(run, range(4, STEPS))
    with run.optimiser.averaged():
        means = weights(run)
    torch.testing.assert_close(means[TABLE], mean_of(after, TABLE), atol=1e-6, rtol=1e-4)
    others = [name for name in means if not name.startswith(("embed", "wide"))]
    assert others
    for name in others:
        torch.testing.assert_close(means[name], mean_of(before + after, name), atol=1e-6, rtol=1e-4, msg=name)


def test_what_is_trained_does_not_know_of_its_mean(tiny_data: Prepared, tmp_path: Path) -> None:
    runs = []
    for average in (0.25, 0.0):
        runs.append(made(tiny_data, tmp_path, "bst", average, batch_size=256))
        runs[-1].train(tiny_data.of_split("train"), 1, 2)
    with_mean, without = runs
    for name, tensor in without.network.state_dict().items():
        assert torch.equal(tensor, with_mean.network.state_dict()[name]), name
    losses = [[look["train_loss"] for look in run.progress["curve"]] for run in runs]
    assert losses[0] == losses[1] and len(losses[0]) == 2


@pytest.mark.parametrize("looks", [2, 0])
def test_the_means_are_what_is_looked_at_and_exported(looks: int, tiny_data: Prepared, tmp_path: Path) -> None:
    run = made(tiny_data, tmp_path, "bst", average=1.0, batch_size=256, evaluations=looks)
    run.train(tiny_data.of_split("train"), 1, looks)
    stood = weights(run)
    with run.optimiser.averaged():
        means = weights(run)
    run.fit()  # nothing is left to train
    kept = weights(run)
    if looks:
        rows = tiny_data.of_split("validation")
        score = predict(run.network, tiny_data, rows)
        assert auc(tiny_data.label[rows], score) == pytest.approx(run.progress["best"], abs=1e-9)
    else:
        assert all(torch.equal(kept[name], mean) for name, mean in means.items())
    assert not all(torch.equal(kept[name], tensor) for name, tensor in stood.items())
