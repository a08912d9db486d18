"""ATRank: attention over heterogeneous behaviours. Zhou et al., AAAI 2018; the equations are its authors' slides'.

A user is {(a_j, o_j, t_j)}: action, object, time. Behaviours are partitioned by their object's type into groups bg_i:
the items of [history] and every [[group]] of features.toml.

    u_ij = emb_i(o_j) + lookup_i^t(bucketize_i(t_j)) + lookup_i^a(a_j)                  behaviour embedding
    S    = concat^(0)(F_M1(u_bg1), ..., F_Mn(u_bgn)),  S_k = F_Pk(S)                     latent semantic spaces
    A_k  = softmax(S_k W_k S^T),  C_k = A_k F_Qk(S),  C = F_self(concat^(1)(C_1..C_K))   self-attention
    h_t  = F_Mg(t)(q_t),  s_k = F_Pk(h_t),  c_k = softmax(s_k W_k C^T) F_Qk(C)           vanilla attention
    e_u^t = F_vanilla(concat^(1)(c_1..c_K)),  logit = f(h_t, e_u^t)                      ranking network

Letters beside those of blocks.py: M the common width that F_Mi projects to · K spaces · E width of one, M/K.
T runs over the behaviours of all groups, one group after the other.

Readings, where the equations leave room:

- F_Mi, F_Pk, F_Qk are one layer with ReLU, as released. F_self and F_vanilla have one hidden layer, as wide as M, with
  ReLU and no bias: who has no behaviours gets exactly e = 0.
- No residual, LayerNorm, dropout or 1/√d stands in the equations, so none stands here. The released code is
  Transformer blocks: `residual` = true gives them what it has, softmax(S_k W_k S^T / √E), and x + f(x) normalised
  around each attention and each F. Who has no behaviours is then known by the target alone.
- "The same maps": the vanilla attention uses the θ_k (W_k), F_Pk and F_Qk of the self-attention.
- q_t is a behaviour like any other: it happens now (gap 0) and its action is the first that features.toml names, the
  one that is predicted. g(t) is the items' group.
- emb_i of items is their sequence features side by side; that of another group's object the embedding of its id. The
  time and action tables are as wide, and each group has its own. Tables shared between groups are not offered.
- bucketize: the edges of features.toml, and a bucket above the last. (The release types its 12 buckets twice, and a gap
  past the last edge becomes a vector of zeros.)
- f is the MLP of all our networks, which gets the "other features" too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.features.ids import PAD
from model.features.schema import Schema
from model.features.timeposition import bucket_count
from model.networks.blocks import (
    MASKED,
    Batch,
    Embedded,
    Head,
    Lookup,
    RankingNetwork,
    divisors,
    linear,
    neighbours,
    own_gap,
    table,
)
from model.options import Count, Dropout, Layers, OptionError, check

PREDICTED = 1  # the row of the first action that features.toml names; 0 is PAD


@dataclass(frozen=True)
class Config:
    spaces: Count = 8  # as released
    width: Count = 64  # M: that of BST's items, so that the two are compared at one size; the release has 128
    residual: bool = False  # as released: residuals, LayerNorm and 1/√E, which the equations do not have
    mlp: Layers = (1024, 512, 256)  # BST's Table 3: one head for all networks that are compared
    mlp_dropout: Dropout = 0.0  # as BST's

    def __post_init__(self) -> None:
        check(self, "network atrank")
        if self.width % self.spaces:
            near = " or ".join(map(str, neighbours(self.width, self.spaces)))
            raise OptionError(
                f"network atrank: {self.spaces} spaces must split the width {self.width}; allowed: a width of {near}, "
                f"or spaces {', '.join(map(str, divisors(self.width)))}"
            )


class Network(RankingNetwork):
    def __init__(self, schema: Schema, rows: Mapping[str, int], config: Config):
        super().__init__()
        edges_s, width_M = schema.history.gap_edges_s, config.width
        self.names = [group.object_type for group in schema.groups]
        self.embed = Lookup(schema, rows)
        self.objects = nn.ModuleList(table(rows[group.object_type], group.width) for group in schema.groups)
        widths = [self.embed.width_D, *(group.width for group in schema.groups)]
        actions = [len(schema.history.actions), *(len(group.actions) for group in schema.groups)]
        self.behaviours = nn.ModuleList(Behaviours(w, a, edges_s) for w, a in zip(widths, actions, strict=True))
        self.common = nn.ModuleList(linear(width, width_M) for width in widths)  # F_M1 ... F_Mn
        self.spaces = Spaces(width_M, config.spaces, scaled=config.residual)
        self.of_self = one_hidden_layer(width_M)  # F_self
        self.of_vanilla = one_hidden_layer(width_M)  # F_vanilla
        parts = ("self_attention", "of_self", "vanilla_attention", "of_vanilla")
        self.norms = nn.ModuleDict({part: nn.LayerNorm(width_M) for part in parts if config.residual})
        candidate = self.embed.width_other_F + 2 * width_M
        self.head = Head(self.embed.width_user_F, candidate, config.mlp, config.mlp_dropout)

    def forward(self, batch: Batch) -> Tensor:
        """Logits, (U, C)."""
        e = self.embed(batch)
        target_UCM, mixed_UCM, _ = self._vanilla(e, batch)
        user_UCM = self._around("of_vanilla", mixed_UCM, self.of_vanilla(mixed_UCM))  # e_u^t
        return self.head(e.user_UF, torch.cat([e.other_UCF, target_UCM, user_UCM], -1))

    def attention(self, batch: Batch) -> Tensor:
        """The vanilla attention's weights, mean over the K spaces: (U, C, T), the items first."""
        return self._vanilla(self.embed(batch), batch)[-1].mean(1)

    def _vanilla(self, e: Embedded, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """h_t (U, C, M), concat^(1)(c_1..c_K) (U, C, M) and the weights (U, K, C, T)."""
        s_UTM, mask_UT = self._all_groups(e, batch)
        mixed_UTM = self._around("self_attention", s_UTM, self.spaces(s_UTM, s_UTM, mask_UT)[0])
        c_UTM = self._around("of_self", mixed_UTM, self.of_self(mixed_UTM))
        target_UCM = torch.relu(self.common[0](self.behaviours[0].target(e.candidate_UCD)))
        mixed_UCM, weight_UKCT = self.spaces(target_UCM, c_UTM, mask_UT)
        return target_UCM, self._around("vanilla_attention", target_UCM, mixed_UCM), weight_UKCT

    def _around(self, part: str, rows: Tensor, output: Tensor) -> Tensor:
        """What goes on from a part's input and output: the output as the equations have it, or as released."""
        return self.norms[part](rows + output) if part in self.norms else output

    def _all_groups(self, e: Embedded, batch: Batch) -> tuple[Tensor, Tensor]:
        """S (U, T, M), and 1 where it holds a behaviour (U, T)."""
        objects = [e.history_UTD]
        objects += [t(batch[f"history_{g}"][..., 0]) for g, t in zip(self.names, self.objects, strict=True)]
        parts, masks = [], []
        suffixes = ["", *(f"_{name}" for name in self.names)]
        for suffix, object_UTD, encode, project in zip(suffixes, objects, self.behaviours, self.common, strict=True):
            gap_UT = batch[f"gap{suffix}"]
            u_UTD = encode(object_UTD, gap_UT, batch[f"action{suffix}"])
            parts.append(torch.relu(project(u_UTD)))
            masks.append((gap_UT != PAD).float())
        return torch.cat(parts, 1), torch.cat(masks, 1)


class Behaviours(nn.Module):
    """The u_ij of one group."""

    def __init__(self, width: int, actions: int, edges_s: tuple[int, ...]):
        super().__init__()
        self.time = table(bucket_count(edges_s), width, silent=(PAD,))
        self.action = table(1 + actions, width, silent=(PAD,))
        self.own_gap = own_gap(edges_s)

    def forward(self, object_UTD: Tensor, gap_UT: Tensor, action_UT: Tensor) -> Tensor:
        return object_UTD + self.time(gap_UT) + self.action(action_UT)

    def target(self, object_UCD: Tensor) -> Tensor:
        """The behaviour that is predicted, (U, C, D): q_t."""
        gap_UC = torch.full(object_UCD.shape[:2], self.own_gap, device=object_UCD.device)
        return self(object_UCD, gap_UC, torch.full_like(gap_UC, PREDICTED))


class Spaces(nn.Module):
    """The K latent semantic spaces: their maps, side by side, and the attention in each."""

    def __init__(self, width: int, spaces: int, scaled: bool):
        super().__init__()
        self.spaces = spaces
        self.scale = (width / spaces) ** -0.5 if scaled else 1.0
        self.query = linear(width, width)  # F_P1 ... F_PK
        self.key = linear(width, width, bias=False)  # W_1 ... W_K
        self.value = linear(width, width)  # F_Q1 ... F_QK

    def forward(self, rows_UQM: Tensor, seen_UTM: Tensor, mask_UT: Tensor) -> tuple[Tensor, Tensor]:
        """Q rows of each user attend to what is seen: concat^(1) of the K results (U, Q, M), weights (U, K, Q, T).

        Padding weighs exactly 0. So does everything where nothing is seen, and the result is 0.
        """
        query_UKQE = self._split(torch.relu(self.query(rows_UQM)))
        key_UKTE = self._split(self.key(seen_UTM))  # W_k S^T, transposed: once per user
        mask_U11T = mask_UT[:, None, None, :]
        score_UKQT = query_UKQE @ key_UKTE.transpose(-1, -2) * self.scale
        weight_UKQT = torch.softmax(score_UKQT + (1 - mask_U11T) * MASKED, -1) * mask_U11T
        mixed_UKQE = weight_UKQT @ self._split(torch.relu(self.value(seen_UTM)))
        return mixed_UKQE.transpose(1, 2).flatten(2), weight_UKQT

    def _split(self, rows_UTM: Tensor) -> Tensor:
        """(U, T, M) -> (U, K, T, E)."""
        return rows_UTM.unflatten(-1, (self.spaces, -1)).transpose(1, 2)


def one_hidden_layer(width: int) -> nn.Sequential:
    return nn.Sequential(linear(width, width, bias=False), nn.ReLU(), linear(width, width, bias=False))
