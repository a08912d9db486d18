"""Bi-LSTM + Attention: the target attends to the states of bilstm.py. A competitor in ATRank (Zhou et al., AAAI 2018).

    a_t = softmax_t(q W s_t),   e = Σ_t a_t s_t,   s_t the states of both directions at behaviour t, q the target

Readings: those of bilstm.py, whose last states this replaces. The attention is ATRank's bilinear form with one space
and no further projection. (The release has no W: its q is the target twice, as wide as the two states.)
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from model.features.schema import Schema
from model.networks.atrank import Behaviours
from model.networks.bilstm import BothWays, Config
from model.networks.blocks import MASKED, Batch, Embedded, Head, Lookup, RankingNetwork, linear

__all__ = ["Config", "Network"]


class Network(RankingNetwork):
    unseen = frozenset({"groups"})

    def __init__(self, schema: Schema, rows: Mapping[str, int], config: Config):
        super().__init__()
        self.embed = Lookup(schema, rows)
        width_D = self.embed.width_D
        self.behaviours = Behaviours(width_D, len(schema.history.actions), schema.history.gap_edges_s)
        self.both_ways = BothWays(width_D, config.hidden)
        self.query = linear(width_D, 2 * config.hidden, bias=False)  # W
        candidate = self.embed.width_other_F + width_D + 2 * config.hidden
        self.head = Head(self.embed.width_user_F, candidate, config.mlp, config.mlp_dropout)

    def forward(self, batch: Batch) -> Tensor:
        """Logits, (U, C)."""
        e = self.embed(batch)
        target_UCD, state_UTS, weight_UCT = self._attended(e, batch)
        return self.head(e.user_UF, torch.cat([e.other_UCF, target_UCD, weight_UCT @ state_UTS], -1))

    def attention(self, batch: Batch) -> Tensor:
        """Weights of the behaviours, (U, C, T)."""
        return self._attended(self.embed(batch), batch)[-1]

    def _attended(self, e: Embedded, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """q (U, C, D), s (U, T, S) and a (U, C, T); padding weighs exactly 0."""
        rows_UTD = self.behaviours(e.history_UTD, batch["gap"], batch["action"])
        state_UTS = torch.cat(self.both_ways(rows_UTD, e.mask_UT), -1)
        target_UCD = self.behaviours.target(e.candidate_UCD)
        mask_U1T = e.mask_UT.unsqueeze(1)
        score_UCT = self.query(target_UCD) @ state_UTS.transpose(1, 2)
        return target_UCD, state_UTS, torch.softmax(score_UCT + (1 - mask_U1T) * MASKED, -1) * mask_U1T
