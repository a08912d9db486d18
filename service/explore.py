"""Exploration: of a share of requests the order of the best items is drawn, and how likely it was is journalled.

Plackett-Luce (Luce 1959, Plackett 1975): place after place, an item is drawn in proportion to its weight among those
that are left. The weight of an item is the odds of its click probability, p / (1 - p). To add Gumbel noise to the
logits and sort draws just that (Yellott 1977; Kool et al., ICML 2019). The propensity of an item is its chance at its
place, given those before it. Which items are the best is not drawn: below them all stand by their scores.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEAST = 1e-6  # a probability is taken as no nearer to 0 or 1: float32 has none between there


@dataclass(frozen=True)
class Explore:
    """Which requests explore, and how; both follow from the request's id and the user, so that a retry sees the same.

    Live requests of users in the journal alone: a replay asks what the model says, and a draw that nobody wrote down
    teaches nothing.
    """

    share: float
    top: int
    keeps: Callable[[str], bool]

    def chosen(self, request_id: str, user_id: str) -> bool:
        return _seed("whether", request_id, user_id) < self.share * 2**64 and self.keeps(user_id)

    def drawn(
        self, scores_C: npt.NDArray[np.float32], order_C: npt.NDArray[np.intp], request_id: str, user_id: str,
        top_k: int | None,
    ) -> tuple[npt.NDArray[np.intp], list[float | None] | None]:  # fmt: skip
        """The order with its top drawn, and the propensities of the first `top_k`; None below the top.

        Where scores are no numbers nothing is drawn.
        """
        best = order_C[: self.top]
        scores = scores_C[best].astype(np.float64)
        if not np.isfinite(scores).all():
            return order_C, None
        p = np.clip(scores, LEAST, 1 - LEAST)
        logits = np.log(p / (1 - p))
        rng = np.random.default_rng(_seed("order", request_id, user_id))
        places = (-(logits + rng.gumbel(size=len(logits)))).argsort(kind="stable")
        weights = np.exp(logits[places] - logits.max())
        left = np.cumsum(weights[::-1])[::-1]  # of an item and all after it
        propensities: list[float | None] = [*(weights / left).tolist(), *[None] * (len(order_C) - len(best))]
        return np.concatenate([best[places], order_C[self.top :]]), propensities[:top_k]


def _seed(what: str, request_id: str, user_id: str) -> int:
    named = f"{what}\n{request_id}\n{user_id}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(named, digest_size=8).digest(), "big")
