"""A service of a fault's own under steady load, and what happens to it meanwhile: `Ordeal`, the kind of most rows here.

Half of the callers keep their connection, half open one for each request. Each goes on until the load ends, whatever
it meets; what it meets is counted.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tests.client import Service, serving
from tests.faults.client import Caller, Lost
from tests.faults.held import Held
from tests.faults.serving import needed, workers_of
from tests.faults.store.server import PASSWORD
from tests.faults.users import Users
from tests.faults.world import RECOVER_S, SETTINGS, World
from tests.servers import free_ports

CALLERS, PAUSE_S = 8, 0.02
PATIENCE_S = 40.0
WORKERS = 2
FULL, ROUND = 1_000, 4  # size of a fault in full; how often what is repeated happens then


class Load:
    """Callers who ask from `start` to `stop`, and what they met beside `held`."""

    def __init__(self, held: Held, users: Users, port: int, more: Mapping[str, Any]):
        self.users, self.more = users, more
        self._held, self._port = held, port
        self._ends = asyncio.Event()
        self._calls: list[asyncio.Task[None]] = []
        self.answers_at: list[float] = []  # by time.perf_counter
        self.refused_at: list[float] = []  # connections that nobody took: no request was sent

    def start(self, *, keeping: int = CALLERS // 2, anew: int = CALLERS // 2) -> None:
        ways = [True] * keeping + [False] * anew
        self._calls += [asyncio.create_task(self._call(seed, keeps)) for seed, keeps in enumerate(ways)]

    async def stop(self) -> None:
        """Once the last answers are there."""
        self._ends.set()
        await asyncio.gather(*self._calls)

    async def answers(self, count: int) -> None:
        """Until so many more right answers have come."""
        wanted = len(self.answers_at) + count
        await until(lambda: len(self.answers_at) >= wanted, f"{count} more answers")

    def longest_gap_s(self) -> float:
        """The longest time without a right answer for anybody."""
        pairs = zip(self.answers_at, self.answers_at[1:], strict=False)
        return max((later - sooner for sooner, later in pairs), default=0.0)

    async def _call(self, seed: int, keeps: bool) -> None:
        draw, caller = random.Random(seed), Caller(self._port)
        try:
            while not self._ends.is_set():
                await self._ask(caller, draw.choice(self.users.ordinary))
                if not keeps:
                    caller.hang_up()
                await asyncio.sleep(draw.uniform(0, 2 * PAUSE_S))
        finally:
            caller.hang_up()

    async def _ask(self, caller: Caller, user_id: str) -> None:
        begun = time.perf_counter()
        try:
            answer = await caller.ask("/rank", self.users.body(user_id, **self.more))
        except ConnectionRefusedError:
            self.refused_at.append(time.perf_counter())
            return
        except (Lost, OSError) as error:
            self._held.sent += 1
            self._held.lose(f"{error} (after {time.perf_counter() - begun:.2f} s)")
            return
        self._held.sent += 1
        now = time.perf_counter()
        if self._held.judge(self.users, user_id, answer, now - begun) is not None:
            self.answers_at.append(now)


class Ways(NamedTuple):
    """To a service, beside its port."""

    admin_port: int
    handover: str  # where its socket would be handed over


class Own(World):
    """The world of one service of a fault's own. `held` is where its promises go."""

    def __init__(self, world: World, service: Service, held: Held, load: Load, ways: "Ways", rounds: int):
        super().__init__(world.store, world.proxy, service, load.users)
        self.held, self.load, self.rounds = held, load, rounds
        self._admin_port, self.handover = ways.admin_port, ways.handover

    def workers(self) -> list[int]:
        return workers_of(self.service)

    async def health(self) -> dict[str, Any]:
        """What the admin process says of the workers; nothing where it does not answer."""
        caller = Caller(self._admin_port)
        try:
            return dict((await caller.get("/health/ready")).json())
        except (Lost, OSError, json.JSONDecodeError):
            return {}
        finally:
            caller.hang_up()

    async def whole(self, without: set[int] = frozenset()) -> float:  # type: ignore[assignment]
        """Seconds until all workers answer, none of them one of `without`."""

        async def is_whole() -> bool:
            health = await self.health()
            alive = set(self.workers())
            counts = (health.get("up"), health.get("answering"), len(alive - without))
            return counts == (WORKERS, WORKERS, WORKERS) and not alive & without

        return await until(is_whole, f"{WORKERS} workers that answer, in the place of {without or 'none'}")

    async def ended(self, patience_s: float = PATIENCE_S) -> float:
        """Seconds until the service has ended; its exit code is then known."""
        return await until(lambda: self.service.process.poll() is not None, "the end of the service", patience_s)

    def tell(self) -> int:
        """Where the log stands."""
        return len(self.service.output)


@dataclass(frozen=True)
class Ordeal:
    """Something that `happens` to a service of its own under load.

    `lost`: so many requests may be lost, as those of a worker that is killed. `ends`: the service is gone afterwards.
    `needs`: settings (`hang_s`) and commands (`service.publish`) without which it cannot be gone through.
    """

    name: str
    does: str
    promises: str
    happens: Callable[[Own], Awaitable[None]]
    settings: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    start: Callable[..., AbstractContextManager[Service]] = serving
    lost: Callable[[int], int] = lambda rounds: 0
    ends: bool = False
    short: bool = False
    size: int = FULL
    refused: tuple[int, ...] = ()
    people: Callable[[Users, Service], Users] = lambda users, service: users  # who judge the answers
    anew: int = CALLERS // 2  # of the load's callers, how many open a connection for each request
    hands_over: bool = False  # it has a RANKER_HANDOVER
    names_time: bool = False  # the load's requests have a `timestamp`
    by_proxy: bool = False  # its store is behind the world's proxy

    async def run(self, world: World, held: Held, size: int) -> None:
        needed(*self.needs)
        async with self._own(world, held, size) as own:
            own.load.start(anew=self.anew)
            try:
                await own.load.answers(20)
                await self.happens(own)
            finally:
                await own.load.stop()
            if not self.ends:
                held.figures["recovered_s"] = await own.recovered(held)
                late = f"none after {held.figures['recovered_s']:.1f} s"
                held.promise(held.figures["recovered_s"] < RECOVER_S, "history at once when it is over", late)
                failed = await own.counted("ranker_requests_total", outcome="failed")
                held.promise(not failed, "no request is counted as failed", f"{failed:.0f} are")
            held.figures |= {"longest_gap_s": own.load.longest_gap_s(), "not_taken": len(own.load.refused_at)}
            log = own.service.output
        held.promise("Traceback" not in log, "no traceback in the log", log[log.find("Traceback") :][:600])
        held.promise_answers(refused=self.refused, lost=self.lost(own.rounds))

    @asynccontextmanager
    async def _own(self, world: World, held: Held, size: int) -> AsyncIterator[Own]:
        [admin_port] = free_ports(1)
        proxied = f"redis://:{PASSWORD}@127.0.0.1:{world.proxy.port}"
        settings = SETTINGS | {
            "redis_url": proxied if self.by_proxy else world.store.url,
            "workers": str(WORKERS),
            "score_threads": "1",
        }
        settings |= {"admin_port": str(admin_port), **self.settings}
        rounds = ROUND if size >= FULL else 1
        with TemporaryDirectory(prefix="ranker-faults-") as folder, ExitStack() as stack:
            handover = str(Path(folder) / "socket")
            settings |= {"handover": handover, "drain_s": "1"} if self.hands_over else {}
            service = stack.enter_context(self.start(**settings))
            port = int(service.url.rpartition(":")[2])
            more = {"timestamp": world.users.now_ms} if self.names_time else {}
            people = self.people(world.users, service)
            load = Load(held, people, port, more)
            own = Own(world, service, held, load, Ways(admin_port, handover), rounds)
            await own.whole()
            yield own


async def until(holds: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> float:
    """Seconds until it holds, while the load goes on; an AssertionError where it never does."""
    begun = time.perf_counter()
    while True:
        told = holds()
        if await told if asyncio.iscoroutine(told) else told:
            return time.perf_counter() - begun
        assert time.perf_counter() - begun < patience_s, f"waited {patience_s:.0f} s in vain for: {what}"
        await asyncio.sleep(0.05)
