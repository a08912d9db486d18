"""A service under test: what is asked of it before the clock starts, and a run of one budget against it."""

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from loadtest.errors import NoRun
from loadtest.generator import mix, plan
from loadtest.generator.answers import Log
from loadtest.generator.arrivals import arrivals
from loadtest.generator.budgets import Budget
from loadtest.generator.client import Address, Client
from loadtest.generator.plan import Body
from loadtest.generator.processes import generate

SETTLE_S = 10.0  # at most, for a service to work off what a run has left behind


class Target:
    """Use it within one running loop. `model` is what GET /model answered, None where it did not."""

    def __init__(self, address: Address, bodies: Sequence[Body] | None):
        """Requests ask `bodies`; without them, bodies drawn from the ids that the service offers."""
        self._address, self._bodies = address, bodies
        self._client = Client(address)
        self._samples = plan.made_up()
        self._lengths: Mapping[str | int, int] | None = None
        self.model: bytes | None = None

    async def reach(self, budgets: Sequence[Budget]) -> None:
        """Connects, and asks for what these budgets need. Raises NoRun."""
        await self._client.reach()
        if self._bodies:
            return
        answer = await self._client.get("/model")
        if answer.status in (401, 403):
            raise NoRun(f"GET /model is answered {answer.status}: a key with the scope rank is needed, by --key")
        self.model = answer.content if answer.status == 200 else None
        samples = plan.read_samples(self.model) if self.model else None
        if samples is None:
            print(f"loadtest: GET /model offers no samples (status {answer.status}), ids are made up", file=sys.stderr)
        self._samples = samples or self._samples
        if any(budget.history for budget in budgets):
            known = self._samples.user_ids
            self._lengths = await mix.history_lengths(self._client, known, self._samples.item_ids[0])

    def bodies(self, budget: Budget, count: int, rng: np.random.Generator) -> Sequence[Body]:
        """What the requests ask; fewer come round again. Raises NoRun where a mix cannot be had."""
        return self._bodies or plan.draw_bodies(self._samples, budget, count, rng, self._lengths)

    async def run(
        self,
        budget: Budget,
        rng: np.random.Generator,
        bodies: Sequence[Body] = (),
        name: str = "",
        begun: Callable[[], None] = lambda: None,
    ) -> Log:
        """The closed log of one run, by default of bodies of its own; `begun` is called at its start. Raises NoRun."""
        due_s = arrivals(budget, rng)
        bodies = bodies or self.bodies(budget, len(due_s), rng)
        return await generate(self._client, self._address, budget, due_s, bodies, name or budget.scenario, begun)

    async def settle(self, body: Body, within_ms: float) -> None:
        """Waits until single requests are answered in time again, SETTLE_S at most."""
        await self._client.close()
        self._client = Client(self._address)
        await self._client.reach()
        clock = self._client.clock
        until = clock() + SETTLE_S
        while (begun := clock()) < until:
            try:
                answer = await self._client.ask("POST", "/rank", body.content)
            except NoRun:
                await asyncio.sleep(0.1)
                continue
            if (answer.at - begun) * 1000 <= within_ms:
                return

    async def close(self) -> None:
        await self._client.close()
