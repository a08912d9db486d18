"""Which requests are worth beginning: those that will not wait too long behind what is under way.

What is under way is counted in *work*: the seconds that a request takes alone, a fixed part and one per candidate, as
the model's warm runs had it. How long work waits in truth (more threads, a busy machine, another mix) is learnt from
what was answered: seconds in the service ÷ work that was there, its own included; of batches, which let single requests
pass, by itself. So the prediction mends itself, and is at hand before a body is read or parsed, from its length.

How long a wait is allowed: a burst may fill half of the deadline, since the queue that it makes goes away by itself.
Once somebody had to be refused, more comes than can be answered, and a queue does nobody good: for as long as that goes
on the wait is held to a few requests, which keep the machine as busy as a hundred would (after CoDel, Nichols and
Jacobson, 2012; there the sign is a wait that stays). Batches have time, and each takes the place of single requests:
then one is let in now and again, so that they do not starve. A request alone is never refused.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from service.call import Ticket
from service.errors import Overloaded
from service.scoring.lanes import BULK_TURN
from service.scoring.learnt import OUTLIER, Least, Ratio

BURST_SHARE, STEADY_SHARE = 0.5, 0.15  # of what is left until the deadline: what a request may wait, and in overload
STEADY_REQUESTS = 4  # like the one that asks may be waited for at least
# Seconds without a refusal: then the overload is over. With 0.2, near capacity, long queues came back in between.
CALM_S = 2.0
BULK_EVERY_S = 1.0  # in overload: from one batch that is let in to the next, and no two at once

# What is believed before anything is learnt: so many requests of so many candidates, answered as fast as work says.
PRIOR, PRIOR_CANDIDATES = 20, 500
BULK_SLOWNESS = 10  # beside single requests; too little lets in what keeps them waiting until the first batch is done
BYTES, BATCH_OF = 12.0, 10  # of a body per candidate; requests of a batch with so many candidates


class Work(NamedTuple):
    """What a request costs alone, encoded and scored: seconds, and seconds per candidate; a call's own beside that."""

    fixed_s: float
    candidate_s: float
    call_s: float = 0.0  # once for a single request, where it counts most; a batch is learnt of by itself

    def seconds(self, requests: int, candidates: int) -> float:
        return requests * self.fixed_s + candidates * self.candidate_s


class Size(NamedTuple):
    """What a body holds; one request, unless it is a batch."""

    requests: int
    candidates: int


class Class:
    """Single requests, or batches: the work of those under way, and what is learnt of those that were answered."""

    def __init__(self, prior_s: float, slowness: float, requests_per_byte: Ratio) -> None:
        self.work_s = 0.0
        self.slowness = Ratio(slowness * prior_s, prior_s)  # seconds in the service per second of work that was there
        self.candidates_per_byte = Ratio(PRIOR_CANDIDATES, PRIOR_CANDIDATES * BYTES)
        self.requests_per_byte = requests_per_byte

    def guessed(self, body_bytes: int) -> Size:
        requests, candidates = self.requests_per_byte(body_bytes), self.candidates_per_byte(body_bytes)
        return Size(max(1, round(requests)), max(1, round(candidates)))


class Admission:
    """The gate of one worker. Not for several threads.

    `most` candidates may be under way; `work` tells the work of a request to the model that answers now.
    """

    def __init__(self, most: int, work: Callable[[], Work], clock: Callable[[], float] = time.perf_counter) -> None:
        self._most, self._work, self._clock = most, work, clock
        self.candidates = 0  # under way, waiting ones included
        prior_s = PRIOR * work().seconds(1, PRIOR_CANDIDATES)
        self._single = Class(prior_s, 1, Ratio(0, 1))
        self._bulk = Class(prior_s, BULK_SLOWNESS, Ratio(PRIOR_CANDIDATES / BATCH_OF, PRIOR_CANDIDATES * BYTES))
        self._refused_at = -math.inf  # for its wait, the last single request
        self._bulk_at = -math.inf  # let in, the last batch
        self._store = Least(clock)

    @property
    def cost_s(self) -> float:
        """Seconds that a candidate of a single request costs, as learnt."""
        return self._single.slowness(self._work().candidate_s)

    def wait_s(self, bulk: bool = False) -> float:
        """Predicted seconds that a request let in now waits for what is under way; `bulk`: that a batch does."""
        return self._of(bulk).slowness(self._behind_s(bulk))

    def guessed(self, body_bytes: int, bulk: bool = False) -> Size:
        """What a body of that length holds, by what bodies held lately."""
        return self._of(bulk).guessed(body_bytes)

    def enter(self, size: Size, left_s: float | None, bulk: bool = False) -> Ticket:
        """Lets a request in that has `left_s` seconds until its deadline (None: it has none). Raises Overloaded."""
        ticket = Ticket(0, 0.0, 0.0, bulk)
        self._count(ticket, size, left_s)
        if bulk:
            self._bulk_at = self._clock()
        return ticket

    def check(self, size: Size, left_s: float | None, bulk: bool = False) -> None:
        """Raises Overloaded where `enter` would."""
        self._check(self._work_s(size, bulk), size.candidates, left_s, bulk)

    def counted(self, ticket: Ticket, size: Size, body_bytes: int, left_s: float | None) -> None:
        """What came in by `ticket` is parsed: so much it is, in truth. Raises Overloaded, and keeps what it was.

        It waits for what was under way before it and still is. Were those counted too that came meanwhile, a few that
        are long in parsing would see each other, and all be refused, for as long as more come: nobody got an answer.
        """
        of = self._of(ticket.bulk)
        of.candidates_per_byte.learn(size.candidates, body_bytes)
        if ticket.bulk:
            of.requests_per_byte.learn(size.requests, body_bytes)
        self._add(ticket, -1)
        try:
            self._count(ticket, size, left_s, ticket.together_s - ticket.work_s)
        except Overloaded:
            self._add(ticket, 1)
            raise

    def leave(self, ticket: Ticket, took_s: float | None, store_s: float = 0.0) -> None:
        """It is answered, after `took_s` in the service (None: it was not ranked), `store_s` of it for its history."""
        self._add(ticket, -1)
        if not self.candidates:
            self._single.work_s = self._bulk.work_s = 0.0  # what rounding left
        if took_s is None:
            return
        if not ticket.bulk:
            # Of a read's time the store's own part is what the quickest lately took: the rest was spent waiting for us.
            took_s -= min(store_s, self._store.of(store_s))
        self._of(ticket.bulk).slowness.learn(took_s, ticket.together_s, OUTLIER)

    def _work_s(self, size: Size, bulk: bool) -> float:
        work = self._work()
        return work.seconds(*size) + (0.0 if bulk else work.call_s)

    def _of(self, bulk: bool) -> Class:
        return self._bulk if bulk else self._single

    def _behind_s(self, bulk: bool) -> float:
        """The work that a request would wait for; of batches a single one waits for what comes between."""
        single_s, bulk_s = self._single.work_s, self._bulk.work_s
        return single_s + (bulk_s if bulk else min(bulk_s, single_s / BULK_TURN))

    def _count(self, ticket: Ticket, size: Size, left_s: float | None, before_s: float | None = None) -> None:
        work_s = self._work_s(size, ticket.bulk)
        self._check(work_s, size.candidates, left_s, ticket.bulk, before_s)
        ticket.candidates, ticket.work_s = size.candidates, work_s
        ticket.together_s = self._behind_s(ticket.bulk) + work_s
        self._add(ticket, 1)

    def _check(
        self, work_s: float, candidates: int, left_s: float | None, bulk: bool, before_s: float | None = None
    ) -> None:
        """`before_s`: the work that was under way when it was let in; None: it is not yet."""
        if not self.candidates:
            return
        if self.candidates + candidates > self._most:
            raise self._refusal(
                f"{candidates} candidates, {self.candidates} under way, at most {self._most} may be", bulk
            )
        if left_s is None:
            return
        if bulk and before_s is None and self._overloaded():
            since_s = self._clock() - self._bulk_at
            if self._bulk.work_s or since_s < BULK_EVERY_S:
                told = f"one batch at a time and every {BULK_EVERY_S:.0f} s, while single requests have to be refused"
                raise self._refusal(told, bulk)
        wait_s, allowed_s = self.wait_s(bulk), self._allowed_s(bulk, work_s, left_s)
        if before_s is not None:
            wait_s = min(wait_s, self._of(bulk).slowness(before_s))
        if wait_s > allowed_s:
            if not bulk and before_s is None:  # a caller in a hurry is no overload
                self._refused_at = self._clock()
            told = f"{wait_s * 1000:.0f} ms to wait, at most {max(0.0, allowed_s) * 1000:.0f} would do"
            raise self._refusal(f"{told} for an answer within {left_s * 1000:.0f} ms", bulk)

    def _allowed_s(self, bulk: bool, work_s: float, left_s: float) -> float:
        """How long a request of that work may wait, in seconds."""
        own_s = self._of(bulk).slowness(work_s)
        if bulk:  # its own work is no small part of its time
            return min(left_s * BURST_SHARE, left_s - own_s)
        if not self._overloaded():
            return left_s * BURST_SHARE
        return min(left_s * BURST_SHARE, max(left_s * STEADY_SHARE, STEADY_REQUESTS * own_s))

    def _overloaded(self) -> bool:
        """Whether single requests had to be refused just now."""
        return self._clock() - self._refused_at <= CALM_S

    def _add(self, ticket: Ticket, sign: int) -> None:
        self.candidates += sign * ticket.candidates
        of = self._of(ticket.bulk)
        of.work_s = max(0.0, of.work_s + sign * ticket.work_s)

    def _refusal(self, why: str, bulk: bool) -> Overloaded:
        after_s = max(1, math.ceil(self.wait_s(bulk)))
        return Overloaded(f"{why}; try again in {after_s} s", after_s)
