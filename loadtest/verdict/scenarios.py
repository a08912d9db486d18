"""Scenarios one after another against a service: each is run and judged, or its highest rate is searched."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from loadtest.generator import plan
from loadtest.generator.answers import Log
from loadtest.generator.budgets import Budget
from loadtest.generator.client import Address
from loadtest.generator.target import Target
from loadtest.quantiles import carried, enough_s, needed
from loadtest.verdict import series
from loadtest.verdict.environment import environment
from loadtest.verdict.report import NO_GOOD, TOO_FEW, Outcome, judge
from loadtest.verdict.search import Capacity, Limits, lowest_carried, most_rate, search, search_headline
from loadtest.verdict.words import Headline, headline, of, summary

WINDOW_S = 10.0  # at least; as much longer as a rate needs for its p99
LONGEST_WINDOW_S = 120.0
POOL = 5_000  # bodies that a search's windows share


@dataclass
class Results:
    """What a load test measured, scenario by scenario; of a search its confirming window."""

    environment: dict[str, Any]
    scenarios: list[tuple[Budget, Outcome, Log]] = field(default_factory=list)
    capacities: dict[str, Capacity] = field(default_factory=dict)

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for _, outcome, _ in self.scenarios]

    @property
    def headline(self) -> Headline:
        return search_headline(self.capacities) if self.capacities else headline(self.outcomes)

    def line(self) -> dict[str, Any]:
        """For scripts."""
        searched = {name: capacity.summary() for name, capacity in self.capacities.items()}
        return summary(self.outcomes, self.headline) | ({"search": searched} if searched else {})

    def write(self, out: Path, seed: int, old: Mapping[str, Any] | None) -> Path:
        """report.html, report.json, and an .hgrm per scenario and way of counting; gives the page's path."""
        from loadtest.verdict import page  # matplotlib takes half a second, for --out alone

        courses = {}
        for budget, _, log in self.scenarios:
            courses[budget.scenario] = series.course(budget, log)
            measured = log.due_s >= budget.warmup_s
            left_s = np.where(np.isnan(log.sent_s), log.due_s, log.sent_s)
            for kind, since_s in (("", log.due_s), ("-service", left_s)):
                file = out / f"{_file_name(budget.scenario)}{kind}.hgrm"
                file.write_bytes(series.hgrm((log.answered_s - since_s)[measured & log.timed]))
        report = {**self.line(), "seed": seed, "environment": self.environment, "courses": courses}
        (out / "report.json").write_text(json.dumps(report, indent=1))
        (out / "report.html").write_text(page.html(report, old))
        return out / "report.html"


async def run(
    address: Address,
    budgets: Sequence[Budget],
    bodies: Sequence[plan.Body] | None,
    seed: int,
    limits: Limits | None = None,
    window_s: float = WINDOW_S,
) -> Results:
    """Runs the scenarios in turn, or searches the highest rate of each within `limits`. Raises NoRun."""
    target = Target(address, bodies)
    try:
        await target.reach(budgets)
        results = Results(environment(target.model))
        for budget in budgets:
            rng = plan.generator(seed, budget.scenario)
            if limits:
                await _search(target, limits.over(budget, window_s), rng, results)
            else:
                _tell_if_short(budget)
                log = await target.run(budget, rng)
                results.scenarios.append((budget, judge(budget, log), log))
        return results
    finally:
        await target.close()


def _tell_if_short(budget: Budget) -> None:
    """Before the time is spent: a run that cannot carry its p99."""
    planned = round(budget.rate * budget.duration_s)
    if not carried(planned, 0.99) and not budget.smoke:
        enough = f"duration_s = {np.ceil(enough_s(budget.rate, 0.99)):.0f} sends enough, smoke = true does without"
        print(f"loadtest: {budget.scenario}: {planned} requests, a p99 takes {needed(0.99)}: {enough}", file=sys.stderr)


async def _search(target: Target, budget: Budget, rng: np.random.Generator, results: Results) -> None:
    """Windows are as long as a p99 takes at their rate, unless the scenario is a smoke test."""
    bodies = target.bodies(budget, POOL, rng)
    windows: dict[int, tuple[Budget, Outcome, Log]] = {}
    window_s = budget.duration_s

    async def window(rate: float, duration_s: float) -> Outcome:
        at = replace(budget, rate=rate, duration_s=duration_s)
        log = await target.run(at, rng, bodies, f"{budget.scenario} at {rate:.1f}/s")
        outcome = judge(at, log)
        windows[id(outcome)] = at, outcome, log
        return outcome

    async def measure(rate: float) -> Outcome:
        seconds, longest = window_s, max(LONGEST_WINDOW_S, window_s)
        outcome = await window(rate, seconds)
        while outcome.verdict == TOO_FEW and seconds < longest:  # what is missed already needs no longer window
            enough = enough_s(rate * max(1, outcome.timed) / outcome.requests, 0.99)
            seconds = min(longest, max(enough, 1.1 * seconds))
            outcome = await window(rate, seconds)
        told = {NO_GOOD: "sent too late", TOO_FEW: "too few requests to judge"}
        verdict = "held" if outcome.passed else told.get(outcome.verdict, outcome.verdict)
        figures = f"p50 {of(outcome, 'p50_ms')} ms, p99 {of(outcome, 'p99_ms')} ms, {outcome.errors} errors, "
        figures += f"{outcome.refused} refused, {outcome.late} late of {outcome.requests}"
        tqdm.write(f"{budget.scenario} at {rate:.1f}/s: {figures}: {verdict}", file=sys.stderr)
        if not outcome.passed:
            await target.settle(bodies[0], budget.p99_ms)
        return outcome

    begin = budget.rate if budget.smoke else max(budget.rate, lowest_carried(window_s))
    capacity = await search(measure, begin, most_rate(budget))
    results.capacities[budget.scenario] = capacity
    results.scenarios.append(windows[id(capacity.outcome)])


def _file_name(scenario: str) -> str:
    """A TOML table may be called anything, a file may not."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in scenario)
