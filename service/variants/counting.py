"""What one worker counts of an experiment, and brings to the store beside the requests.

Ranking writes nothing: what was shown waits here and goes to the ledger every FLUSH_S, one parcel at a time; one that
nobody acknowledged is sent again, and counts once. So kill -9 costs as much as the journal's interval does. Clicks are
in the ledger before their 200.
"""

import asyncio
import logging
import math
import os
import time
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import xxhash

from service.feedback.judging import Judged
from service.store.history import StoreUnavailable
from service.store.ledger import DAY_MS, Clicked, Ledger, Parcel, Shown
from service.telemetry.logs import event
from service.variants.plan import Plan
from service.variants.tag import read

log = logging.getLogger("ranker")

FLUSH_S = 1.0
MOST_USERS = 100_000  # that wait while the store fails: more are not counted, and told
MOST_A_PARCEL = 1000  # users: what waited through a long outage must hold up neither requests nor the store
STEP = 1.05  # between two bounds of response times: quantiles are off by a fortieth at most
MINUTE_S = 60  # of which the safety catch judges
BAD = ("failed", "late")  # outcomes that are a variant's errors
SHARES, MODEL = "shares ", "model "  # of the experiment, and of a variant: what counts were made under
LATE_MS = DAY_MS  # after the window, that a click may arrive and still count


@dataclass(slots=True)
class Second:
    """What came of a variant's requests that were answered in one second."""

    at: int  # of the monotonic clock
    requests: int = 0
    bad: int = 0
    degraded: int = 0
    slow: int = 0  # beyond p99_ms


class Counting:
    """Of one experiment. All but `caught` belong to the event loop."""

    def __init__(self, plan: Plan, ledger: Ledger, key: bytes = b""):
        """`key`: of the hashes in request ids."""
        self.plan = plan  # the newest with its salt
        self.ledger = ledger
        self.key = key
        self.caught: Mapping[str, str] = {}
        self.since: Mapping[str, int] = {}  # SHARES and MODEL of all workers, and since when (ms)
        self.lost = 0  # items shown that could not be counted
        self._worker = f"{os.getpid()}.{time.time_ns()}"
        self._shown: Counter[tuple[str, str]] = Counter()
        self._figures: Counter[str] = Counter()
        self._since: dict[str, int] = {}  # of this worker
        self._parcel: Parcel | None = None  # sent, and not acknowledged
        self._number = 0
        self._minutes: dict[str, deque[Second]] = {}  # by variant, where the file has limits
        self._untold: dict[str, str] = {}  # of `caught`, what the store has still to be told
        self._failed = False
        self._lock = asyncio.Lock()

    def go_on(self, plan: Plan) -> None:
        """By a newer file with the same salt."""
        if plan.catch != self.plan.catch:  # `slow` was by another limit
            self._minutes.clear()
        self.plan = plan
        self.ledger.keep_clicks(clicked_ttl_s(plan))

    def shown(self, variant: str, user_id: str, items: int, model: str) -> None:
        """`model`: its name and version."""
        at = variant, user_id
        if at not in self._shown and len(self._shown) >= MOST_USERS:
            self.lost += items
            return
        self._shown[at] += items
        for what in (f"{SHARES}{self.plan.drawn_by}", f"{MODEL}{variant} {model}"):
            if what not in self._since:
                self._since[what] = time.time_ns() // 1_000_000

    def answered(self, variant: str, outcome: str, seconds: float) -> None:
        """One request of /rank, whatever became of it."""
        figures = self._figures
        figures[f"{variant}:requests"] += 1
        figures[f"{variant}:us"] += round(seconds * 1e6)
        figures[f"{variant}:t{bucket_of(seconds)}"] += 1
        if outcome != "ok":
            figures[f"{variant}:{'errors' if outcome in BAD else outcome}"] += 1
        catch = self.plan.catch
        if catch.limited:
            now, minute = int(time.monotonic()), self._minutes.setdefault(variant, deque(maxlen=MINUTE_S))
            if not minute or minute[-1].at != now:
                minute.append(Second(now))
            second = minute[-1]
            second.requests += 1
            second.bad += outcome in BAD
            second.degraded += outcome == "degraded"
            second.slow += catch.p99_ms is not None and seconds * 1000 > catch.p99_ms

    async def clicked(self, events: Sequence[Judged], object_type: str) -> dict[str, int]:
        """Counts those that are clicks on what a variant showed, each once: how many were new, by variant.

        Raises StoreUnavailable; all may be given again.
        """
        window_ms, now = int(self.plan.window_s * 1000), time.time_ns() // 1_000_000
        clicks = []
        for one in events:
            action, kind, object_id, timestamp = one.behaviour
            if one.request_id is None or (action, kind) != (self.plan.click, object_type):
                continue
            shown = read(one.request_id, one.user_id, self.plan.id, self.key)
            if shown is None or not shown.now <= timestamp <= shown.now + window_ms:
                continue
            if now > shown.now + window_ms + LATE_MS:
                continue
            what = xxhash.xxh3_128_hexdigest(f"{one.request_id}\n{object_id}".encode(errors="surrogatepass"))
            clicks.append(Clicked(shown.variant, one.user_id, what, shown.now // DAY_MS))
        if not clicks:
            return {}
        new = await self.ledger.click(clicks)
        return Counter(click.variant for click, counts in zip(clicks, new, strict=True) if counts)

    async def flush(self) -> bool:
        """Brings to the store what was counted, and learns who was caught elsewhere. False: it could not be done."""
        async with self._lock:  # a parcel is one sender's
            try:
                await self._bring()
                await self._tell()
                caught, self.since = await self.ledger.standing()
                self._learn(caught)
            except StoreUnavailable as error:
                if not self._failed:
                    down = event("ledger", "down", well=False)
                    log.warning("experiment: what was shown waits for the store: %s", error, extra=down)
                self._failed = True
                return False
            if self._failed:
                log.info("experiment: the store takes what was shown again", extra=event("ledger", "up"))
            self._failed = False
            return True

    async def _bring(self) -> None:
        await self._send()
        for _ in range(max(math.ceil(len(self._shown) / MOST_A_PARCEL), bool(self._figures))):
            self._number += 1
            shown = [Shown(*at, self._shown.pop(at)) for at in [*islice(self._shown, MOST_A_PARCEL)]]
            self._parcel = Parcel(self._worker, self._number, shown, dict(self._figures), dict(self._since))
            self._figures.clear()
            await self._send()

    async def _send(self) -> None:
        if self._parcel is not None:
            await self.ledger.add(self._parcel)
            self._parcel = None

    async def _tell(self) -> None:
        for variant, why in [*self._untold.items()]:
            await self.ledger.catch(variant, why)
            self._untold.pop(variant, None)

    def _learn(self, caught: Mapping[str, str]) -> None:
        for variant in caught.keys() ^ self.caught.keys():  # what was before says nothing of a variant let in again
            self._minutes.pop(variant, None)
        self.caught = caught

    async def let_in(self, variant: str) -> bool:
        """Whether it had been out. Raises StoreUnavailable."""
        was = await self.ledger.let_in(variant)
        self._untold.pop(variant, None)
        self._learn({name: why for name, why in self.caught.items() if name != variant})
        return was

    async def look(self) -> list[str]:
        """Takes out the variants that left the limits in the last minute; gives their names."""
        out, names = [], {variant.name for variant in self.plan.variants}
        for variant, minute in list(self._minutes.items()):
            if variant not in names:  # the file had it before
                self._minutes.pop(variant, None)
                continue
            while minute and time.monotonic() - minute[0].at > MINUTE_S:
                minute.popleft()
            if variant == self.plan.base or variant in self.caught or (why := beyond(minute, self.plan)) is None:
                continue
            out.append(variant)
            self._untold[variant] = f"{time.time_ns() // 1_000_000} {why}"
            self._learn({**self.caught, variant: self._untold[variant]})
            taken_out = event("variant", variant, well=False)
            log.error("variant %s is taken out, users get %s: %s", variant, self.plan.base, why, extra=taken_out)
            try:
                await self._tell()
            except StoreUnavailable as error:
                log.error("variant %s: other workers cannot be told yet: %s", variant, error, extra=taken_out)
        return out


def clicked_ttl_s(plan: Plan) -> float:
    """How long clicks of a day are known, so that none counts twice while it may still come."""
    return 2 * plan.window_s + (LATE_MS + DAY_MS) / 1000


def beyond(minute: Collection[Second], plan: Plan) -> str | None:
    """Which limit a variant's last requests are beyond; None: none, or they are too few."""
    catch, count = plan.catch, sum(second.requests for second in minute)
    if count < catch.requests:
        return None
    bad, degraded = sum(second.bad for second in minute), sum(second.degraded for second in minute)
    if catch.errors is not None and bad > catch.errors * count:
        return f"{bad / count:.1%} of {count} requests failed or were late, errors = {catch.errors:g} is allowed"
    if catch.degraded is not None and degraded > catch.degraded * count:
        return f"{degraded / count:.1%} of {count} requests were degraded, degraded = {catch.degraded:g} is allowed"
    slow = sum(second.slow for second in minute)
    if catch.p99_ms is not None and slow > count - math.ceil(0.99 * count):
        return f"p99 of {count} requests is beyond p99_ms = {catch.p99_ms:g}: {slow} of them took longer"
    return None


def bucket_of(seconds: float) -> int:
    """Of a response time; `middle_ms` of it is off by a fortieth at most."""
    return round(math.log(max(seconds, 1e-6) * 1e6, STEP))


def middle_ms(bucket: int) -> float:
    return float(STEP**bucket) / 1000
