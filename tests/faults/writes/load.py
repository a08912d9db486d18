"""Writers at work at a desk, and rows of what happens to it meanwhile: `Writes`."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field

from service.drained.drain import drain
from service.drained.out import Out
from tests.faults.client import Answer, Caller
from tests.faults.held import Held
from tests.faults.process.own import until
from tests.faults.store.server import PASSWORD
from tests.faults.world import RECOVER_S, World
from tests.faults.writes.account import Account
from tests.faults.writes.audit import audit_log, audit_store
from tests.faults.writes.desk import Desk, desk
from tests.faults.writes.writer import Manners, Writer

WRITERS, PAUSE_S, SIZE = 8, 0.005, 600  # size: requests while a fault lasts, in full
MOST_S = 2.0  # that a fault of the store lasts


class Load:
    """Writers from `start` to `stop`. `held` is where what they meet is counted."""

    def __init__(self, desk: Desk, held: Held, prefix: str, items: list[str], manners: Manners):
        self.desk, self.held, self.prefix, self._items = desk, held, prefix, items
        self.writers = [
            Writer(f"{prefix}{number}", desk.instance.port, items, held, manners) for number in range(WRITERS)
        ]
        self.log = desk.log()
        self.told: list[str] = []  # by the drain
        self.cut_files = 0  # that it met
        self._ends = asyncio.Event()

    @property
    def accounts(self) -> list[Account]:
        return [account for writer in self.writers for account in writer.accounts]

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(writer.go(self._ends, PAUSE_S)) for writer in self.writers]
        try:
            yield
        finally:
            self._ends.set()
            await asyncio.gather(*tasks)
            for writer in self.writers:
                writer.hang_up()

    async def requests(self, number: int, most_s: float = MOST_S) -> None:
        """Until so many more were sent, or time is up."""
        wanted, begun = self.held.sent + number, time.perf_counter()
        await until(lambda: self.held.sent >= wanted or time.perf_counter() - begun > most_s, "requests")

    async def acknowledged(self, number: int) -> None:
        """Until so many more writes are acknowledged."""
        begun = time.perf_counter()
        await until(lambda: len(self._acknowledged(begun)) >= number, f"{number} more acknowledged writes")

    async def recovered(self, calm: int) -> float:
        """Seconds until a write is acknowledged, and so many after it before any is answered by 503."""
        begun = since = time.perf_counter()
        refused = self.held.refused[503]

        def is_calm() -> bool:
            nonlocal refused, since
            if self.held.refused[503] != refused:
                refused, since = self.held.refused[503], time.perf_counter()
            return len(self._acknowledged(since)) > calm

        await until(is_calm, f"{calm} writes acknowledged in a row")
        return min(self._acknowledged(since)) - begun

    async def refused(self, number: int = 1) -> None:
        """Until so many more were answered by 503."""
        wanted = self.held.refused[503] + number
        await until(lambda: self.held.refused[503] >= wanted, f"{number} times 503")

    def _acknowledged(self, since: float) -> list[float]:
        return [at for writer in self.writers for at in writer.acknowledged_at if at > since]

    async def rank(self) -> Answer:
        """Of one request to /rank."""
        caller = Caller(self.desk.instance.port)
        try:
            return await caller.ask("/rank", {"user_id": f"{self.prefix}reader", "candidates": self._items})
        finally:
            caller.hang_up()

    def another(self) -> Writer:
        """One who writes nothing unasked."""
        name = f"{self.prefix}{len(self.writers)}"
        self.writers.append(Writer(name, self.desk.instance.port, self._items, self.held, Manners()))
        return self.writers[-1]

    async def drain(self) -> None:
        """All of the journal, once its files are closed or their owners dead."""

        def drains() -> bool:
            drained = drain(self.desk.journal, Out(str(self.log)), self.told.append)
            self.cut_files += drained.cut_files
            return not drained.live

        await until(drains, "an end of what is written")


@dataclass(frozen=True)
class Writes:
    """Something that `happens` to the service, its store or its journal while writers write.

    `refused`: statuses that any number may get, as 503 means "not now: send it again". `lost`: so many answers may be,
    as those of a worker that is killed. `happens` returns when it is over.
    """

    name: str
    does: str
    promises: str
    happens: Callable[[Load, int], Awaitable[None]]
    refused: tuple[int, ...] = (503,)
    lost: int = 0
    manners: Manners = field(default_factory=Manners)
    afterwards: Callable[[Load], None] = lambda load: None  # once all is drained
    begin: Callable[[], AbstractContextManager[Desk]] | None = None  # of a desk of its own
    short: bool = False
    size: int = SIZE

    async def run(self, world: World, held: Held, size: int) -> None:
        with ExitStack() as own:
            desk = own.enter_context(self.begin()) if self.begin else world.once(_shared)
            before, told = desk.service, len(desk.service.output)
            prefix = f"{self.name.replace(' ', '-')}."
            load = Load(desk, held, prefix, world.users.items, self.manners)
            async with load.writing():
                await load.acknowledged(max(20, size // 6))
                await self.happens(load, size)
                held.figures["recovered_s"] = await load.recovered(max(40, size // 6))
            late = f"none after {held.figures['recovered_s']:.1f} s"
            held.promise(held.figures["recovered_s"] < RECOVER_S, "writes are taken at once when it is over", late)
            await load.drain()
            audit_store(held, load.accounts, desk.store, prefix)
            audit_log(held, load.accounts, load.log, prefix)
            self.afterwards(load)
            output = desk.service.output[told if desk.service is before else 0 :]
        hasty = sum(writer.hasty for writer in load.writers)
        held.promise(not hasty, "503 says when to come again", f"{hasty} without Retry-After")
        held.promise("Traceback" not in output, "no traceback in the log", output[output.find("Traceback") :][:600])
        held.promise(PASSWORD not in output, "no password in the log", "it is there")
        acknowledged = sum(len(writer.acknowledged_at) for writer in load.writers)
        held.figures |= {"acknowledged": acknowledged, "not_taken": sum(writer.not_taken for writer in load.writers)}
        held.promise_answers(refused=self.refused, lost=self.lost)


def _shared() -> AbstractContextManager[Desk]:
    """The desk of all rows that need none of their own."""
    return desk()
