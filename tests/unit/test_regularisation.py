"""What pulls table rows towards 0 is what DIN and BPR print: computed anew in numpy, from the prepared arrays alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from model.features.ids import PAD
from model.prepared.loader import Prepared
from model.training.pairs import Pairs
from model.training.recipe import Recipe, RecipeError, Training
from model.training.run import Run

Floats = npt.NDArray[np.float64]
LAMBDA, RATE, ACCUMULATOR = 3.0, 0.01, 0.1
SAMPLES = 3000


def held(data: Prepared, impression: int) -> set[int]:
    """The rows of `item_id` that an impression holds: its own item's and those of the newest behaviours before it."""
    a, place = data.arrays, data.schema.places("item")["item_id"].start
    end = int(a["end"][impression])
    begin = max(int(a["begin"][a["user"][impression]]), end - data.schema.history.length)
    items = [int(a["item"][impression]), *a["clicked"][begin:end].tolist()]
    return {int(a["items"][item, place]) for item in items} - {PAD}


@pytest.fixture(scope="module")
def n_j(small_data: Prepared) -> npt.NDArray[np.int64]:
    """How many of the first training samples hold each row of `item_id`, (rows,)."""
    count = np.zeros(small_data.rows["item_id"], np.int64)
    for impression in small_data.of_split("train")[:SAMPLES]:
        count[list(held(small_data, impression))] += 1
    return count


def made(data: Prepared, network: str, how: Training, folder: Path) -> Run:
    options: dict[str, Any] = {} if network == "bpr" else {"mlp": [16]}
    return Run(data, network, Recipe(options, how), 1, folder / "x.pt")


def test_an_occurrence_is_a_sample_that_holds_the_row_however_often(
    small_data: Prepared, n_j: npt.NDArray[np.int64], tmp_path: Path
) -> None:
    run = made(small_data, "bst", Training(batch_l2=LAMBDA), tmp_path)
    rows = small_data.of_split("train")[:SAMPLES]
    run.train(rows, 0, 0)  # no epoch: what comes before the first step
    n = dict(zip(map(id, run.optimiser.tables), run.optimiser.occurrences, strict=True))
    of_items = n[id(run.network.embed.sequence["item_id"].weight)].numpy()
    assert np.array_equal(of_items[PAD + 1 :], n_j[PAD + 1 :])
    of_users = small_data.arrays["users"][small_data.user[rows], small_data.schema.places("user")["age"].start]
    counted = n[id(run.network.embed.other["age"].weight)].numpy()
    assert np.array_equal(counted, np.bincount(of_users, minlength=len(counted)))
    assert int(n[id(run.network.position.weight)][run.network.own_gap]) == len(rows), "the target's own gap"


def adagrad(w: Floats, g: Floats, moving: Any, state: dict[str, Floats], step: int) -> Floats:
    total = state.setdefault("sum", np.full_like(w, ACCUMULATOR))
    total[moving] += g[moving] ** 2
    return np.where(moving[:, None], w - RATE * g / np.sqrt(total), w)


def adam(w: Floats, g: Floats, moving: Any, state: dict[str, Floats], step: int, epsilon: float = 1e-8) -> Floats:
    mean, square = (state.setdefault(name, np.zeros_like(w)) for name in ("mean", "square"))
    mean[moving] = 0.9 * mean[moving] + 0.1 * g[moving]
    square[moving] = 0.999 * square[moving] + 0.001 * g[moving] ** 2
    moved = w - RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + epsilon)
    return np.where(moving[:, None], moved, w)


def lazy_adam(w: Floats, g: Floats, moving: Any, state: dict[str, Floats], step: int) -> Floats:
    return adam(w, g, moving, state, step, 1e-8 / np.sqrt(1 - 0.999**step))  # torch's SparseAdam adds its ε before that


@pytest.mark.parametrize(
    ("optimiser", "lazy", "update"), [("adagrad", True, adagrad), ("adam", True, lazy_adam), ("adam", False, adam)]
)
def test_dins_regularisation_is_the_one_printed(
    small_data: Prepared,
    n_j: npt.NDArray[np.int64],
    tmp_path: Path,
    optimiser: Any,
    lazy: bool,
    update: Callable[..., Floats],
) -> None:
    """w_j <- w_j - η [gradient of the mean loss + λ α_mj/n_j w_j], DIN (7), in whichever optimiser's form."""
    how = Training(optimiser=optimiser, lazy=lazy, learning_rate=RATE, accumulator=ACCUMULATOR, batch_l2=LAMBDA)
    run, twin = (made(small_data, "din", how, tmp_path) for _ in range(2))
    train = small_data.of_split("train")[:SAMPLES]
    run.train(train, 0, 0)
    n = n_j.clip(1)
    state: dict[str, Floats] = {}
    for step in (1, 2, 3):
        batch = train[64 * step : 64 * (step + 1)]
        alpha = np.zeros(len(n))
        alpha[list(set().union(*(held(small_data, impression) for impression in batch)))] = 1
        twin.network.load_state_dict(run.network.state_dict())
        twin.network.train().zero_grad()
        twin.losses(twin.logit(batch), batch).mean().backward()
        table = twin.network.embed.sequence["item_id"].weight
        w = table.detach().double().numpy().copy()
        gradient = table.grad.to_dense().double().numpy() + LAMBDA * (alpha / n)[:, None] * w
        moving = alpha > 0 if lazy else np.ones(len(n), bool)
        expected = update(w, gradient, moving, state, step)
        run.step(batch)
        ours = run.network.embed.sequence["item_id"].weight.detach().numpy()
        np.testing.assert_allclose(ours, expected, atol=2e-5, rtol=1e-4)
        assert 0 < alpha.sum() < len(n) and np.abs(LAMBDA * w / n[:, None])[alpha > 0].max() > 1e-3


def test_bprs_lambda_is_that_of_each_triple(small_data: Prepared, tmp_path: Path) -> None:
    """Θ <- Θ + α (σ(-x̂_uij) ∂x̂_uij/∂Θ - λ Θ), LearnBPR, its mean over a batch; the step is Adagrad's."""
    how = Training(optimiser="adagrad", learning_rate=RATE, accumulator=ACCUMULATOR, l2=LAMBDA)
    run = made(small_data, "bpr", how, tmp_path)
    positive = Pairs(small_data, small_data.of_split("train"))
    triples = positive.positive[:300], positive.negative(positive.positive[:300], 1, 0)
    a, network = small_data.arrays, run.network
    p, q, b = (t.weight.detach().double().numpy().copy() for t in (network.user, network.item, network.bias))
    b += 0.5  # it starts at 0, where nothing pulls
    with torch.no_grad():
        network.bias.weight += 0.5
    of_user = a["users"][small_data.user[triples[0]], network.user_place]
    of_item = [a["items"][small_data.item[rows], network.item_place] for rows in triples]
    gp, gq, gb = np.zeros_like(p), np.zeros_like(q), np.zeros_like(b)
    for u, i, j in zip(of_user, *of_item, strict=True):
        x = p[u] @ q[i] + b[i, 0] - p[u] @ q[j] - b[j, 0]
        wrong = 1 / (1 + np.exp(x))  # σ(-x̂)
        gp[u] += -wrong * (q[i] - q[j]) + LAMBDA * p[u]
        gq[i] -= wrong * p[u]
        gq[j] += wrong * p[u]
        gb[i] -= wrong
        gb[j] += wrong
        for row in {int(i), int(j)}:
            gq[row] += LAMBDA * q[row]
            gb[row] += LAMBDA * b[row]
    assert len(set(of_user.tolist())) < 300 and (of_item[0] == of_item[1]).any(), "rows that triples share"
    run.step(*triples)
    for table, w, g in ((network.user, p, gp), (network.item, q, gq), (network.bias, b, gb)):
        expected = adagrad(w, g / 300, np.abs(g).sum(1) > 0, {}, 1)
        np.testing.assert_allclose(table.weight.detach().numpy(), expected, atol=1e-5, rtol=1e-4)


def test_a_network_of_pairs_has_bprs_lambda_alone(small_data: Prepared, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="batch_l2 3.0 for bpr, which learns pairs; allowed: l2, BPR's λ"):
        made(small_data, "bpr", Training(batch_l2=LAMBDA), tmp_path)
