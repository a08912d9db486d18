"""The usual export of BST: what libraries and tutorials ship, kept as the reference that ours is measured against.

Every candidate row carries its own copy of the history; attention *and* feed-forward are computed at all T + 1
positions, as a framework's encoder does; the target's row is read from its output; the MLP's first layer takes the
whole concatenation. fp32, the same weights, so the scores are ours to float tolerance.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.networks import bst
from model.networks.blocks import MASKED, Batch


class UsualBST(nn.Module):
    """BST as `torch.nn.TransformerEncoder` computes it, from the weights of ours; logits (B, 1).

    Its batch has U = B rows and C = 1: a request of C candidates is C rows (`repeated`).
    """

    def __init__(self, network: bst.Network):
        super().__init__()
        if network.positions_by != "gap":
            raise ValueError(f"position {network.positions_by!r}: the reference has time gaps alone")
        self.embed, self.position, self.own_gap = network.embed, network.position, network.own_gap
        self.encoder = nn.Sequential(*(_layer(block) for block in network.blocks))
        self.mlp = _mlp(network)

    def forward(self, batch: Batch) -> Tensor:
        e = self.embed(batch)
        history_BTD = torch.cat([e.history_UTD, self.position(batch["gap"])], -1)
        own_B1 = torch.full_like(batch["item"][..., 0], self.own_gap)
        target_B1D = torch.cat([e.candidate_UCD, self.position(own_B1)], -1)
        rows_BSD = torch.cat([history_BTD, target_B1D], 1)  # S = T + 1
        bias_BS = nn.functional.pad((1 - e.mask_UT) * MASKED, (0, 1))
        bias_NSS = bias_BS[:, None, None].expand(-1, self.encoder[0].self_attn.num_heads, bias_BS.shape[1], -1)
        for layer in self.encoder:
            rows_BSD = layer(rows_BSD, src_mask=bias_NSS.flatten(0, 1))
        return self.mlp(torch.cat([e.user_UF, e.other_UCF[:, 0], rows_BSD[:, -1]], -1))


def repeated(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One request, U = 1 with C candidates, as C rows that each carry the user's half."""
    count = inputs["item"].shape[1]
    per_candidate = ("item", "context", "cross", "item_numbers", "context_numbers", "cross_numbers")
    return {
        name: values.transpose(0, 1) if name in per_candidate else values.expand(count, *values.shape[1:])
        for name, values in inputs.items()
    }


def _layer(block: bst.Block) -> nn.TransformerEncoderLayer:
    width = block.query.in_features
    layer = nn.TransformerEncoderLayer(
        width, block.heads, block.inner.out_features, 0.0, nn.LeakyReLU(), batch_first=True
    )
    attention = layer.self_attn
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([block.query.weight, block.key.weight, block.value.weight]))
        attention.in_proj_bias.zero_()
        attention.out_proj.weight.copy_(block.joined.weight)
        attention.out_proj.bias.zero_()
    layer.linear1, layer.linear2 = block.inner, block.outer
    layer.norm1, layer.norm2 = block.attention_norm, block.forward_norm
    return layer


def _mlp(network: bst.Network) -> nn.Sequential:
    head = network.head
    parts = [part.weight for part in (head.of_user, head.of_candidate) if part is not None]
    first = nn.Linear(sum(part.shape[1] for part in parts), parts[0].shape[0])
    with torch.no_grad():
        first.weight.copy_(torch.cat(parts, 1))
        first.bias.copy_(head.of_candidate.bias)
    return nn.Sequential(first, *head.rest)
