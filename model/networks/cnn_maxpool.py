"""CNN + Max Pooling: a text CNN (Kim, EMNLP 2014) over the items' behaviours. A competitor in ATRank (Zhou et al.,
AAAI 2018).

    z_w = max_t ReLU(W_w · [u_t, ..., u_{t+w-1}] + b_w)  for windows of w behaviours,   the user is [z_1, ..., z_10]

Readings, since ATRank's slides name this network and nothing of its inside; window sizes and filters are its release's:

- It reads the behaviours as ATRank embeds them, and the items' group alone; the ranking network is that of atrank.py.
  (The release's dense layer after the pooling is the MLP's first.)
- A window begins at every behaviour. Where it reaches past the newest one it sees zeros, however long the padding is;
  so a history shorter than a window has windows too. Without a behaviour the user's vector is 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.features.schema import Schema
from model.networks.atrank import Behaviours
from model.networks.blocks import Batch, Head, Lookup, RankingNetwork
from model.options import Count, Dropout, Layers, check


@dataclass(frozen=True)
class Config:
    windows: Layers = tuple(range(1, 11))  # as released
    filters: Count = 32  # of each window size, as released
    mlp: Layers = (1024, 512, 256)  # BST's Table 3: one head for all networks that are compared
    mlp_dropout: Dropout = 0.0  # as BST's

    def __post_init__(self) -> None:
        check(self, "network cnn_maxpool")


class Network(RankingNetwork):
    unseen = frozenset({"groups"})

    def __init__(self, schema: Schema, rows: Mapping[str, int], config: Config):
        super().__init__()
        self.embed = Lookup(schema, rows)
        width_D = self.embed.width_D
        self.behaviours = Behaviours(width_D, len(schema.history.actions), schema.history.gap_edges_s)
        self.windows = nn.ModuleList(nn.Conv1d(width_D, config.filters, size) for size in config.windows)
        self.sizes = config.windows
        for window in self.windows:
            nn.init.xavier_uniform_(window.weight)
            nn.init.zeros_(window.bias)
        user = self.embed.width_user_F + len(config.windows) * config.filters
        self.head = Head(user, self.embed.width_other_F + width_D, config.mlp, config.mlp_dropout)

    def forward(self, batch: Batch) -> Tensor:
        """Logits, (U, C)."""
        e = self.embed(batch)
        rows_UTD = self.behaviours(e.history_UTD, batch["gap"], batch["action"]) * e.mask_UT.unsqueeze(-1)
        rows_UDT, mask_U1T = rows_UTD.transpose(1, 2), e.mask_UT.unsqueeze(1)
        pooled = []
        for size, window in zip(self.sizes, self.windows, strict=True):
            seen_UFT = torch.relu(window(nn.functional.pad(rows_UDT, (0, size - 1))))
            pooled.append((seen_UFT * mask_U1T).amax(-1))  # ReLU is 0 or more: a masked window never is the largest
        user_UF = torch.cat([e.user_UF, *pooled], -1)
        return self.head(user_UF, torch.cat([e.other_UCF, self.behaviours.target(e.candidate_UCD)], -1))
