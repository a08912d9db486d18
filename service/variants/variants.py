"""The way in for requests and events: which variant a user is given, and what is counted for it.

The file is watched like the catalogue: another one is read, its bundles are checked and loaded in this thread, and all
of it is taken over by one reference, or refused and told while the one before goes on.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from model.bundle.errors import BundleError
from model.files import write_text
from service.call import Call
from service.feedback.judging import Judged
from service.models.check import BEHIND, checked
from service.models.loading import Pause
from service.models.target import target_of
from service.scoring.served import Taken
from service.telemetry.counts import Metrics
from service.telemetry.logs import event
from service.variants import plan as plans
from service.variants.counting import FLUSH_S, Counting
from service.variants.experiment import Experiment
from service.variants.opening import Opening, memory_mb, stamps
from service.variants.plan import Plan, PlanError
from service.variants.tag import tagged

log = logging.getLogger("ranker")

HEADER = "x-ranker-variant"  # names the variant of one request, which then counts for nothing
CLOSE_S = 0.5
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
        self._ending: list[Counting] = []  # whose last parcels are still to be brought
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="experiments-watch", daemon=True)

    # ---- start, look, end

    def begin(self) -> None:
        """Takes the file over, or what another worker took over last. Raises BundleError where neither can be had."""
        try:
            plan, text = read(self.path)
            check_shadows(plan, self.path, self._journal)
            self._take(plan, text, check=False)
        except (PlanError, BundleError, OSError) as error:
            if not self._good.exists():
                raise BundleError(str(error)) from None
            text = self._good.read_text()
            self._take(_plan(text, self.path), text, check=False)
            self._refuse(str(error))

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
            plan, text = read(self.path)
            seen: tuple[object, ...] = (text, () if plan is None else stamps(plan))
            empty, self._empty = self._empty, not text.strip()
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
        if plan is None:
            after = None
        else:
            if check:
                known = {arm.live.current.bundle.folder for arm in before.arms.values()} if before else set()
                for _, bundle in plan.bundles:
                    if target_of(bundle).folder not in known:
                        checked(bundle, BEHIND)
            after = self._opening.opened(plan, text, before, Pause() if check else lambda: None)
        self.experiment = after
        self._seen = text, () if plan is None else stamps(plan)
        self.refused = None
        write_text(self._good, text)
        if before is not None:
            before.end()
            kept = set() if after is None else {arm.live.current.slot for arm in after.arms.values()}
            for arm in before.arms.values():
                if arm.live.current.slot not in kept:
                    self._metrics.retire(arm.live.current.slot)
            if after is None or after.counting is not before.counting:
                self._ending.append(before.counting)
        told = "no experiment runs" if after is None else _told(after)
        log.info("experiments: %s", told, extra=event("experiments", text))

    # ---- beside the requests

    async def run(self) -> None:
        """For ever: brings what is counted to the store, and takes out variants that left their limits."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        experiment = self.experiment
        for counting in [*self._ending]:
            if await counting.flush():
                self._ending.remove(counting)
                await counting.ledger.close()
        if experiment is not None:
            await experiment.counting.flush()
            for name in await experiment.counting.look():
                if (arm := experiment.arms.get(name)) is not None:  # None: another file has just been taken over
                    self._metrics.add("ranker_variant_caught", slot=arm.live.current.slot)

    async def end(self) -> None:
        """Brings the rest."""
        await self.flush()
        if self.experiment is not None:
            await self.experiment.counting.ledger.close()

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
                raise UnknownVariant(f"{named!r} given, allowed: {', '.join(experiment.arms)}")
            return Taken(experiment.arms[named].live.current, call.id)
        if not experiment.plan.runs(now):
            return None
        arm = experiment.arm_of(user_id)
        served = arm.live.current
        if not live:
            return Taken(served, call.id)
        name, counting = arm.variant.name, experiment.counting
        request_id = tagged(call.id, name, now, user_id, experiment.plan.id)

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


def read(path: Path) -> tuple[Plan | None, str]:
    """None: the file is empty, and nothing runs. Raises PlanError."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return _plan(text, path), text


def _plan(text: str, path: Path) -> Plan | None:
    said = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return plans.parsed(text, path) if said else None


def check_shadows(plan: Plan | None, path: Path, journal: bool) -> None:
    """Raises PlanError."""
    if plan is not None and plan.shadows and not journal:
        raise PlanError(f"{path}: shadows: they read the journal and write to it; set RANKER_JOURNAL to a folder")


def check(path: Path, look: Callable[[Path], object], journal: bool) -> None:
    """Before any worker starts: the file, and each of its bundles by `look`. Raises PlanError, BundleError."""
    plan, _ = read(path)
    check_shadows(plan, path, journal)
    for name, bundle in () if plan is None else plan.bundles:
        try:
            look(bundle)
        except BundleError as error:
            raise BundleError(f"{path}: {name}.bundle: {error}") from None


def _told(experiment: Experiment) -> str:
    arms = ", ".join(
        f"{arm.variant.name} {arm.variant.share:.0%} ({arm.live.current.name} {arm.live.current.version})"
        for arm in experiment.arms.values()
    )
    return f"{experiment.plan.salt!r}: {arms}; bundles beside the first take {memory_mb(experiment):.1f} MB at most"
