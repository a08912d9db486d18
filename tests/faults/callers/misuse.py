"""What callers, or one user's data, may do wrong: it must not show in another's answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median

from tests.faults.held import Held
from tests.faults.store.outages import STRAY
from tests.faults.world import RECOVER_S, World

FEW = 3  # others whom chance may degrade, however short it was
WAIT_S = 3.0  # the longest that others may wait beside a greedy call: generous, for a busy machine


@dataclass(frozen=True)
class Misuse:
    """A fault that callers or one user's data bring. `load` sends about `size` requests."""

    name: str
    does: str
    promises: str
    load: Callable[[World, Held, int], Awaitable[None]]
    short: bool = False
    size: int = 1_000
    refused: tuple[int, ...] = ()  # statuses that any number of requests may get

    async def run(self, world: World, held: Held, size: int) -> None:
        before = await world.recovered(held)
        held.promise(before < RECOVER_S, "a healthy store before the fault begins", f"still degraded after {before} s")
        failed, told = await world.counted("ranker_requests_total", outcome="failed"), len(world.service.output)
        try:
            await self.load(world, held, size)
        finally:
            world.honest()
        held.figures["recovered_s"] = await world.recovered(held)
        held.promise(
            held.figures["recovered_s"] < RECOVER_S,
            "history again within about a second after the fault",
            f"none after {held.figures['recovered_s']:.1f} s",
        )
        counted = await world.counted("ranker_requests_total", outcome="failed") - failed
        held.promise(not counted, "nothing is counted as failed: it was a caller's doing", f"{counted:.0f} are")
        log = world.service.output[told:]
        held.promise("Traceback" not in log, "no traceback in the log", f"{log.count('Traceback')}")
        held.promise_answers(refused=self.refused)


@asynccontextmanager
async def others(world: World, held: Held) -> AsyncIterator[Held]:
    """Four callers who go on asking meanwhile: all get their history, and none waits long."""
    beside, ends = Held(held.name), asyncio.Event()
    task = asyncio.create_task(world.ask_many(beside, 10**9, callers=4, until=ends))
    await asyncio.sleep(0.1)
    try:
        yield beside
    finally:
        ends.set()
        await task
        held.add(beside)
    stray = sum(beside.degraded.values())
    held.promise(
        stray <= max(FEW, STRAY * beside.sent), "others keep their history", f"{stray} of {beside.sent} do not"
    )
    if beside.seconds:
        held.figures |= {"others_p50_ms": median(beside.seconds) * 1000, "others_longest_s": beside.longest_s}
        held.promise(beside.longest_s < WAIT_S, f"others wait less than {WAIT_S:.0f} s", f"{beside.longest_s:.1f} s")
