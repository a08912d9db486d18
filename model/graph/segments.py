"""Segments of impressions: what a mean over all of them hides shows in the worst.

By every value of the context (numbers in quarters), by length of history, and by what training has not seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.features.ids import PAD, UNKNOWN
from model.features.kinds import ITEM_ID, USER_ID, Feature
from model.graph import golden
from model.prepared.loader import Prepared

Rows = npt.NDArray[np.int64]
MOST_VALUES = 100  # of a feature, the most frequent: a context feature may be hashed into a million
QUARTERS = 4


@dataclass(frozen=True)
class Segment:
    name: str  # tab=3
    rows: Rows  # its impressions, ascending


def by_context(data: Prepared, rows: Rows) -> list[Segment]:
    """Impressions by every value of every context feature."""
    segments = []
    places = data.schema.places("context")
    numbers = iter(np.asarray(data.arrays["context_numbers"][rows]).T)
    columns = np.asarray(data.arrays["context"][rows])
    for feature in data.schema.side("context"):
        if feature.is_float:
            number = next(numbers)
            quarter = np.searchsorted(np.quantile(number, np.arange(1, QUARTERS) / QUARTERS), number)
            segments += [
                Segment(f"{feature.name} in quarter {1 + value}", inside)
                for value, inside in _by_value(quarter[:, None], rows)
            ]
        else:
            of_value = [pair for pair in _by_value(columns[:, places[feature.name]], rows) if pair[0] != PAD]
            of_value = sorted(of_value, key=lambda pair: -len(pair[1]))[:MOST_VALUES]
            first = golden.contexts(data, np.array([inside[0] for _, inside in of_value], np.int64))
            segments += [
                Segment(_named(feature, value, context), inside)
                for (value, inside), context in zip(of_value, first, strict=True)
            ]
    return segments


def segments(data: Prepared, rows: Rows) -> list[Segment]:
    """Impressions by context, by length of history, and where training has not seen the user or the item."""
    most = data.schema.history.length
    length = np.minimum(data.arrays["end"][rows] - data.arrays["begin"][data.user[rows]], most)
    others = [
        ("no history", length == 0),
        (f"history of 1 to {most - 1}", (length > 0) & (length < most)),
        (f"history of {most} or more", length == most),
    ]
    for side, name, of_row in (("user", USER_ID, data.user), ("item", ITEM_ID, data.item)):
        place = data.schema.places(side).get(name)
        if place is not None:
            others.append((f"unknown {side}", data.arrays[f"{side}s"][of_row[rows]][:, place.start] == UNKNOWN))
    return by_context(data, rows) + [Segment(name, rows[inside]) for name, inside in others if inside.any()]


def _by_value(columns: npt.NDArray[Any], rows: Rows) -> Iterator[tuple[int, Rows]]:
    """The impressions of every value among the `columns` (n, columns) of a feature."""
    value, of_row = columns.ravel(), np.repeat(rows, columns.shape[1])
    order = np.argsort(value, kind="stable")
    value, of_row = value[order], of_row[order]
    begin = np.flatnonzero(np.append(True, value[1:] != value[:-1])[: len(value)])
    for one, inside in zip(value[begin], np.split(of_row, begin[1:]), strict=True) if len(begin) else ():
        yield int(one), np.unique(inside)


def _named(feature: Feature, row: int, context: dict[str, Any]) -> str:
    """What people call a value: as the log has it. Of a list one cannot tell which of its elements it is."""
    if row == UNKNOWN:
        return f"{feature.name} unknown"
    if feature.listed:
        return f"{feature.name} of row {row}"
    return f"{feature.name}={context[feature.name]}" if feature.name in context else f"{feature.name} missing"
