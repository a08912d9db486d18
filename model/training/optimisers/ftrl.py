"""FTRL-Proximal with L1: Algorithm 1 of McMahan et al., "Ad Click Prediction: a View from the Trenches", KDD 2013.

For every coordinate i that has a gradient g_i, in the paper's order:

    w_i = 0                                              where |z_i| <= λ1
          -(z_i - sgn(z_i) λ1) / ((β + √n_i)/α + λ2)     elsewhere
    σ_i = (√(n_i + g_i²) - √n_i) / α
    z_i <- z_i + g_i - σ_i w_i
    n_i <- n_i + g_i²

The algorithm computes w_i from z_i and n_i when an example needs it. Here w_i is what the parameter holds, computed
anew when z_i and n_i change: the same number, and a forward pass like any other. n starts at 0, and so does z where the
parameter is 0; where it is not (a warm start), z starts at what w_i is the answer to.

The paper steps after every example. Gradients here are a batch's; α and λ1 mean what they mean there if a batch's
gradient is the sum of its examples', not their mean.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer


class Ftrl(Optimizer):
    """`lr` is α, `beta` β, `l1` λ1, `l2` λ2.

    Of a sparse gradient only the rows that it holds are touched. Raises ValueError for values that make no sense.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 0.1, beta: float = 1.0, l1: float = 0.0, l2: float = 0.0
    ):
        if lr <= 0 or beta <= 0 or l1 < 0 or l2 < 0:
            raise ValueError(f"ftrl: lr {lr} and beta {beta} are above 0, l1 {l1} and l2 {l2} are 0 or more")
        super().__init__(params, {"lr": lr, "beta": beta, "l1": l1, "l2": l2})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # one pass a step: nothing to evaluate anew
        for group in self.param_groups:
            alpha, beta, l1, l2 = (group[name] for name in ("lr", "beta", "l1", "l2"))
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["z"] = -weight * (beta / alpha + l2) - weight.sign() * l1
                    state["n"] = torch.zeros_like(weight)
                grad, rows = weight.grad, slice(None)
                if grad.is_sparse:
                    grad = grad.coalesce()
                    grad, rows = grad.values(), grad.indices()[0]
                z, n, w = state["z"][rows], state["n"][rows], weight[rows]
                more = n + grad * grad
                z = z + grad - (more.sqrt() - n.sqrt()) / alpha * w
                state["z"][rows], state["n"][rows] = z, more
                beyond = z - z.clamp(-l1, l1)  # z - sgn(z) λ1 where |z| > λ1, else exactly 0
                weight[rows] = -beyond / ((beta + more.sqrt()) / alpha + l2)
