"""SIGTERM in every bad moment: under load, twice, with bodies half sent, with a store whose name never resolves."""

import asyncio
import time

from tests.faults.client import Answer, Caller, Lost, post
from tests.faults.held import Held
from tests.faults.process.own import Ordeal, Own, until
from tests.faults.store.starts import with_hanging_names
from tests.faults.world import World

DRAIN_S, GRACE_S = 1.5, 6
LONG_DRAIN_S, LONG_GRACE_S = 20, 40
ROOM_S = 1.5  # of a busy machine, on top of what is promised
SLOW = 10  # callers who never finish a body
SLOW_STATUSES = (408, 503)
DRAINS = {"drain_s": str(DRAIN_S), "shutdown_grace_s": str(GRACE_S)}


async def _ends(own: Own, begun: float, within_s: float) -> None:
    await own.ended(within_s + 20)
    seconds, code = time.perf_counter() - begun, own.service.process.returncode
    own.held.figures["ended_s"] = seconds
    own.held.promise(seconds <= within_s + ROOM_S, f"it ends within {within_s} s", f"{seconds:.1f} s")
    own.held.promise(code == 0, "exit code 0", code)


async def under_load(own: Own) -> None:
    own.service.process.terminate()
    begun = time.perf_counter()
    caller = Caller(own.port)
    answers: list[Answer] = []

    async def says_503() -> bool:
        answers.append(await caller.get("/health/ready"))
        return answers[-1].status == 503

    try:
        seconds = await until(says_503, "503 by /health/ready", DRAIN_S)
        own.held.figures["unready_s"] = seconds
        on_admin = (await own.health()).get("status")
        own.held.promise(on_admin != "ready", "the admin port says so too", on_admin)
    finally:
        caller.hang_up()
    await _ends(own, begun, GRACE_S)
    sooner = [at - begun for at in own.load.refused_at if at - begun < DRAIN_S - 0.1]
    own.held.promise(not sooner, f"no connection is refused within RANKER_DRAIN_S ({DRAIN_S})", f"{len(sooner)}")
    served_s = max(own.load.answers_at) - begun
    own.held.promise(
        served_s > DRAIN_S - 0.5, "it serves on for RANKER_DRAIN_S", f"the last answer at {served_s:.1f} s"
    )


async def twice(own: Own) -> None:
    begun = time.perf_counter()
    own.service.process.terminate()
    await own.load.answers(20)
    own.service.process.terminate()
    await _ends(own, begun, LONG_DRAIN_S / 2)


async def with_slow_bodies(own: Own) -> None:
    """Each gets a word: that its body took too long, or that this instance stops."""
    statuses: list[int | str] = []

    async def slow(user_id: str) -> None:
        request, caller = post("/rank", own.users.body(user_id, timeout_ms=600_000)), Caller(own.port)
        try:
            await caller.send(request[: len(request) // 2])
            statuses.append((await caller.receive()).status)
        except (Lost, OSError) as error:
            statuses.append(str(error))
        finally:
            caller.hang_up()

    uploads = [asyncio.create_task(slow(user_id)) for user_id in own.users.ordinary[:SLOW]]
    await own.load.answers(20)
    own.service.process.terminate()
    await _ends(own, time.perf_counter(), GRACE_S)
    await asyncio.gather(*uploads)
    told = all(status in SLOW_STATUSES for status in statuses)
    own.held.promise(told, f"each slow caller is answered by one of {SLOW_STATUSES}", statuses)


class HangingNames:
    """A service whose store's name never resolves is stopped while look-ups hang."""

    name = "SIGTERM with hanging DNS"
    does = "SIGTERM while the resolver does not answer"
    promises = f"it ends within RANKER_SHUTDOWN_GRACE_S ({GRACE_S}), whatever hangs"
    short, size = False, 60

    async def run(self, world: World, held: Held, size: int) -> None:
        with with_hanging_names(world, **DRAINS) as service:
            own = World(world.store, world.proxy, service, world.users)
            await own.ask_many(held, size)
            begun = time.perf_counter()
            service.process.terminate()
            await until(lambda: service.process.poll() is not None, "the end of the service")
            seconds = time.perf_counter() - begun
            held.figures["ended_s"] = seconds
            held.promise(seconds <= GRACE_S + ROOM_S, f"it ends within {GRACE_S} s", f"{seconds:.1f} s")
            held.promise(service.process.returncode == 0, "exit code 0", service.process.returncode)
            held.promise("Traceback" not in service.output, "no traceback in the log", service.output[-600:])
        held.promise_answers()


STOPS = [
    Ordeal(
        "SIGTERM",
        "SIGTERM under load",
        "503 by /health/ready at once, served on for RANKER_DRAIN_S, then refused: nothing accepted and unanswered",
        under_load,
        settings=DRAINS,
        ends=True,
    ),
    Ordeal(
        "SIGTERM twice",
        f"a second SIGTERM while it drains for {LONG_DRAIN_S} s",
        "it hurries, and nothing is lost",
        twice,
        settings={"drain_s": str(LONG_DRAIN_S), "shutdown_grace_s": str(LONG_GRACE_S)},
        ends=True,
    ),
    Ordeal(
        "SIGTERM with slow bodies",
        f"SIGTERM while {SLOW} callers are amid their bodies, which never end",
        f"each gets one of {SLOW_STATUSES}; it ends within the grace; nobody else loses anything",
        with_slow_bodies,
        settings=DRAINS,
        ends=True,
    ),
    HangingNames(),
]
