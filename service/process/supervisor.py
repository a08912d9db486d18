"""The workers' lives: started, replaced when they end or hang, told together, stopped within the grace.

One that cannot start is tried again with growing pauses. Where none answers after a few tries, or they have not all
answered yet, the service ends with a line and an exit code, instead of a port that accepts and never answers. Once all
have answered and one still does, another is tried for ever.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.process.control import Drain, Message, Order, Stop
from service.process.listening import Listeners, keep_out, waiting
from service.process.workers import Worker

log = logging.getLogger("ranker")

PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # before a worker that could not start is tried again
LONGEST_PAUSE_S = 30.0  # likewise, while others answer
SOON_S = 10.0  # one that answered for less before it died is replaced with a pause too
CANNOT_START = 1  # exit code
LOOK_S = 1.0  # between two looks for one that hangs
STARTS = 10  # times `hang_s` that one may take to start: it loads a bundle
QUIET_S = 0.1  # nobody has waited to be accepted for so long: then no connection is under way
ACCEPTED_S = 1.0  # at most, of waiting for that
END_S = 1.0  # of the grace: for what ends after the workers


@dataclass(frozen=True)
class Times:
    """Seconds that the operator has set."""

    drain_s: float
    grace_s: float
    hang_s: float  # 0: nobody is taken to hang


class Supervisor:
    """Keeps `count` workers on `listeners` until it is stopped. `bundle`: what one that starts now answers with."""

    def __init__(self, count: int, listeners: Listeners, folder: Path, bundle: Path, times: Times):
        self._count, self._listeners, self._folder, self._times = count, listeners, folder, times
        self.bundle = bundle
        self._workers: set[Worker] = set()
        self._code = 0
        self._handed = False  # a successor answers on the sockets
        self.sole = listeners.own  # nobody else holds the listening socket
        self._said: set[str] = set()  # why workers could not start, since one last did
        self._hurry = asyncio.Event()  # no longer waits for balancers to look away
        self._stopping = asyncio.Event()
        self.all_up = asyncio.Event()
        self.order: Callable[[Worker, Order], None] = lambda worker, order: None  # what workers' callers want
        self.look: Callable[[], None] = lambda: None  # SIGHUP: is there a newer bundle?
        self.answering: Callable[[], None] = lambda: None  # one answers; called for each

    @property
    def workers(self) -> list[Worker]:
        """Those that answer."""
        return [worker for worker in self._workers if worker.up is not None]

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    async def stops(self) -> None:
        """Returns when it begins to stop."""
        await self._stopping.wait()

    def tell(self, message: Message) -> None:
        for worker in self._workers:
            worker.line.tell(message)

    def stop(self) -> None:
        """SIGTERM: it drains, then ends. The second time it ends at once."""
        if self._stopping.is_set():
            self._hurry.set()
        elif not self._handed:
            log.info("SIGTERM: not ready any more; serves on for %g s at most, then ends", self._times.drain_s)
        self._stopping.set()

    def hurry(self) -> None:
        """Ctrl-C: it ends at once, what is under way being finished."""
        self._hurry.set()
        self._stopping.set()

    def hand_over(self) -> None:
        """A successor answers on the same sockets: what these workers have is finished, and they end."""
        self._handed = True
        self._stopping.set()

    async def run(self) -> int:
        """Until it is stopped by a signal, or no worker can start; the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGINT, self.hurry)
        loop.add_signal_handler(signal.SIGHUP, lambda: self.look())
        kept = [asyncio.create_task(self._keep()) for _ in range(self._count)]
        hung = asyncio.create_task(self._look_for_hung())
        await self._stopping.wait()
        hung.cancel()
        await self._stop()
        await asyncio.gather(*kept, return_exceptions=True)
        return self._code

    async def _begin(self) -> Worker:
        worker = await Worker.start(self._listeners.main, self._folder, self.bundle)
        self._workers.add(worker)
        worker.ended = asyncio.create_task(
            worker.listen(lambda worker, order: self.order(worker, order), self._one_answers)
        )
        worker.ended.add_done_callback(lambda _: self._workers.discard(worker))
        if self._stopping.is_set():  # it began to stop meanwhile
            worker.kill()
        return worker

    def _one_answers(self) -> None:
        self._said.clear()
        self.answering()
        if len(self.workers) >= self._count:
            self.all_up.set()

    async def _keep(self) -> None:
        """One worker after another, until it is stopped."""
        failures = 0
        worker = await self._begin()
        while not self._stopping.is_set():
            begun = time.monotonic()
            await self._first_of(worker.ended, worker.leaving.wait(), self._stopping.wait())
            if self._stopping.is_set():
                return
            if not worker.ended.done():
                worker = await self._replaced(worker)
                continue
            code, failed = worker.ended.result(), worker.up is None
            failures = failures + 1 if failed or time.monotonic() - begun < SOON_S else 0
            if failed and failures > len(PAUSES_S) and not (self.workers and self.all_up.is_set()):
                why = worker.problem or f"{ended_by(code)}; what it said stands above"
                log.error("a worker cannot start, tried %d times, so the service ends: %s", failures, why)
                self._code = CANNOT_START
                self.hurry()
                return
            pause_s = (0.0, *PAUSES_S)[failures] if failures <= len(PAUSES_S) else LONGEST_PAUSE_S
            if not failed:
                log.warning("a worker ended (%s); another takes its place", ended_by(code))
            elif (why := worker.problem or ended_by(code)) not in self._said:
                self._said.add(why)
                log.error("a worker cannot start and is tried again, with pauses: %s", why)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            if not self._stopping.is_set():
                worker = await self._begin()

    async def _replaced(self, before: Worker) -> Worker:
        """Another in the place of one that was sent SIGTERM, which serves until the other answers."""
        log.warning("a worker was told to stop (SIGTERM); another takes its place first")
        worker = await self._begin()
        await self._first_of(worker.ended, worker.answers.wait(), before.ended, self._stopping.wait())
        if not self._stopping.is_set():
            before.line.tell(Stop(self._times.grace_s))
            asyncio.get_running_loop().call_later(self._times.grace_s + END_S, before.kill)
        return worker

    async def _first_of(self, *awaited: asyncio.Task[int] | Coroutine[Any, Any, Any]) -> None:
        tasks = {one if isinstance(one, asyncio.Task) else asyncio.create_task(one): one for one in awaited}
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task, one in tasks.items():
            if task is not one:
                task.cancel()

    async def _look_for_hung(self) -> None:
        """Kills those whose event loop has not turned for `hang_s`; `_keep` replaces them."""
        hang_s = self._times.hang_s
        while hang_s:
            before = time.monotonic()
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            if now - before > 2 * LOOK_S:  # we stood still ourselves: what they said is not read yet
                for worker in self._workers:
                    worker.heard_s = now
                continue
            for worker in self._workers:
                allowed_s = hang_s if worker.up is not None else STARTS * hang_s
                if now - worker.heard_s > allowed_s:
                    what = "answers" if worker.up is not None else "starts"
                    silent = f"a worker that {what} has not turned its event loop for {now - worker.heard_s:.0f} s"
                    log.error("%s (process %d) and is killed: RANKER_HANG_S=%g", silent, worker.process.pid, hang_s)
                    worker.heard_s = now
                    worker.kill()

    async def _stop(self) -> None:
        """Nothing that a connection was made for stays unanswered, as far as the grace allows."""
        until = time.monotonic() + self._times.grace_s - min(END_S, self._times.grace_s / 5)
        if not self._handed and self.workers:
            self.tell(Drain())
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), min(self._times.drain_s, until - time.monotonic()))
            if self.sole and keep_out(self._listeners.main):
                await self._all_accepted(min(ACCEPTED_S, (until - time.monotonic()) / 2))
        left_s = max(0.0, until - time.monotonic())
        self.tell(Stop(left_s, self._times.drain_s if self._handed else 0.0))
        self._listeners.main.close()
        for worker in list(self._workers):
            if worker.up is None:
                worker.kill()
        if self._workers:
            await asyncio.wait({worker.ended for worker in self._workers}, timeout=left_s + END_S / 4)
        for worker in list(self._workers):
            log.warning("a worker had not ended when the grace was over and is killed")
            worker.kill()
            await worker.ended

    async def _all_accepted(self, most_s: float) -> None:
        """Until nobody has waited to be accepted for QUIET_S."""
        quiet_since = begun = time.monotonic()
        while (now := time.monotonic()) - quiet_since < QUIET_S and now - begun < most_s:
            if waiting(self._listeners.main):
                quiet_since = now
            await asyncio.sleep(0.005)


def ended_by(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
