"""Exploration: of a share of the requests the order of the first items is drawn, so that a log tells of other orders.

An item is drawn for the next place with a chance in proportion to its score among those that are left (Plackett, The
Analysis of Permutations, 1975; Luce, 1959). That chance is its propensity, which the journal keeps. A request is drawn,
and draws, by its id: asked again by the same id it gets the same order.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

_WHOLE = float(1 << 64)


class Drawn(NamedTuple):
    """`order`: places of the best candidates (k,), anew; `propensities` (k,) of those that were drawn."""

    order: npt.NDArray[np.intp]
    propensities: npt.NDArray[np.float64]


class Explorer:
    """Draws the first `top` of a share of the requests."""

    def __init__(self, share: float, top: int):
        self._share, self._top = share, top

    def drawn(
        self, request_id: str, user_id: str, best: npt.NDArray[np.intp], scores_C: npt.NDArray[np.float32]
    ) -> Drawn | None:
        """`best`: all candidates' places, best first (C,). None: this one keeps its order.

        So does one of whose scores nothing can be drawn: a score is no finite number, or not above 0.
        """
        if not self._share or xxhash.xxh3_64_intdigest(f"explore {request_id}".encode()) / _WHOLE >= self._share:
            return None
        top = best[: self._top]
        weights = scores_C[top].astype(np.float64)
        if not (np.isfinite(weights).all() and (weights > 0).all()):
            return None
        seed = xxhash.xxh3_64_intdigest(f"draw {request_id} {user_id}".encode())
        # The order of exponential waits at these rates is such a draw: the shortest comes first.
        waits = np.random.default_rng(seed).exponential(size=len(top)) / weights
        order = waits.argsort()
        left = weights[order][::-1].cumsum()[::-1]  # of this place's and all after it
        return Drawn(np.concatenate([top[order], best[len(top) :]]), weights[order] / left)
