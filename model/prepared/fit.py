"""Vocabularies and statistics, fitted on the training split alone."""

from collections.abc import Mapping
from math import fsum

import numpy as np
import numpy.typing as npt

from model.features.derived import Match
from model.features.encode import Encoder, Statistics
from model.features.ids import ABSENT, FIRST, MISSING, Keys
from model.features.kinds import Column
from model.features.schema import Schema
from model.features.table import Vocabulary
from model.features.timeposition import bucket_count

Counts = npt.NDArray[np.int64]


def fit(
    schema: Schema,
    columns: Mapping[str, Column],
    seen: Mapping[str, Counts],
    fitted: Mapping[str, tuple[float, float]],
    older: Encoder | None = None,
    time_zone: str = "UTC",
) -> Encoder:
    """Vocabularies and statistics of the features by name: `seen` counts how often training saw each row of a column.

    `fitted` are mean and deviation of the numbers that have no column here. With an `older` encoder its rows stay, new
    keys get rows after them, and numbers keep their statistics: weights that were learnt with it still mean the same.
    """
    vocabularies: dict[str, Vocabulary] = {}
    rows: dict[str, int] = {}
    numbers: dict[str, tuple[float, float]] = {}
    for feature in schema.embedded:
        name = feature.name
        if feature.has_vocabulary and feature.side != "cross":
            frequent = _frequent(columns[name], seen[name], feature.min_count)
            if older:
                vocabularies[name] = older.vocabularies[name].grown(frequent)
            else:
                vocabularies[name] = Vocabulary.build(frequent, FIRST + np.arange(len(frequent)))
            rows[name] = FIRST + len(vocabularies[name].table.items()[0])
        elif isinstance(feature, Match):
            rows[name] = feature.buckets_of(bucket_count(schema.history.gap_edges_s))
        elif feature.is_float:
            numbers[name] = (
                older.statistics.numbers[name] if older else fitted.get(name) or _spread(columns[name], seen[name])
            )
    return Encoder(schema, vocabularies, Statistics(rows, numbers, time_zone))


def _spread(values: Column, weight: Counts) -> tuple[float, float]:
    """Mean and deviation of numbers that stand so often each; sums are exact, so no order of the rows matters."""
    known = ~np.isnan(values) & (weight > 0)
    values, weight = values[known], weight[known]
    if not len(values):
        return 0.0, 1.0
    mean = fsum(values * weight) / int(weight.sum())
    return mean, (fsum((values - mean) ** 2 * weight) / int(weight.sum())) ** 0.5 or 1.0


def _frequent(values: Keys, weight: Counts, min_count: int) -> Keys:
    """Keys seen at least `min_count` times, the most frequent first: what is looked up most lies together."""
    weight = np.repeat(weight, values.size // max(1, len(values)))
    distinct, inverse = np.unique(values.reshape(-1), return_inverse=True)
    count = np.bincount(inverse, weights=weight, minlength=len(distinct))
    kept = (count >= min_count) & (distinct != MISSING) & (distinct != ABSENT)
    distinct, count = distinct[kept], count[kept]
    ordered: Keys = distinct[np.lexsort((distinct, -count))]
    return ordered
