"""What a network is trained for: the loss of its logits, and what the served score is.

click       cross-entropy, BST's (9); the score is the click's probability.
watch_time  weighted logistic regression, Covington et al., RecSys 2016: a click weighs its watched seconds T, an
            impression without a click 1, so that the learnt odds are ΣT / (N - k) for k clicks of N impressions, and
            the score, exp(logit), expects the watched seconds: E[T] / (1 - P), as printed. Where clicks are frequent
            that is too much by 1 / (1 - P); with `exposures = "all"` every impression, a click too, also counts once
            as a negative, and the odds are ΣT / N = E[T]. (A departure, hence an option.)
pairs       Rendle et al., UAI 2009, BPR-OPT: -ln σ(s_positive - s_negative) over pairs of one user, to which a run adds
            λ/2·‖Θ‖² of each pair (optimisers/regularisation.py); the score, σ(s), ranks and is no probability.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus


def click(logit_B: Tensor, label_B: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logit_B, label_B, reduction="none")  # BST (9)


def watch_time(logit_B: Tensor, seconds_B: Tensor, label_B: Tensor, exposures: str = "unclicked") -> Tensor:
    """Each row's loss; `seconds_B` is what a click was watched, 0 where there was none."""
    negative_B = 1 - label_B if exposures == "unclicked" else torch.ones_like(label_B)
    return seconds_B * softplus(-logit_B) + negative_B * softplus(logit_B)


def pairs(positive_B: Tensor, negative_B: Tensor) -> Tensor:
    return softplus(negative_B - positive_B)  # -ln σ(x̂_uij)


SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "click": torch.sigmoid,
    "watch_time": torch.exp,
    "pairs": torch.sigmoid,
}
