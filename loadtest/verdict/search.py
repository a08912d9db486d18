"""The highest rate that holds a budget: doubled until it is missed, bisected, confirmed at 95 %; then the curve.

A rate is judged by three windows and holds when two of them do, so that one bad moment of the machine decides nothing;
two missed ones spare the third. Windows that the generator could not send on time do not hold either, and the result
says so: then it is the least that the service can do. Nor do windows with too few requests to carry the p99.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from loadtest.errors import NoRun
from loadtest.generator.budgets import MOST_REQUESTS, Budget
from loadtest.quantiles import enough_s
from loadtest.verdict.report import MISSED, NO_GOOD, PASSED, TOO_FEW, Outcome
from loadtest.verdict.words import Headline, budget_words, sentence, why

WINDOWS, MAJORITY = 3, 2
NEAR = 1.05  # bisected until the rate that fails is at most so many times the one that holds
CONFIRM_AT = 0.95
LEAST = 1 / 64  # of the rate it begins with: below, nothing was found
CONFIRMS = 5  # rates tried, each 95 % of the one before
CURVE = (0.25, 0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0)  # times the rate found

SHARED = ("errors", "refused")

_LIMIT = re.compile(r"\s*(\w+)\s*=\s*([0-9.]+)\s*(ms|s|%|)\s*", re.ASCII)


@dataclass(frozen=True)
class Limits:
    """The budget of a search; without a p50 only the p99's limit holds for it, without `refused` that of errors."""

    p50_ms: float
    p99_ms: float
    errors: float
    refused: float | None = None

    def over(self, budget: Budget, window_s: float) -> Budget:
        return replace(
            budget,
            duration_s=window_s,
            p50_ms=self.p50_ms,
            p99_ms=self.p99_ms,
            errors=self.errors,
            refused=self.refused,
        )


Measure = Callable[[float], Awaitable[Outcome]]  # one window at a rate


class Tried(NamedTuple):
    """A rate and the windows that judged it."""

    rate: float
    windows: list[Outcome]

    @property
    def held(self) -> bool:
        return sum(outcome.passed for outcome in self.windows) >= MAJORITY

    @property
    def limited_by(self) -> str:
        """What a rate failed by that did not hold."""
        verdicts = [outcome.verdict for outcome in self.windows]
        by = {NO_GOOD: "generator", TOO_FEW: "window"}
        return next((by[verdict] for verdict in by if verdicts.count(verdict) >= MAJORITY), "service")

    def __str__(self) -> str:
        """How the windows went, and in the words of the first that was not within budget, why the rate did not hold."""
        passed = sum(outcome.passed for outcome in self.windows)
        text = f"{self.rate:.1f}/s, {passed} of {len(self.windows)} windows"
        failed = [outcome for outcome in self.windows if not outcome.passed]
        return text + (f" ({'; '.join(why(failed[0]))})" if failed and not self.held else "")


@dataclass(frozen=True)
class Capacity:
    """`rate` is the highest that held, and `confirmed` 95 % of it, where it held anew; 0 and None without any.

    Rates that did not hold when they were tried anew are `refuted`; `rate` is then the confirmed one. `above` is the
    lowest rate that did not hold in the search. `limited_by`: what the next higher rate failed by: `service`,
    `generator` (it lagged), `window` (too few requests for the p99) or `nothing` (the most that a window may send).
    `outcome` is of the confirming window with the middle p99, or of the last that failed.
    """

    rate: float
    limited_by: str
    outcome: Outcome
    tried: list[Tried]
    curve: list[Outcome]
    held: Tried | None = None
    confirmed: Tried | None = None
    refuted: Sequence[Tried] = ()
    above: Tried | None = None

    @property
    def confirmed_rate(self) -> float:
        return self.confirmed.rate if self.confirmed else 0.0

    def summary(self) -> dict[str, Any]:
        return {
            "rate": round(self.rate, 3),
            "confirmed_rate": round(self.confirmed_rate, 3),
            "refuted_rates": [round(tried.rate, 3) for tried in self.refuted],
            "above_rate": round(self.above.rate, 3) if self.above else None,
            "limited_by": self.limited_by,
            "words": self.words(),
            "tried": [_point(outcome) for tried in self.tried for outcome in tried.windows],
            "curve": [_point(outcome) for outcome in self.curve],
        }

    def words(self) -> list[str]:
        """For people: what was confirmed at what rate, and what was not."""
        kept = budget_words(self.outcome.budget)
        lines = [f"no rate down to {min(tried.rate for tried in self.tried):.2f}/s is confirmed to keep {kept}"]
        if self.confirmed:
            at_least = "" if self.limited_by == "service" else "at least "
            lines = [f"confirmed to keep {kept}: {at_least}{self.confirmed}"]
        lines += [f"held, not tried anew: {self.held}"] if self.held else []
        lines += [f"tried anew, not confirmed: {tried}" for tried in self.refuted]
        above = self.above or (None if self.confirmed else self.tried[-1])
        lines += [f"not held: {above}"] if above else []
        if self.confirmed and self.outcome.unjudged:
            lines.append(f"not judged, as smoke = true allows: {'; '.join(self.outcome.unjudged)}")
        return lines + _LIMITED[self.limited_by]


_LIMITED: dict[str, list[str]] = {
    "service": [],
    "generator": ["above, the generator lagged and not the service, which may do more"],
    "window": ["windows hold too few requests for a p99: a longer --window may find more"],
    "nothing": ["more than that one window may not send"],
}


def parse_limits(text: str) -> Limits:
    """`p99=20ms,errors=0.1%`; p50 too. Raises NoRun."""
    allowed = f"--search {text!r}: p99=20ms,errors=0.1% is allowed, p50=10ms and refused=5% too; ms or s, a share or %"
    limits: dict[str, float] = {}
    for part in text.split(","):
        match = _LIMIT.fullmatch(part)
        if not match or match[1] in limits or (match[1] in SHARED) != (match[3] in ("%", "")):
            raise NoRun(allowed)
        try:
            limits[match[1]] = float(match[2]) * {"s": 1000, "ms": 1, "%": 0.01, "": 1}[match[3]]
        except ValueError:
            raise NoRun(allowed) from None
    if "p99" not in limits or not limits.keys() <= {"p50", "p99", *SHARED}:
        raise NoRun(allowed)
    p50_ms, p99_ms, errors = limits.get("p50", limits["p99"]), limits["p99"], limits.get("errors", 0.0)
    if p50_ms <= 0 or p99_ms <= 0 or errors > 1 or limits.get("refused", 0) > 1:
        raise NoRun(allowed)
    return Limits(p50_ms, p99_ms, errors, limits.get("refused"))


async def search(measure: Measure, begin: float, most: float, curve: bool = True) -> Capacity:
    """Searches from the rate `begin`, never above `most`."""
    tried: list[Tried] = []

    async def at(rate: float) -> Tried:
        """As many windows as decide it."""
        seen: list[Outcome] = []
        while len(seen) < WINDOWS and sum(not outcome.passed for outcome in seen) < MAJORITY:
            seen.append(await measure(rate))
        tried.append(Tried(rate, seen))
        return tried[-1]

    held: Tried | None = None  # the highest rate that did
    high: Tried | None = None  # the lowest above it that did not
    rate = min(begin, most)
    while not (held and high):
        now = await at(rate)
        if now.held:
            held = now
            if high or rate >= most:
                break
            rate = min(most, rate * 2)
        else:
            high = now
            if held:
                break
            rate /= 2
            if rate < begin * LEAST:
                return Capacity(0.0, now.limited_by, now.windows[-1], tried, [])
    while high and high.rate > held.rate * NEAR:
        now = await at((held.rate + high.rate) / 2)
        if now.held:
            held = now
        else:
            high = now

    limited_by, refuted = high.limited_by if high else "nothing", list[Tried]()
    for number in range(1, CONFIRMS + 1):
        now = await at(held.rate * CONFIRM_AT**number)
        if now.held:
            rate = now.rate if refuted else held.rate
            passed = sorted((one for one in now.windows if one.passed), key=lambda one: one.p99_ms or 0)
            points = [await measure(min(most, rate * times)) for times in CURVE] if curve else []
            return Capacity(rate, limited_by, passed[len(passed) // 2], tried, points, held, now, refuted, high)
        refuted.append(now)
        limited_by = now.limited_by
    return Capacity(0.0, limited_by, now.windows[-1], tried, [], held, None, refuted, high)


def search_headline(capacities: Mapping[str, Capacity]) -> Headline:
    """What was found, what the service does not hold, and what could not be searched, are three different things."""
    unproven, missed, found = [], [], []
    for name, capacity in capacities.items():
        if capacity.confirmed:
            found.append(f"{name} at {capacity.confirmed_rate:.1f} requests/s")
        elif capacity.limited_by == "service":
            missed.append(name)
        else:
            unproven.append(name)
    parts = [f"no rate could be judged: {', '.join(unproven)}"] if unproven else []
    parts += [f"no rate holds the budget: {', '.join(missed)}"] if missed else []
    parts += [f"confirmed within budget: {', '.join(found)}"] if found else []
    reasons = [f"{name}: {_LIMITED[capacities[name].limited_by][0]}" for name in unproven]
    reasons += [f"{name}: {few}" for name, one in capacities.items() if one.confirmed for few in one.outcome.unjudged]
    return Headline(sentence(parts), reasons, NO_GOOD if unproven else MISSED if missed else PASSED)


def lowest_carried(window_s: float) -> float:
    """The lowest rate at which a window of so many seconds carries a p99."""
    return enough_s(1, 0.99) / window_s


def most_rate(budget: Budget) -> float:
    """What one window may send at most."""
    return MOST_REQUESTS / (budget.duration_s + budget.warmup_s)


def _point(outcome: Outcome) -> dict[str, Any]:
    keys = [
        *("planned_rate", "rate", "requests", "throughput", "goodput", "p50_ms", "p99_ms", "refused", "late"),
        *("late_share", "too_few_for", "verdict", "good", "passed"),
    ]
    return {key: getattr(outcome, key) for key in keys} | {"errors": round(outcome.errors / outcome.requests, 6)}
