"""The figures of a run, their verdict, the table for people and the JSON line for scripts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtest.generator.answers import Log
from loadtest.generator.budgets import Budget
from loadtest.table import table

HEAD = ("rate/s", "requests", "errors", "late", "p50 (budget)", "p99 (budget)", "service p50", "service p99", "verdict")
MOST_LATE = 0.01  # share of sends; above it the run measured the generator more than the service

Seconds = npt.NDArray[np.float64]


def late_after_ms(p99_ms: float) -> float:
    """How much later than planned a send may leave: what cannot change the verdict on a budget of `p99_ms`."""
    return max(1.0, 0.05 * p99_ms)


def late_share(due_s: Seconds, sent_s: Seconds, p99_ms: float) -> float:
    """Share of sends, (n,) each, that left too late; one that never left (NaN) did."""
    return float(np.mean(~((sent_s - due_s) * 1000 <= late_after_ms(p99_ms))))


def quantiles_ms(seconds: Seconds, at: Sequence[float] = (0.5, 0.99)) -> list[float]:
    """The recorded times in ms at or below which that share of all lies: exact, nothing is interpolated."""
    return [round(float(ms), 3) for ms in np.quantile(seconds, at, method="inverted_cdf") * 1000]


@dataclass(frozen=True)
class Outcome:
    """One scenario's outcome; its warm-up is in none of the figures.

    Every request counts in the times, failed ones too: p50_ms and p99_ms from the moment it was due, the service_ ones
    from the moment it left. `rate` is what really left, per second; `throughput` the right answers, `goodput` those of
    them within the p99 budget. `stages`: what the service says of itself, p50 and p99 in ms; and `network`, request by
    request its service time less the total that the service tells: the way there and back.
    """

    scenario: str
    planned_rate: float
    rate: float
    requests: int
    errors: int
    late_share: float
    p50_ms: float
    p99_ms: float
    service_p50_ms: float
    service_p99_ms: float
    passed: bool
    good: bool
    missed: list[str]
    faults: dict[str, int]
    strain: float  # the largest figure ÷ its budget
    arrivals: str
    p90_ms: float
    p999_ms: float
    max_ms: float
    throughput: float
    goodput: float
    latest_ms: float | None  # how much after its time the latest send left; None where one never left
    stages: dict[str, dict[str, float]]
    budget: dict[str, float]


def judge(budget: Budget, log: Log) -> Outcome:
    """The outcome of a closed log."""
    measured = log.due_s >= budget.warmup_s
    due_s, sent_s, answered_s = log.due_s[measured], log.sent_s[measured], log.answered_s[measured]
    wrong = [fault for fault, counts in zip(log.faults(), measured.tolist(), strict=True) if counts]
    faults = Counter(fault for fault in wrong if fault)
    requests, errors = len(due_s), faults.total()

    left = sent_s[~np.isnan(sent_s)]
    late = late_share(due_s, sent_s, budget.p99_ms)
    good = late <= MOST_LATE
    p50_ms, p90_ms, p99_ms, p999_ms, max_ms = quantiles_ms(answered_s - due_s, (0.5, 0.9, 0.99, 0.999, 1))
    service_p50_ms, service_p99_ms = quantiles_ms(answered_s - np.where(np.isnan(sent_s), due_s, sent_s))

    right = np.array([not fault for fault in wrong])
    in_time = right & ((answered_s - due_s) * 1000 <= budget.p99_ms)
    span_s = max(budget.duration_s, float(answered_s.max()) - budget.warmup_s)
    stages = {name: ms[measured][~np.isnan(ms[measured])] / 1000 for name, ms in taken_ms(log).items()}

    missed = []
    if p50_ms > budget.p50_ms:
        missed.append(f"p50 {p50_ms:.2f} ms, at most {budget.p50_ms:g}")
    if p99_ms > budget.p99_ms:
        missed.append(f"p99 {p99_ms:.2f} ms, at most {budget.p99_ms:g}")
    if errors > budget.errors * requests:
        missed.append(f"{errors / requests:.2%} errors, at most {budget.errors:.2%}")
    return Outcome(
        scenario=budget.scenario,
        planned_rate=budget.rate,
        rate=round(len(left) / max([budget.duration_s, *(left - budget.warmup_s)]), 3),
        requests=requests,
        errors=errors,
        late_share=round(late, 6),
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        service_p50_ms=service_p50_ms,
        service_p99_ms=service_p99_ms,
        passed=good and not missed,
        good=good,
        missed=missed,
        faults=dict(faults.most_common()),
        strain=round(max(p50_ms / budget.p50_ms, p99_ms / budget.p99_ms), 3),
        arrivals=budget.arrivals,
        p90_ms=p90_ms,
        p999_ms=p999_ms,
        max_ms=max_ms,
        throughput=round(int(right.sum()) / span_s, 3),
        goodput=round(int(in_time.sum()) / span_s, 3),
        latest_ms=round(float((left - due_s).max()) * 1000, 3) if len(left) == requests else None,
        stages={
            name: dict(zip(("p50_ms", "p99_ms"), quantiles_ms(taken_s), strict=True))
            for name, taken_s in stages.items()
            if len(taken_s)
        },
        budget={"p50_ms": budget.p50_ms, "p99_ms": budget.p99_ms, "errors": budget.errors},
    )


def taken_ms(log: Log) -> dict[str, npt.NDArray[Any]]:
    """A closed log's stages by name, (n,) each, NaN where untold; with a total among them, `network` beside it."""
    if "total" not in log.stages:
        return dict(log.stages)
    return {"network": (log.answered_s - log.sent_s) * 1000 - log.stages["total"]} | log.stages


def show(outcomes: Sequence[Outcome]) -> str:
    """For people: a line per scenario, and under it whatever went wrong."""
    rows = {
        one.scenario: [
            f"{one.rate:.1f}",
            one.requests,
            one.errors,
            f"{one.late_share:.2%}",
            *(f"{ms:.2f} ({one.budget[key]:g})" for key, ms in (("p50_ms", one.p50_ms), ("p99_ms", one.p99_ms))),
            one.service_p50_ms,
            one.service_p99_ms,
            "passed" if one.passed else "missed" if one.good else "no good",
        ]
        for one in outcomes
    }
    first, *shown = table("scenario", HEAD, rows).splitlines()
    lines = ["milliseconds; p50 and p99 count from when a request was due, service from when it left", first]
    for row, one in zip(shown, outcomes, strict=True):
        lines.append(row)
        if not one.good:
            lines.append(
                f"  no good: {one.late_share:.1%} of the sends left more than {late_after_ms(one.budget['p99_ms']):g} "
                f"ms late, at most {MOST_LATE:.0%} may; lower the rate, or give the load test a core of its own"
            )
        lines += [f"  budget missed: {what}" for what in one.missed]
        lines += [f"  {count} x {what}" for what, count in one.faults.items()]
    return "\n".join(lines)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """For scripts: the figures of the worst scenario (no good, then missed, then nearest to a budget), and them all."""
    worst = max(outcomes, key=lambda outcome: (not outcome.good, not outcome.passed, outcome.strain))
    keys = ("scenario", "rate", "requests", "errors", "late_share", "p50_ms", "p99_ms")
    line = {key: getattr(worst, key) for key in (*keys, "service_p50_ms", "service_p99_ms")}
    return {
        **line,
        "passed": all(one.passed for one in outcomes),
        "scenarios": [asdict(outcome) for outcome in outcomes],
    }


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """2 when a run was no good, else 1 when a budget was missed, else 0."""
    if not all(outcome.good for outcome in outcomes):
        return 2
    return 0 if all(outcome.passed for outcome in outcomes) else 1
