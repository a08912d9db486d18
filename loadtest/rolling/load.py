"""The open loop, from as many processes as the budget says, beside whatever happens to the services meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from loadtest.generator.answers import Log
from loadtest.generator.budgets import Budget
from loadtest.generator.client import Address
from loadtest.generator.plan import Body
from loadtest.generator.send import new_loop
from loadtest.generator.target import Target

LEAD_S = 1.0  # of load, before what it is to be beside begins


class Load:
    """Runs in a thread with a loop of its own: what gathers from several processes blocks between their words."""

    def __init__(self, address: Address, bodies: Sequence[Body], rng: np.random.Generator):
        self._address, self._bodies, self._rng = address, bodies, rng

    async def run(self, budget: Budget, name: str = "", begun: Callable[[], None] = lambda: None) -> Log:
        """The closed log of one run; `begun` is called on this loop when the first request is due. Raises NoRun."""
        here = asyncio.get_running_loop()
        inner: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Log]]] = []

        def tell() -> None:
            here.call_soon_threadsafe(begun)

        async def send() -> Log:
            task = asyncio.current_task()
            assert task is not None
            inner.append((asyncio.get_running_loop(), task))
            target = Target(self._address, self._bodies)
            try:
                await target.reach([budget])
                return await target.run(budget, self._rng, self._bodies, name, tell)
            finally:
                await target.close()

        def thread() -> Log:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                return runner.run(send())

        try:
            return await asyncio.to_thread(thread)
        except asyncio.CancelledError:
            for loop, task in inner:
                loop.call_soon_threadsafe(task.cancel)
            raise

    async def beside(self, budget: Budget, name: str, act: Callable[[], Awaitable[None]]) -> list[Log]:
        """Runs one after another, a moment apart, until `act` is over: one where it takes no longer than a run.

        Raises NoRun, and what `act` raises.
        """
        begun = asyncio.Event()

        async def acted() -> None:
            await begun.wait()
            await asyncio.sleep(LEAD_S)
            await act()

        acting = asyncio.create_task(acted())
        try:
            logs = [await self.run(budget, name, begun.set)]
            while not acting.done():
                logs.append(await self.run(budget, name))
            await acting
            return logs
        finally:
            acting.cancel()
