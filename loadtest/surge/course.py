"""The course of a run beyond capacity: what is measured, in order, of one service."""

import asyncio
import sys
from dataclasses import dataclass, replace

from tqdm import tqdm

from loadtest.errors import NoRun
from loadtest.generator import plan
from loadtest.generator.budgets import Budget
from loadtest.generator.client import Client, parse_url
from loadtest.generator.target import Target
from loadtest.quantiles import enough_s
from loadtest.surge import scrape
from loadtest.surge.probes import Probes, probing
from loadtest.surge.traffic import Mix, Segment, Traffic
from loadtest.surge.windows import Span, Window, window
from loadtest.verdict.report import Outcome, judge
from loadtest.verdict.search import Capacity, search
from loadtest.verdict.words import why

CANDIDATES = 500
BUDGET_MS = 50.0
MOST_RATE = 5_000.0  # of the search
SETTLE_S = 120.0  # at most, for the service to work off what a window left behind
SINGLE = Mix()


@dataclass(frozen=True)
class Sizes:
    rounds: int = 1
    begin: float = 100.0  # rate that the search begins with
    window_s: float = 10.0
    warmup_s: float = 2.0
    recover_s: float = 5.0
    capacity: int = 0  # requests per second; 0: searched
    tries: int = 4  # of a window whose sends were late
    deadline_ms: float = 200.0  # that the service has: RANKER_TIMEOUT_MS
    settled_ms: float = BUDGET_MS  # single requests are answered within it before the next window
    count_late: bool = False  # count windows whose sends were late, for a look on a busy machine


class Course:
    """One service under test. Use it within one running loop, and close it there."""

    def __init__(self, url: str, admin_url: str, sizes: Sizes):
        self.sizes = sizes
        self._address = parse_url(url)
        self.main, self.admin = Probes(self._address), Probes(parse_url(admin_url))
        self._target = Target(self._address, None)
        self._budget = Budget(
            "overload", sizes.begin, sizes.window_s, CANDIDATES, BUDGET_MS, BUDGET_MS, 0, warmup_s=sizes.warmup_s
        )
        self._rng = plan.generator(1, "overload")
        self.repeated = 0

    async def reach(self) -> None:
        """Raises NoRun."""
        await self._target.reach([self._budget])
        self._traffic = Traffic.drawn(self._target, self._address, self._budget, self._rng)
        await self._settle()

    async def close(self) -> None:
        await self._target.close()

    async def capacity(self) -> Capacity:
        """Raises NoRun where nothing is confirmed."""

        async def measure(rate: float) -> Outcome:
            at = replace(self._budget, rate=rate, duration_s=max(self.sizes.window_s, enough_s(rate, 0.99)))
            outcome = judge(at, await self._target.run(at, self._rng, self._traffic.singles, f"{rate:.0f}/s"))
            tell(f"capacity: {rate:.1f}/s: {'; '.join(why(outcome)) or outcome.verdict}")
            if not outcome.passed:
                await self._settle()
            return outcome

        found = await search(measure, self.sizes.begin, MOST_RATE, curve=False)
        if not found.confirmed:
            raise NoRun(f"no capacity: {'; '.join(found.words())}")
        return found

    async def window(self, capacity: float, times: float, mix: Mix = SINGLE, recover: bool = False) -> Window:
        """At so many times the capacity; repeated while its sends are late."""
        warm_s, seconds = self.sizes.warmup_s, self.sizes.window_s
        span = Span(warm_s, warm_s + seconds)
        segments = [Segment(span.end_s, times * capacity)]
        if recover:
            segments.append(Segment(self.sizes.recover_s, capacity / 2))
        for number in range(1, self.sizes.tries + 1):
            before = await self._computed()
            ports = Probes(self.main.address), Probes(self.admin.address)
            async with probing(ports):
                sent = await self._traffic.send(segments, mix, f"{times:g} x capacity")
            sent.finish()
            asked = await self._settle()
            computed = await self._computed() - before - asked
            seen = window(times, sent, span, BUDGET_MS, self.sizes.deadline_ms, computed)
            tell(f"{times:g} x capacity: goodput {seen.goodput:.1f}/s{'' if seen.good else ', sent too late'}")
            if seen.good or self.sizes.count_late:
                self.main.join(ports[0])  # a generator that lags would count its own lag as the port's
                self.admin.join(ports[1])
                break
            self.repeated += number < self.sizes.tries
        return seen

    async def _computed(self) -> int:
        """Answers to POST /rank that the service has computed since its start. Raises NoRun."""
        client = Client(self._address)
        try:
            counts = scrape.requests(await scrape.scrape(client))
            return counts["ok"] + counts["degraded"]
        finally:
            await client.close()

    async def _settle(self) -> int:
        """Waits until three requests in a row are answered as single ones are; gives how many answers that took.

        Raises NoRun after SETTLE_S.
        """
        clock = asyncio.get_running_loop().time
        until, quick, answers, within_ms = clock() + SETTLE_S, 0, 0, self.sizes.settled_ms
        while quick < 3:
            if clock() > until:
                raise NoRun(f"the service did not answer within {within_ms:g} ms again, {SETTLE_S:g} s after a window")
            client, begun = Client(self._address), clock()
            try:
                answer = await client.ask("POST", "/rank", self._traffic.singles[0].content)
                answers += answer.status == 200
                quick = quick + 1 if answer.status == 200 and (answer.at - begun) * 1000 <= within_ms else 0
            except NoRun:
                quick = 0
            finally:
                await client.close()
            await asyncio.sleep(0.05)
        return answers


def tell(line: str) -> None:
    tqdm.write(f"overload: {line}", file=sys.stderr)
