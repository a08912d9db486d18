"""A worker as its parent sees it: started, listened to, asked, killed."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from service.process.child import of_this
from service.process.control import ENDED, Done, Failed, Leaving, Line, Load, Order, Switch, Up
from service.telemetry.relay import relayed

_PROGRAM = "from service.process.worker import main; main()"  # no verb: nobody else is to start it
# How a worker is told where things are: its end of the line, the listening socket, the counts.
CONTROL, LISTENER, METRICS_FOLDER = "RANKER_CONTROL", "RANKER_LISTENER", "RANKER_METRICS_FOLDER"


class Worker:
    """One process that answers. `up` is what it answers with, once it does."""

    def __init__(self, process: asyncio.subprocess.Process, line: Line):
        self.process, self.line = process, line
        self.up: Up | None = None
        self.problem: str | None = None  # why it cannot start
        self.answers, self.leaving = asyncio.Event(), asyncio.Event()
        self.heard_s = time.monotonic()  # when it last said something
        self.ended: asyncio.Task[int]  # its exit code; set by whoever listens
        self._waiting: dict[int, asyncio.Future[Done]] = {}
        self._gone = False  # nothing that it is asked is answered any more

    @classmethod
    async def start(cls, listener: socket.socket, folder: Path, bundle: Path) -> "Worker":
        ours, theirs = socket.socketpair()
        with theirs, relayed("worker") as log_lines:
            told = {
                CONTROL: theirs.fileno(),
                LISTENER: listener.fileno(),
                METRICS_FOLDER: folder,
                "RANKER_BUNDLE": bundle,  # what was checked, though `current` may move on
            }
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _PROGRAM,
                env=os.environ | {name: str(value) for name, value in told.items()} | of_this() | log_lines.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stderr=log_lines.stderr,
                pass_fds=[theirs.fileno(), listener.fileno()],
                start_new_session=True,  # Ctrl-C reaches the whole group: how it stops is the parent's matter
            )
        return cls(process, await Line.over(ours))

    async def ask(self, message: Load | Switch) -> Done:
        """Its answer; one that has ended, or ends meanwhile, answers ENDED."""
        if self._gone:
            return Done(message.number, ENDED)
        answer = self._waiting.setdefault(message.number, asyncio.get_running_loop().create_future())
        self.line.tell(message)
        try:
            return await answer
        finally:
            self._waiting.pop(message.number, None)

    async def listen(self, order: Callable[["Worker", Order], None], answers: Callable[[], None]) -> int:
        """Until it is gone; its exit code. `answers` is called when it answers for the first time."""
        async for message in self.line:
            self.heard_s = time.monotonic()
            match message:
                case Up():
                    self.up = message
                    self.answers.set()
                    answers()
                case Failed(problem):
                    self.problem = problem
                case Leaving():
                    self.leaving.set()
                case Done(number) if (answer := self._waiting.get(number)) is not None and not answer.done():
                    answer.set_result(message)
                case Order():
                    order(self, message)
        self._gone = True
        for number, answer in self._waiting.items():
            if not answer.done():
                answer.set_result(Done(number, ENDED))
        self.line.close()
        return await self.process.wait()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
