"""The workers' lives: started, replaced when they end, told together, stopped within the grace.

One that cannot start is tried a few times with growing pauses; then the service ends, with a line and an exit code,
instead of a port that accepts and never answers.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from service.process.control import Done, Drain, Line, Load, Message, Order, Stop, Switch, Up
from service.telemetry.relay import relayed

log = logging.getLogger("ranker")

PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # before a worker that could not start is tried again
CANNOT_START = 1  # exit code
_PROGRAM = "from service.process.worker import main; main()"  # no verb: nobody else is to start it
# How a worker is told where things are: its end of the line, the listening socket, the parent, the counts.
CONTROL, LISTENER, PARENT, METRICS_FOLDER = (
    "RANKER_CONTROL",
    "RANKER_LISTENER",
    "RANKER_PARENT",
    "RANKER_METRICS_FOLDER",
)


class Worker:
    """One process that answers. `up` is what it answers with, once it does."""

    def __init__(self, process: asyncio.subprocess.Process, line: Line):
        self.process, self.line = process, line
        self.up: Up | None = None
        self._waiting: dict[int, asyncio.Future[Done]] = {}

    @classmethod
    async def start(cls, slot: int, listener: socket.socket, folder: Path, bundle: Path) -> "Worker":
        ours, theirs = socket.socketpair()
        with theirs, relayed(f"worker {slot}") as log_lines:
            told = {
                CONTROL: theirs.fileno(),
                LISTENER: listener.fileno(),
                PARENT: os.getpid(),
                METRICS_FOLDER: folder,
                "RANKER_BUNDLE": bundle,  # what was checked, though `current` may move on
            }
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _PROGRAM,
                env=os.environ | {name: str(value) for name, value in told.items()} | log_lines.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stderr=log_lines.stderr,
                pass_fds=[theirs.fileno(), listener.fileno()],
                start_new_session=True,  # Ctrl-C reaches the whole group: how it stops is the parent's matter
            )
        return cls(process, await Line.over(ours))

    async def ask(self, message: Load | Switch) -> Done:
        """Its answer; one that ends meanwhile answers with a problem."""
        answer = self._waiting.setdefault(message.number, asyncio.get_running_loop().create_future())
        self.line.tell(message)
        try:
            return await answer
        finally:
            self._waiting.pop(message.number, None)

    async def listen(self, order: Callable[["Worker", Order], None]) -> None:
        """Until it is gone."""
        async for message in self.line:
            if isinstance(message, Up):
                self.up = message
            elif isinstance(message, Done) and (answer := self._waiting.get(message.number)) is not None:
                answer.set_result(message)
            elif isinstance(message, Order):
                order(self, message)
        for number, answer in self._waiting.items():
            if not answer.done():
                answer.set_result(Done(number, "the worker ended"))

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()


class Supervisor:
    """Keeps `count` workers on `listener` until it is stopped. `bundle`: what one that starts now answers with."""

    def __init__(self, count: int, listener: socket.socket, folder: Path, bundle: Path, drain_s: float, grace_s: float):
        self._count, self._listener, self._folder = count, listener, folder
        self.bundle = bundle
        self._drain_s, self._grace_s = drain_s, grace_s
        self._workers: dict[int, Worker] = {}
        self._code = 0
        self._hurry = asyncio.Event()  # no longer waits for balancers to look away
        self._stopping = asyncio.Event()
        self.order: Callable[[Worker, Order], None] = lambda worker, order: None  # what workers' callers want
        self.look: Callable[[], None] = lambda: None  # SIGHUP: is there a newer bundle?

    @property
    def workers(self) -> list[Worker]:
        """Those that answer."""
        return [worker for worker in self._workers.values() if worker.up is not None]

    def tell(self, message: Message) -> None:
        for worker in self._workers.values():
            worker.line.tell(message)

    async def run(self) -> int:
        """Until it is stopped by a signal, or no worker can start; the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        loop.add_signal_handler(signal.SIGHUP, lambda: self.look())
        kept = [asyncio.create_task(self._keep(slot)) for slot in range(self._count)]
        await self._stopping.wait()
        await self._stop(kept)
        return self._code

    def _interrupted(self) -> None:
        self._hurry.set()
        self._stopping.set()

    async def _keep(self, slot: int) -> None:
        """One worker after another, until it is stopped."""
        failures = 0
        while not self._stopping.is_set():
            worker = self._workers[slot] = await Worker.start(slot, self._listener, self._folder, self.bundle)
            await worker.listen(lambda worker, order: self.order(worker, order))
            code = await worker.process.wait()
            if self._stopping.is_set():
                return
            failures = 0 if worker.up is not None else failures + 1
            if failures > len(PAUSES_S):
                log.error("a worker could not start %d times in a row (%s); giving up", failures, ended_by(code))
                self._code = CANNOT_START
                self._hurry.set()
                self._stopping.set()
                return
            log.warning("a worker ended (%s); another takes its place", ended_by(code))
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), PAUSES_S[failures - 1] if failures else 0)

    async def _stop(self, kept: list[asyncio.Task[None]]) -> None:
        begun = time.monotonic()
        if not self._hurry.is_set():
            self.tell(Drain())
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._drain_s)
        left_s = max(0.0, self._grace_s - (time.monotonic() - begun))
        self.tell(Stop(left_s))
        self._listener.close()
        _, late = await asyncio.wait(kept, timeout=left_s + 0.5)
        for worker in self._workers.values():
            worker.kill()
        for task in late:
            task.cancel()
        await asyncio.gather(*kept, return_exceptions=True)


def ended_by(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
