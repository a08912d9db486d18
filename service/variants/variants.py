"""The way in for requests and events: which variant a user is given, and what is counted for it."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from model.features.ids import shown as short
from service.call import Call
from service.feedback.judging import Judged
from service.scoring.served import Taken
from service.store.history import StoreUnavailable
from service.telemetry.counts import Metrics
from service.variants.counting import FLUSH_S, Counting
from service.variants.experiment import Experiment
from service.variants.following import Following
from service.variants.tag import tagged

log = logging.getLogger("ranker")

HEADER = "x-ranker-variant"  # names the variant of one request, which then counts for nothing
UNDER_WAY_S = 10.0  # that requests of an experiment which has ended may still take


class UnknownVariant(ValueError):
    """A header names what is no variant."""


class Variants:
    def __init__(self, following: Following, metrics: Metrics):
        self.following, self._metrics = following, metrics
        self._look = asyncio.Lock()
        self._looked: tuple[float, Counting | None, Counter[str] | StoreUnavailable] = (0.0, None, Counter())

    @property
    def experiment(self) -> Experiment | None:
        """What runs now."""
        return self.following.experiment

    # ---- beside the requests

    async def run(self) -> None:
        """For ever: brings what is counted to the store, and takes out variants that left their limits."""
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except Exception:  # what nobody foresaw must not end the counting
                log.exception("experiment: what was counted could not be brought to the store")

    async def flush(self) -> None:
        experiment = self.experiment
        for counting, since in [*self.following.ending.items()]:
            if await counting.flush() and time.monotonic() - since > UNDER_WAY_S:
                if self.following.ending.pop(counting, None) is not None:  # another flush may have been here meanwhile
                    await counting.ledger.close()
        if experiment is not None:
            await experiment.counting.flush()
            for name in await experiment.counting.look():
                if (arm := experiment.arms.get(name)) is not None:  # None: another file has just been taken over
                    self._metrics.add("ranker_variant_caught", slot=arm.live.current.slot)

    async def end(self) -> None:
        """Brings the rest."""
        await self.flush()
        for counting in [*self.following.ending] + ([] if self.experiment is None else [self.experiment.counting]):
            await counting.ledger.close()

    async def totals(self, experiment: Experiment) -> Counter[str]:
        """All sums, this worker's own included. Raises StoreUnavailable.

        Those who ask while the store is being asked share the next answer: many at once must not take the connections
        that clicks need.
        """
        came = time.monotonic()
        async with self._look:
            begun, counting, totals = self._looked
            if begun < came or counting is not experiment.counting:
                begun = time.monotonic()
                await self.flush()
                try:
                    totals = await experiment.counting.ledger.totals()
                except StoreUnavailable as error:
                    totals = error
                self._looked = begun, experiment.counting, totals
        if isinstance(totals, StoreUnavailable):
            raise totals
        return totals

    # ---- requests and events

    def take(self, call: Call, user_id: str, live: bool, named: str | None, now: int) -> Taken | None:
        """Who answers a user's request; None: nothing runs, and the default does.

        `named`: by the header. A request that is not `live` counts for nothing. Raises UnknownVariant.
        """
        experiment = self.experiment
        if experiment is None:
            return None
        if named is not None:
            if named not in experiment.arms:
                raise UnknownVariant(f"{short(named)} given, allowed: {', '.join(experiment.arms)}")
            return Taken(experiment.arms[named].live.current, call.id)
        if not experiment.plan.runs(now):
            return None
        arm = experiment.arm_of(user_id)
        served = arm.live.current
        if not live:
            return Taken(served, call.id)
        name, counting = arm.variant.name, experiment.counting
        request_id = tagged(call.id, name, now, user_id, experiment.plan.id, counting.key)

        def shown(user_id: str, items: int) -> None:
            counting.shown(name, user_id, items, f"{served.name} {served.version}")
            self._metrics.add("ranker_experiment_impressions", items, slot=served.slot)

        return Taken(served, request_id, shown, partial(counting.answered, name))

    async def clicked(self, events: Sequence[Judged], object_type: str) -> None:
        """Counts those that are clicks on what a variant showed. Raises StoreUnavailable."""
        experiment = self.experiment
        if experiment is None:
            return
        new: Mapping[str, int] = await experiment.counting.clicked(events, object_type)
        for name, count in new.items():
            if (arm := experiment.arms.get(name)) is not None:
                self._metrics.add("ranker_experiment_clicks", count, slot=arm.live.current.slot)
