"""BPR: Bayesian personalised ranking of a matrix factorisation. Rendle et al., UAI 2009.

    x̂_ui = <p_u, q_i> + b_i,   trained on -ln σ(x̂_ui - x̂_uj), i a positive and j a negative of one user

The rows of p, q and b are those of the features `user_id` and `item_id`; no other feature and no behaviour is seen. A
user or an item without a row of its own shares UNKNOWN's. The recipe's `l2` is LearnBPR's λ: every triple (u, i, j)
pulls at p_u, q_i, q_j, b_i and b_j by λ·Θ (model/training/optimisers/regularisation.py); one λ for all of them.

Differs from the paper: tables start as all of ours (Glorot), and training draws its pairs among one user's impressions
instead of any item he has not seen, each click once an epoch instead of triples at random. A step is the recipe's
optimiser's on the mean of a batch of triples; LearnBPR's is plain SGD on one. The item's bias is not in the paper's
text; its authors' software has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from model.features.kinds import ITEM_ID, USER_ID
from model.features.schema import Schema
from model.networks.blocks import Batch, RankingNetwork, table
from model.options import Count, check


@dataclass(frozen=True)
class Config:
    factors: Count = 64  # as wide as the items of the networks it is compared with

    def __post_init__(self) -> None:
        check(self, "network bpr")


class Network(RankingNetwork):
    objective = "pairs"

    def __init__(self, schema: Schema, rows: Mapping[str, int], config: Config):
        super().__init__()
        features = [feature.name for feature in schema.features]
        if USER_ID not in features:
            raise ValueError(f"bpr needs the feature {USER_ID}; features.toml has {', '.join(features)}")
        self.unseen = frozenset({*features, "history", "gap", "action", "groups"} - {USER_ID, ITEM_ID})
        self.user = table(rows[USER_ID], config.factors)  # p
        self.item = table(rows[ITEM_ID], config.factors)  # q
        self.bias = table(rows[ITEM_ID], 1)  # b
        self.user_place, self.item_place = schema.places("user")[USER_ID].start, schema.places("item")[ITEM_ID].start

    def forward(self, batch: Batch) -> Tensor:
        """x̂, (U, C)."""
        item_UC = batch["item"][..., self.item_place]
        user_UD1 = self.user(batch["user"][..., self.user_place]).unsqueeze(-1)
        return (self.item(item_UC) @ user_UD1 + self.bias(item_UC)).squeeze(-1)
