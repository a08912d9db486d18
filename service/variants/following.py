"""experiments.toml followed: another file, or another bundle behind it, is taken over by one reference, or refused.

It is watched like the catalogue. What is new is read, checked and loaded in the watch's thread; where anything of it is
wrong the one before goes on, also in a worker that starts later.
"""

import logging
import time
from pathlib import Path
from typing import NamedTuple

from model.bundle.errors import BundleError
from model.files import write_text
from service.looking import Looking
from service.models.check import BEHIND, checked
from service.models.target import target_of
from service.pause import Pause
from service.telemetry.counts import Metrics
from service.telemetry.logs import event
from service.variants.counting import Counting
from service.variants.experiment import Experiment
from service.variants.opening import Opening, memory_mb, stamps
from service.variants.plan import Plan, PlanError
from service.variants.reading import check_shadows, plan_of, read

log = logging.getLogger("ranker")

CLOSE_S = 0.5
RESTS_S = 1.0  # for which a file is empty before that is meant
GOOD = "experiments.toml"  # beside the counts: what a worker took over last, for one that starts later


class Refused(NamedTuple):
    """The last file that was not taken over."""

    problem: str
    at: int  # ms since 1970


class Following:
    """`experiment` is what runs; `ending` are the counts of those that ran before, and since when they end."""

    def __init__(self, path: Path, opening: Opening, metrics: Metrics, folder: Path, poll_s: float, journal: bool):
        """`folder`: what all workers share. `poll_s`: seconds between two looks; 0 never looks."""
        self.path, self._opening, self._metrics = path, opening, metrics
        self._good, self._journal = folder / GOOD, journal
        self.experiment: Experiment | None = None
        self.refused: Refused | None = None
        self.ending: dict[Counting, float] = {}
        self._seen: tuple[object, ...] | None = None  # text and bundles of the last look
        self._empty_since: float | None = None  # s; None: the file was not, at the last look
        self._looking = Looking(self.look, poll_s, "experiments-watch")

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
        self._looking.start()

    def close(self) -> None:
        """Ends the watch; one that waits for a bundle to be checked is left to end with the process."""
        self._looking.close(CLOSE_S)

    def look(self) -> None:
        """Takes over what has changed since the last look: catalogues, the file, bundles behind its links."""
        if self.experiment is not None:
            for arm in self.experiment.arms.values():
                if arm.watch is not None:
                    arm.watch.look()
            self._opening.share(self.experiment)
        text: str | None = None
        try:
            since, self._empty_since = self._empty_since, None  # also where it cannot be read
            plan, text = read(self.path)
            seen: tuple[object, ...] = (text, () if plan is None else stamps(plan))
            if not text.strip():
                self._empty_since = time.monotonic() if since is None else since
                if time.monotonic() - self._empty_since < RESTS_S:  # somebody may be about to write it
                    return
            if seen == self._seen:
                return
            self._seen = seen
            check_shadows(plan, self.path, self._journal)
            self._take(plan, text, check=True)
            self._metrics.add("ranker_experiment_reloads", outcome="ok")
        except (PlanError, BundleError, OSError) as error:
            if text is None:  # once it can be read again, it is taken over, and nothing is refused any more
                self._seen = None
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
                    target = target_of(bundle)
                    if target.stamp is None:
                        raise BundleError(f"{bundle}: no bundle is there")
                    if target not in known:
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
                self.ending[before.counting] = time.monotonic()
            elif after.plan.drawn_by != before.plan.drawn_by:
                log.warning(
                    "experiments: shares changed under the same salt, which ends the comparison (a new salt begins "
                    "another): %s before, %s now",
                    before.plan.drawn_by,
                    after.plan.drawn_by,
                    extra=event("shares", after.plan.drawn_by),
                )
        told = "no experiment runs" if after is None else _told(after)
        log.info("experiments: %s", told, extra=event("experiments", text))


def _told(experiment: Experiment) -> str:
    arms = ", ".join(
        f"{arm.variant.name} {arm.variant.share:.0%} ({arm.live.current.name} {arm.live.current.version})"
        for arm in experiment.arms.values()
    )
    return f"{experiment.plan.salt!r}: {arms}; bundles beside the first take {memory_mb(experiment):.1f} MB at most"
