"""The figures of a run, their verdict, the table for people and the JSON line for scripts."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hdrh.histogram import HdrHistogram

from loadtest.answers import Log
from loadtest.budgets import Budget

MOST_LATE = 0.01  # share of sends; above it the run measured the generator more than the service
LONGEST_US = 3_600_000_000 * 24

Seconds = npt.NDArray[np.float64]


def late_after_ms(p99_ms: float) -> float:
    """How much later than planned a send may leave: what cannot change the verdict on a budget of `p99_ms`."""
    return max(1.0, 0.05 * p99_ms)


def late_share(due_s: Seconds, sent_s: Seconds, p99_ms: float) -> float:
    """Share of sends, (n,) each, that left too late; one that never left (NaN) did."""
    return float(np.mean(~((sent_s - due_s) * 1000 <= late_after_ms(p99_ms))))


def quantiles_ms(seconds: Seconds) -> tuple[float, float]:
    """p50 and p99 in ms, to three digits."""
    histogram = HdrHistogram(1, LONGEST_US, 3)
    for microseconds in np.clip(np.rint(seconds * 1e6), 1, LONGEST_US).astype(np.int64).tolist():
        histogram.record_value(microseconds)
    at = histogram.get_percentile_to_value_dict([50, 99])
    return at[50] / 1000, at[99] / 1000


@dataclass(frozen=True)
class Report:
    """One scenario's outcome; its warm-up is in none of the figures.

    Every request counts in the times, failed ones too: p50_ms and p99_ms from the moment it was due, the service_ ones
    from the moment it left. `rate` is what really left, per second.
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


def judge(budget: Budget, log: Log) -> Report:
    """The report on a closed log."""
    measured = log.due_s >= budget.warmup_s
    due_s, sent_s, answered_s = log.due_s[measured], log.sent_s[measured], log.answered_s[measured]
    faults = Counter(wrong for wrong, counts in zip(log.faults(), measured.tolist(), strict=True) if counts and wrong)
    requests, errors = len(due_s), faults.total()

    left = sent_s[~np.isnan(sent_s)]
    late = late_share(due_s, sent_s, budget.p99_ms)
    good = late <= MOST_LATE
    p50_ms, p99_ms = quantiles_ms(answered_s - due_s)
    service_p50_ms, service_p99_ms = quantiles_ms(answered_s - np.where(np.isnan(sent_s), due_s, sent_s))

    missed = []
    if p50_ms > budget.p50_ms:
        missed.append(f"p50 {p50_ms:.2f} ms, at most {budget.p50_ms:g}")
    if p99_ms > budget.p99_ms:
        missed.append(f"p99 {p99_ms:.2f} ms, at most {budget.p99_ms:g}")
    if errors > budget.errors * requests:
        missed.append(f"{errors / requests:.2%} errors, at most {budget.errors:.2%}")
    return Report(
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
    )


def table(budgets: Sequence[Budget], reports: Sequence[Report]) -> str:
    """For people: a line a scenario, and under it whatever went wrong."""
    row = "{:<16} {:>9} {:>9} {:>8} {:>8} {:>22} {:>22} {:>12} {:>12}  {}"
    lines = [
        "milliseconds; p50 and p99 count from when a request was due, service from when it left",
        row.format("scenario", "rate/s", "requests", "errors", "late", "p50 (budget)", "p99 (budget)", "service p50",
                   "service p99", "verdict"),
    ]  # fmt: skip
    for budget, report in zip(budgets, reports, strict=True):
        lines.append(
            row.format(
                report.scenario,
                f"{report.rate:.1f}",
                report.requests,
                report.errors,
                f"{report.late_share:.2%}",
                f"{report.p50_ms:.2f} ({budget.p50_ms:g})",
                f"{report.p99_ms:.2f} ({budget.p99_ms:g})",
                f"{report.service_p50_ms:.2f}",
                f"{report.service_p99_ms:.2f}",
                "passed" if report.passed else "missed" if report.good else "no good",
            )
        )
        if not report.good:
            lines.append(
                f"  no good: {report.late_share:.1%} of the sends left more than {late_after_ms(budget.p99_ms):g} ms "
                f"late, at most {MOST_LATE:.0%} may; lower the rate, or give the load test a core of its own"
            )
        lines += [f"  budget missed: {what}" for what in report.missed]
        lines += [f"  {count} x {what}" for what, count in report.faults.items()]
    return "\n".join(lines)


def summary(reports: Sequence[Report]) -> dict[str, Any]:
    """For scripts: the figures of the worst scenario (no good, then missed, then nearest to a budget), and them all."""
    worst = max(reports, key=lambda report: (not report.good, not report.passed, report.strain))
    keys = ("scenario", "rate", "requests", "errors", "late_share", "p50_ms", "p99_ms")
    line = {key: getattr(worst, key) for key in (*keys, "service_p50_ms", "service_p99_ms")}
    return {**line, "passed": all(r.passed for r in reports), "scenarios": [asdict(report) for report in reports]}


def exit_code(reports: Sequence[Report]) -> int:
    """2 when a run was no good, else 1 when a budget was missed, else 0."""
    if not all(report.good for report in reports):
        return 2
    return 0 if all(report.passed for report in reports) else 1
