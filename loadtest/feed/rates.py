"""Click rates by day and way of ordering, with intervals over users and seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtest.feed.orders import Day
from model.evaluation.bootstrap import RESAMPLES, SEED, Interval, draw, interval

LOOP, POPULARITY, RANDOM, ORACLE = ORDERS = ("loop", "popularity", "random", "oracle")
Seeds = Sequence[Mapping[str, Sequence[Day]]]  # of each seed, by order, the days


def rate(day: Day) -> float:
    return float(day.clicked.sum() / day.shown.sum())


def by_day(seeds: Seeds) -> dict[str, list[Interval]]:
    """The mean over the seeds of each order's click rate."""
    return {
        name: [interval([rate(of[name][day]) for of in seeds], [_resampled(of[name][day]) for of in seeds])
               for day in range(len(seeds[0][LOOP]))]
        for name in ORDERS
    }  # fmt: skip


def above(seeds: Seeds, other: str) -> list[Interval]:
    """By day, how far the loop's click rate is above another order's: on the same users, days and seeds."""
    return [
        interval(
            [rate(of[LOOP][day]) - rate(of[other][day]) for of in seeds],
            [_resampled(of[LOOP][day]) - _resampled(of[other][day]) for of in seeds],
        )
        for day in range(len(seeds[0][LOOP]))
    ]


def beats_from(differences: Sequence[Interval]) -> int | None:
    """The first day from which on every day's interval lies above 0; None where the last day's does not."""
    first = None
    for number in range(len(differences), 0, -1):
        if not differences[number - 1].low > 0:
            break
        first = number
    return first


def _resampled(day: Day) -> npt.NDArray[np.float64]:
    """The click rate on every resample of the users, each with all that it was shown; all orders draw alike."""
    users = len(day.shown)
    times = np.stack([draw(users, SEED, number) for number in range(RESAMPLES)])
    shown, rates = times @ day.shown, np.full(RESAMPLES, np.nan)  # nan: nobody came
    np.divide(times @ day.clicked, shown, out=rates, where=shown > 0)
    return rates


def figures(seeds: Seeds, numbers: Sequence[int]) -> dict[str, Any]:
    """For the JSON line and the page; days count from 1."""
    rates, differences = by_day(seeds), {other: above(seeds, other) for other in (POPULARITY, RANDOM)}
    return {
        "days": list(range(1, len(seeds[0][LOOP]) + 1)),
        "seeds": list(numbers),
        "ctr": {name: [one.mean for one in days] for name, days in rates.items()},
        "ctr_95": {name: [[one.low, one.high] for one in days] for name, days in rates.items()},
        "ctr_by_seed": [{name: [rate(day) for day in of[name]] for name in ORDERS} for of in seeds],
        "above": {name: [[one.mean, one.low, one.high] for one in days] for name, days in differences.items()},
        "beats_popularity_from_day": beats_from(differences[POPULARITY]),
        "beats_random_from_day": beats_from(differences[RANDOM]),
        "shown": sum(int(day.shown.sum()) for of in seeds for day in of[LOOP]),
        "clicked": sum(int(day.clicked.sum()) for of in seeds for day in of[LOOP]),
    }
