"""What the report shows of one model beyond the figures of model/evaluate.py."""

import time
from collections.abc import Mapping
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from model.bundle.reading import Bundle
from model.evaluation.metrics import Floats, auc
from model.features.ids import PAD
from model.prepared.loader import Prepared, batches

if TYPE_CHECKING:
    from model.networks.blocks import RankingNetwork


Rows = npt.NDArray[np.int64]

HISTORY_BINS = ((0, 0), (1, 2), (3, 5), (6, 10), (11, 20), (21, None))  # behaviours before the impression, inclusive
FEWEST = 30  # impressions of either class below which a bin's AUC says nothing
ATTENDED = 2000  # impressions whose attention is looked at
CANDIDATES = (100, 500)
REPEATS, WARM_UP = 31, 3


def behaviours_before(data: Prepared, rows: Rows) -> npt.NDArray[np.int64]:
    """How many behaviours the users had before the impressions (n,), however many of them a network sees."""
    before: Rows = data.arrays["end"][rows].astype(np.int64) - data.arrays["begin"][data.user[rows]]
    return before


def auc_by_history(data: Prepared, rows: Rows, score: Floats) -> list[float | None]:
    """AUC of the impressions (n,) in each of HISTORY_BINS; None below FEWEST clicks or FEWEST impressions without."""
    before, label = behaviours_before(data, rows), data.label[rows]
    aucs: list[float | None] = []
    for low, high in HISTORY_BINS:
        chosen = (before >= low) & (before <= (before.max(initial=0) if high is None else high))
        clicks = int(label[chosen].sum())
        enough = min(clicks, int(chosen.sum()) - clicks) >= FEWEST
        aucs.append(auc(label[chosen], score[chosen]) if enough else None)
    return aucs


def attention_by_recency(network: "RankingNetwork", data: Prepared, rows: Rows) -> dict[str, Any] | None:
    """Mean attention weight by place, counted back from the newest behaviour, and by how long ago it was.

    None of a network without attention. Only of full histories, so that every weight shares its sum with as
    many others; where those are few, of the longest. Weights are relative: ÷ the mean of their absolute values, so
    that 1 is the weight of a behaviour that is attended to like any other.
    """
    import torch  # which takes seconds: not for --help

    from model.training.batches import tensors

    length, edges_s = data.schema.history.length, data.schema.history.gap_edges_s
    seen = np.minimum(behaviours_before(data, rows), length)
    longest = rows[np.lexsort((np.random.default_rng(0).permutation(len(rows)), -seen))][:ATTENDED]  # ties by chance
    places, place_count = np.zeros(length + 1), np.zeros(length + 1)
    gaps, gap_count = np.zeros(len(edges_s) + 2), np.zeros(len(edges_s) + 2)
    absolute, own = 0.0, []
    with torch.no_grad():
        for _, inputs in batches(data, longest, 256):
            weight_UCT = network.attention(tensors(inputs))
            if weight_UCT is None:
                return None
            weight_UT = weight_UCT[:, 0].numpy()
            visible_UT = inputs["gap"] != PAD
            place_UT = visible_UT.sum(1, keepdims=True) - np.arange(length)  # the newest stands last: place 1
            weight, place, gap = weight_UT[:, :length][visible_UT], place_UT[visible_UT], inputs["gap"][visible_UT]
            places += np.bincount(place, weight, length + 1)
            place_count += np.bincount(place, minlength=length + 1)
            gaps += np.bincount(gap, weight, len(gaps))
            gap_count += np.bincount(gap, minlength=len(gaps))
            absolute += float(np.abs(weight).sum())
            if weight_UT.shape[1] == length + 1:  # BST's target attends to itself, too
                own.append(weight_UT[:, length])
    if not absolute:
        return None
    unit = absolute / place_count.sum()
    return {
        "impressions": len(longest),
        "places": [float(places[p] / place_count[p] / unit) for p in range(1, length + 1) if place_count[p]],
        "gaps": [
            {"from_s": 0 if b == 1 else edges_s[b - 2], "weight": float(gaps[b] / gap_count[b] / unit)}
            for b in range(1, len(gaps))
            if gap_count[b] >= FEWEST
        ],
        "target": float(np.concatenate(own).mean() / unit) if own else None,
    }


def scoring_times_ms(bundles: Mapping[str, Bundle]) -> dict[str, dict[str, float]]:
    """Median time of scoring one user's CANDIDATES by each exported model, by name: one thread, nothing but the graph.

    The models take turns, so that whatever else the machine does meanwhile falls on all alike.
    """
    calls = []
    for name, bundle in bundles.items():
        session = bundle.session()
        requests = bundle.golden()
        request = max(requests, key=lambda r: len(r["behaviours"]))
        shown = list(chain.from_iterable(r["candidates"] for r in requests))
        for count in CANDIDATES:
            inputs = bundle.encode_golden(request | {"candidates": list(islice(cycle(shown), count))})
            calls.append((name, count, session, {node.name: inputs[node.name] for node in session.get_inputs()}))
    taken: dict[tuple[str, int], list[float]] = {(name, count): [] for name, count, _, _ in calls}
    for turn in range(WARM_UP + REPEATS):
        for name, count, session, feed in calls:
            begun = time.perf_counter()
            session.run(["score"], feed)
            if turn >= WARM_UP:
                taken[name, count].append(1000 * (time.perf_counter() - begun))
    return {name: {str(count): float(np.median(taken[name, count])) for count in CANDIDATES} for name in bundles}
