"""Simulated experiments that are looked at all the time: how often does a test see a gain, and how soon?

    python -m tests.peeking [--experiments 2000] [--users 4000] [--gain 0.0757] [--seed 1]

Users differ in how often they click (beta) and in how often they come back (gamma), and come back while others arrive.
Without --gain both arms are the same: each alarm is false. Three tests look at the same users after every look: ours,
a test of impressions as if each were a user of its own, and a test of users as if this look were the only one. The last
line is JSON.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from model.command import run
from service.comparing.statistics import NORMAL_95, Floats, Moments, accumulate, gain, log_rate

LOOKS = 200
AT_ONCE = 50  # experiments in memory
SHOWN = 10  # items a visit
CLICK_RATE, SPREAD = 0.05, 20.0  # mean and a + b of users' beta
VISITS, SHAPE = 3.0, 0.7  # further visits after the first: mean, and the gamma's shape
BACK = 0.2  # of the whole time, until a user comes back


@dataclass
class Looked:
    """Of each experiment, by look (experiments, looks): who sees a gain, and how many users there are."""

    seen: dict[str, np.ndarray]
    users: Floats
    covered: np.ndarray  # whether ours held the truth, at every look

    def ever(self, test: str) -> float:
        return float(self.seen[test].any(axis=1).mean())

    def first(self, test: str) -> Floats:
        """Users at the look that saw it first; inf: none did."""
        at = self.seen[test].argmax(axis=1)
        return np.where(self.seen[test].any(axis=1), self.users[np.arange(len(at)), at], np.inf)

    def planned(self, test: str) -> float:
        """Users at the look that would see it in four cases of five, were it the only one; inf: none would."""
        enough = self.seen[test].mean(axis=0) >= 0.8
        return float(self.users[:, enough.argmax()].mean()) if enough.any() else float("inf")


def experiment(chance: np.random.Generator, experiments: int, users: int, true_gain: float) -> tuple[Moments, Moments]:
    """Moments of the treated and of control, each (experiments, looks)."""
    count = experiments * users
    arrived = chance.random(count)
    treated = chance.integers(0, 2, count)
    rate = chance.beta(CLICK_RATE * SPREAD, (1 - CLICK_RATE) * SPREAD, count)
    rate = np.minimum(rate * (1 + true_gain * treated), 1)
    visits = 1 + chance.poisson(chance.gamma(SHAPE, VISITS / SHAPE, count))
    user = np.repeat(np.arange(count), visits)
    begins = np.r_[True, user[1:] != user[:-1]]
    gaps = np.where(begins, arrived[user], chance.exponential(BACK, len(user)))
    total = np.cumsum(gaps)
    at = total - (total - gaps)[begins][user]
    there = at < 1
    user, at = user[there], at[there]
    clicks = chance.binomial(SHOWN, rate[user]).astype(float)
    arm = 2 * (user // users) + treated[user]
    moments = accumulate(
        user, arm, (at * LOOKS).astype(int), np.full(len(user), float(SHOWN)), clicks, (2 * experiments, LOOKS)
    )
    control, other = (Moments(*(part[one::2] for part in moments)) for one in (0, 1))
    return other, control


def look(experiments: int, users: int, true_gain: float = 0.0, seed: int = 1) -> Looked:
    """Raises ValueError for a true gain that no rate can have."""
    chance, parts = np.random.default_rng(seed), list[Looked]()
    for begin in range(0, experiments, AT_ONCE):
        parts.append(_looked(*experiment(chance, min(AT_ONCE, experiments - begin), users, true_gain), true_gain))
    seen = {test: np.concatenate([part.seen[test] for part in parts]) for test in parts[0].seen}
    return Looked(seen, np.concatenate([p.users for p in parts]), np.concatenate([p.covered for p in parts]))


def _looked(treated: Moments, control: Moments, true_gain: float) -> Looked:
    ours = gain(treated, control)
    enough = np.isfinite(ours.low)
    (log_t, var_t), (log_c, var_c) = log_rate(treated), log_rate(control)
    with np.errstate(invalid="ignore"):  # of looks before there was a user
        off = np.abs(log_t - log_c)
        of_impressions = sum((1 - m.y / m.x) / np.maximum(m.y, 1) for m in (treated, control))
        seen = {
            "ours": enough & ((ours.low > 0) | (ours.high < 0)),
            "impressions": enough & (off > NORMAL_95 * np.sqrt(of_impressions)),
            "users": enough & (off > NORMAL_95 * np.sqrt(var_t + var_c)),
        }
    covered = (~enough | ((ours.low <= true_gain) & (true_gain <= ours.high))).all(axis=1)
    return Looked(seen, treated.users + control.users, covered)


def rows(looked: Looked) -> Iterator[tuple[str, float, float]]:
    """A test's name, how often it sees a gain at any look, and at the last one alone."""
    for test, seen in looked.seen.items():
        yield test, looked.ever(test), float(seen[:, -1].mean())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.peeking", description="Tests under continuous looks.")
    parser.add_argument("--experiments", type=int, default=2000)
    parser.add_argument("--users", type=int, default=4000, help="of both arms together")
    parser.add_argument("--gain", type=float, default=0.0, help="the true one; 0: every alarm is false")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if min(options.experiments, options.users) < 1 or not -1 < options.gain < 2:
        parser.error("allowed: --experiments and --users 1 and more, --gain above -1 and below 2")
    looked = look(options.experiments, options.users, options.gain, options.seed)
    print(
        f"{'test':<12} {'at any look':>12} {'at the last':>12} {'users: half saw':>16} {'80 % saw':>9} {'one look':>9}"
    )
    figures = {}
    for test, ever, last in rows(looked):
        half, most = (float(np.quantile(looked.first(test), share, method="higher")) for share in (0.5, 0.8))
        print(f"{test:<12} {ever:>12.1%} {last:>12.1%} {half:>16,.0f} {most:>9,.0f} {looked.planned(test):>9,.0f}")
        figures[test] = {"ever": round(ever, 4), "last": round(last, 4)}
        users = {"half": half, "most": most, "planned": looked.planned(test)}
        figures[test] |= {name: round(at) for name, at in users.items() if np.isfinite(at)}
    told = {**vars(options), "looks": LOOKS, "covered": round(float(looked.covered.mean()), 4), "tests": figures}
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    run(main, "peeking")
