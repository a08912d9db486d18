"""Bi-LSTM: the user is where two LSTMs over the items' behaviours end. A competitor in ATRank (Zhou et al., AAAI 2018).

Readings, since ATRank's slides name this network and nothing of its inside:

- It reads the behaviours as ATRank embeds them (object + time + action), so that only what is done with them differs;
  it reads the items' group alone, whose behaviours have an order in time.
- The user's vector is the two last states side by side: the newest behaviour's of the LSTM that reads onward, the
  oldest's of the one that reads back. Without a behaviour it is 0.
- The ranking network is that of atrank.py: the MLP on [other features, target, user].
- One layer; it starts as TensorFlow 1.4's cell: weights Glorot, what reads the row and what reads the state being one
  matrix; bias 0, that of the forget gate 1. (torch's cell has two biases, which are added: both learn.)

Histories are left-aligned: an LSTM that reads onward meets padding last. The one that reads back gets each user's
behaviours mirrored, [newest, ..., oldest, padding], for the same reason; so padding reaches no state that is used.
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
    hidden: Count = 64  # of each direction: both are as wide as the release's 128
    mlp: Layers = (1024, 512, 256)  # BST's Table 3: one head for all networks that are compared
    mlp_dropout: Dropout = 0.0  # as BST's

    def __post_init__(self) -> None:
        check(self, "network bilstm")


class Network(RankingNetwork):
    unseen = frozenset({"groups"})

    def __init__(self, schema: Schema, rows: Mapping[str, int], config: Config):
        super().__init__()
        self.embed = Lookup(schema, rows)
        width_D = self.embed.width_D
        self.behaviours = Behaviours(width_D, len(schema.history.actions), schema.history.gap_edges_s)
        self.both_ways = BothWays(width_D, config.hidden)
        user, candidate = self.embed.width_user_F + 2 * config.hidden, self.embed.width_other_F + width_D
        self.head = Head(user, candidate, config.mlp, config.mlp_dropout)

    def forward(self, batch: Batch) -> Tensor:
        """Logits, (U, C)."""
        e = self.embed(batch)
        onward_UTS, back_UTS = self.both_ways(self.behaviours(e.history_UTD, batch["gap"], batch["action"]), e.mask_UT)
        newest_U1 = last(e.mask_UT)
        user_UF = torch.cat([e.user_UF, rows_at(onward_UTS, newest_U1)[:, 0], back_UTS[:, 0]], -1)
        return self.head(user_UF, torch.cat([e.other_UCF, self.behaviours.target(e.candidate_UCD)], -1))


class BothWays(nn.Module):
    """Two LSTMs over left-aligned rows. S: width of a state."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.onward, self.back = (nn.LSTM(width, hidden, batch_first=True) for _ in range(2))
        for lstm in (self.onward, self.back):
            bound = (6 / (width + hidden + 4 * hidden)) ** 0.5
            nn.init.uniform_(lstm.weight_ih_l0, -bound, bound)
            nn.init.uniform_(lstm.weight_hh_l0, -bound, bound)
            nn.init.zeros_(lstm.bias_ih_l0)
            nn.init.zeros_(lstm.bias_hh_l0)
            with torch.no_grad():
                lstm.bias_ih_l0[hidden : 2 * hidden] = 1  # the forget gate's; torch's order is input, forget, cell, out

    def forward(self, rows_UTD: Tensor, mask_UT: Tensor) -> tuple[Tensor, Tensor]:
        """States (U, T, S) of the LSTM that comes from the oldest and of the one from the newest; 0 in padding."""
        place_T = torch.arange(rows_UTD.shape[1], device=rows_UTD.device)
        mirrored_UT = (last(mask_UT) - place_T).clamp(min=0)
        onward_UTS = states(self.onward, rows_UTD)
        back_UTS = rows_at(states(self.back, rows_at(rows_UTD, mirrored_UT)), mirrored_UT)
        mask_UT1 = mask_UT.unsqueeze(-1)
        return onward_UTS * mask_UT1, back_UTS * mask_UT1


def states(lstm: nn.LSTM, rows_UTD: Tensor) -> Tensor:
    """What the LSTM's state was after each row, (U, T, S), starting from 0.

    An export gets ONNX's operator from here: torch's own way there fixes T, or fails from the second time in a process.
    """
    if not torch.onnx.is_in_onnx_export():
        return lstm(rows_UTD)[0]
    gates = [_gates(p) for p in (lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0)]
    rows_TUD = rows_UTD.transpose(0, 1)
    states_T1US = torch.onnx.ops.symbolic(
        "LSTM",
        [rows_TUD, gates[0].unsqueeze(0), gates[1].unsqueeze(0), torch.cat(gates[2:]).unsqueeze(0)],
        {"hidden_size": lstm.hidden_size},
        dtype=rows_UTD.dtype,
        shape=[rows_TUD.shape[0], 1, rows_TUD.shape[1], lstm.hidden_size],
    )
    return states_T1US.squeeze(1).transpose(0, 1)


def _gates(parameter: Tensor) -> Tensor:
    """From torch's order of the gates (input, forget, cell, output) to ONNX's (input, output, forget, cell)."""
    into, forget, cell, out = parameter.chunk(4)
    return torch.cat([into, out, forget, cell])


def last(mask_UT: Tensor) -> Tensor:
    """Place of each user's newest behaviour, (U, 1); 0 where there is none, which is padding then."""
    return (mask_UT.sum(1, keepdim=True).long() - 1).clamp(min=0)


def rows_at(rows_UTD: Tensor, at_UT: Tensor) -> Tensor:
    """The rows at these places of each user."""
    return rows_UTD.gather(1, at_UT.unsqueeze(-1).expand(-1, -1, rows_UTD.shape[-1]))
