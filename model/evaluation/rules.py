"""Rules that learn nothing: what a network must beat where negatives were drawn and click rates say nothing.

Of what the user did strictly before the impression, over the whole history and not only the part that networks see:

    item_recency        how lately the user met the candidate itself
    category_recency    how lately the user met the candidate's category
    category_share      which share of the history is of the candidate's category
    seen_then_category  candidates that the user met before, above all others; in each half by category_recency
    path_overlap        how many values of the item's first `multi` feature (a path of categories) an average behaviour
                        shares with the candidate
    popularity          how often the candidate was clicked in the splits that the model was trained on

Higher is better, what was never met is below all else, and ties stay ties. Behaviours are the actions, and values are
the rows, that the data's `features.toml` gives: categories too rare for a row of their own are one category, as for a
network. No rule has a parameter, so none can be tuned on test.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from model.evaluation.metrics import Floats
from model.features.ids import PAD
from model.features.kinds import ITEM_ID
from model.prepared.loader import Prepared

Rows = npt.NDArray[np.int64]
FAR = 2.0**50  # ms: longer than any history
NEVER = -FAR
BLOCK = 4_000_000  # behaviours held at a time


def rule_scores(data: Prepared, rows: Rows, trained_on: Sequence[str] = ("train",)) -> dict[str, Floats]:
    """The rules' scores of impressions (n,), by name; those that the log has the features for."""
    a, item_ids = data.arrays, len(data.arrays["items"])
    train = np.concatenate([data.of_split(split) for split in trained_on])
    clicks = np.bincount(data.item[train][data.label[train] > 0], minlength=item_ids)
    scores: dict[str, Floats] = {"popularity": clicks[data.item[rows]].astype(np.float64)}
    if not len(a["clicked"]):
        return scores
    before = np.maximum(1, a["end"][rows] - a["begin"][data.user[rows]])
    item = scores["item_recency"] = _recency(data, rows, met(data, rows, _items(data))[0])
    categories = [feature.name for feature in data.schema.sequence if feature.name != ITEM_ID]
    if categories:
        newest, shared = met(data, rows, _values(data, categories[0]))
        category = scores["category_recency"] = _recency(data, rows, newest)
        scores["category_share"] = shared / before
        either = np.maximum(item, category)  # an item of no category is met all the same
        scores["seen_then_category"] = np.where(item > NEVER, either + FAR, category)
    paths = [feature.name for feature in data.schema.side("item") if feature.columns > 1]
    if paths:
        scores["path_overlap"] = met(data, rows, _values(data, paths[0]))[1] / before
    return scores


def repeats(data: Prepared, rows: Rows) -> npt.NDArray[np.bool_]:
    """Which impressions (n,) show an item that the user met earlier on the same day, in the data's time zone.

    Negatives are drawn among what the user did not touch that day. So a repeat is always a positive, by how the log was
    made and not by anybody's taste.
    """
    newest, _ = met(data, rows, _items(data))
    days = [
        pl.Series(times, dtype=pl.Int64).cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone(data.meta["time_zone"])
        for times in (data.time[rows], data.arrays["clicked_at"][newest] if len(data.arrays["clicked"]) else newest)
    ]
    same = (days[0].dt.date() == days[1].dt.date()).to_numpy()
    return np.asarray(same & (newest >= 0))


def met(data: Prepared, rows: Rows, values: npt.NDArray[Any]) -> tuple[Rows, Rows]:
    """What the behaviours strictly before each impression share with its candidate, two arrays (n,).

    The newest behaviour that has a value of the candidate's (-1: none has), and how many values all of them share with
    it in sum. `values` (items, k) are the values of every item, PAD where there is none.
    """
    a = data.arrays
    newest, shared = np.full(len(rows), -1, np.int64), np.zeros(len(rows), np.int64)
    begin = np.append(a["begin"], len(a["clicked"]))
    user, kinds = data.user[rows], int(values.max(initial=0)) + 1
    by_user = np.argsort(user, kind="stable")
    for first, last in _blocks(begin):
        chosen = by_user[slice(*np.searchsorted(user[by_user], [first, last]))]
        owner = np.repeat(np.arange(last - first), np.diff(begin[first : last + 1]))
        had = values[a["clicked"][begin[first] : begin[last]]].astype(np.int64)
        at, place = np.nonzero(had != PAD)
        if not len(at) or not len(chosen):
            continue
        pairs, number = np.unique(owner[at] * kinds + had[at, place], return_inverse=True)
        step = len(had) + 1
        ordered = np.sort(number * step + at)  # a pair's behaviours lie together, in time order

        wanted = values[data.item[rows[chosen]]].astype(np.int64)
        pair = (user[chosen].astype(np.int64) - first)[:, None] * kinds + wanted
        place = np.minimum(np.searchsorted(pairs, pair), len(pairs) - 1)
        start = np.searchsorted(ordered, place * step)
        stop = np.searchsorted(ordered, place * step + (a["end"][rows[chosen]] - begin[first])[:, None])
        there = (wanted != PAD) & (pairs[place] == pair) & (stop > start)
        found = np.where(there, ordered[np.maximum(stop - 1, 0)] % step + begin[first], -1)
        newest[chosen], shared[chosen] = found.max(1), np.where(there, stop - start, 0).sum(1)
    return newest, shared


def _blocks(begin: Rows) -> Iterator[tuple[int, int]]:
    """Users from first to last (exclusive), with BLOCK behaviours or one user's."""
    first = 0
    while first < len(begin) - 1:
        last = max(first + 1, int(np.searchsorted(begin, begin[first] + BLOCK, side="right")) - 1)
        yield first, last
        first = last


def _recency(data: Prepared, rows: Rows, newest: Rows) -> Floats:
    """Minus the age in ms of each behaviour (n,)."""
    return np.where(newest >= 0, (data.arrays["clicked_at"][newest] - data.time[rows]).astype(np.float64), NEVER)


def _items(data: Prepared) -> Rows:
    return np.arange(len(data.arrays["items"]))[:, None] + PAD + 1


def _values(data: Prepared, feature: str) -> npt.NDArray[Any]:
    return np.ascontiguousarray(data.arrays["items"][:, data.schema.places("item")[feature]])
