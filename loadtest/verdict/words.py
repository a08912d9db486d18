"""A run in words: the headline, the table for people, and the JSON line for scripts."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from loadtest.quantiles import MARK, told
from loadtest.table import table
from loadtest.verdict.report import MISSED, MOST_LATE, NO_GOOD, PASSED, TOO_FEW, Outcome, late_after_ms

HEAD = (
    *("rate/s", "requests", "errors", "refused", "late", "degraded", "sent late"),
    *("p50 (budget)", "p99 (budget)", "service p50", "service p99", "goodput/s", "verdict"),
)
MOST_NAMED = 3  # scenarios in a headline, with their reasons
FEW = f"{MARK} fewer than ten requests lie beyond this quantile: it judges nothing"


class Headline(NamedTuple):
    """`verdict`: PASSED, MISSED, or NO_GOOD where a run was no good or had too few requests to be judged."""

    short: str
    reasons: list[str]
    verdict: str

    @property
    def text(self) -> str:
        return ": ".join([self.short, "; ".join(self.reasons)] if self.reasons else [self.short])


def headline(outcomes: Sequence[Outcome]) -> Headline:
    """Budgets that are kept, budgets that are missed, and runs that prove nothing are three different things."""
    by_verdict: dict[str, list[Outcome]] = {NO_GOOD: [], TOO_FEW: [], MISSED: [], PASSED: []}
    for one in outcomes:
        by_verdict[one.verdict].append(one)
    unproven, missed, within = by_verdict[NO_GOOD] + by_verdict[TOO_FEW], by_verdict[MISSED], by_verdict[PASSED]
    parts = [f"no verdict{_of(unproven, outcomes)}"] if unproven else []
    parts += [f"budget missed{_of(missed, outcomes)}"] if missed else []
    parts += [f"within budget{_of(within, outcomes)}"] if within else []
    named = [one for one in (*unproven, *missed, *within) if why(one)]
    reasons = [f"{one.scenario}: {', '.join(why(one))}" for one in named[:MOST_NAMED]]
    reasons += [f"{len(named) - MOST_NAMED} more"] if len(named) > MOST_NAMED else []
    return Headline(sentence(parts), reasons, NO_GOOD if unproven else MISSED if missed else PASSED)


def why(one: Outcome) -> list[str]:
    """Why a scenario's verdict is what it is."""
    match one.verdict:
        case "no good":
            allowed = f"{late_after_ms(one.budget['p99_ms'] or 0):g} ms late, at most {MOST_LATE:.0%} may"
            return [f"{one.late_share:.1%} of the sends left more than {allowed}"]
        case "missed":
            return one.missed
    return [f"{what} (smoke = true)" if one.smoke else what for what in one.unjudged]


def budget_words(budget: Mapping[str, float | None]) -> str:
    """`p99 20 ms, errors 0.1 %`; a p50 that says no more than the p99 is left out."""
    p50_ms, p99_ms, errors, refused = (budget.get(key) for key in ("p50_ms", "p99_ms", "errors", "refused"))
    words = [f"p50 {p50_ms:g} ms"] if p50_ms != p99_ms else []
    words += [f"p99 {p99_ms:g} ms", f"errors {100 * (errors or 0):g} %"]
    return ", ".join(words + ([f"refused {100 * refused:g} %"] if refused is not None else []))


def show(outcomes: Sequence[Outcome]) -> str:
    """For people: a line per scenario, and under it whatever went wrong."""
    rows = {
        one.scenario: [
            f"{one.rate:.1f}",
            *(one.requests, one.errors, one.refused, one.late, one.degraded),
            f"{one.late_share:.2%}",
            *(f"{of(one, key)} ({one.budget[key]:g})" for key in ("p50_ms", "p99_ms")),
            *(of(one, key) for key in ("service_p50_ms", "service_p99_ms")),
            f"{one.goodput:.1f}",
            one.verdict,
        ]
        for one in outcomes
    }
    first, *shown = table("scenario", HEAD, rows).splitlines()
    lines = ["milliseconds of right answers; p50 and p99 count from when a request was due, service from when it left"]
    lines += [first]
    for row, one in zip(shown, outcomes, strict=True):
        lines.append(row)
        lines += [f"  {line}" for line in _below(one)]
    if any({"p50_ms", "p99_ms", "service_p50_ms", "service_p99_ms"} & {*one.too_few_for} for one in outcomes):
        lines.append(FEW)
    return "\n".join(lines)


def of(one: Outcome, key: str) -> str:
    """A quantile for people."""
    return told(getattr(one, key), key not in one.too_few_for)


def summary(outcomes: Sequence[Outcome], head: Headline) -> dict[str, Any]:
    """For scripts: the figures of the worst scenario (no good, too few, missed, nearest to a budget), and them all."""
    order = (PASSED, MISSED, TOO_FEW, NO_GOOD)
    worst = max(outcomes, key=lambda outcome: (order.index(outcome.verdict), outcome.strain))
    keys = [
        *("scenario", "rate", "requests", "errors", "late_share", "p50_ms", "p99_ms", "service_p50_ms"),
        *("service_p99_ms", "goodput", "refused", "late", "degraded", "all_p50_ms", "all_p99_ms", "too_few_for"),
    ]
    return {
        **{key: getattr(worst, key) for key in keys},
        "passed": all(one.passed for one in outcomes),
        "verdict": head.verdict,
        "headline": head.short,
        "reasons": head.reasons,
        "scenarios": [outcome.summary() for outcome in outcomes],
    }


def _below(one: Outcome) -> list[str]:
    lines = []
    if not one.good:
        lines.append(f"no good: {why(one)[0]}; lower the rate, or give the load test a core of its own")
    verb = "budget missed" if one.good else "not held against the service"
    lines += [f"{verb}: {what}" for what in one.missed]
    allowed = "; smoke = true lets that pass" if one.smoke else ", or smoke = true lets it pass"
    lines += [f"not judged: {what}{allowed}" for what in one.unjudged]
    if one.refused or one.late:
        few = "all_p50_ms", "all_p99_ms"
        lines.append("of all requests, however they ended: p50 {}, p99 {}".format(*(of(one, key) for key in few)))
    lines += [f"{count} x {what}" for what, count in one.faults.items()]
    lines += [f"{one.refused} x refused: status 429"] if one.refused else []
    lines += [f"{one.late} x late: status 504"] if one.late else []
    return lines + [f"{count} x degraded: {what}" for what, count in one.degradations.items()]


def _of(some: Sequence[Outcome], every: Sequence[Outcome]) -> str:
    """How many of how many, where that is not plain."""
    if len(every) == 1:
        return "" if why(some[0]) else f": {some[0].scenario}"
    all_passed = len(some) == len(every) and some[0].verdict == PASSED
    return f": {'all' if all_passed else f'{len(some)} of'} {len(every)} scenarios"


def sentence(parts: Sequence[str]) -> str:
    """A headline of its parts."""
    text = "; ".join(parts)
    return text[0].upper() + text[1:]
