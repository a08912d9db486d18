"""FTRL-Proximal against Algorithm 1 of McMahan et al. 2013, written as it is printed."""

from math import copysign, exp, sqrt

import pytest
import torch

from model.training.optimisers.ftrl import Ftrl

ROWS = 12
ALPHA, BETA, L1, L2 = 0.5, 1.0, 1.5, 0.1


@pytest.fixture(autouse=True)
def unchecked() -> None:
    torch.sparse.check_sparse_tensor_invariants.disable()  # as training does: torch warns unless told


def examples(count: int, seed: int = 0) -> list[tuple[list[int], float]]:
    """Rows of ones, (several of ROWS), and a label: the first half of the rows speaks for a click."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        rows = torch.randperm(ROWS, generator=draw)[:3].tolist()
        made.append((rows, float(sum(row < ROWS // 2 for row in rows) + torch.rand(1, generator=draw).item() > 2)))
    return made


def algorithm_1(examples: list[tuple[list[int], float]]) -> list[float]:
    """Coordinate by coordinate, example by example; w is what the next example would use."""
    z, n = [0.0] * ROWS, [0.0] * ROWS

    def weight(i: int) -> float:
        if abs(z[i]) <= L1:
            return 0.0
        return -(z[i] - copysign(L1, z[i])) / ((BETA + sqrt(n[i])) / ALPHA + L2)

    for rows, label in examples:
        w = {i: weight(i) for i in rows}
        p = 1 / (1 + exp(-sum(w.values())))
        for i in rows:
            g = p - label
            sigma = (sqrt(n[i] + g * g) - sqrt(n[i])) / ALPHA
            z[i] += g - sigma * w[i]
            n[i] += g * g
    return [weight(i) for i in range(ROWS)]


def zeros(sparse: bool = True) -> torch.nn.Embedding:
    made = torch.nn.Embedding(ROWS, 1, sparse=sparse, dtype=torch.float64)
    torch.nn.init.zeros_(made.weight)
    return made


def train(table: torch.nn.Embedding, ftrl: Ftrl, examples: list[tuple[list[int], float]]) -> None:
    for rows, label in examples:
        logit = table(torch.tensor(rows)).sum()
        torch.nn.functional.binary_cross_entropy_with_logits(logit, torch.tensor(label, dtype=torch.float64)).backward()
        ftrl.step()
        ftrl.zero_grad()


@pytest.mark.parametrize("sparse", [True, False])
def test_it_is_algorithm_1(sparse: bool) -> None:
    table = zeros(sparse)
    train(table, Ftrl(table.parameters(), ALPHA, BETA, L1, L2), examples(80))
    by_hand = torch.tensor(algorithm_1(examples(80)), dtype=torch.float64)
    assert (by_hand == 0).any() and (by_hand > 0).any() and (by_hand < 0).any(), "the examples must show every case"
    torch.testing.assert_close(table.weight.detach()[:, 0], by_hand, atol=1e-12, rtol=0)


def test_l1_holds_a_weight_at_exactly_zero_until_its_gradients_exceed_it() -> None:
    table = zeros()
    ftrl = Ftrl(table.parameters(), ALPHA, l1=1.0)
    for step in range(3):
        table(torch.tensor([4])).sum().mul(0.4).backward()  # the gradients' sum is 0.4, 0.8, 1.2
        ftrl.step()
        ftrl.zero_grad()
        assert (table.weight[4].item() == 0) == (step < 2)
    assert table.weight[4].item() < 0


def test_only_the_rows_of_a_sparse_gradient_change_and_a_row_named_twice_counts_twice() -> None:
    table, twice = zeros(), zeros()
    for made, rows, scale in ((table, [3, 5, 3], 1.0), (twice, [3], 2.0)):
        with torch.no_grad():
            made.weight[7] = 0.25  # a stranger to the batch
        (made(torch.tensor(rows)).sum() * scale).backward()
        Ftrl(made.parameters(), ALPHA, l1=0.1).step()
    assert torch.nonzero(table.weight[:, 0]).flatten().tolist() == [3, 5, 7] and table.weight[7].item() == 0.25
    assert table.weight[3].item() == twice.weight[3].item() != table.weight[5].item()


def test_a_run_taken_up_from_its_state_ends_with_the_same_bits() -> None:
    whole, halved = zeros(), zeros()
    train(whole, Ftrl(whole.parameters(), ALPHA, BETA, L1, L2), examples(60))
    first = Ftrl(halved.parameters(), ALPHA, BETA, L1, L2)
    train(halved, first, examples(60)[:30])
    second = Ftrl(halved.parameters())
    second.load_state_dict(first.state_dict())
    train(halved, second, examples(60)[30:])
    assert torch.equal(whole.weight, halved.weight)


def test_a_parameter_that_does_not_start_at_zero_goes_on_from_where_it_is() -> None:
    table = zeros()
    with torch.no_grad():
        table.weight[:2, 0] = torch.tensor([0.5, -0.5], dtype=torch.float64)
    (table(torch.tensor([0, 1])).sum() * 1e-9).backward()
    Ftrl(table.parameters(), ALPHA, BETA, L1, L2).step()
    torch.testing.assert_close(table.weight[:2, 0].tolist(), [0.5, -0.5], atol=1e-6, rtol=0)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"beta": 0.0}, {"l1": -1.0}, {"l2": -1.0}])
def test_values_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="above 0, l1 .* 0 or more"):
        Ftrl(zeros().parameters(), **wrong)
