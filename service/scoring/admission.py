"""Which requests are worth beginning: those that will not wait too long behind what is under way.

What is under way is counted in *work*: the seconds that a request takes alone, a fixed part and one per candidate, as
the model's warm runs had it. How long work waits in truth (more threads, a busy machine, another mix) is learnt from
what was answered: seconds in the service ÷ work that was there, its own included. So the prediction mends itself, and
is at hand before a body is read or parsed, from the body's length.

How long a wait is allowed: a burst may fill half of the deadline, since the queue that it makes goes away by itself.
Once somebody had to be refused, more comes than can be answered, and a queue does nobody good: for as long as that goes
on the wait is held to a few requests, which keep the machine as busy as a hundred would (after CoDel, Nichols and
Jacobson, 2012; there the sign is a wait that stays). A request alone is never refused.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from service.call import Ticket
from service.errors import Overloaded
from service.scoring.lanes import BULK_TURN

BURST_SHARE, STEADY_SHARE = 0.5, 0.125  # of what is left until the deadline: what a request may wait, and in overload
STEADY_REQUESTS = 4  # like the one that asks may be waited for at least
CALM_S = 0.2  # without a refusal: then the overload is over
MEMORY = 0.98  # of what is learnt is kept with each request more: it is gone after some hundred
PRIOR = 20  # requests of 500 candidates, answered as fast as work says: what is believed before anything is learnt
OUTLIER = 3  # times what was predicted: a request that stalled for longer counts as this much
BYTES = 12.0  # of a body per candidate, likewise
LEAST_OVER_S = 1.0


class Work(NamedTuple):
    """What a request costs alone, encoded and scored: seconds, and seconds per candidate."""

    fixed_s: float
    candidate_s: float

    def seconds(self, requests: int, candidates: int) -> float:
        return requests * self.fixed_s + candidates * self.candidate_s


class Least:
    """The least of the values of the last one to two seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._since = clock, clock()
        self._now = self._before = math.inf

    def of(self, value: float) -> float:
        """With this one among them."""
        now = self._clock()
        if now - self._since > LEAST_OVER_S:
            stale = now - self._since > 2 * LEAST_OVER_S
            self._before, self._now, self._since = math.inf if stale else self._now, math.inf, now
        self._now = min(self._now, value)
        return min(self._now, self._before)


class Admission:
    """The gate of one worker. Not for several threads.

    `most` candidates may be under way; `work` tells the work of a request to the model that answers now.
    """

    def __init__(self, most: int, work: Callable[[], Work], clock: Callable[[], float] = time.perf_counter) -> None:
        self._most, self._work = most, work
        self.candidates = 0  # under way, waiting ones included
        self._single_s = self._bulk_s = 0.0  # work under way
        self._worked_s = self._took_s = PRIOR * work().seconds(1, 500)  # of what was answered lately
        self._bytes, self._counted = BYTES * 100, 100.0
        self._clock = clock
        self._refused_at = -math.inf  # for its wait, the last one
        self._store = Least(clock)

    @property
    def slowness(self) -> float:
        """Seconds in the service per second of work that is there."""
        return self._took_s / self._worked_s

    @property
    def cost_s(self) -> float:
        """Seconds that a candidate costs, as learnt."""
        return self.slowness * self._work().candidate_s

    def wait_s(self, bulk: bool = False) -> float:
        """Predicted seconds that a request let in now waits for what is under way; `bulk`: that a batch does."""
        return self.slowness * (self._single_s + (self._bulk_s if bulk else self._between_s()))

    def guessed(self, body_bytes: int) -> int:
        """Candidates of a request with a body of that length, by what bodies were lately."""
        return max(1, round(body_bytes * self._counted / self._bytes))

    def enter(self, candidates: int, left_s: float | None, bulk: bool = False) -> Ticket:
        """Lets a request in that has `left_s` seconds until its deadline (None: it has none). Raises Overloaded.

        A batch may wait for as long as it ends in time.
        """
        ticket = Ticket(0, 0.0, 0.0, bulk)
        self._count(ticket, 1, candidates, left_s)
        return ticket

    def check(self, candidates: int, left_s: float | None, bulk: bool = False) -> None:
        """Raises Overloaded where `enter` would."""
        self._check(self._work().seconds(1, candidates), candidates, left_s, bulk)

    def counted(self, ticket: Ticket, requests: int, candidates: int, body_bytes: int, left_s: float | None) -> None:
        """What came in by `ticket` is parsed: so much it is, in truth. Raises Overloaded, and keeps what it was."""
        if not ticket.bulk:
            self._bytes = self._bytes * MEMORY + body_bytes
            self._counted = self._counted * MEMORY + candidates
        self._add(ticket, -1)
        try:
            self._count(ticket, requests, candidates, left_s)
        except Overloaded:
            self._add(ticket, 1)
            raise

    def leave(self, ticket: Ticket, took_s: float | None, store_s: float = 0.0) -> None:
        """It is answered, after `took_s` in the service (None: it was not ranked), `store_s` of it for its history."""
        self._add(ticket, -1)
        if not self.candidates:
            self._single_s = self._bulk_s = 0.0  # what rounding left
        if took_s is not None and not ticket.bulk:
            # Of a read's time the store's own part is what the quickest lately took: the rest was spent waiting for us.
            waited_s = took_s - min(store_s, self._store.of(store_s))
            waited_s = min(waited_s, OUTLIER * self.slowness * ticket.together_s)
            self._worked_s = self._worked_s * MEMORY + ticket.together_s
            self._took_s = self._took_s * MEMORY + waited_s

    def _count(self, ticket: Ticket, requests: int, candidates: int, left_s: float | None) -> None:
        work_s = self._work().seconds(requests, candidates)
        self._check(work_s, candidates, left_s, ticket.bulk)
        ticket.candidates, ticket.work_s = candidates, work_s
        ticket.together_s = self._single_s + self._between_s() + work_s
        self._add(ticket, 1)

    def _check(self, work_s: float, candidates: int, left_s: float | None, bulk: bool) -> None:
        if not self.candidates:
            return
        if self.candidates + candidates > self._most:
            raise self._refusal(f"{candidates} candidates, {self.candidates} under way, at most {self._most} may be")
        if left_s is None:
            return
        wait_s, allowed_s = self.wait_s(bulk), self._allowed_s(bulk, work_s, left_s)
        if wait_s > allowed_s:
            if not bulk:
                self._refused_at = self._clock()
            told = f"{wait_s * 1000:.0f} ms to wait, at most {max(0.0, allowed_s) * 1000:.0f} would do"
            raise self._refusal(f"{told} for an answer within {left_s * 1000:.0f} ms")

    def _allowed_s(self, bulk: bool, work_s: float, left_s: float) -> float:
        """How long a request of that work may wait, in seconds."""
        own_s = self.slowness * work_s
        if bulk:
            return left_s - own_s
        if self._clock() - self._refused_at > CALM_S:
            return left_s * BURST_SHARE
        return min(left_s * BURST_SHARE, max(left_s * STEADY_SHARE, STEADY_REQUESTS * own_s))

    def _between_s(self) -> float:
        """Work of batches that comes between single requests."""
        return min(self._bulk_s, self._single_s / BULK_TURN)

    def _add(self, ticket: Ticket, sign: int) -> None:
        self.candidates += sign * ticket.candidates
        if ticket.bulk:
            self._bulk_s = max(0.0, self._bulk_s + sign * ticket.work_s)
        else:
            self._single_s = max(0.0, self._single_s + sign * ticket.work_s)

    def _refusal(self, why: str) -> Overloaded:
        after_s = max(1, math.ceil(self.slowness * (self._single_s + self._bulk_s)))
        return Overloaded(f"{why}; try again in {after_s} s", after_s)
