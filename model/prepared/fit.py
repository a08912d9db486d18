"""Vocabularies and statistics, fitted on the training split alone."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from model.features.encode import Encoder, Statistics
from model.features.ids import ABSENT, FIRST, MISSING, Keys
from model.features.kinds import Column
from model.features.schema import Schema
from model.features.table import Vocabulary

Counts = npt.NDArray[np.int64]


def fit(
    schema: Schema,
    columns: Mapping[str, Mapping[str, Column]],
    seen: Mapping[str, Counts],
    older: Encoder | None = None,
) -> Encoder:
    """Vocabularies and statistics: `seen` counts, per row of a side's columns, how often training saw it.

    With an `older` encoder its rows stay, new keys get rows after them, and numbers keep their statistics: weights
    that were learnt with it still mean the same. A group's object is a side of its own, under its name.
    """
    vocabularies: dict[str, Vocabulary] = {}
    rows: dict[str, int] = {}
    numbers: dict[str, tuple[float, float]] = {}
    for feature in schema.embedded:
        if feature.side == "cross":
            continue
        side = feature.name if feature.side == "object" else feature.side
        values, weight = columns[side][feature.name], seen[side]
        if feature.has_vocabulary:
            frequent = _frequent(values, weight, feature.min_count)
            if older:
                vocabularies[feature.name] = older.vocabularies[feature.name].grown(frequent)
            else:
                vocabularies[feature.name] = Vocabulary.build(frequent, FIRST + np.arange(len(frequent)))
            rows[feature.name] = FIRST + len(vocabularies[feature.name].table.items()[0])
        elif older and feature.is_float:
            numbers[feature.name] = older.statistics.numbers[feature.name]
        elif feature.is_float:
            known = ~np.isnan(values) & (weight > 0)
            mean = float(np.average(values[known], weights=weight[known])) if known.any() else 0.0
            variance = float(np.average((values[known] - mean) ** 2, weights=weight[known])) if known.any() else 1.0
            numbers[feature.name] = (mean, variance**0.5 or 1.0)
    return Encoder(schema, vocabularies, Statistics(rows, numbers))


def _frequent(values: Keys, weight: Counts, min_count: int) -> Keys:
    """Keys seen at least `min_count` times, the most frequent first: what is looked up most lies together."""
    weight = np.repeat(weight, values.size // max(1, len(values)))
    distinct, inverse = np.unique(values.reshape(-1), return_inverse=True)
    count = np.bincount(inverse, weights=weight, minlength=len(distinct))
    kept = (count >= min_count) & (distinct != MISSING) & (distinct != ABSENT)
    distinct, count = distinct[kept], count[kept]
    ordered: Keys = distinct[np.lexsort((distinct, -count))]
    return ordered
