"""Intervals of AUC and of differences between AUCs, by a paired bootstrap over users and over seeds.

The impressions of one user are no independent observations, so users are drawn with replacement, each with all of its
impressions (a cluster bootstrap; Field & Welsh, JRSS B 2007). Draw number r is the same for every score, so that the
difference of two networks' AUCs on it is a paired one: what makes test hard or easy for both cancels.

A resample also draws seeds, for each network on its own: of S seeds S - 1 with replacement, since S draws would make
the variance of their mean too small by (S - 1)/S (Rao & Wu, JASA 1988). So an interval covers which users happened to
be in test, and which seed training happened to have. Of a single seed it covers the users alone; what does not depend
on a seed (floor, rules) has one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

RESAMPLES = 1000
SEED = 20190708  # any; fixed, so that two reports on the same scores agree to the last digit
LEVEL = 0.95
BLOCK = 4_000_000  # resamples × impressions held at a time: 32 MB


def resampled_aucs(
    label: npt.NDArray[Any], score: Floats, user: npt.NDArray[Any], resamples: int = RESAMPLES, seed: int = SEED
) -> npt.NDArray[np.float64]:
    """AUC of a score on every resample of the users, (resamples,); NaN on one that holds a single class.

    Inputs (n,). Scores are sorted once: an AUC is then Σ over positives of how much the negatives below it weigh, ties
    counting a half, and a resample is nothing but other weights.
    """
    clusters, cluster = np.unique(user, return_inverse=True)
    positive, negative = np.flatnonzero(label > 0), np.flatnonzero(label <= 0)
    negative = negative[np.argsort(score[negative], kind="stable")]
    below = np.searchsorted(score[negative], score[positive], side="left")
    not_above = np.searchsorted(score[negative], score[positive], side="right")
    of_positive, of_negative = cluster[positive], cluster[negative]

    aucs = np.empty(resamples)
    step = max(1, BLOCK // max(1, len(label)))
    for at in range(0, resamples, step):
        drawn = [draw(len(clusters), seed, number) for number in range(at, min(at + step, resamples))]
        times = np.stack(drawn).astype(np.float64)  # how often each user was drawn, (resamples, users)
        weight = np.take(times, of_positive, axis=1)
        passed = np.zeros((len(times), len(negative) + 1))  # weight of the negatives below each place
        np.cumsum(np.take(times, of_negative, axis=1), axis=1, out=passed[:, 1:])
        area = (weight * (np.take(passed, below, axis=1) + np.take(passed, not_above, axis=1))).sum(1) / 2
        pairs = weight.sum(1) * passed[:, -1]
        aucs[at : at + step] = np.divide(area, pairs, out=np.full(len(times), np.nan), where=pairs > 0)
    return aucs


def draw(clusters: int, seed: int, number: int) -> npt.NDArray[np.int64]:
    """How often resample `number` holds each cluster; drawn on its own, so that no block size changes it."""
    chosen = np.random.default_rng([seed, number]).integers(0, clusters, clusters)
    return np.bincount(chosen, minlength=clusters)


@dataclass(frozen=True)
class Interval:
    mean: float
    low: float
    high: float


def interval(aucs: Sequence[float], resampled: Sequence[Floats]) -> Interval:
    """Mean AUC of a network's seeds with its interval; `resampled` is what `resampled_aucs` gave for each seed."""
    return _interval(float(np.mean(aucs)), over_seeds(resampled))


def difference(
    aucs: Sequence[float], resampled: Sequence[Floats], to_aucs: Sequence[float], to_resampled: Sequence[Floats]
) -> Interval:
    """By how much the first network's mean AUC is above the second's; their numbers of seeds may differ."""
    apart = float(np.mean(aucs) - np.mean(to_aucs))
    return _interval(apart, over_seeds(resampled) - over_seeds(to_resampled, side=1))


def over_seeds(resampled: Sequence[Floats], side: int = 0) -> npt.NDArray[np.float64]:
    """The mean of the seeds that each resample draws, (resamples,); the two sides of a difference draw apart."""
    of_seeds = np.stack(resampled)
    seeds, resamples = of_seeds.shape
    chance = np.random.default_rng([SEED, side])
    drawn = chance.integers(0, seeds, (max(1, seeds - 1), resamples))
    return np.asarray(np.take_along_axis(of_seeds, drawn, axis=0).mean(0))


def _interval(mean: float, samples: Floats) -> Interval:
    rest = (1 - LEVEL) / 2
    low, high = np.nanquantile(samples, [rest, 1 - rest])
    return Interval(mean, float(low), float(high))
