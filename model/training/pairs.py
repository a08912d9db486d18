"""Pairs of one user's clicked and unclicked impression, for BPR (Rendle et al., UAI 2009; model/training/objective.py).

A training epoch goes over the clicks; each meets an impression of the same user without a click, drawn anew every
epoch. Users who have only one kind are left out: there is nothing to compare.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from model.prepared.loader import Prepared

Rows = npt.NDArray[np.int64]


class Pairs:
    """`positive` (n,): the impressions to go over. Raises ValueError where no user has both kinds."""

    def __init__(self, data: Prepared, rows: Rows):
        user, label = data.user[rows], data.label[rows]
        self._user: npt.NDArray[Any] = data.user
        unclicked = rows[label == 0]
        self._unclicked = unclicked[np.argsort(data.user[unclicked], kind="stable")]
        self._count = np.bincount(data.user[unclicked], minlength=int(user.max(initial=0)) + 1)
        self._begin = np.cumsum(self._count) - self._count
        self.positive = rows[(label > 0) & (self._count[user] > 0)]
        if not len(self.positive):
            raise ValueError(f"{data.folder}: no user has impressions with and without a click, so there are no pairs")

    def negative(self, positive: Rows, seed: int, epoch: int) -> Rows:
        """For each clicked impression (B,) one that its user did not click; the same for the same seed and epoch."""
        user = self._user[positive]
        draw = np.random.default_rng([seed, epoch, int(positive[0])]).random(len(positive))
        chosen: Rows = self._unclicked[self._begin[user] + (draw * self._count[user]).astype(np.int64)]
        return chosen
