"""Rankers without a network, for experiments to stand against: by clicks so far, and by chance."""

import numpy as np
import numpy.typing as npt

from model.bundle.errors import BundleError
from model.features.counts import Counts, Known, keys_of
from model.features.derived import Statistic
from model.features.encode import Encoder, Inputs
from model.features.kinds import ITEM_ID
from service.scoring.lanes import Scores


def by_chance(encoder: Encoder, inputs: Inputs) -> Scores:
    """Any order is as likely as any other."""
    return np.random.default_rng().random(inputs["item"].shape[:2], np.float32)


class Popularity:
    """By the clicks of each item until the newest day that the bundle's counts hold, as a share of the most clicked's.

    Raises BundleError where no statistic of items alone is counted, or items are hashed.
    """

    def __init__(self, encoder: Encoder):
        found = [f for f in encoder.schema.features if isinstance(f, Statistic) and tuple(f.of) == (ITEM_ID,)]
        if not found:
            raise BundleError(
                f"builtin popularity needs the clicks of items: a feature of kind statistic, of = ['{ITEM_ID}'], in "
                "the features.toml of the bundle that RANKER_BUNDLE leads to"
            )
        if ITEM_ID not in encoder.vocabularies:
            raise BundleError("builtin popularity needs items with rows of their own: here item ids are hashed")
        self._counted = min(found, key=lambda f: f.counted).counted  # of all days, where that is counted
        self._place = encoder.schema.places("item")[ITEM_ID].start
        self._of: tuple[Known | None, npt.NDArray[np.float32]] = (None, np.zeros(0, np.float32))
        self._scores(encoder)

    def __call__(self, encoder: Encoder, inputs: Inputs) -> Scores:
        rows_UC = inputs["item"][..., self._place]
        return self._scores(encoder)[rows_UC]

    def _scores(self, encoder: Encoder) -> npt.NDArray[np.float32]:
        """By the item's row; made anew where the counts were taken over."""
        counts, scores = self._of
        if counts is not encoder.counts:
            counts = encoder.counts
            table = encoder.vocabularies[ITEM_ID].table
            keys, bucket, slot = table.items()
            (rows,) = table.values(["row"], bucket, slot)
            clicks = np.zeros(int(rows.max(initial=1)) + 1, np.float32)
            if isinstance(counts, Counts):
                clicks[rows] = counts.before(counts.until_ms, keys_of(self._counted, [keys]))[1]
            scores = clicks / max(float(clicks.max()), 1.0)
            self._of = counts, scores
        return scores
