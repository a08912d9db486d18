"""The way in for requests and events: which variant a user is given, and what is counted for it.

The file is watched like the catalogue: another one is read, its bundles are checked and loaded in this thread, and all
of it is taken over by one reference, or refused and told while the one before goes on.
"""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from model.bundle.errors import BundleError
from model.features.ids import shown as short
from model.files import write_text
from service.call import Call
from service.feedback.judging import Judged
from service.models.check import BEHIND, checked
from service.models.loading import Pause
from service.models.target import target_of
from service.scoring.served import Taken
from service.store.history import StoreUnavailable
from service.telemetry.counts import Metrics
from service.telemetry.logs import event
from service.variants.counting import FLUSH_S, Counting
from service.variants.experiment import Experiment
from service.variants.opening import Opening, memory_mb, stamps
from service.variants.plan import Plan, PlanError
from service.variants.reading import check_shadows, plan_of, read
from service.variants.tag import tagged

log = logging.getLogger("ranker")

HEADER = "x-ranker-variant"  # names the variant of one request, which then counts for nothing
CLOSE_S = 0.5
UNDER_WAY_S = 10.0  # that requests of an experiment which has ended may still take
GOOD = "experiments.toml"  # beside the counts: what a worker took over last, for one that starts later


class UnknownVariant(ValueError):
    """A header names what is no variant."""


class Refused(NamedTuple):
    """The last file that was not taken over."""

    problem: str
    at: int  # ms since 1970


class Variants:
    def __init__(self, path: Path, opening: Opening, metrics: Metrics, folder: Path, poll_s: float, journal: bool):
        """`folder`: what all workers share. `poll_s`: seconds between two looks; 0 never looks."""
        self.path, self._opening, self._metrics, self._poll_s = path, opening, metrics, poll_s
        self._good, self._journal = folder / GOOD, journal
        self.experiment: Experiment | None = None
        self.refused: Refused | None = None
        self._seen: tuple[object, ...] | None = None  # text and bundles of the last look
        self._empty = False  # whether the file was, at the last look
        self._ending: dict[Counting, float] = {}  # since when; requests under way still count there
        self._look = asyncio.Lock()
        self._looked: tuple[float, Counting | None, Counter[str] | StoreUnavailable] = (0.0, None, Counter())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="experiments-watch", daemon=True)

    # ---- start, look, end

    def begin(self) -> None:
        """Takes the file over, or what another worker took over last. Raises BundleError where none has taken any."""
        try:
            plan, text = read(self.path)
            check_shadows(plan, self.path, self._journal)
            self._take(plan, text, check=False)
        except (PlanError, BundleError, OSError) as error:
            if not self._good.exists():
                raise BundleError(str(error)) from None
            self._begin_as_others(str(error))

    def _begin_as_others(self, problem: str) -> None:
        """With what another worker took over last; where that is gone too, without: users must be answered."""
        try:
            text = self._good.read_text()
            self._take(plan_of(text, self.path), text, check=False)
            self._refuse(problem)  # after it: what is taken over forgets what was refused
        except (PlanError, BundleError, OSError) as error:
            told = "this worker answers all by RANKER_BUNDLE and counts nothing"
            self._refuse(f"{problem}; {told}, as those before are gone: {error}")

    def start(self) -> None:
        if self._poll_s:
            self._thread.start()

    def close(self) -> None:
        """Ends the watch; one that waits for a bundle to be checked is left to end with the process."""
        self._stop.set()
        if self._poll_s:
            self._thread.join(CLOSE_S)

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_s):
            self.look()

    def look(self) -> None:
        """Takes over what has changed since the last look: catalogues, the file, bundles behind its links."""
        if self.experiment is not None:
            for arm in self.experiment.arms.values():
                if arm.watch is not None:
                    arm.watch.look()
        try:
            empty, self._empty = self._empty, False  # also where it cannot be read
            plan, text = read(self.path)
            seen: tuple[object, ...] = (text, () if plan is None else stamps(plan))
            self._empty = not text.strip()
            if seen == self._seen or (self._empty and not empty):  # an empty one may be about to be written
                return
            self._seen = seen
            check_shadows(plan, self.path, self._journal)
            self._take(plan, text, check=True)
            self._metrics.add("ranker_experiment_reloads", outcome="ok")
        except (PlanError, BundleError, OSError) as error:
            if self.refused is None or self.refused.problem != str(error):
                self._metrics.add("ranker_experiment_reloads", outcome="refused")
                self._refuse(str(error))

    def _refuse(self, problem: str) -> None:
        self.refused = Refused(problem, time.time_ns() // 1_000_000)
        log.error(
            "experiments refused, those before go on: %s", problem, extra=event("experiments", problem, well=False)
        )

    def _take(self, plan: Plan | None, text: str, check: bool) -> None:
        """Raises BundleError, OSError; then nothing has changed."""
        before = self.experiment
        seen = () if plan is None else stamps(plan)  # first: what changes while it is loaded is for the next look
        if plan is None:
            after = None
        else:
            if check:
                known = before.stamps if before else ()
                for _, bundle in plan.bundles:
                    if target_of(bundle) not in known:
                        checked(bundle, BEHIND)
            after = self._opening.opened(plan, text, seen, before, Pause() if check else lambda: None)
        self.experiment = after
        self._seen = text, seen
        self.refused = None
        try:
            write_text(self._good, text)
        except OSError as error:  # a full disk; the experiment runs all the same
            log.warning("experiments: a worker that starts later may not know of this file: %s", error)
        if before is not None:
            before.end()
            kept = set() if after is None else {arm.live.current.slot for arm in after.arms.values()}
            for arm in before.arms.values():
                if arm.live.current.slot not in kept:
                    self._metrics.retire(arm.live.current.slot)
            if after is None or after.counting is not before.counting:
                self._ending[before.counting] = time.monotonic()
        told = "no experiment runs" if after is None else _told(after)
        log.info("experiments: %s", told, extra=event("experiments", text))

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
        for counting, since in [*self._ending.items()]:
            if await counting.flush() and time.monotonic() - since > UNDER_WAY_S:
                if self._ending.pop(counting, None) is not None:  # another flush may have been here meanwhile
                    await counting.ledger.close()
        if experiment is not None:
            await experiment.counting.flush()
            for name in await experiment.counting.look():
                if (arm := experiment.arms.get(name)) is not None:  # None: another file has just been taken over
                    self._metrics.add("ranker_variant_caught", slot=arm.live.current.slot)

    async def end(self) -> None:
        """Brings the rest."""
        await self.flush()
        for counting in [*self._ending] + ([] if self.experiment is None else [self.experiment.counting]):
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
            counting.shown(name, user_id, items)
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


def _told(experiment: Experiment) -> str:
    arms = ", ".join(
        f"{arm.variant.name} {arm.variant.share:.0%} ({arm.live.current.name} {arm.live.current.version})"
        for arm in experiment.arms.values()
    )
    return f"{experiment.plan.salt!r}: {arms}; bundles beside the first take {memory_mb(experiment):.1f} MB at most"
