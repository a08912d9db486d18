"""When requests are due. They come whether or not earlier ones are answered (open loop), so a slow service meets its
queue here as it would in production. `rate` is the mean of the measured time, whatever the shape:

- poisson: independent callers, as a service has them
- constant: one every 1 / rate seconds: no two meet by chance
- step: Poisson; in the second half `peak` times as many as in the first
- burst: Poisson; in the first `burst_s` of every `period_s`, `peak` times as many as between
- replay: a log's timestamps, stretched to `rate`, and round again when the log is shorter than `duration_s`

The warm-up is Poisson at the rate that the measured time begins with, a burst apart; constant where that is constant.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from loadtest.generator.budgets import Budget
from loadtest.generator.replay import Seconds, read_times

Segment = tuple[float, float, float]  # begin, end, rate


def arrivals(budget: Budget, rng: np.random.Generator) -> Seconds:
    """Seconds from the start at which requests are due, ascending, (n,); those below `warmup_s` are warm-up.

    At least one request is measured. Raises NoRun where a log cannot be read.
    """
    warmup_s, end_s = budget.warmup_s, budget.warmup_s + budget.duration_s
    match budget.arrivals:
        case "constant":
            due_s = np.arange(np.ceil(budget.rate * end_s)) / budget.rate
        case "replay":
            assert budget.replay is not None  # budgets.load has seen to it
            log_s = _stretched(read_times(Path(budget.replay)), budget.rate, budget.duration_s)
            due_s = np.concatenate([_poisson([(0, warmup_s, budget.rate)], rng), warmup_s + log_s])
        case _:
            due_s = _poisson(_segments(budget), rng)
    if not (due_s >= warmup_s).any():
        due_s = np.append(due_s, rng.uniform(warmup_s, end_s))
    return due_s


def _poisson(segments: Iterable[Segment], rng: np.random.Generator) -> Seconds:
    """Given its count, a Poisson process is as many uniform draws."""
    drawn = [rng.uniform(begin, end, rng.poisson(rate * (end - begin))) for begin, end, rate in segments]
    return np.sort(np.concatenate(drawn))


def _segments(budget: Budget) -> list[Segment]:
    """The stretches of one rate each, warm-up first."""
    begin, end = budget.warmup_s, budget.warmup_s + budget.duration_s
    match budget.arrivals:
        case "step":
            middle, low = (begin + end) / 2, 2 * budget.rate / (1 + budget.peak)
            return [(0, middle, low), (middle, end, low * budget.peak)]
        case "burst":
            low = budget.rate / (1 + (budget.peak - 1) * _burst_share(budget))
            segments, at = [(0.0, begin, low)], begin
            while at < end:
                pause, following = min(at + budget.burst_s, end), min(at + budget.period_s, end)
                segments += [(at, pause, low * budget.peak), (pause, following, low)]
                at = following
            return segments
        case _:
            return [(0, begin, budget.rate), (begin, end, budget.rate)]


def _burst_share(budget: Budget) -> float:
    """Share of the measured time that lies in bursts; the last period may be cut off."""
    whole, rest_s = divmod(budget.duration_s, budget.period_s)
    return (whole * budget.burst_s + min(rest_s, budget.burst_s)) / budget.duration_s


def _stretched(log_s: Seconds, rate: float, duration_s: float) -> Seconds:
    """The log's times at another mean rate, round after round up to `duration_s`."""
    round_s = len(log_s) / rate  # its last gap, back to its start, is the mean one
    once = log_s / log_s[-1] * (len(log_s) - 1) / rate
    rounds = np.arange(np.ceil(duration_s / round_s)) * round_s
    due_s: Seconds = (rounds[:, None] + once[None, :]).ravel()
    return due_s[due_s < duration_s]
