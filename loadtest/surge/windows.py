"""What became of a window's requests: goodput, times, and how long the service took to recover."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from loadtest.generator.answers import ERRORS, Kind, Log
from loadtest.generator.replay import Seconds
from loadtest.quantiles import quantiles_ms
from loadtest.surge.traffic import Sent
from loadtest.verdict.report import MOST_LATE, late_share

SLICE_S = 0.2  # recovery is looked at in slices of it
USUAL = 0.95  # of half load's slices are as quick as a slice must be to count as recovered
IN_A_ROW = 2  # slices that must: one may be quick by chance


class Span(NamedTuple):
    """Requests due in it are measured."""

    begin_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.begin_s

    def of(self, log: Log) -> npt.NDArray[np.bool_]:
        return (log.due_s >= self.begin_s) & (log.due_s < self.end_s)


class Window(NamedTuple):
    """One window: figures of the single requests, of batches and of callers who hang up, where there were any.

    `computed` are the answers to POST /rank that the service counted, warm-up and recovery included.
    """

    times: float  # the capacity
    figures: dict[str, Any]
    batches: dict[str, Any]
    impatient: dict[str, Any]
    sends_late: float  # share
    computed: int
    sent: Sent

    @property
    def good(self) -> bool:
        """Whether it counts: the generator sent what it should, when it should."""
        return self.sends_late <= MOST_LATE

    @property
    def goodput(self) -> float:
        """Right answers in time per second, a batch as one."""
        return float(sum(of.get("goodput", 0.0) for of in (self.figures, self.batches, self.impatient)))

    @property
    def hung_up(self) -> int:
        """Callers who did not wait for their answer."""
        return int((~self.sent.impatient.right).sum())

    @property
    def in_vain(self) -> int:
        """Answers that were computed and reached nobody."""
        return max(0, self.computed - sum(int(log.right.sum()) for log in (self.sent.singles, self.sent.impatient)))


def window(times: float, sent: Sent, span: Span, budget_ms: float, deadline_ms: float, computed: int) -> Window:
    due, left = (
        np.concatenate([getattr(log, name)[span.of(log)] for log in sent if len(log.due_s)])
        for name in ("due_s", "sent_s")
    )
    figures, batches, impatient = (outcome(log, span, budget_ms, deadline_ms) if len(log.due_s) else {} for log in sent)
    return Window(times, figures, batches, impatient, late_share(due, left, budget_ms), computed, sent)


def outcome(log: Log, span: Span, budget_ms: float, deadline_ms: float) -> dict[str, Any]:
    """Rates are per second, shares of the requests, times from when a request was due; None where nothing was."""
    mine = span.of(log)
    taken_ms = 1000 * (log.answered_s - log.due_s)
    right, refused = mine & log.right, mine & log.of(Kind.REFUSED)
    requests = max(1, int(mine.sum()))
    p50, p99 = _quantiles(taken_ms[right])
    refusal_p50, refusal_p99 = _quantiles(taken_ms[refused])
    whys = [why for why, bad in zip(log.whys(), mine & log.of(*ERRORS), strict=True) if bad]
    return {
        "offered": int(mine.sum()) / span.seconds,
        "goodput": int((right & (taken_ms <= budget_ms)).sum()) / span.seconds,
        "goodput_deadline": int((right & (taken_ms <= deadline_ms)).sum()) / span.seconds,
        "accepted": int(right.sum()),
        "p50_accepted_ms": p50,
        "p99_accepted_ms": p99,
        "refused": int(refused.sum()) / requests,
        "refusal_p50_ms": refusal_p50,
        "refusal_p99_ms": refusal_p99,
        "late": int((mine & log.of(Kind.LATE)).sum()) / requests,
        "degraded": int((mine & log.of(Kind.DEGRADED)).sum()) / requests,
        "failed": len(whys) / requests,
        "failures": {why: whys.count(why) for why in sorted(set(whys))},
    }


def _quantiles(taken_ms: Seconds) -> list[float | None]:
    return [*quantiles_ms(taken_ms / 1000)] if len(taken_ms) else [None, None]


class Slice(NamedTuple):
    begin_s: float
    p99_ms: float  # of right answers; infinite where there are none
    turned_away: float  # share that got no right answer


def slices(log: Log, span: Span) -> list[Slice]:
    """The span's slices of SLICE_S; those in which nothing was due are left out."""
    found = []
    for begin_s in np.arange(span.begin_s, span.end_s - SLICE_S / 2, SLICE_S):
        mine = Span(begin_s, begin_s + SLICE_S).of(log)
        if mine.any():
            right = mine & log.right
            p99_ms = quantiles_ms((log.answered_s - log.due_s)[right])[1] if right.any() else np.inf
            found.append(Slice(float(begin_s), p99_ms, 1 - right.sum() / mine.sum()))
    return found


def recovery_s(half: list[Slice], after: list[Slice], load_end_s: float) -> float | None:
    """Seconds from the load's end until slices are as quick as half load's usually are; None where they never were.

    A slice has recovered when its p99 is within that of USUAL of half load's slices and it turns away no larger share
    than the worst of them, and so has the next one.
    """
    limit_ms = float(np.quantile([one.p99_ms for one in half], USUAL, method="inverted_cdf"))
    most_away = max(one.turned_away for one in half)
    back = [one.p99_ms <= limit_ms and one.turned_away <= most_away for one in after]
    for at in range(len(back) - IN_A_ROW + 1):
        if all(back[at : at + IN_A_ROW]):
            return after[at].begin_s - load_end_s
    return None
