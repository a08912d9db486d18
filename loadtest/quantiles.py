"""Quantiles of recorded times, and how many requests it takes to carry one.

A quantile is carried when at least BEYOND requests lie beyond it: p50 takes 20 requests, p99 takes 1000. With fewer, it
is the luck of single requests: it is shown with MARK before it, and judges nothing.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

BEYOND = 10
MARK = "~"

Seconds = npt.NDArray[np.float64]


def quantiles_ms(seconds: Seconds, at: Sequence[float] = (0.5, 0.99)) -> list[float]:
    """The recorded times in ms at or below which that share of all lies: exact, nothing is interpolated."""
    return [round(float(ms), 3) for ms in np.quantile(seconds, at, method="inverted_cdf") * 1000]


def carried(requests: int, share: float) -> bool:
    """Whether so many requests carry the quantile of `share`."""
    return round(requests * (1 - share), 6) >= BEYOND


def needed(share: float) -> int:
    """The least number of requests that carries the quantile of `share`."""
    return math.ceil(round(BEYOND / (1 - share), 6))


def enough_s(rate: float, share: float) -> float:
    """Seconds in which `rate` requests/s carry the quantile, with room for a draw of arrivals that has fewer."""
    count = needed(share)
    return (count + 4 * math.sqrt(count)) / rate


def told(ms: float | None, is_carried: bool) -> str:
    """For people: marked where too few requests carry it; a dash for none."""
    return "–" if ms is None else f"{'' if is_carried else MARK}{ms:.2f}"
