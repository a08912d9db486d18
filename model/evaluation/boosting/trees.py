"""Trees on what can be counted. LightGBM (Ke et al., NeurIPS 2017).

A training row's rates must not hold its own label, and to leave that one label out is not enough: what then lacks in a
group's clicks tells it. So training rows are cut by time into blocks, a row is described by what was counted before its
block, and the first block is only counted. Rows that are scored are described likewise: by what lies before them.

How many trees there are is picked on validation, after trees that were fitted to train alone; where validation is
trained on as well, so many are then fitted to both.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from model.evaluation.boosting.described import Described, Rows, parts
from model.evaluation.boosting.parameters import Parameters, parameters
from model.evaluation.metrics import Floats
from model.prepared.loader import Prepared
from model.prepared.splits import SPLITS


class Boosted:
    """Trees fitted to some splits of a data set. Raises ImportError or OSError where lightgbm cannot be imported."""

    def __init__(self, data: Prepared, trained_on: Sequence[str] = ("train",), derived: bool = False):
        self.data, self.derived = data, derived
        self.described, self.booster = self._fitted([split for split in trained_on if split != "validation"])
        if "validation" in trained_on:
            trees = self.booster.current_iteration() if self.booster else None
            self.described, self.booster = self._fitted(trained_on, trees)

    def scores(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Click probabilities of impressions (n,), by what was counted on all that was trained on."""
        if self.booster is None:
            return np.full(len(rows), self.described.rate, np.float32)
        scores = [self.booster.predict(self.described.matrix(part)) for part in parts(rows)]
        return np.concatenate(scores).astype(np.float32)

    def _fitted(self, trained_on: Sequence[str], trees: int | None = None) -> tuple[Described, Any]:
        """Counts, and trees: `trees` of them, else as many as are best on validation. None where no label differs."""
        import lightgbm  # of the extra `train`, and slow to import

        how, data = parameters(), self.data
        described, inputs, label = training_rows(data, rows_of(data, trained_on), self.derived)
        if not 0 < label.sum() < len(label):
            return described, None
        rows = data.of_split("validation")
        categories = [at for at, name in enumerate(described.columns(rows[:0])) if name in described.categories]
        train = lightgbm.Dataset(inputs, label, categorical_feature=categories, params=how.lightgbm)
        stopped = trees is None and 0 < data.label[rows].sum() < len(rows)
        most = trees or (how.most_trees if stopped else how.blind_trees)
        with tqdm(total=most, desc="gradient boosting", unit="tree", delay=1, leave=False) as bar:
            callbacks: list[Any] = [lambda _: bar.update() and None]
            judges = []
            if stopped:
                judged = described.matrix(rows)
                judges = [lightgbm.Dataset(judged, data.label[rows], reference=train, params=how.lightgbm)]
                callbacks.append(lightgbm.early_stopping(how.patience, verbose=False))
            booster = lightgbm.train(how.lightgbm, train, most, valid_sets=judges, callbacks=callbacks)
        best = booster.best_iteration if stopped else most
        return described, lightgbm.Booster(model_str=booster.model_to_string(num_iteration=best))


def training_rows(
    data: Prepared, rows: Rows, derived: bool = False, how: Parameters | None = None
) -> tuple[Described, Floats, npt.NDArray[Any]]:
    """Counts on `rows`, which are in time order; of the newest rows the columns (n, columns) and labels (n,)."""
    how, described = how or parameters(), Described(data, derived)
    older, newest = np.split(rows, [max(0, len(rows) - how.most_rows)])
    described.add(older)
    matrices, labels = [described.matrix(rows[:0])], [data.label[rows[:0]]]
    for block in np.array_split(newest, how.blocks):
        if described.rows:
            matrices.append(described.matrix(block))
            labels.append(data.label[block])
        described.add(block)
    return described, np.concatenate(matrices), np.concatenate(labels)


def rows_of(data: Prepared, splits: Sequence[str]) -> Rows:
    """Impressions of several splits, in time order."""
    return np.flatnonzero(np.isin(data.arrays["split"], [SPLITS.index(split) for split in splits]))
