"""The optimisers of one network: FTRL for a wide part, sparse gradients for the embedding tables, dense for the rest.

What a batch does not touch costs nothing: the step's time does not grow with the tables. A recipe may give that up for
Adam as it is printed (`lazy = false`): there momentum and l2 go on moving a row between the batches that touch it.

Two settings of a recipe pull at table rows. `l2` adds l2·w to the gradient of every row that a step moves: of all
rows where `lazy` is false, which is plain regularisation, ‖W‖²·l2/2; of the batch's rows where it is true, which is no
paper's. `batch_l2` is DIN's, the same in both. A network of pairs has BPR's λ in its loss (model/training/run.py), and
`l2` is 0 here. What the last two pull by stands in regularisation.py.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from model.networks.blocks import RankingNetwork
from model.training.optimisers.average import Average
from model.training.optimisers.ftrl import Ftrl
from model.training.optimisers.lazy import LazyAdagrad, LazyAdam, touched
from model.training.recipe import Training


class Optimiser:
    def __init__(self, network: RankingNetwork, how: Training):
        self.wide = network.wide_parameters()
        of_wide = {id(p) for p in self.wide}
        self.tables = [
            m.weight for m in network.modules() if isinstance(m, nn.Embedding) and id(m.weight) not in of_wide
        ]
        apart = of_wide | {id(weight) for weight in self.tables}
        dense = [p for p in network.parameters() if id(p) not in apart]
        self._rate = self.rate = rate = how.learning_rate
        self._lazy, self._batch_l2 = how.lazy, how.batch_l2
        self.occurrences: list[Tensor] = []  # n_j of each table's rows; counted before the first step where batch_l2 is
        self.parts: list[torch.optim.Optimizer] = []
        if how.optimiser == "adagrad":
            if self.tables:
                self.parts.append(LazyAdagrad(self.tables, rate, how.accumulator, how.l2))
            if dense:
                self.parts.append(torch.optim.Adagrad(dense, rate, initial_accumulator_value=how.accumulator))
        else:
            whole = partial(torch.optim.Adam, weight_decay=how.l2, fused=True)
            self.parts.append(LazyAdam(self.tables, rate, how.l2) if how.lazy else whole(self.tables, rate))
            if dense:
                self.parts.append(torch.optim.AdamW(dense, rate, weight_decay=how.weight_decay, fused=True))
        self._paced = len(self.parts)  # FTRL has a rate of its own, which falls by itself
        if self.wide:
            self.parts.append(Ftrl(self.wide, how.wide_learning_rate, l1=how.wide_l1))
        by_rows = [*self.wide, *(self.tables if how.lazy else ())]
        self._average = Average(network.parameters(), by_rows) if how.average else None
        self._average_of = how.average

    def begin(self, steps: int) -> None:
        """Before training: an epoch has so many steps."""
        if self._average:
            self._average.span = max(1, round(self._average_of * steps))

    def averaged(self) -> AbstractContextManager[None]:
        """The network's weights are meanwhile those to look at and to keep: their running means, where asked for."""
        return self._average.in_place() if self._average else nullcontext()

    def pace(self, share: float) -> None:
        """Sets the learning rates to this share of the recipe's."""
        self.rate = self._rate * share
        for part in self.parts[: self._paced]:
            for group in part.param_groups:
                group["lr"] = self.rate

    def forget(self, table: nn.Parameter) -> None:
        """Drops what was gathered about a table that starts anew."""
        for part in self.parts:
            part.state.pop(table, None)
        if self._average:
            self._average.forget(table)

    def step(self, rows: int) -> None:
        """One step by the gradients of the mean loss over so many rows."""
        for weight in self.wide:  # FTRL's α and λ1 are per example, as McMahan et al. print them
            if weight.grad is not None:
                weight.grad = weight.grad * rows
        if self._batch_l2:
            self._pull()
        for table in () if self._lazy else self.tables:
            if table.grad is not None:
                table.grad = table.grad.to_dense()
        with self._average.step() if self._average else nullcontext():
            for part in self.parts:
                part.step()
                part.zero_grad()

    @torch.no_grad()
    def _pull(self) -> None:
        """DIN (7): + λ·α_mj/n_j·w_j; α_mj is 1 for the rows that the sparse gradient names."""
        for table, occurrences in zip(self.tables, self.occurrences, strict=True):
            if table.grad is not None:
                rows_B, gradient_BD = touched(table)
                share_B1 = self._batch_l2 / occurrences[rows_B].clamp(min=1).unsqueeze(1)
                gradient_BD.addcmul_(table[rows_B], share_B1)
                table.grad = torch.sparse_coo_tensor(rows_B.unsqueeze(0), gradient_BD, table.shape)

    def state(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self._kept]

    def load(self, states: Sequence[dict[str, Any]]) -> None:
        for part, state in zip(self._kept, states, strict=True):
            part.load_state_dict(state)

    @property
    def _kept(self) -> Sequence[torch.optim.Optimizer | Average]:
        return [*self.parts, *([self._average] if self._average else [])]
