"""How far a run's figures would move if the run were repeated, as far as the run itself can tell.

A block bootstrap: the requests, in the order in which they were due, are cut into BLOCKS of neighbours, which are drawn
anew with replacement. Neighbours share a queue and a machine's moods, so that single requests, drawn alone, would
promise too much. What differs from one run to the next and not within one (a warmer machine) is not in it, and moods
that last longer than a block are not wholly in it.
"""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from loadtest.quantiles import Seconds

BLOCKS, RESAMPLES = 30, 200
WITHIN = (0.025, 0.975)  # of the resamples
Z = 1.96  # the same, of a normal distribution

Interval = tuple[float, float]


def of_quantiles(seconds: Seconds, shares: Mapping[str, float]) -> dict[str, Interval]:
    """Of times in the order in which the requests were due, ms by key; nothing of nothing."""
    if not len(seconds):
        return {}
    block, weights = _resamples(len(seconds))
    order, at = np.argsort(seconds), np.array(list(shares.values()))
    ordered, block = seconds[order] * 1000, block[order]
    found = np.empty((RESAMPLES, len(at)))
    for number in range(RESAMPLES):
        upto = np.cumsum(weights[number][block])
        found[number] = ordered[np.searchsorted(upto, at * upto[-1])]
    return {key: _interval(found[:, column]) for column, key in enumerate(shares)}


def of_share(which: npt.NDArray[np.bool_], times: float = 1) -> Interval:
    """Of a share of the requests, `times` what it stands for; at least as wide as what independent requests leave open.

    That is Wilson's interval (1927): without it, no error in a run would promise that there is none in the next.
    """
    block, weights = _resamples(len(which))
    sizes, counts = np.bincount(block), np.bincount(block, which)
    low, high = _interval((weights @ counts) / (weights @ sizes))
    n, share = len(which), float(which.mean())
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return round(times * max(0.0, min(low, middle - half)), 6), round(times * min(1.0, max(high, middle + half)), 6)


def apart(one: Interval, other: Interval) -> bool:
    """Whether two runs' intervals have nothing in common: what differs then is more than either run's own scatter."""
    return one[1] < other[0] or other[1] < one[0]


def _resamples(requests: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Each request's block, (requests,), and how often each resample has each block; the same ones for every run."""
    blocks = min(BLOCKS, requests)
    weights = np.random.default_rng(0).multinomial(blocks, np.full(blocks, 1 / blocks), RESAMPLES)
    return np.arange(requests) * blocks // requests, weights


def _interval(values: npt.NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, WITHIN)
    return round(float(low), 6), round(float(high), 6)
