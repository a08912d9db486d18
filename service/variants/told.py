"""Sums of the ledger → what GET /experiments tells."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Literal

import numpy as np

from service.comparing.statistics import ALPHA, PRIOR_USERS, Floats, Moments, gain, rate_interval
from service.variants.counting import MODEL, SHARES, middle_ms
from service.variants.experiment import Experiment
from service.wire.experiments import ExperimentTold, Interval, ResponseTime, SampleRatio, VariantResult

MISMATCH = 0.01
SEVERAL = 0.05  # of users, who saw several variants: as the report, which then says not to decide


def told(experiment: Experiment, totals: Counter[str], now: int) -> ExperimentTold:
    """`now`: ms since 1970."""
    plan = experiment.plan
    moments = {name: moments_of(totals, name) for name in experiment.arms}
    alpha = ALPHA / (len(moments) - 1)  # Bonferroni, as the report has it
    begun, ended = now >= plan.begin_ms, plan.end_ms is not None and now >= plan.end_ms
    users = [int(moments[variant.name].users) for variant in plan.variants]
    p = sample_ratio(users, [variant.share for variant in plan.variants])
    well = p is None or p >= MISMATCH
    own = {} if ended else {SHARES + plan.drawn_by: now}
    changed = shares_changed(_since(own | dict(experiment.counting.since), SHARES))
    sound = well and changed is None and totals["mixed"] <= SEVERAL * (sum(users) - totals["mixed"])
    variants = [_variant(experiment, name, totals, moments, alpha, sound) for name in experiment.arms]
    return ExperimentTold(
        salt=plan.salt,
        state="ended" if ended else "runs" if begun else "to_come",
        start=plan.begin_ms,
        end=plan.end_ms,
        control=plan.base,
        click=plan.click,
        window_s=plan.window_s,
        shadows=[shadow.name for shadow in plan.shadows],
        variants=variants,
        sample_ratio=SampleRatio(p=p, well=well, users_in_several=totals["mixed"], shares_changed=changed),
        uncounted=experiment.counting.lost,
    )


def _variant(
    experiment: Experiment, name: str, totals: Counter[str], moments: dict[str, Moments], alpha: float, sound: bool
) -> VariantResult:
    served, variant, own = experiment.arms[name].live.current, experiment.arms[name].variant, moments[name]
    base = experiment.plan.base
    low, high = rate_interval(own)
    estimate = _number(own.y / own.x) if own.x else None
    over: Interval | None = None
    decided: Literal["more", "fewer"] | None = None
    if name != base:
        one = gain(own, moments[base], alpha)
        over = Interval(estimate=_number(one.estimate), low=_number(one.low), high=_number(one.high))
        if sound:
            decided = "more" if one.low > 0 else "fewer" if one.high < 0 else None
    return VariantResult(
        name=name,
        model=served.name,
        version=served.version,
        models=list(_since(experiment.counting.since, f"{MODEL}{name} ")),
        share=variant.share,
        caught=experiment.counting.caught.get(name),
        users=int(own.users),
        impressions=int(own.x),
        clicks=int(own.y),
        ctr=estimate,
        ctr_interval=Interval(estimate=estimate, low=_number(low), high=_number(high)),
        gain=over,
        decided=decided,
        response_ms=_times(totals, name),
        requests=totals[f"{name}:requests"],
        errors=totals[f"{name}:errors"],
        degraded=totals[f"{name}:degraded"],
    )


def shares_changed(shares: Mapping[str, int]) -> str | None:
    """`shares` by which users were drawn, and since when (ms), in that order: what is wrong with more than one."""
    if len(shares) < 2:
        return None
    (first, begun), *_, (last, changed) = shares.items()
    return (
        f"Shares changed under the same salt: {first} since {_when(begun)}, {last} since {_when(changed)} UTC. Users "
        "of other shares came at other times, so nobody should decide by counts of both: give a new salt, and all "
        "begins anew."
    )


def _since(since: Mapping[str, int], kind: str) -> dict[str, int]:
    """What of it is of a kind, without that, the first first."""
    return {
        what.removeprefix(kind): ms for what, ms in sorted(since.items(), key=itemgetter(1)) if what.startswith(kind)
    }


def _when(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def moments_of(totals: Counter[str], name: str) -> Moments:
    return Moments(*(np.asarray(totals[f"{name}:{part}"], float) for part in ("users", "x", "y", "xx", "xy", "yy")))


def _times(totals: Counter[str], name: str) -> ResponseTime:
    requests = totals[f"{name}:requests"]
    if not requests:
        return ResponseTime(average=None, p50=None, p99=None)
    start = f"{name}:t"
    buckets = sorted(
        (int(key[len(start) :]), count)
        for key, count in totals.items()
        if key.startswith(start) and key[len(start) :].lstrip("-").isdigit()
    )
    return ResponseTime(
        average=totals[f"{name}:us"] / requests / 1000, p50=_quantile(buckets, 0.5), p99=_quantile(buckets, 0.99)
    )


def _quantile(buckets: Sequence[tuple[int, int]], q: float) -> float:
    wanted, seen = q * sum(count for _, count in buckets), 0
    for bucket, count in buckets:
        seen += count
        if seen >= wanted:
            return middle_ms(bucket)
    raise AssertionError("no bucket")


def sample_ratio(users: Sequence[int], shares: Sequence[float]) -> float | None:
    """How likely, at worst, counts of users by arm are by these shares: as comparing.statistics has it, at this look.

    None: nobody yet, or an arm without a share has users, of whom no share tells anything.
    """
    if not sum(users) or any(count and not share for count, share in zip(users, shares, strict=True)):
        return None
    log_odds = math.lgamma(PRIOR_USERS) - math.lgamma(PRIOR_USERS + sum(users))
    for count, share in zip(users, shares, strict=True):
        if share:
            prior = PRIOR_USERS * share
            log_odds += math.lgamma(prior + count) - math.lgamma(prior) - count * math.log(share)
    return min(1.0, math.exp(-log_odds)) if log_odds < 700 else 0.0


def _number(value: Floats) -> float | None:
    return float(value) if np.isfinite(value) else None
