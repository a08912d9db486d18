"""Our own count of what each variant showed and earned, kept by those who call; GET /experiments must say the same."""

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from model.datasets.simulated import Floats


class Answer(NamedTuple):
    """One ranking as its caller saw it."""

    user: int
    instance: int
    items: int
    at_s: float  # when it was there, by time.monotonic


@dataclass
class Tally:
    answers: dict[str, list[Answer]] = field(default_factory=lambda: defaultdict(list))  # by variant
    expected: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # clicks, by the truth
    clicks: Counter[str] = field(default_factory=Counter)  # acknowledged: each impression's once, within the window
    mistakes: Counter[str] = field(default_factory=Counter)  # events that must not count, acknowledged
    variant: dict[int, str] = field(default_factory=dict)  # that a user saw first
    moved: list[str] = field(default_factory=list)  # users who saw another one
    retried: Counter[str] = field(default_factory=Counter)  # by what was met
    wrong: list[str] = field(default_factory=list)  # answers that no promise allows

    def shown(self, variant: str, user: int, instance: int, probability: Floats) -> None:
        self.answers[variant].append(Answer(user, instance, len(probability), time.monotonic()))
        self.expected[variant] += float(probability.sum())
        if self.variant.setdefault(user, variant) != variant:
            self.moved.append(f"user {user}: {self.variant[user]}, then {variant}")

    def users(self, variant: str) -> int:
        return len({answer.user for answer in self.answers[variant]})

    def impressions(self, variant: str) -> int:
        return sum(answer.items for answer in self.answers[variant])

    def true_rate(self, variant: str) -> float:
        """Of what the variant showed, how much is clicked on average."""
        return self.expected[variant] / max(1, self.impressions(variant))

    def last(self, instance: int, since_s: float, until_s: float) -> int:
        """Items in an instance's answers of some time."""
        return sum(
            answer.items
            for answers in self.answers.values()
            for answer in answers
            if answer.instance == instance and since_s <= answer.at_s <= until_s
        )


def deviations(count: int, of: int, share: float) -> float:
    """How many standard deviations a count lies from what a share says."""
    return float(abs(count - of * share) / np.sqrt(max(of * share * (1 - share), 1e-9)))
