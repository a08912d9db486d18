"""Traffic of an experiment, as the drain's tables have it: users who click by rates of their own, arms that differ.

    python -m tests.arms --out DIR [--users 20000] [--gain 0.0757] [--seed 1]

Writes such a log: half of the users see `wdl 1`, half `bst 1`, over a week. The worked example of docs/experiments.md.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from model.command import run
from model.features.behaviour import Behaviour
from model.servicelog.records import Event, Impression, Shadowed, Shown
from tests.records import DAY_MS, NOW, click, impression
from tests.servicelog import write_tables

BY_POSITION = (1.5, 1.2, 1.0, 0.7, 0.6)  # of a user's click rate; 1 on average


@dataclass
class Traffic:
    """What was shown and clicked, in the order of the calls."""

    impressions: list[Impression] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    shadows: list[Shadowed] = field(default_factory=list)

    def visit(
        self,
        user: str,
        arm: str = "bst 1",
        clicks: Sequence[int] = (),
        now: int = NOW,
        items: int = 5,
        variant: str | None = None,
        history: int = 0,
        after_ms: int = 1000,
    ) -> None:
        """One request of so many items; `clicks` are positions, from 1."""
        request = f"r{len(self.impressions)}"
        model, version = arm.split(" ", 1)
        shown = replace(
            impression(user, request, now),
            model=model,
            version=version,
            variant=variant,
            items=[Shown(f"i{place}", 0.1, place) for place in range(1, items + 1)],
            behaviours=[Behaviour("click", "item", "z", now - 1000 * at) for at in range(history, 0, -1)],
        )
        self.impressions.append(shown)
        self.events += [click(user, f"i{place}", now + after_ms, request) for place in clicks]

    def shadow(self, name: str, order: Sequence[int]) -> None:
        """A shadow that would have shown the last request's items in this order of their places."""
        last = self.impressions[-1]
        items = [(f"i{place}", 1 / at) for at, place in enumerate(order, 1)]
        self.shadows.append(Shadowed(last.request_id, last.user_id, last.now, last.read_us, name, "din", "2", items))

    def write(self, folder: Path) -> Path:
        return write_tables(folder, self.impressions, self.events, shadows=self.shadows)


def week(users: int, true_gain: float, seed: int, arms: Sequence[str] = ("wdl 1", "bst 1")) -> Traffic:
    """Users who come when they like, each always to one arm; the last arm earns more."""
    chance, traffic = np.random.default_rng(seed), Traffic()
    for number in range(users):
        arm = int(chance.integers(len(arms)))
        rate = chance.beta(1, 19) * (1 + true_gain * (arm == len(arms) - 1))
        for visit, at in enumerate(sorted(chance.integers(0, 7 * DAY_MS, 1 + chance.poisson(2)).tolist())):
            clicks = np.flatnonzero(chance.random(len(BY_POSITION)) < rate * np.array(BY_POSITION)) + 1
            traffic.visit(f"u{number}", arms[arm], clicks.tolist(), NOW + at, history=visit * 4)
    return traffic


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.arms", description="A log of two arms.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--gain", type=float, default=0.0757, help="of bst over wdl")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    week(options.users, options.gain, options.seed).write(options.out)
    return 0


if __name__ == "__main__":
    run(main, "arms")
