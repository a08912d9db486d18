"""Sides that take turns, and ratios between them: what slows a whole round down is in both."""

import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from tqdm import tqdm

Round = TypeVar("Round")  # what a side measures in a round: a time, or several
Side = TypeVar("Side")


def take_turns(what: str, rounds: int, sides: Mapping[str, Callable[[], Round]]) -> dict[str, list[Round]]:
    """Each side's measurements, round by round; every round begins with another side."""
    measured: dict[str, list[Round]] = {name: [] for name in sides}
    names = list(sides)
    gc.collect()
    gc.freeze()  # messages and libraries stay: the collector need not walk them while the clock runs
    with tqdm(total=rounds * len(sides), desc=what, unit="round", delay=1, leave=False) as bar:
        for number in range(rounds):
            first = number % len(names)
            for name in (*names[first:], *names[:first]):
                bar.set_postfix_str(name, refresh=False)
                measured[name].append(sides[name]())
                bar.update()
    gc.unfreeze()
    return measured


def starting(number: int, sides: Mapping[str, Side]) -> dict[str, Side]:
    """The sides in the order in which they are to be started this time: who is started last is slower by a percent."""
    names = list(sides)
    return {name: sides[name] for name in (names if number % 2 == 0 else names[::-1])}


def ratio(one: Sequence[float | Sequence[float]], other: Sequence[float | Sequence[float]]) -> float:
    """The median over the rounds of the ratio of their medians: what slows a whole round down is in both."""
    return statistics.median(float(np.median(a) / np.median(b)) for a, b in zip(one, other, strict=True))


def p50(rounds: Sequence[Sequence[float]]) -> float:
    return statistics.median(time for one in rounds for time in one)
