"""Behavior Sequence Transformer (BST). Chen et al., Alibaba, 2019.

Equation numbers are the paper's. Readings, where its print leaves room:

- (5) writes MH(S) where (2) has S = MH(E); taken literally MH is applied twice. Here S in (5) is the block's input, E
  for the first block, as in Vaswani et al. 2017.
- (1) divides by √d, (3) prints d×d projections for a head: here the heads split d, and the scale is 1/√(d/H).
- (6) does not print its inner width: 4d. LeakyReLU stands where (6) prints it; between the layers of the MLP, whose
  activation the text does not name, it stands too.
- (7), (8) for b > 1: a block's input is the output of the one before.
- §2.3's "output of the Transformer layer applying to the target item" is the target's row; the target is the
  sequence's last element, and its own gap is 0.
- pos(v_i) = t(v_t) - t(v_i) is bucketed (model/features/timeposition.py), embedded, and concatenated to the item's
  features (§2.1).
- §2.2 names LeakyReLU "in self-attention" too; (1)-(3) print none, so none stands there. Its slope is torch's 0.01,
  LayerNorm's epsilon 1e-5; weights start as TensorFlow 1.4's (Glorot), with which the paper trained.
- A multi-valued feature is the mean of its values' embeddings; a standardised number enters the MLP as it is.
- Dropout stands in (5) and (6) as printed: none on the attention weights, none in the MLP unless `mlp_dropout` asks.

Ablations, each a switch of Config: `position` = "index" puts the place counted back from the target in the time gap's
stead, "sincos" that place as the sines and cosines of Vaswani et al. 2017, which §2.1 found worse, "none" a vector of
zeros. So the item's vector keeps its width, and with it heads and cost. (Vaswani adds sines to embeddings that are
multiplied by √d. Here they stand beside them, as large as a learnt table of places starts: at full size LayerNorm
leaves little of the item, and training stays at chance.) `layer_norm` = false leaves (5) and (6) without LayerNorm.

How it is computed, the numbers being the same: in the first block the history's keys and values do not depend on the
candidate, so with b = 1 they are computed once per user, and only the target's query row is needed. With b > 1 all
blocks but the last run on all T + 1 rows of every candidate, with (T + 1)² scores each: no T above LONGEST_STACKED.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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
from model.options import Count, Dropout, Layers, OptionError, check, wrong

LONGEST_STACKED = 200  # T with b > 1: 500 candidates then fill 650 MB with the scores of a block's 8 heads


@dataclass(frozen=True)
class Config:
    blocks: Count = 1  # Table 3; Table 4 finds 2 and 3 worse
    heads: Count = 8  # Table 3
    dropout: Dropout = 0.2  # Table 3
    position: Literal["gap", "index", "sincos", "none"] = "gap"  # §2.1's time gap; the others are ablations
    position_width: Count = 16  # of the item's 64: 32 item + 16 category + 16 position
    layer_norm: bool = True  # (5), (6); false is an ablation
    mlp: Layers = (1024, 512, 256)  # Table 3
    mlp_dropout: Dropout = 0.0  # not in the paper; for logs so small that the MLP learns them by heart

    def __post_init__(self) -> None:
        check(self, "network bst")
        if self.position == "sincos" and self.position_width % 2:
            raise wrong("network bst", "position_width", self.position_width, "even with sincos")


class Network(RankingNetwork):
    unseen = frozenset({"action", "groups"})

    def __init__(self, schema: Schema, rows: Mapping[str, int], config: Config):
        super().__init__()
        if config.blocks > 1 and schema.history.length > LONGEST_STACKED:
            allowed = f"up to {LONGEST_STACKED}, or blocks 1: each candidate would need (T + 1)² scores of every head"
            raise wrong(f"network bst: {config.blocks} blocks", "history length", schema.history.length, allowed)
        edges_s = schema.history.gap_edges_s
        self.embed = Lookup(schema, rows)
        self.positions_by = config.position
        if config.position != "gap":
            self.unseen = self.unseen | {"gap"}
        self.position: nn.Embedding | SinesAndCosines
        if config.position == "sincos":
            self.position = SinesAndCosines(config.position_width, places=2 + schema.history.length)
        else:
            places = {"gap": bucket_count(edges_s), "index": 2 + schema.history.length, "none": 1}
            self.position = table(places[config.position], config.position_width, silent=(PAD,))
        width_D = self.embed.width_D + config.position_width
        if width_D % config.heads:
            raise OptionError(_unsplit(schema, width_D, config))
        self.blocks = nn.ModuleList(
            Block(width_D, config.heads, config.dropout, config.layer_norm) for _ in range(config.blocks)
        )
        self.head = Head(self.embed.width_user_F, self.embed.width_other_F + width_D, config.mlp, config.mlp_dropout)
        self.own_gap = own_gap(edges_s)

    def forward(self, batch: Batch) -> Tensor:
        """Logits, (U, C)."""
        e = self.embed(batch)
        target_UCD = self.blocks[-1].target_row(*self._into_last(e, batch)).view(*batch["item"].shape[:2], -1)
        return self.head(e.user_UF, torch.cat([e.other_UCF, target_UCD], -1))

    def attention(self, batch: Batch) -> Tensor:
        """What the target attends to in the last block, mean over heads: (U, C, T + 1), the target itself last."""
        history_UTD, target_UCD, bias_UT = self._into_last(self.embed(batch), batch)
        weight_UHCT = self.blocks[-1].target_weights(history_UTD, target_UCD, bias_UT)
        return weight_UHCT.mean(1).view(*batch["item"].shape[:2], -1)

    def _into_last(self, e: Embedded, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The last block's input: the history's rows, the targets, and the bias that hides padding.

        With b > 1 every candidate has a sequence of its own, and U here is U·C, C is 1.
        """
        history_UT, target_UC = self._positions(batch["gap"], batch["item"][..., 0])
        history_UTD = torch.cat([e.history_UTD, self.position(history_UT)], -1)
        target_UCD = torch.cat([e.candidate_UCD, self.position(target_UC)], -1)
        bias_UT = (1 - e.mask_UT) * MASKED
        if len(self.blocks) > 1:  # the history's rows now see the target
            history_UTD, target_UCD, bias_UT = self._apart(history_UTD, target_UCD, bias_UT)
            for block in self.blocks[:-1]:  # (7), (8)
                rows_BTD = block(torch.cat([history_UTD, target_UCD], 1), nn.functional.pad(bias_UT, (0, 1)))
                history_UTD, target_UCD = rows_BTD[:, :-1], rows_BTD[:, -1:]
        return history_UTD, target_UCD, bias_UT

    def _positions(self, gap_UT: Tensor, item_UC: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the position table, of the behaviours and of the targets."""
        if self.positions_by == "gap":
            return gap_UT, torch.full_like(item_UC, self.own_gap)
        if self.positions_by == "none":  # the one row there is, zeros
            return torch.full_like(gap_UT, PAD), torch.full_like(item_UC, PAD)
        seen_UT = (gap_UT != PAD).long()
        back_UT = 1 + seen_UT.sum(1, keepdim=True) - seen_UT.cumsum(1)  # 1: the newest
        row_UT = seen_UT * (1 + back_UT)
        if isinstance(self.position, nn.Embedding):
            row_UT = row_UT.clamp(max=self.position.num_embeddings - 1)
        return row_UT, torch.ones_like(item_UC)

    @staticmethod
    def _apart(history_UTD: Tensor, target_UCD: Tensor, bias_UT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """U users with C candidates as B = U·C users with one candidate each."""
        users, candidates, _ = target_UCD.shape
        return (
            history_UTD.unsqueeze(1).expand(users, candidates, -1, -1).flatten(0, 1),
            target_UCD.flatten(0, 1).unsqueeze(1),
            bias_UT.unsqueeze(1).expand(users, candidates, -1).flatten(0, 1),
        )


def _unsplit(schema: Schema, width_D: int, config: Config) -> str:
    """What to tell of heads that cannot split the item's vector: what it is made of, and what would do."""
    parts = [f"{f.name} {f.sequence_width}" for f in schema.sequence] + [f"position_width {config.position_width}"]
    widths = [width - width_D + config.position_width for width in neighbours(width_D, config.heads)]
    fitting = " or ".join(str(width) for width in widths if width > 0)
    return (
        f"network bst: {config.heads} heads cannot split the item vector's width {width_D} ({' + '.join(parts)}); "
        f"allowed: widths that add up to a multiple of {config.heads}, as with position_width {fitting}; "
        f"or heads {', '.join(map(str, divisors(width_D)))}"
    )


class TimeGaps(nn.Module):
    """§2.1's positions for a network whose paper has none: a behaviour's time gap beside its item's features."""

    def __init__(self, schema: Schema, width: int):
        super().__init__()
        self.table = table(bucket_count(schema.history.gap_edges_s), width, silent=(PAD,))
        self.own_gap = own_gap(schema.history.gap_edges_s)

    def forward(self, history_UTD: Tensor, gap_UT: Tensor) -> Tensor:
        return torch.cat([history_UTD, self.table(gap_UT)], -1)

    def target(self, candidate_UCD: Tensor) -> Tensor:
        """The candidates, each with a gap of 0."""
        gap_UC = torch.full(candidate_UCD.shape[:2], self.own_gap, device=candidate_UCD.device)
        return self(candidate_UCD, gap_UC)


class SinesAndCosines(nn.Module):
    """PE(pos, 2i) = sin(pos / 10000^(2i/width)), PE(pos, 2i + 1) its cosine: Vaswani et al. 2017, §3.5; sines first.

    They deviate as a Glorot table of so many places does, by √(2 / (places + width)), and not by √½.
    """

    def __init__(self, width: int, places: int):
        super().__init__()
        self.embedding_dim, self.scale = width, (4 / (places + width)) ** 0.5
        self.register_buffer("frequency", 10_000 ** -(torch.arange(0, width, 2) / width), persistent=False)

    def forward(self, row: Tensor) -> Tensor:
        """Vectors of rows as a position table has them: PAD, then the place 0, the place 1, ..."""
        angle = (row - 1).unsqueeze(-1) * self.frequency
        return torch.cat([angle.sin(), angle.cos()], -1) * self.scale


class Block(nn.Module):
    """One self-attention block, (1)-(6)."""

    def __init__(self, width: int, heads: int, dropout: float, layer_norm: bool):
        super().__init__()
        self.heads = heads
        self.scale = (width / heads) ** -0.5
        self.query = linear(width, width, bias=False)  # W^Q
        self.key = linear(width, width, bias=False)  # W^K
        self.value = linear(width, width, bias=False)  # W^V
        self.joined = linear(width, width, bias=False)  # W^H
        self.attention_norm = nn.LayerNorm(width) if layer_norm else nn.Identity()
        self.inner = linear(width, 4 * width)  # W^(1), b^(1)
        self.outer = linear(4 * width, width)  # W^(2), b^(2)
        self.forward_norm = nn.LayerNorm(width) if layer_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.activation = nn.LeakyReLU()

    def forward(self, rows_BTD: Tensor, bias_BT: Tensor) -> Tensor:
        """All rows of a sequence: (B, T, D) -> (B, T, D)."""
        query, key, value = (self._split(project(rows_BTD)) for project in (self.query, self.key, self.value))
        score_BHTT = query @ key.transpose(-1, -2) * self.scale + bias_BT[:, None, None, :]
        mixed = torch.softmax(score_BHTT, -1) @ value  # (1)
        return self._feed_forward(self._residual(rows_BTD, mixed))

    def target_row(self, history_UTD: Tensor, target_UCD: Tensor, bias_UT: Tensor) -> Tensor:
        """The rows of the targets alone, each at the end of the same history: (U, T, D), (U, C, D) -> (U, C, D)."""
        weight = self.target_weights(history_UTD, target_UCD, bias_UT)
        value, own_value = self._split(self.value(history_UTD)), self._split(self.value(target_UCD))
        mixed = weight[..., :-1] @ value + weight[..., -1:] * own_value  # (1)
        return self._feed_forward(self._residual(target_UCD, mixed))

    def target_weights(self, history_UTD: Tensor, target_UCD: Tensor, bias_UT: Tensor) -> Tensor:
        """What each target attends to: (U, H, C, T + 1), itself last."""
        query, own_key = self._split(self.query(target_UCD)), self._split(self.key(target_UCD))
        score_UHCT = (
            query @ self._split(self.key(history_UTD)).transpose(-1, -2) * self.scale + bias_UT[:, None, None, :]
        )
        own_UHC1 = (query * own_key).sum(-1, keepdim=True) * self.scale  # always visible: no history is no special case
        return torch.softmax(torch.cat([score_UHCT, own_UHC1], -1), -1)

    def _split(self, rows: Tensor) -> Tensor:
        """(…, rows, D) -> (…, H, rows, D/H)."""
        return rows.unflatten(-1, (self.heads, -1)).transpose(-2, -3)

    def _residual(self, rows: Tensor, mixed: Tensor) -> Tensor:
        attended = self.joined(mixed.transpose(-2, -3).flatten(-2))  # (2)
        return self.attention_norm(rows + self.dropout(attended))  # (5)

    def _feed_forward(self, rows: Tensor) -> Tensor:
        inner = self.activation(self.inner(rows))
        return self.forward_norm(rows + self.dropout(self.outer(inner)))  # (6)
