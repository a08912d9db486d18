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
from loadtest.verdict.report import Report

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


Measure = Callable[[float], Awaitable[Report]]  # one window at a rate


@dataclass(frozen=True)
class Found:
    """`rate` holds and `confirmed_rate`, 95 % of it, was tried anew; both 0 when nothing was found.

    `limited_by`: what the next higher rate failed by, `service`, `generator` (it lagged) or `nothing` (the most that
    a window may send). `report` is of the confirming window with the middle p99, or of the last that failed.
    """

    rate: float
    confirmed_rate: float
    limited_by: str
    report: Report
    tried: list[Report]
    curve: list[Report]

    def summary(self) -> dict[str, Any]:
        return {
            "rate": round(self.rate, 3),
            "confirmed_rate": round(self.confirmed_rate, 3),
            "limited_by": self.limited_by,
            "tried": [_point(report) for report in self.tried],
            "curve": [_point(report) for report in self.curve],
        }


def parse_limits(text: str) -> Limits:
    """`p99=20ms,errors=0.1%`; p50 too. Raises NoRun."""
    allowed = f"--search {text!r}: p99=20ms,errors=0.1% is allowed, p50=10ms too, in ms or s, errors as a share or in %"
    given: dict[str, float] = {}
    for part in text.split(","):
        match = _LIMIT.fullmatch(part)
        if not match or match[1] in given or (match[1] == "errors") != (match[3] in ("%", "")):
            raise NoRun(allowed)
        try:
            given[match[1]] = float(match[2]) * {"s": 1000, "ms": 1, "%": 0.01, "": 1}[match[3]]
        except ValueError:
            raise NoRun(allowed) from None
    if "p99" not in given or not given.keys() <= {"p50", "p99", "errors"}:
        raise NoRun(allowed)
    p50_ms, p99_ms, errors = given.get("p50", given["p99"]), given["p99"], given.get("errors", 0.0)
    if p50_ms <= 0 or p99_ms <= 0 or errors > 1:
        raise NoRun(allowed)
    return Limits(p50_ms, p99_ms, errors)


async def search(measure: Measure, begin: float, most: float, curve: bool = True) -> Found:
    """Searches from the rate `begin`, never above `most`."""
    tried: list[Report] = []

    async def windows(rate: float) -> list[Report]:
        """Of one rate, as many as decide it."""
        seen: list[Report] = []
        while len(seen) < WINDOWS and sum(not report.passed for report in seen) < MAJORITY:
            seen.append(await measure(rate))
        tried.extend(seen)
        return seen

    def held(seen: list[Report]) -> bool:
        return sum(report.passed for report in seen) >= MAJORITY

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
                return Found(0.0, 0.0, limited_by, seen[-1], tried, [])
    while high > low * NEAR:
        seen = await windows((low + high) / 2)
        if held(seen):
            low = (low + high) / 2
        else:
            high, limited_by = (low + high) / 2, _limited_by(seen)

    for _ in range(CONFIRMS):
        seen = await windows(low * CONFIRM_AT)
        if held(seen):
            middle = sorted(seen, key=lambda report: report.p99_ms)[len(seen) // 2]
            points = [await measure(min(most, low * times)) for times in CURVE] if curve else []
            return Found(low, low * CONFIRM_AT, limited_by, middle, tried, points)
        low, limited_by = low * CONFIRM_AT, _limited_by(seen)
    return Found(0.0, 0.0, limited_by, seen[-1], tried, [])


def most_rate(budget: Budget) -> float:
    """What one window may send at most."""
    return MOST_REQUESTS / (budget.duration_s + budget.warmup_s)


def _limited_by(seen: list[Report]) -> str:
    return "generator" if sum(not report.good for report in seen) >= MAJORITY else "service"


def _point(report: Report) -> dict[str, Any]:
    keys = ("planned_rate", "rate", "throughput", "goodput", "p50_ms", "p99_ms", "late_share", "good", "passed")
    return {key: getattr(report, key) for key in keys} | {"errors": round(report.errors / report.requests, 6)}
