"""The figures of a run and their verdict: a closed log beside its budget."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtest.generator.answers import ERRORS, Kind, Log
from loadtest.generator.budgets import Budget
from loadtest.generator.processes import how_many
from loadtest.quantiles import BEYOND, Seconds, carried, enough_s, needed
from loadtest.quantiles import quantiles_ms as quantiles_ms
from loadtest.verdict import scatter

MOST_LATE = 0.01  # share of sends; above it the run measured the generator more than the service
SHARES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}
OF_ALL = {"all_p50_ms": 0.5, "all_p99_ms": 0.99}
OF_SERVICE = {"service_p50_ms": 0.5, "service_p99_ms": 0.99}
OF_STAGE = {"p50_ms": 0.5, "p99_ms": 0.99}
JUDGED = ("p50_ms", "p99_ms")
OWN = (Kind.REFUSED, Kind.LATE, Kind.DEGRADED)  # neither plainly right nor errors
PASSED, MISSED, TOO_FEW, NO_GOOD = "passed", "missed", "too few", "no good"  # verdicts, from the best to the worst


def late_after_ms(p99_ms: float) -> float:
    """How much later than planned a send may leave: what cannot change the verdict on a budget of `p99_ms`."""
    return max(1.0, 0.05 * p99_ms)


def late_share(due_s: Seconds, sent_s: Seconds, p99_ms: float) -> float:
    """Share of sends, (n,) each, that left too late; one that never left (NaN) did."""
    return float(np.mean(~((sent_s - due_s) * 1000 <= late_after_ms(p99_ms))))


@dataclass(frozen=True)
class Outcome:
    """One scenario's outcome; its warm-up is in none of the figures.

    `outcomes` counts the requests by how they ended; `errors` are the wrong, failed and unanswered ones, `refused` were
    answered 429 and `late` 504. `late_share` is of something else: of the sends that left too late.

    p50_ms and so on are of right answers, and of unanswered requests, which took until the end: what was refused or
    failed is counted and not timed, since it would flatter. They count from the moment a request was due, the service_
    ones from the moment it left; the all_ ones are of all requests, however they ended. None: there was nothing to
    time. `too_few_for` names the quantiles that too few requests carry; those judge nothing.

    `rate` is what really left, per second; `throughput` the right answers, `goodput` those of them within the p99
    budget. `stages`: what the service says of itself, p50 and p99 in ms; and `network`, request by request its service
    time less the total that the service tells: the way there and back. `scatter`: by figure its 95 % interval,
    resampled from the run itself; see scatter.py.
    """

    scenario: str
    planned_rate: float
    rate: float
    requests: int
    timed: int  # of them, how many the quantiles are of
    errors: int
    refused: int
    late: int
    degraded: int
    late_share: float
    p50_ms: float | None
    p99_ms: float | None
    service_p50_ms: float | None
    service_p99_ms: float | None
    passed: bool
    good: bool  # the generator sent on time
    missed: list[str]
    unjudged: list[str]  # which budgets too few requests carry, and what would
    judged: dict[str, str]  # PASSED, MISSED or TOO_FEW by the budget's key
    too_few_for: list[str]
    smoke: bool
    outcomes: dict[str, int]
    faults: dict[str, int]  # what errors there were
    degradations: dict[str, int]  # what answers did without
    strain: float  # the largest figure ÷ its budget
    arrivals: str
    processes: int  # that sent
    p90_ms: float | None
    p999_ms: float | None
    max_ms: float | None
    all_p50_ms: float
    all_p99_ms: float
    throughput: float
    goodput: float
    latest_ms: float | None  # how much after its time the latest send left; None where one never left
    stages: dict[str, dict[str, float]]
    scatter: dict[str, scatter.Interval]
    budget: dict[str, float | None]

    @property
    def verdict(self) -> str:
        if not self.good:
            return NO_GOOD
        return PASSED if self.passed else MISSED if self.missed else TOO_FEW

    def summary(self) -> dict[str, Any]:
        """For scripts and for the page."""
        return asdict(self) | {"verdict": self.verdict}


def judge(budget: Budget, log: Log) -> Outcome:
    """The outcome of a closed log."""
    measured = log.due_s >= budget.warmup_s
    due_s, sent_s, answered_s = log.due_s[measured], log.sent_s[measured], log.answered_s[measured]
    right, timed = log.right[measured], log.timed[measured]
    requests, count = len(due_s), int(timed.sum())
    outcomes = {kind.name.lower(): int((log.kinds[measured] == kind).sum()) for kind in Kind}
    errors = int(log.of(*ERRORS)[measured].sum())

    left = sent_s[~np.isnan(sent_s)]
    late = late_share(due_s, sent_s, budget.p99_ms)
    taken_s, service_s = answered_s - due_s, answered_s - np.where(np.isnan(sent_s), due_s, sent_s)
    ms = _quantiles(taken_s[timed], SHARES) | _quantiles(service_s[timed], OF_SERVICE) | _quantiles(taken_s, OF_ALL)
    stages, few = _stages(log, measured)
    few = [key for key, share in (SHARES | OF_SERVICE).items() if share < 1 and not carried(count, share)] + few
    few += [key for key, share in OF_ALL.items() if not carried(requests, share)]

    in_time = right & (taken_s * 1000 <= budget.p99_ms)
    span_s = max([budget.duration_s, *(answered_s[right] - budget.warmup_s).tolist()])
    missed, unjudged = _against(budget, taken_s[timed], requests, ms)
    missed |= _shares_missed(budget, requests, errors, outcomes)
    limits = {key: getattr(budget, key) for key in (*JUDGED, "errors", "refused")}
    good = late <= MOST_LATE
    rate = len(left) / max([budget.duration_s, *(left - budget.warmup_s).tolist()])
    return Outcome(
        scenario=budget.scenario,
        planned_rate=budget.rate,
        rate=round(rate, 3),
        requests=requests,
        timed=count,
        errors=errors,
        refused=outcomes["refused"],
        late=outcomes["late"],
        degraded=outcomes["degraded"],
        late_share=round(late, 6),
        passed=good and not missed and (budget.smoke or not unjudged),
        good=good,
        missed=list(missed.values()),
        unjudged=list(unjudged.values()),
        judged={
            key: MISSED if key in missed else TOO_FEW if key in unjudged else PASSED
            for key, limit in limits.items()
            if limit is not None
        },
        too_few_for=few,
        smoke=budget.smoke,
        outcomes=outcomes,
        faults=_reasons(log, measured & log.of(*ERRORS)),
        degradations=_reasons(log, measured & log.of(Kind.DEGRADED)),
        strain=round(max([0.0, *(ms[key] / getattr(budget, key) for key in JUDGED if key not in few)]), 3),
        arrivals=budget.arrivals,
        processes=min(how_many(budget), len(log.due_s)),
        throughput=round(int(right.sum()) / span_s, 3),
        goodput=round(int(in_time.sum()) / span_s, 3),
        latest_ms=round(float((left - due_s).max()) * 1000, 3) if len(left) == requests else None,
        stages=stages,
        scatter={
            **scatter.of_quantiles(taken_s[timed], SHARES),
            **scatter.of_quantiles(service_s[timed], OF_SERVICE),
            **{kind.name.lower(): scatter.of_share((log.kinds == kind)[measured]) for kind in OWN},
            "errors": scatter.of_share(log.of(*ERRORS)[measured]),
            "throughput": scatter.of_share(right, requests / span_s),
            "goodput": scatter.of_share(in_time, requests / span_s),
        },
        budget=limits,
        **ms,
    )


def taken_ms(log: Log) -> dict[str, npt.NDArray[Any]]:
    """A closed log's stages by name, (n,) each, NaN where untold; with a total among them, `network` beside it."""
    if "total" not in log.stages:
        return dict(log.stages)
    return {"network": (log.answered_s - log.sent_s) * 1000 - log.stages["total"]} | log.stages


def _quantiles(seconds: Seconds, shares: dict[str, float]) -> dict[str, Any]:
    """By key; of nothing, None each."""
    found = quantiles_ms(seconds, list(shares.values())) if len(seconds) else [None] * len(shares)
    return dict(zip(shares, found, strict=True))


def _against(
    budget: Budget, seconds: Seconds, requests: int, ms: dict[str, Any]
) -> tuple[dict[str, str], dict[str, str]]:
    """The quantiles that miss their budgets, and those that cannot be judged, by key and in words.

    Where too few requests carry the quantile, the highest that they do carry lies below it: when that one is above the
    budget, the budget is missed all the same.
    """
    missed, unjudged, count = {}, {}, len(seconds)
    for key in JUDGED:
        name, most, share = key.removesuffix("_ms"), getattr(budget, key), SHARES[key]
        if carried(count, share):
            if ms[key] > most:
                missed[key] = f"{name} {ms[key]:.2f} ms, at most {most:g}"
            continue
        below = (count - BEYOND) / max(1, count)
        if below > 0 and (least_ms := quantiles_ms(seconds, [below])[0]) > most:
            least = f"p{100 * below:.0f}, all that {count} requests carry, {least_ms:.2f} ms"
            missed[key] = f"{name}: {least}, at most {most:g}"
        else:
            timed_rate = budget.rate * max(1, count) / requests
            enough = f"duration_s = {np.ceil(enough_s(timed_rate, share)):.0f} sends enough"
            unjudged[key] = f"{name}: {count} timed requests, it takes {needed(share)}; {enough}"
    return missed, unjudged


def _shares_missed(budget: Budget, requests: int, errors: int, outcomes: dict[str, int]) -> dict[str, str]:
    refused, late = outcomes["refused"], outcomes["late"]
    parts = {"wrong or failed": errors, "late": late} | ({"refused": refused} if budget.refused is None else {})
    missed, count = {}, sum(parts.values())
    if count > budget.errors * requests:
        of = ", ".join(f"{number} {what}" for what, number in parts.items() if number)
        missed["errors"] = f"{count / requests:.2%} errors, at most {budget.errors:.2%} ({of})"
    if budget.refused is not None and refused > budget.refused * requests:
        missed["refused"] = f"{refused / requests:.2%} refused, at most {budget.refused:.2%}"
    return missed


def _reasons(log: Log, which: npt.NDArray[np.bool_]) -> dict[str, int]:
    """The most frequent first."""
    whys = (why for why, counts in zip(log.whys(), which.tolist(), strict=True) if counts)
    return dict(Counter(whys).most_common())


def _stages(log: Log, measured: npt.NDArray[np.bool_]) -> tuple[dict[str, dict[str, float]], list[str]]:
    """The stages of right answers, and which of their quantiles too few answers carry."""
    stages, few = {}, []
    for name, ms in taken_ms(log).items():
        told = ms[measured & log.right]
        told = told[~np.isnan(told)]
        if len(told):
            stages[name] = _quantiles(told / 1000, OF_STAGE)
            few += [f"stages.{name}.{key}" for key, share in OF_STAGE.items() if not carried(len(told), share)]
    return stages, few
