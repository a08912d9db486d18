"""Sides that take turns, and ratios between them: what slows a whole round down is in both."""

import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from tqdm import tqdm

Found = TypeVar("Found")


def take_turns(what: str, rounds: int, sides: Mapping[str, Callable[[], Found]]) -> dict[str, list[Found]]:
    """What each side finds, round by round; every round begins with another side."""
    found: dict[str, list[Found]] = {name: [] for name in sides}
    names = list(sides)
    gc.collect()
    gc.freeze()  # messages and libraries stay: the collector need not walk them while the clock runs
    with tqdm(total=rounds * len(sides), desc=what, unit="round", delay=1, leave=False) as bar:
        for number in range(rounds):
            first = number % len(names)
            for name in (*names[first:], *names[:first]):
                bar.set_postfix_str(name, refresh=False)
                found[name].append(sides[name]())
                bar.update()
    gc.unfreeze()
    return found


def ratio(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """The median over the rounds of the ratio of their medians: what slows a whole round down is in both."""
    return statistics.median(statistics.median(a) / statistics.median(b) for a, b in zip(one, other, strict=True))


def p50(rounds: Sequence[Sequence[float]]) -> float:
    return statistics.median(time for one in rounds for time in one)
