"""The highest rate that holds a budget: doubled until it is missed, bisected, confirmed at 95 %; then the curve.

A rate is judged by three windows and holds when two of them do, so that one bad moment of the machine decides nothing;
two missed ones spare the third. Windows that the generator could not send on time do not hold either, and the result
says so: then it is the least that the service can do.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from loadtest.errors import NoRun
from loadtest.generator.budgets import MOST_REQUESTS, Budget
from loadtest.verdict.report import Outcome

WINDOWS, MAJORITY = 3, 2
NEAR = 1.05  # bisected until the rate that fails is at most so many times the one that holds
CONFIRM_AT = 0.95
LEAST = 1 / 64  # of the rate it begins with: below, nothing was found
CONFIRMS = 5  # rates tried, each 95 % of the one before
CURVE = (0.25, 0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0)  # times the rate found

_LIMIT = re.compile(r"\s*(\w+)\s*=\s*([0-9.]+)\s*(ms|s|%|)\s*", re.ASCII)


@dataclass(frozen=True)
class Limits:
    """The budget of a search; without a p50 only the p99's limit holds for it."""

    p50_ms: float
    p99_ms: float
    errors: float

    def over(self, budget: Budget, window_s: float) -> Budget:
        return replace(budget, duration_s=window_s, p50_ms=self.p50_ms, p99_ms=self.p99_ms, errors=self.errors)


Measure = Callable[[float], Awaitable[Outcome]]  # one window at a rate


@dataclass(frozen=True)
class Capacity:
    """`rate` holds and `confirmed_rate`, 95 % of it, was tried anew; both 0 when nothing was found.

    `limited_by`: what the next higher rate failed by, `service`, `generator` (it lagged) or `nothing` (the most that
    a window may send). `outcome` is of the confirming window with the middle p99, or of the last that failed.
    """

    rate: float
    confirmed_rate: float
    limited_by: str
    outcome: Outcome
    tried: list[Outcome]
    curve: list[Outcome]

    def summary(self) -> dict[str, Any]:
        return {
            "rate": round(self.rate, 3),
            "confirmed_rate": round(self.confirmed_rate, 3),
            "limited_by": self.limited_by,
            "tried": [_point(outcome) for outcome in self.tried],
            "curve": [_point(outcome) for outcome in self.curve],
        }

    def sentence(self, scenario: str) -> str:
        """For people."""
        if not self.rate:
            return f"{scenario}: no rate down to {min(o.planned_rate for o in self.tried):.2f}/s holds the budget"
        least = "at least " if self.limited_by != "service" else ""
        why = {"service": "", "generator": "; above, the generator lags", "nothing": "; a window may not send more"}
        rates = f"{self.rate:.1f} requests/s hold the budget, confirmed at {self.confirmed_rate:.1f}/s"
        return f"{scenario}: {least}{rates}{why[self.limited_by]}"


def parse_limits(text: str) -> Limits:
    """`p99=20ms,errors=0.1%`; p50 too. Raises NoRun."""
    allowed = f"--search {text!r}: p99=20ms,errors=0.1% is allowed, p50=10ms too, in ms or s, errors as a share or in %"
    limits: dict[str, float] = {}
    for part in text.split(","):
        match = _LIMIT.fullmatch(part)
        if not match or match[1] in limits or (match[1] == "errors") != (match[3] in ("%", "")):
            raise NoRun(allowed)
        try:
            limits[match[1]] = float(match[2]) * {"s": 1000, "ms": 1, "%": 0.01, "": 1}[match[3]]
        except ValueError:
            raise NoRun(allowed) from None
    if "p99" not in limits or not limits.keys() <= {"p50", "p99", "errors"}:
        raise NoRun(allowed)
    p50_ms, p99_ms, errors = limits.get("p50", limits["p99"]), limits["p99"], limits.get("errors", 0.0)
    if p50_ms <= 0 or p99_ms <= 0 or errors > 1:
        raise NoRun(allowed)
    return Limits(p50_ms, p99_ms, errors)


async def search(measure: Measure, begin: float, most: float, curve: bool = True) -> Capacity:
    """Searches from the rate `begin`, never above `most`."""
    tried: list[Outcome] = []

    async def windows(rate: float) -> list[Outcome]:
        """Of one rate, as many as decide it."""
        seen: list[Outcome] = []
        while len(seen) < WINDOWS and sum(not outcome.passed for outcome in seen) < MAJORITY:
            seen.append(await measure(rate))
        tried.extend(seen)
        return seen

    def held(seen: list[Outcome]) -> bool:
        return sum(outcome.passed for outcome in seen) >= MAJORITY

    low, high, limited_by, rate = 0.0, 0.0, "nothing", min(begin, most)
    while not (low and high):
        seen = await windows(rate)
        if held(seen):
            low = rate
            if high or low >= most:
                break
            rate = min(most, rate * 2)
        else:
            high, limited_by = rate, _limited_by(seen)
            if low:
                break
            rate /= 2
            if rate < begin * LEAST:
                return Capacity(0.0, 0.0, limited_by, seen[-1], tried, [])
    while high > low * NEAR:
        seen = await windows((low + high) / 2)
        if held(seen):
            low = (low + high) / 2
        else:
            high, limited_by = (low + high) / 2, _limited_by(seen)

    for _ in range(CONFIRMS):
        seen = await windows(low * CONFIRM_AT)
        if held(seen):
            middle = sorted(seen, key=lambda outcome: outcome.p99_ms)[len(seen) // 2]
            points = [await measure(min(most, low * times)) for times in CURVE] if curve else []
            return Capacity(low, low * CONFIRM_AT, limited_by, middle, tried, points)
        low, limited_by = low * CONFIRM_AT, _limited_by(seen)
    return Capacity(0.0, 0.0, limited_by, seen[-1], tried, [])


def most_rate(budget: Budget) -> float:
    """What one window may send at most."""
    return MOST_REQUESTS / (budget.duration_s + budget.warmup_s)


def _limited_by(seen: list[Outcome]) -> str:
    return "generator" if sum(not outcome.good for outcome in seen) >= MAJORITY else "service"


def _point(outcome: Outcome) -> dict[str, Any]:
    keys = ("planned_rate", "rate", "throughput", "goodput", "p50_ms", "p99_ms", "late_share", "good", "passed")
    return {key: getattr(outcome, key) for key in keys} | {"errors": round(outcome.errors / outcome.requests, 6)}
