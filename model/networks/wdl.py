"""Wide & Deep (WDL). Cheng et al., Google, DLRS 2016; the baseline of BST's Table 4.

    P(click) = σ(w_wide^T [x, φ(x)] + w_deep^T a^(lf) + b)     (3)

- Wide: "raw input features and transformed features", the transformations being cross-products (1). Here x is the
  one-hot (of a multi-valued feature many-hot, hence a sum) encoding of every id and category, φ(x) the crosses of
  features.toml: one weight for each row of each table that the deep part embeds. The standardised numbers go to the
  deep part alone, as the continuous features of the paper's Figure 4 do. The weights start at 0 and are trained by FTRL
  with L1 (model/training/optimisers/ftrl.py), jointly with the deep part (§3.3), which the recipe's optimiser trains
  (the paper: AdaGrad).
- Deep: embeddings of everything that is known of user, item and context, in an MLP with ReLU, 1024-512-256 (Figure 4);
  b is the bias of its last layer. The item features of BST's sequence are features of the candidate too. Crosses, where
  they have a width, are embedded as well: all networks here get the same "other features".

There is no history: that is what WDL(+Seq) adds (wdl_seq.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.features.ids import PAD
from model.features.kinds import Side
from model.features.schema import Schema
from model.networks.blocks import Batch, Head, Lookup, RankingNetwork, Tables
from model.options import Dropout, Layers, check

SIDES: tuple[Side, ...] = ("user", "item", "context", "cross")


@dataclass(frozen=True)
class Config:
    mlp: Layers = (1024, 512, 256)  # Figure 4; the same as in BST's Table 3
    mlp_dropout: Dropout = 0.0  # as BST's

    def __post_init__(self) -> None:
        check(self, "network wdl")


class Network(RankingNetwork):
    unseen = frozenset({"history", "gap", "action", "groups"})

    def __init__(self, schema: Schema, rows: Mapping[str, int], config: Config):
        super().__init__()
        self.embed = Lookup(schema, rows)
        self.wide = Wide(schema, rows)
        candidate = self.embed.width_other_F + self.embed.width_D
        self.deep = Head(self.embed.width_user_F, candidate, config.mlp, config.mlp_dropout, relu)

    def forward(self, batch: Batch) -> Tensor:
        """Logits, (U, C)."""
        e = self.embed(batch)
        return self.wide(batch) + self.deep(e.user_UF, torch.cat([e.other_UCF, e.candidate_UCD], -1))  # (3)

    def wide_parameters(self) -> list[nn.Parameter]:
        return list(self.wide.parameters())


class Wide(nn.Module):
    """w^T [x, φ(x)]: the linear model over ids, categories and crosses, (U, C)."""

    def __init__(self, schema: Schema, rows: Mapping[str, int]):
        super().__init__()
        self.schema = schema
        embedded = [f for f in schema.features if (f.width or f.sequence_width) and f.seen and not f.is_float]
        self.weight = Tables({f.name: weights(rows[f.name]) for f in embedded})

    def forward(self, batch: Batch) -> Tensor:
        logit = torch.zeros((), device=batch["gap"].device)
        for side in SIDES:
            places = {name: place for name, place in self.schema.places(side).items() if name in self.weight}
            if places:
                weights = [self.weight[name](batch[side][..., place])[..., 0] for name, place in places.items()]
                of_side = torch.cat(weights, -1).sum(-1)
                logit = logit + (of_side.unsqueeze(1) if side == "user" else of_side)  # (U, 1), or (U, C)
        return logit


def weights(rows: int) -> nn.Embedding:
    """One weight per table row, all of them 0; sparse gradients, as blocks.table has."""
    embedding = nn.Embedding(rows, 1, padding_idx=PAD, sparse=True)
    nn.init.zeros_(embedding.weight)
    return embedding


def relu(width: int) -> nn.Module:
    return nn.ReLU()
