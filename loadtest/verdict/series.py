"""What the plots show of a run: its distribution, its course over time, and the distribution as an .hgrm file."""

import io
import math
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram

from loadtest.generator.answers import ERRORS, Log
from loadtest.generator.budgets import Budget
from loadtest.quantiles import Seconds, carried, quantiles_ms
from loadtest.verdict.report import OWN

LONGEST_US = 3_600_000_000 * 24
OF_SLICE = {"p50_ms": 0.5, "p99_ms": 0.99}
SLICES = 120  # of the measured time at most, of a second or more each where it lasts as long


def histogram(seconds: Seconds) -> HdrHistogram:
    """Microseconds to three digits."""
    times = HdrHistogram(1, LONGEST_US, 3)
    microseconds = np.clip(np.rint(seconds * 1e6), 1, LONGEST_US).astype(np.int64)
    for value, count in zip(*(each.tolist() for each in np.unique(microseconds, return_counts=True)), strict=True):
        times.record_value(value, count)
    return times


def hgrm(seconds: Seconds) -> bytes:
    """The percentile distribution in ms, as HdrHistogram's own plotters read it."""
    times, text = histogram(seconds), io.BytesIO()
    times.output_percentile_distribution(text, 1000)
    micro = f"StdDeviation   = {times.get_stddev():12.3f}".encode()  # the library forgets to scale this one figure
    return text.getvalue().replace(micro, f"StdDeviation   = {times.get_stddev() / 1000:12.3f}".encode())


def course(budget: Budget, log: Log) -> dict[str, Any]:
    """Times by percentile (from due and from send), and by slices of the measured time rates, p50 and p99.

    `requests` are the timed ones. In a slice, rates are per second: what was due in it, what was answered right in it,
    and how those ended that were due in it.
    """
    measured = log.due_s >= budget.warmup_s
    due_s, sent_s, answered_s = log.due_s[measured], log.sent_s[measured], log.answered_s[measured]
    timed, right = log.timed[measured], log.right[measured]
    kinds = {kind.name.lower(): log.of(kind)[measured] for kind in OWN} | {"errors": log.of(*ERRORS)[measured]}
    count = int(timed.sum())
    shares = _shares(count) if count else []
    left_s = np.where(np.isnan(sent_s), due_s, sent_s)

    width_s = max(budget.duration_s / SLICES, min(1.0, budget.duration_s / 8))
    number_of = math.ceil(round(budget.duration_s / width_s, 6))
    place = np.minimum(((due_s - budget.warmup_s) / width_s).astype(int), number_of - 1)
    answered_in = ((answered_s - budget.warmup_s) / width_s).astype(int)  # past the last slice: in none
    slices = []
    for number in range(number_of):
        mine = place == number
        taken_s = (answered_s - due_s)[mine & timed]
        quantiles = quantiles_ms(taken_s, list(OF_SLICE.values())) if len(taken_s) else [None] * len(OF_SLICE)
        this_s = min(width_s, budget.duration_s - number * width_s)
        slices.append(
            {
                "at_s": round((number + 0.5) * width_s, 3),
                "due": round(int(mine.sum()) / this_s, 3),
                "answered": round(int(((answered_in == number) & right).sum()) / this_s, 3),
                **{name: round(int((mine & which).sum()) / this_s, 3) for name, which in kinds.items()},
                **dict(zip(OF_SLICE, quantiles, strict=True)),
                "too_few_for": [key for key, share in OF_SLICE.items() if not carried(len(taken_s), share)],
            }
        )
    return {
        "requests": count,
        "shares": shares,
        "due_ms": quantiles_ms((answered_s - due_s)[timed], shares) if count else [],
        "service_ms": quantiles_ms((answered_s - left_s)[timed], shares) if count else [],
        "slices": slices,
    }


def _shares(count: int) -> list[float]:
    """0 to where one request is left above, ever finer towards 1, as an HDR plot is ruled."""
    tails = 10 ** -np.linspace(0, math.log10(max(10, count)), 160)
    return [round(float(1 - tail), 8) for tail in tails]
