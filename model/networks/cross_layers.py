"""Cross layers of DCN-V2. Wang et al., Google, WWW 2021: products of up to L + 1 features by L layers.

    x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l     (1)

x_0 are all embeddings and numbers of a candidate, its user's and the mean of the history's items among them; what the
last layer gives is a logit, added to the network's own: the paper's parallel structure (Figure 1), each half with its
logit. W_l is whole (the paper's low rank and its mixture of experts are not here).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from model.networks import blocks
from model.networks.blocks import Embedded


class CrossLayers(nn.Module):
    """What the embeddings (blocks.Embedded) say by their products: one logit per candidate, (U, C).

    `user`, `candidate`: widths of the user's features, and of those that change with the candidate, its own item's
    among them. `item`: that of a history's item.
    """

    def __init__(self, user: int, candidate: int, item: int, layers: int):
        super().__init__()
        width = user + item + candidate
        self.layers = nn.ModuleList(blocks.linear(width, width) for _ in range(layers))
        self.last = blocks.linear(width, 1, bias=False)

    def forward(self, e: Embedded) -> Tensor:
        count_U1 = e.mask_UT.sum(1, keepdim=True).clamp(min=1)
        mean_UD = (e.history_UTD * e.mask_UT.unsqueeze(-1)).sum(1) / count_U1
        user_UF = torch.cat([e.user_UF, mean_UD], -1)
        candidate_UCF = torch.cat([e.other_UCF, e.candidate_UCD], -1)
        first = torch.cat([user_UF.unsqueeze(1).expand(-1, candidate_UCF.shape[1], -1), candidate_UCF], -1)
        # (1) of the first layer, split as a Head's: the user's share is computed once per request.
        begin, *others = self.layers
        of_user, of_candidate = begin.weight.split([user_UF.shape[-1], candidate_UCF.shape[-1]], 1)
        once_U1F = linear(user_UF, of_user, begin.bias).unsqueeze(1)
        crossed = first * (linear(candidate_UCF, of_candidate) + once_U1F) + first
        for layer in others:
            crossed = first * layer(crossed) + crossed  # (1)
        logit_UC: Tensor = self.last(crossed).squeeze(-1)
        return logit_UC
