"""The lazy optimisers of the tables give torch's own numbers, and touch nothing else."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from model.training.optimisers.lazy import SMALL, LazyAdagrad, LazyAdam


@pytest.mark.parametrize("rows", [50, SMALL + 1])
@pytest.mark.parametrize("name", ["adagrad", "adam"])
def test_fifty_steps_give_the_weights_of_torchs_own_optimiser(rows: int, name: str) -> None:
    torch.manual_seed(0)
    torch.sparse.check_sparse_tensor_invariants.disable()
    ours = nn.Embedding(rows, 8, sparse=True, padding_idx=0)
    theirs = deepcopy(ours)
    if name == "adagrad":
        reference: torch.optim.Optimizer = torch.optim.Adagrad([theirs.weight], 0.01, initial_accumulator_value=0.1)
        lazy: torch.optim.Optimizer = LazyAdagrad([ours.weight], 0.01, 0.1)
    else:
        reference, lazy = torch.optim.SparseAdam([theirs.weight], 0.01), LazyAdam([ours.weight], 0.01)
    start = ours.weight.detach().clone()
    for step in range(50):
        ids, target = torch.randint(0, 40, (64, 20)), torch.randn(64, 20, 8)
        for table, optimiser in ((ours, lazy), (theirs, reference)):
            (table(ids) * target).sum().backward()  # two gradients of one table: they add up
            (table(ids[:, :1]) * target[:, :1]).square().sum().backward()
            optimiser.step()
            optimiser.zero_grad()
        if step == 25:  # as after a resume
            kept = deepcopy(lazy.state_dict())
            lazy.state.clear()
            lazy.load_state_dict(kept)
    torch.testing.assert_close(ours.weight, theirs.weight, atol=1e-6, rtol=1e-5)
    assert torch.equal(ours.weight[40:], start[40:]) and torch.equal(ours.weight[0], start[0])
    assert (ours.weight[1:40] != start[1:40]).any(1).all()
