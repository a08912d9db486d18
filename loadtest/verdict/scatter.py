"""How far a run's figures would move if the run were repeated, as far as the run itself can tell.

A block bootstrap: the requests, in the order in which they were due, are cut into BLOCKS of neighbours, which are drawn
anew with replacement. Neighbours share a queue and a machine's moods, so that single requests, drawn alone, would
promise too much. What differs from one run to the next and not within one (a warmer machine) is not in it.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from loadtest.quantiles import Seconds

BLOCKS, RESAMPLES = 30, 200
WITHIN = (0.025, 0.975)  # of the resamples
Z = 1.96  # the same, of a normal distribution

Interval = tuple[float, float]


class Resampled:
    """`requests` at least 1. The same draws for every figure of a run, and for every run."""

    def __init__(self, requests: int) -> None:
        blocks = min(BLOCKS, requests)
        self._block = np.arange(requests) * blocks // requests
        self._weights = np.random.default_rng(0).multinomial(blocks, np.full(blocks, 1 / blocks), RESAMPLES)

    def quantiles_ms(self, seconds: Seconds, at: Sequence[float]) -> list[Interval]:
        """Of times in the order in which the requests were due, (requests,)."""
        order = np.argsort(seconds)
        found = np.empty((RESAMPLES, len(at)))
        for number, weights in enumerate(self._weights):
            upto = np.cumsum(weights[self._block[order]])
            found[number] = seconds[order][np.searchsorted(upto, np.array(at) * upto[-1])] * 1000
        return [_interval(found[:, column]) for column in range(len(at))]

    def share(self, which: npt.NDArray[np.bool_]) -> Interval:
        """Of a share of the requests; at least as wide as what independent requests leave open (Wilson 1927)."""
        sizes, counts = (np.bincount(self._block, weights) for weights in (None, which))
        low, high = _interval((self._weights @ counts) / (self._weights @ sizes))
        n, share = len(which), float(which.mean())
        middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
        return max(0.0, min(low, middle - half)), min(1.0, max(high, middle + half))


def _interval(values: npt.NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, WITHIN)
    return float(low), float(high)
