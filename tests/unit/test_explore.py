"""Exploration: the order is drawn as the propensities say, by request, and of no replay."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from service.explore import Explore

SCORES = np.array([0.5, 0.2, 0.4, 0.01], np.float32)
ORDER = (-SCORES).argsort(kind="stable")


def test_orders_come_as_often_as_their_propensities_say() -> None:
    explore = Explore(1.0, 3, lambda user: True)
    seen: Counter[tuple[int, ...]] = Counter()
    told: dict[tuple[int, ...], float] = {}
    tries = 6000
    for at in range(tries):
        order, propensities = explore.drawn(SCORES, ORDER, f"r{at}", "u", None)
        assert order[3] == 3 and propensities is not None and propensities[3] is None
        drawn = tuple(order[:3].tolist())
        seen[drawn] += 1
        told[drawn] = float(np.prod([one for one in propensities[:3] if one is not None]))
    odds = SCORES / (1 - SCORES)
    for place in permutations((0, 1, 2)):
        left = odds[list(place)]
        expected = float(np.prod(left / np.cumsum(left[::-1])[::-1]))
        assert told[place] == pytest.approx(expected, rel=1e-5)
        assert abs(seen[place] / tries - expected) < 4 * (expected * (1 - expected) / tries) ** 0.5
    assert sum(told.values()) == pytest.approx(1)


def test_a_request_is_drawn_alike_each_time_and_the_share_is_kept() -> None:
    explore = Explore(0.25, 3, lambda user: user != "none")
    chosen = [explore.chosen(f"r{at}", "u") for at in range(4000)]
    assert abs(np.mean(chosen) - 0.25) < 0.03
    assert chosen == [explore.chosen(f"r{at}", "u") for at in range(4000)]
    assert not any(explore.chosen(f"r{at}", "none") for at in range(50))
    first, again = (explore.drawn(SCORES, ORDER, "r", "u", 2) for _ in range(2))
    assert first[0].tolist() == again[0].tolist() and first[1] == again[1] and len(first[1] or ()) == 2


def test_certain_and_broken_scores_are_no_fault() -> None:
    explore = Explore(1.0, 2, lambda user: True)
    sure = np.array([1.0, 0.0], np.float32)
    order, propensities = explore.drawn(sure, np.array([0, 1]), "r", "u", None)
    assert order.tolist() == [0, 1] and propensities == [pytest.approx(1), 1]
    broken = np.array([np.nan, 0.5], np.float32)
    assert explore.drawn(broken, np.array([0, 1]), "r", "u", None)[1] is None
