"""WDL(+Seq): Wide & Deep with the history as its mean. BST §3.1's own baseline, Table 4.

"... incorporating sequential information into WDL, denoted as WDL(+Seq), which aggregates the embeddings of the
previously clicked items in average." The mean joins the deep part; it is the user's, so once per request. A user
without clicks has a mean of 0. All else is wdl.py's.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.features.schema import Schema
from model.networks.blocks import Batch, Head, Lookup, RankingNetwork
from model.networks.wdl import Config, Wide, relu


class Network(RankingNetwork):
    unseen = frozenset({"gap", "action", "groups"})

    def __init__(self, schema: Schema, rows: Mapping[str, int], config: Config):
        super().__init__()
        self.embed = Lookup(schema, rows)
        self.wide = Wide(schema, rows)
        user, candidate = (width + self.embed.width_D for width in (self.embed.width_user_F, self.embed.width_other_F))
        self.deep = Head(user, candidate, config.mlp, config.mlp_dropout, relu)

    def forward(self, batch: Batch) -> Tensor:
        """Logits, (U, C)."""
        e = self.embed(batch)
        clicks_U1 = e.mask_UT.sum(1, keepdim=True)
        mean_UD = (e.history_UTD * e.mask_UT.unsqueeze(-1)).sum(1) / clicks_U1.clamp(min=1)
        user_UF = torch.cat([e.user_UF, mean_UD], -1)
        return self.wide(batch) + self.deep(user_UF, torch.cat([e.other_UCF, e.candidate_UCD], -1))

    def wide_parameters(self) -> list[nn.Parameter]:
        return list(self.wide.parameters())


__all__ = ["Config", "Network"]
