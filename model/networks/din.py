"""Deep Interest Network (DIN). Zhou et al., Alibaba, KDD 2018.

    v_U(A) = Σ_j a(e_j, v_A) e_j                                                        (3)
    f(s) = p(s)·s + (1 - p(s))·α·s,  p(s) = 1 / (1 + exp(-(s - E[s]) / √(Var[s] + ε)))  (9), Dice

The activation unit a is an MLP on [h, c, h - c, h·c], the history's item h and the candidate c side by side with their
difference and elementwise product. Its weights are not normalised: no softmax, "to reserve the intensity of user
interests" (§4.3). Readings and departures:

- The paper prints a unit with 36 hidden neurons on [h, out product, c]; the released code has 80-40 on the four above,
  and so has this. Its softmax and its sigmoids between the layers contradict §4.3 and §5.3: here none and Dice.
- Dice stands in unit and MLP. α is learnt, one per neuron, from 0 as released; ε is the paper's 1e-8. In training E and
  Var are the mini-batch's, elsewhere their moving averages (§5.3); these take a tenth of each batch, since a short log
  has few hundred. In the unit they are taken over the behaviours that are there: padding is no behaviour. Processes
  that train together share one mini-batch, and so its statistics.
- The MLP is BST's Table 3, 1024-512-256 (the paper: 200-80), so that networks are compared at one size.
- Items are their sequence features (item, category): neither time gaps nor actions are seen. A control for the
  comparison with BST, which sees when a click was: `position` = "gap" puts BST's time gaps beside the items' features,
  of a candidate a gap of 0, and h and c are these vectors.
- An addition, off unless asked for: `cross_layers`, so many of DCN-V2's beside the MLP (cross_layers.py), with which
  it is best on KuaiRand (model/LOG.md, 2026-11-28). They look at the mean of the history.
- Mini-batch aware regularisation, (7), is the recipe's `batch_l2` (model/training/optimisers/regularisation.py), on the
  tables of any network. An item's row in the table of the sequence is held by a sample as candidate or in the history.

How it is computed, the numbers being the same: the unit's first layer W = [W1 W2 W3 W4] is split,
W·[h, c, h - c, h·c] = (W1 + W3)·h + (W2 - W3)·c + W4·(h·c), so that the history's share is computed once per user.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from model.features.schema import Schema
from model.networks.blocks import Batch, Embedded, Head, Lookup, RankingNetwork, linear
from model.networks.bst import TimeGaps
from model.networks.cross_layers import CrossLayers
from model.options import Count, Dropout, Layers, Natural, check


@dataclass(frozen=True)
class Config:
    unit: Layers = (80, 40)  # hidden layers of the activation unit, as released
    position: Literal["none", "gap"] = "none"  # the paper's; or BST's time gaps, which tells inputs from architecture
    position_width: Count = 16  # with gap, as BST's
    mlp: Layers = (1024, 512, 256)  # BST's Table 3: one head for all networks that are compared
    mlp_dropout: Dropout = 0.0  # as BST's
    cross_layers: Natural = 0  # of DCN-V2, beside the MLP; 0: as the paper has it

    def __post_init__(self) -> None:
        check(self, "network din")


class Network(RankingNetwork):
    unseen = frozenset({"gap", "action", "groups"})
    normalised = False  # §4.3: no softmax

    def __init__(self, schema: Schema, rows: Mapping[str, int], config: Config):
        super().__init__()
        self.embed = Lookup(schema, rows)
        width_D = self.embed.width_D
        self.position = None
        if config.position == "gap":
            self.unseen = self.unseen - {"gap"}
            self.position = TimeGaps(schema, config.position_width)
            width_D += config.position_width
        self.unit = ActivationUnit(width_D, config.unit)
        candidate = self.embed.width_other_F + 2 * width_D
        self.head = Head(self.embed.width_user_F, candidate, config.mlp, config.mlp_dropout, Dice)
        self.crosses = None
        if config.cross_layers:
            candidate = self.embed.width_other_F + width_D
            self.crosses = CrossLayers(self.embed.width_user_F, candidate, width_D, config.cross_layers)

    def forward(self, batch: Batch) -> Tensor:
        """Logits, (U, C)."""
        e = self._embedded(batch)
        interest_UCD = self.unit(e.history_UTD, e.candidate_UCD, e.mask_UT) @ e.history_UTD  # (3)
        logit_UC = self.head(e.user_UF, torch.cat([e.other_UCF, e.candidate_UCD, interest_UCD], -1))
        return logit_UC if self.crosses is None else logit_UC + self.crosses(e)

    def attention(self, batch: Batch) -> Tensor:
        """The activation unit's weights, (U, C, T): of any size and sign, 0 in padding."""
        e = self._embedded(batch)
        return self.unit(e.history_UTD, e.candidate_UCD, e.mask_UT)

    def _embedded(self, batch: Batch) -> Embedded:
        e = self.embed(batch)
        if self.position is None:
            return e
        history_UTD = self.position(e.history_UTD, batch["gap"])
        return e._replace(history_UTD=history_UTD, candidate_UCD=self.position.target(e.candidate_UCD))


class ActivationUnit(nn.Module):
    """a(h, c) of every behaviour and every candidate, (U, C, T). K: width of its first hidden layer."""

    def __init__(self, width: int, hidden: Sequence[int]):
        super().__init__()
        self.first = linear(4 * width, hidden[0])  # on [h, c, h - c, h·c]
        layers: list[nn.Module] = []
        for inputs, outputs in zip(hidden, [*hidden[1:], 1], strict=True):
            layers += [Dice(inputs), linear(inputs, outputs)]
        self.rest = nn.Sequential(*layers)

    def forward(self, history_UTD: Tensor, candidate_UCD: Tensor, mask_UT: Tensor) -> Tensor:
        of_h_KD, of_c_KD, of_difference_KD, of_product_KD = self.first.weight.chunk(4, 1)
        history_UTK = nn.functional.linear(history_UTD, of_h_KD + of_difference_KD)
        candidate_UCK = nn.functional.linear(candidate_UCD, of_c_KD - of_difference_KD, self.first.bias)
        sum_UCTK = history_UTK.unsqueeze(1) + candidate_UCK.unsqueeze(2)
        product_UCTD = history_UTD.unsqueeze(1) * candidate_UCD.unsqueeze(2)
        mask_UCT = mask_UT.unsqueeze(1).expand(sum_UCTK.shape[:-1])
        if not self.training:
            return self.rest(sum_UCTK + nn.functional.linear(product_UCTD, of_product_KD)).squeeze(-1) * mask_UCT
        there_UCT = mask_UCT.bool()  # Dice learns from all rows that it gets, so in training it gets no padding
        first_BK = sum_UCTK[there_UCT] + nn.functional.linear(product_UCTD[there_UCT], of_product_KD)
        weight_B = self.rest(first_BK).squeeze(-1)
        return torch.zeros_like(mask_UCT, dtype=weight_B.dtype).index_put((there_UCT,), weight_B)


class Dice(nn.Module):
    """The data adaptive activation function, (9), of any (..., width)."""

    def __init__(self, width: int, epsilon: float = 1e-8, momentum: float = 0.1):
        super().__init__()
        self.epsilon, self.momentum = epsilon, momentum
        self.alpha = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, s: Tensor) -> Tensor:
        s = s.float()  # a GPU's products come in bf16, too coarse for a variance
        mean, variance = self._of_batch(s.flatten(0, -2)) if self.training else (self.mean, self.variance)
        p = torch.sigmoid((s - mean) * torch.rsqrt(variance + self.epsilon))
        return s * (self.alpha + (1 - self.alpha) * p)  # p·s + (1 - p)·α·s

    def _of_batch(self, s_BK: Tensor) -> tuple[Tensor, Tensor]:
        """E[s] and Var[s] of the mini-batch, (K,) each; the moving averages take their share."""
        rows = everywhere(torch.tensor(float(len(s_BK)), device=s_BK.device))
        count = rows.clamp(min=1)  # a batch of users without behaviours has none
        mean = everywhere(s_BK.sum(0)) / count
        variance = everywhere((s_BK - mean).square().sum(0)) / count
        with torch.no_grad():
            share = self.momentum * rows.clamp(max=1)
            self.mean += share * (mean - self.mean)
            self.variance += share * (variance - self.variance)
        return mean, variance


def everywhere(part: Tensor) -> Tensor:
    """The sum over the processes that train together (model/training/parallel.py); so is its gradient."""
    together = distributed.is_available() and distributed.is_initialized()
    return _Sum.apply(part) if together else part


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradients[0])
