"""What two papers pull table rows towards 0 by: how many samples hold a row, and what a pair of samples holds.

    w_j <- w_j - η [ 1/|B_m| Σ_(x,y)∈B_m ∂L/∂w_j + λ α_mj/n_j w_j ]                     DIN (7), Zhou et al., KDD 2018
    Θ <- Θ + α [ σ(-x̂_uij) ∂x̂_uij/∂Θ - λ Θ ]  for every triple (u, i, j)        LearnBPR, Rendle et al., UAI 2009

α_mj is 1 where the mini-batch B_m holds feature j, n_j the number of training samples that do: over an epoch a row is
pulled at least by λ/n_j and at most, where each of its samples is in a batch of its own, by λ. Of BPR's Θ the rows are
taken that the triple holds, each once, as in its authors' software; a batch takes the mean over its triples.

Rows are told by the tables themselves while the network computes, so a network needs to say nothing. What a table pads
with is no row. The papers step by plain SGD: here the pull is a part of the gradient that any optimiser gets.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from model.networks.blocks import Batch, RankingNetwork


class Looked(NamedTuple):
    """One look into a table: `table` is its place among those asked for."""

    table: int
    rows_BN: Tensor
    weight_BND: Tensor


@contextmanager
def lookups(network: RankingNetwork, tables: Sequence[Tensor]) -> Iterator[list[Looked]]:
    """What the network looks up in these tables meanwhile, in order. The first axis of an input is the sample's."""
    place = {id(weight): number for number, weight in enumerate(tables)}
    seen: list[Looked] = []

    def note(module: nn.Module, arguments: tuple[Tensor, ...], weight: Any) -> None:
        rows_BN = arguments[0].reshape(len(arguments[0]), -1)
        seen.append(Looked(place[id(module.weight)], rows_BN, weight.reshape(*rows_BN.shape, -1)))

    of_tables = [m for m in network.modules() if id(getattr(m, "weight", None)) in place]
    hooks = [module.register_forward_hook(note) for module in of_tables]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def occurrences(network: RankingNetwork, tables: Sequence[nn.Parameter], inputs: Iterable[Batch]) -> list[Tensor]:
    """n_j: for each table the number of samples that hold each of its rows, however often, (rows,) each.

    PAD is counted as well, where nobody asks: no gradient names it.
    """
    counts = [torch.zeros(len(weight), dtype=torch.int64, device=weight.device) for weight in tables]
    network.eval()
    for batch in inputs:
        with torch.no_grad(), lookups(network, tables) as seen:
            network(batch)
        for table, count in enumerate(counts):
            looked = [look.rows_BN for look in seen if look.table == table]
            if looked:
                held = _once(torch.cat(looked, 1))
                count.index_add_(0, held, torch.ones_like(held))
    return counts


def _once(rows_BN: Tensor) -> Tensor:
    """The rows of every sample, each once, sample after sample."""
    sorted_BN = rows_BN.sort(1).values
    new_BN = torch.ones_like(sorted_BN, dtype=torch.bool)
    new_BN[:, 1:] = sorted_BN[:, 1:] != sorted_BN[:, :-1]
    return sorted_BN[new_BN]


def squares_of_pairs(seen: Iterable[Looked]) -> Tensor:
    """‖Θ‖² of pairs whose first halves come before all second halves, (B,): a row that both halves hold counts once."""
    parts = []
    for look in seen:
        first_BN, second_BN = look.rows_BN.chunk(2)
        of_first_BN, of_second_BN = look.weight_BND.square().sum(-1).chunk(2)
        parts.append((of_first_BN + of_second_BN * (second_BN != first_BN)).sum(1))
    return torch.stack(parts).sum(0)
