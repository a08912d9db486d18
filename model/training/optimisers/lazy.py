"""Adagrad and Adam for embedding tables: only the rows that a batch touches are read and written.

The numbers are those of torch.optim.Adagrad and SparseAdam on sparse gradients (Adam's moments of an untouched row
stay as they are). What differs is the way there: a table's gradient is summed by row once, into a dense block of the
touched rows on which plain arithmetic works, where torch makes half a dozen sparse tensors a step and table.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 1 << 14  # rows of a table up to which counting its touched rows is cheaper than sorting them


class Lazy(torch.optim.Optimizer):
    """`l2` pulls by l2·w at the rows that a batch touches, and at no others: no paper's (see regularisation.py)."""

    def __init__(self, tables: Iterable[nn.Parameter], lr: float, l2: float, **defaults: Any):
        super().__init__(tables, {"lr": lr, "l2": l2, **defaults})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # one pass a step: nothing to evaluate anew
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    rows_B, gradient_BD = touched(table)
                    weight_BD = table.index_select(0, rows_B)
                    if group["l2"]:
                        gradient_BD.add_(weight_BD, alpha=group["l2"])
                    state = self.state[table]
                    if not state:
                        state.update(self.begin(table, group))
                    self.change(weight_BD, gradient_BD, rows_B, state, group)
                    table.index_copy_(0, rows_B, weight_BD)

    def begin(self, table: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """What is gathered about a table, at its start."""
        raise NotImplementedError

    def change(self, weight_BD: Tensor, gradient_BD: Tensor, rows_B: Tensor, state: Any, group: dict[str, Any]) -> None:
        """One step of the touched rows, in place; both blocks may be overwritten."""
        raise NotImplementedError


class LazyAdagrad(Lazy):
    def __init__(self, tables: Iterable[nn.Parameter], lr: float, accumulator: float, l2: float = 0.0):
        super().__init__(tables, lr, l2, accumulator=accumulator)

    def begin(self, table: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"sum": torch.full_like(table, group["accumulator"])}

    def change(self, weight_BD: Tensor, gradient_BD: Tensor, rows_B: Tensor, state: Any, group: dict[str, Any]) -> None:
        sum_BD = state["sum"].index_select(0, rows_B).addcmul_(gradient_BD, gradient_BD)
        state["sum"].index_copy_(0, rows_B, sum_BD)
        weight_BD.addcdiv_(gradient_BD, sum_BD.sqrt_().add_(1e-10), value=-group["lr"])


class LazyAdam(Lazy):
    def __init__(self, tables: Iterable[nn.Parameter], lr: float, l2: float = 0.0):
        super().__init__(tables, lr, l2, betas=(0.9, 0.999), eps=1e-8)

    def begin(self, table: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"step": 0, "mean": torch.zeros_like(table), "square": torch.zeros_like(table)}

    def change(self, weight_BD: Tensor, gradient_BD: Tensor, rows_B: Tensor, state: Any, group: dict[str, Any]) -> None:
        state["step"] += 1
        (beta1, beta2), step = group["betas"], state["step"]
        mean_BD = state["mean"].index_select(0, rows_B).lerp_(gradient_BD, 1 - beta1)
        square_BD = state["square"].index_select(0, rows_B).mul_(beta2)
        square_BD.addcmul_(gradient_BD, gradient_BD, value=1 - beta2)
        state["mean"].index_copy_(0, rows_B, mean_BD)
        state["square"].index_copy_(0, rows_B, square_BD)
        rate = group["lr"] * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
        weight_BD.addcdiv_(mean_BD, square_BD.sqrt_().add_(group["eps"]), value=-rate)


def touched(table: nn.Parameter) -> tuple[Tensor, Tensor]:
    """Rows of the table that its sparse gradient names, each once (B,), and the sums of their gradients (B, D)."""
    assert table.grad is not None
    rows_N, values_ND = table.grad._indices()[0], table.grad._values()  # not coalesced: that is what happens here
    if len(table) <= SMALL:
        rows_B = torch.bincount(rows_N, minlength=len(table)).nonzero()[:, 0]
        return rows_B, torch.zeros_like(table).index_add_(0, rows_N, values_ND)[rows_B]
    rows_B, place_N = torch.unique(rows_N, return_inverse=True)
    sums_BD = values_ND.new_zeros(len(rows_B), values_ND.shape[1])
    return rows_B, sums_BD.index_add_(0, place_N, values_ND)
