"""WDL(+Seq): Wide & Deep with the history as its mean. BST §3.1's own baseline, Table 4.

"... incorporating sequential information into WDL, denoted as WDL(+Seq), which aggregates the embeddings of the
previously clicked items in average." The mean joins the deep part; it is the user's, so once per request. A user
without clicks has a mean of 0. All else is wdl.py's.

A control for the comparison with BST, which sees when a click was: `position` = "gap" puts BST's time gaps beside the
items' features before the mean is taken.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from model.features.schema import Schema
from model.networks import wdl
from model.networks.blocks import Batch, Head, Lookup, RankingNetwork
from model.networks.bst import TimeGaps
from model.networks.wdl import Wide, relu
from model.options import Count, check


@dataclass(frozen=True)
class Config(wdl.Config):
    position: Literal["none", "gap"] = "none"  # the paper's; or BST's time gaps, which tells inputs from architecture
    position_width: Count = 16  # with gap, as BST's

    def __post_init__(self) -> None:
        check(self, "network wdl_seq")


class Network(RankingNetwork):
    unseen = frozenset({"gap", "action", "groups"})

    def __init__(self, schema: Schema, rows: Mapping[str, int], config: Config):
        super().__init__()
        self.embed = Lookup(schema, rows)
        self.wide = Wide(schema, rows)
        self.position = None
        user, candidate = (width + self.embed.width_D for width in (self.embed.width_user_F, self.embed.width_other_F))
        if config.position == "gap":
            self.unseen = self.unseen - {"gap"}
            self.position = TimeGaps(schema, config.position_width)
            user += config.position_width
        self.deep = Head(user, candidate, config.mlp, config.mlp_dropout, relu)

    def forward(self, batch: Batch) -> Tensor:
        """Logits, (U, C)."""
        e = self.embed(batch)
        history_UTD = e.history_UTD if self.position is None else self.position(e.history_UTD, batch["gap"])
        clicks_U1 = e.mask_UT.sum(1, keepdim=True)
        mean_UD = (history_UTD * e.mask_UT.unsqueeze(-1)).sum(1) / clicks_U1.clamp(min=1)
        user_UF = torch.cat([e.user_UF, mean_UD], -1)
        return self.wide(batch) + self.deep(user_UF, torch.cat([e.other_UCF, e.candidate_UCD], -1))

    def wide_parameters(self) -> list[nn.Parameter]:
        return list(self.wide.parameters())
