"""What the plots show of a run: its distribution, its course over time, and the distribution as an .hgrm file."""

import io
import math
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram

from loadtest.generator.answers import Log
from loadtest.generator.budgets import Budget
from loadtest.generator.replay import Seconds
from loadtest.verdict.report import quantiles_ms

LONGEST_US = 3_600_000_000 * 24
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
    """Times by percentile (from due and from send), and rates, p50, p99 and errors by slices of the measured time."""
    measured = log.due_s >= budget.warmup_s
    due_s, sent_s, answered_s = log.due_s[measured], log.sent_s[measured], log.answered_s[measured]
    wrong = np.array([fault is not None for fault in log.faults()])[measured]
    shares = _shares(len(due_s))
    left_s = np.where(np.isnan(sent_s), due_s, sent_s)

    width_s = max(budget.duration_s / SLICES, min(1.0, budget.duration_s / 8))
    count = math.ceil(round(budget.duration_s / width_s, 6))
    place = np.minimum(((due_s - budget.warmup_s) / width_s).astype(int), count - 1)
    answered_in = ((answered_s - budget.warmup_s) / width_s).astype(int)  # past the last slice: in none
    slices = []
    for number in range(count):
        mine = place == number
        taken_s = (answered_s - due_s)[mine]
        p50_ms, p99_ms = quantiles_ms(taken_s) if len(taken_s) else (None, None)
        this_s = min(width_s, budget.duration_s - number * width_s)
        slices.append(
            {
                "at_s": round((number + 0.5) * width_s, 3),
                "due": round(int(mine.sum()) / this_s, 3),
                "answered": round(int(((answered_in == number) & ~wrong).sum()) / this_s, 3),
                "wrong": round(int((mine & wrong).sum()) / this_s, 3),
                "p50_ms": p50_ms,
                "p99_ms": p99_ms,
            }
        )
    return {
        "shares": shares,
        "due_ms": quantiles_ms(answered_s - due_s, shares),
        "service_ms": quantiles_ms(answered_s - left_s, shares),
        "slices": slices,
    }


def _shares(count: int) -> list[float]:
    """0 to where one request is left above, ever finer towards 1, as an HDR plot is ruled."""
    tails = 10 ** -np.linspace(0, math.log10(max(10, count)), 160)
    return [round(float(1 - tail), 8) for tail in tails]
