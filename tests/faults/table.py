"""Every fault of the suite, in the order in which they are gone through.

A fault has a name, what it `does` and `promises`, and `run(world, held, size)`, which brings it about under some `size`
requests and notes in `held` what came of them. Kinds of faults: `Outage` (of the store), `Misuse` (by callers),
`Beginning` and `Refusal` (at start), `Fuzzed` (by chance), `Hostile` (by no caller), `Ordeal` (of processes, disks,
clocks and bundles, each on a service of its own), `Writes` (while writers write). A new fault is a row of its kind; a
new kind is a class with these.
"""

from typing import Protocol

from tests.faults.bundles.swaps import BUNDLES
from tests.faults.callers.clumsy import CLUMSY
from tests.faults.callers.fuzzed import FUZZED
from tests.faults.callers.greedy import GREEDY
from tests.faults.callers.hostile import HOSTILE
from tests.faults.held import Held, LeftOut
from tests.faults.process.clocks import CLOCKS
from tests.faults.process.descriptors import DESCRIPTORS
from tests.faults.process.restarts import RESTARTS
from tests.faults.process.starting import STARTING
from tests.faults.process.stops import STOPS
from tests.faults.process.workers import WORKERS_ROWS
from tests.faults.store.outages import OUTAGES
from tests.faults.store.starts import STARTS
from tests.faults.world import World
from tests.faults.writes.journals import JOURNALS_OF_WRITES
from tests.faults.writes.outages import OUTAGES_OF_WRITES
from tests.faults.writes.services import SERVICES_OF_WRITES


class Fault(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def does(self) -> str: ...
    @property
    def promises(self) -> str: ...
    @property
    def short(self) -> bool: ...  # whether it is part of `make test`
    @property
    def size(self) -> int: ...  # in full

    async def run(self, world: World, held: Held, size: int) -> None:
        """Raises LeftOut where the fault cannot be made here."""
        ...


OF_STORES: list[Fault] = [*OUTAGES, *STARTS]
OF_CALLERS: list[Fault] = [*CLUMSY, *GREEDY, *FUZZED, *HOSTILE]
OF_PROCESSES: list[Fault] = [*WORKERS_ROWS, *STOPS, *STARTING, *CLOCKS, *DESCRIPTORS, *RESTARTS]
OF_BUNDLES: list[Fault] = [*BUNDLES]
OF_WRITES: list[Fault] = [*OUTAGES_OF_WRITES, *SERVICES_OF_WRITES, *JOURNALS_OF_WRITES]
FAULTS = [*OF_STORES, *OF_CALLERS, *OF_PROCESSES, *OF_BUNDLES, *OF_WRITES]


async def seen(fault: Fault, world: World, size: int) -> Held:
    """What comes of a fault. An error of the suite's own is a promise that does not hold. Raises LeftOut."""
    held = Held(fault.name)
    try:
        await fault.run(world, held, size)
    except LeftOut:
        raise
    except Exception as error:
        held.promise(False, "the fault can be gone through to its end", f"{type(error).__name__}: {error}")
    return held
