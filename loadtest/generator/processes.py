"""One run of the open loop, in this process or in several: each sends every n-th request of one plan by one clock.

Several are for rates that one process cannot send on time. Each has its own connections and checks its own answers;
what comes back are the times of every request, so that figures are of all requests together, never means of means.
"""

import asyncio
import gc
import math
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from loadtest.errors import NoRun
from loadtest.generator.answers import Log
from loadtest.generator.budgets import Budget
from loadtest.generator.client import Address, Client
from loadtest.generator.plan import Body
from loadtest.generator.progress import Progress
from loadtest.generator.replay import Seconds
from loadtest.generator.send import Watcher, new_loop, open_loop
from model.cores import cores

RATE_OF_ONE = 1000  # requests/s that one process sends on time at a tenth to a third of a core
START_S = 60.0  # for the processes to come up; they import, connect and take their share of the plan
HEAD_START_S = 0.2  # from the word to the start of the plan


def how_many(budget: Budget) -> int:
    """Generator processes: what the budget says, else by rate and cores. The service needs cores too."""
    return budget.processes or max(1, min(math.ceil(budget.rate / RATE_OF_ONE), cores() // 2))


async def generate(
    client: Client,
    address: Address,
    budget: Budget,
    due_s: Seconds,
    bodies: Sequence[Body],
    name: str,
    begun: Callable[[], None] = lambda: None,
) -> Log:
    """Sends the bodies when they are due and gives the closed log; `begun` is called at its start. Raises NoRun."""
    processes = min(how_many(budget), len(due_s))
    progress = Progress(name, len(due_s))
    try:
        if processes > 1:
            return await _several(processes, address, due_s, bodies, budget.wait_s, progress, begun)
        log = Log(due_s, bodies)
        await _send(client, bodies[: len(due_s)], log, budget.wait_s, progress, begun)
        return log
    finally:
        progress.close()


async def _send(
    client: Client,
    bodies: Sequence[Body],
    log: Log,
    wait_s: float,
    progress: Watcher,
    begin: Callable[[], float | None] = lambda: None,
) -> None:
    """`begin` is called when all is prepared, and says when to start; None is at once."""
    messages = [client.message("POST", "/rank", body.content) for body in bodies]
    gc.collect()
    gc.freeze()  # the plan stays: the collector need not walk it between sends
    await open_loop(client, messages, log, wait_s, progress, begin())
    gc.unfreeze()


async def _several(
    count: int,
    address: Address,
    due_s: Seconds,
    bodies: Sequence[Body],
    wait_s: float,
    progress: Progress,
    begun: Callable[[], None],
) -> Log:
    """Hands out the plan, gives the word, and gathers; this process only shows the progress meanwhile."""
    context = multiprocessing.get_context("spawn")  # a fork would copy this process's event loop
    pipes, started = [], []
    try:
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_generator, args=(there,), daemon=True)
            process.start()
            there.close()
            pipes.append(here)
            started.append(process)
        for first, pipe in enumerate(pipes):
            mine = range(first, len(due_s), count)
            share = [bodies[request % len(bodies)] for request in mine]
            pipe.send((address, due_s[first::count], share, wait_s, progress.watched))
        deadline = time.monotonic() + START_S
        for pipe in pipes:
            while not pipe.poll(Progress.EVERY_S):
                await asyncio.sleep(0)  # here Ctrl-C comes in
                if time.monotonic() > deadline:
                    raise NoRun(f"a generator process was not ready within {START_S:g} s")
            _received(pipe)
        start = time.monotonic() + HEAD_START_S  # one clock for all: CLOCK_MONOTONIC is the machine's
        for pipe in pipes:
            pipe.send(start)
        begun()
        return Log.joined(due_s, await _gathered(pipes, progress))
    except (EOFError, ConnectionError):
        raise NoRun("a generator process ended early") from None
    finally:
        for pipe in pipes:
            pipe.close()
        for process in started:
            process.terminate()  # those that are done have ended or are about to
            process.join()
            process.close()


async def _gathered(pipes: Sequence[Connection], progress: Progress) -> list[Any]:
    parts: dict[int, Any] = {}
    while len(parts) < len(pipes):
        waiting = [pipe for number, pipe in enumerate(pipes) if number not in parts]
        for ready in wait(waiting, Progress.EVERY_S):
            assert isinstance(ready, Connection)
            message = _received(ready)
            if isinstance(message, list):
                for seconds in message:
                    progress.answered(seconds)
            else:
                parts[pipes.index(ready)] = message
        progress.show()
        await asyncio.sleep(0)
    return [parts[number] for number in range(len(pipes))]


def _received(pipe: Connection) -> Any:
    message = pipe.recv()
    if isinstance(message, NoRun):
        raise message
    return message


class _Relay:
    """Tells the parent's progress bar what was answered here."""

    EVERY_S = Progress.EVERY_S

    def __init__(self, pipe: Connection, watched: bool):
        self._pipe, self._watched, self._new = pipe, watched, list[float]()

    def answered(self, seconds: float) -> None:
        if self._watched:
            self._new.append(seconds)

    def show(self) -> None:
        if self._new:
            self._pipe.send(self._new)
            self._new = []


def _generator(pipe: Connection) -> None:
    """What a generator process does; its parent's Ctrl-C is its parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            pipe.send(runner.run(_share(pipe)))
    except NoRun as error:
        pipe.send(error)
    except (EOFError, OSError):
        pass  # the parent has gone


async def _share(pipe: Connection) -> Any:
    address, due_s, bodies, wait_s, watched = pipe.recv()
    log = Log(due_s, bodies)
    client = Client(address)

    def begin() -> float:
        pipe.send("ready")
        return float(pipe.recv())

    try:
        await client.reach()
        await _send(client, bodies, log, wait_s, _Relay(pipe, watched), begin)
        return log.part()
    finally:
        await client.close()
