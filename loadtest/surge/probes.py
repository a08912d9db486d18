"""How long a port takes to answer probes, as an orchestrator sends them: each on a connection of its own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from loadtest.errors import NoRun
from loadtest.generator.client import Address, Client

EVERY_S = 0.5
PATHS = ("/health/live", "/metrics")


@dataclass
class Probed:
    """`worst_ms` counts probes without an answer too, as taking until they were given up."""

    probes: int = 0
    failed: int = 0  # no answer, or no 200
    worst_ms: float | None = None
    why: str = ""  # the first failure

    def add(self, taken_s: float, failure: str = "") -> None:
        self.probes += 1
        self.failed += bool(failure)
        self.why = self.why or failure
        self.worst_ms = max(self.worst_ms or 0.0, 1000 * taken_s)

    def join(self, other: "Probed") -> None:
        self.probes += other.probes
        self.failed += other.failed
        self.why = self.why or other.why
        self.worst_ms = max((one for one in (self.worst_ms, other.worst_ms) if one is not None), default=None)


@dataclass
class Probes:
    """What one port's probes saw, by path."""

    address: Address
    by_path: dict[str, Probed] = field(default_factory=lambda: {path: Probed() for path in PATHS})

    @property
    def worst_ms(self) -> float | None:
        """None where nothing was ever answered."""
        answered = [one.worst_ms for one in self.by_path.values() if one.failed < one.probes]
        return max((worst for worst in answered if worst is not None), default=None)

    @property
    def silent(self) -> bool:
        """Whether it was asked, and answered nothing."""
        return self.worst_ms is None and any(one.probes for one in self.by_path.values())

    def join(self, other: "Probes") -> None:
        for path, one in other.by_path.items():
            self.by_path[path].join(one)

    async def probe(self, path: str) -> None:
        client = Client(self.address)
        begun = client.clock()
        try:
            answer = await client.get(path)
            failure = "" if answer.status == 200 else f"status {answer.status}"
            self.by_path[path].add(answer.at - begun, failure)
        except NoRun as error:
            self.by_path[path].add(client.clock() - begun, str(error))
        finally:
            await client.close()


@asynccontextmanager
async def probing(ports: Sequence[Probes]) -> AsyncIterator[None]:
    """Every path of every port is asked each EVERY_S, whether or not earlier probes are answered; all are awaited."""
    under_way: set[asyncio.Task[None]] = set()

    async def ask() -> None:
        while True:
            for port in ports:
                for path in PATHS:
                    under_way.add(asyncio.create_task(port.probe(path)))
            await asyncio.sleep(EVERY_S)

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.gather(*under_way)
