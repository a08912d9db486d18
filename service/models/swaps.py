"""In the parent: another bundle goes live in all workers, or in none.

check (a process of its own) → every worker loads it beside the one that answers, one after the other, so that not all
cores load at once → all switch. Where the check or a worker refuses, all drop it and the one before goes on. One swap
at a time. What this service answers with is held, so that nobody prunes it.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from model.bundle import versions
from model.bundle.errors import BundleError
from service.models import apart, check
from service.models.target import Target, target_of
from service.process.control import ENDED, Done, Drop, Load, Message, Switch, Up

log = logging.getLogger("ranker")

LOAD_S = 600.0  # for one worker: a disk that hangs is no reason to wait for ever
TEND_S = 0.5  # between two looks whether all workers answer with the same
NOT_LOADED = "it was not loaded"


class Member(Protocol):
    """A worker."""

    up: Up | None

    async def ask(self, message: Load | Switch) -> Done: ...

    def kill(self) -> None: ...


class Fleet(Protocol):
    """All workers. `bundle` is what one that starts answers with; `workers` are those that answer, until it `stops`."""

    bundle: Path

    @property
    def workers(self) -> Sequence[Member]: ...

    def tell(self, message: Message) -> None: ...

    async def stops(self) -> None: ...


class Refused(Exception):
    """A bundle does not go live; the message says why. `again`: it may be as good as any, and the moment was bad."""

    def __init__(self, problem: str, again: bool = False):
        super().__init__(problem)
        self.again = again


@dataclass(frozen=True)
class Swapped:
    """What answers now, in how many workers, and how long it took."""

    folder: str
    name: str
    version: str
    workers: int
    seconds: float


class Swaps:
    def __init__(self, fleet: Fleet, bundle: check.Checked):
        self._fleet = fleet
        self._lock = asyncio.Lock()
        self._number = 0
        self.switching = False
        self.live = target_of(fleet.bundle)
        self.before: Path | None = None  # what answered before `live`
        self._known: dict[Target, check.Checked] = {self.live: bundle}  # what answers, and what did before
        self._held = versions.hold(fleet.bundle)

    @property
    def busy(self) -> bool:
        """Not from the switch on, which callers see before all of it is done: who orders then waits for the rest."""
        return self._lock.locked() and not self.switching

    async def swap(self, folder: Path, why: str) -> Swapped:
        """Waits for a swap that is under way. Raises Refused; then all is as it was."""
        async with self._lock:
            begun = time.monotonic()
            target = await apart.thread(lambda: target_of(folder))
            self._number += 1
            number = self._number
            log.info("bundle %s: to go live, since %s; being checked", target.folder, why)
            held = versions.hold(target.folder)
            try:
                bundle = await self._checked(target)
                count = await self._load(number, bundle.folder)
                self.switching = True
                await self._switch(number, target)
            except (BundleError, Refused) as error:
                versions.release(held)
                self._fleet.tell(Drop(number, str(target.folder), str(error)))
                log.error("bundle %s refused, the one before goes on: %s", target.folder, error)
                raise error if isinstance(error, Refused) else Refused(str(error)) from None
            except BaseException:  # cancelled: the service ends
                versions.release(held)
                raise
            finally:
                self.switching = False
            versions.release(self._held)
            self._held = held
            self._known = {**dict(list(self._known.items())[-1:]), target: bundle}
            seconds = time.monotonic() - begun
            log.info("bundle %s %s answers in %d workers after %.2f s", bundle.name, bundle.version, count, seconds)
            return Swapped(bundle.folder, bundle.name, bundle.version, count, seconds)

    async def _checked(self, target: Target) -> check.Checked:
        """Raises BundleError. One that answered just before is known: who goes back to it is in a hurry."""
        return self._known.get(target) or await check.checked_beside(target.folder)

    async def _load(self, number: int, folder: str) -> int:
        """How many workers have it beside theirs. Raises Refused."""
        loaded = ended = 0
        for worker in self._fleet.workers:
            done = await self._asked(worker, Load(number, folder))
            if done.problem == ENDED:  # its successor starts with the one before, and is brought along by `tend`
                ended += 1
            elif done.problem is not None:
                raise Refused(done.problem)
            else:
                loaded += 1
        if ended and (ended > 1 or not loaded):
            raise Refused(f"{folder}: {ended} workers ended while they loaded it", again=True)
        return loaded

    async def _switch(self, number: int, target: Target) -> None:
        """From here on there is no way back: a worker that cannot follow is replaced."""
        self._fleet.bundle, self.before, self.live = target.folder, self._fleet.bundle, target
        workers = list(self._fleet.workers)
        dones = await asyncio.gather(*(self._asked(worker, Switch(number)) for worker in workers))
        for worker, done in zip(workers, dones, strict=True):
            self._switched(worker, done, target)

    def _switched(self, worker: Member, done: Done, target: Target) -> None:
        if done.problem is None and worker.up is not None:
            worker.up = replace(worker.up, folder=str(target.folder))
        elif done.problem not in (None, ENDED, NOT_LOADED):
            log.error("a worker could not switch to %s (%s); another takes its place", target.folder, done.problem)
            worker.kill()

    async def tend(self) -> None:
        """For ever: a worker that came up with another bundle, since it started while others switched, follows."""
        while True:
            await asyncio.sleep(TEND_S)
            if self._lock.locked():
                continue
            async with self._lock:
                for worker in self._fleet.workers:
                    if worker.up is not None and worker.up.folder != str(self._fleet.bundle):
                        await self._bring(worker)

    async def _bring(self, worker: Member) -> None:
        self._number += 1
        done = await self._asked(worker, Load(self._number, str(self._fleet.bundle)))
        if done.problem is None:
            done = await self._asked(worker, Switch(self._number))
        self._switched(worker, done, self.live)

    async def _asked(self, worker: Member, message: Load | Switch) -> Done:
        """Its answer, or that it ended, or that there was none within LOAD_S."""
        try:
            return await asyncio.wait_for(worker.ask(message), LOAD_S)
        except TimeoutError:
            return Done(message.number, f"a worker did not answer within {LOAD_S:.0f} s")
