"""Writes while workers and instances are killed or told to end, and by callers who hang up, repeat or send too much."""

import asyncio
import os
import signal
from contextlib import suppress

from tests.faults.process.own import ROUND, until
from tests.faults.serving import workers_of
from tests.faults.writes.account import Account
from tests.faults.writes.load import SIZE, WRITERS, Load, Writes
from tests.faults.writes.writer import Manners
from tests.judge.ledger import Told

LIMIT = 1000  # RANKER_MAX_FEEDBACK_EVENTS
TOO_MANY = (LIMIT + 1, 2 * LIMIT, 50 * LIMIT)
OWNERS = 4  # of the events of a long list
KEEPS = "every 200 is in the store and in the log"


def _rounds(size: int) -> int:
    return ROUND if size >= SIZE else 1


async def worker_killed(load: Load, size: int) -> None:
    for _ in range(_rounds(size)):
        [killed, *_] = workers = workers_of(load.desk.service)
        with suppress(ProcessLookupError):
            os.kill(killed, signal.SIGKILL)

        def replaced(before: list[int] = workers) -> bool:
            now = workers_of(load.desk.service)
            return len(now) == len(before) and before[0] not in now

        await until(replaced, "another worker")
        await load.acknowledged(40)


async def instance_killed(load: Load, size: int) -> None:
    """All of its processes at once, as a machine that fails would take them."""
    instance = load.desk.instance
    for pid in (instance.service.process.pid, *workers_of(instance.service)):
        os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(instance.kill)
    instance.start()
    await asyncio.to_thread(instance.ready)


async def told_to_end(load: Load, size: int) -> None:
    instance = load.desk.instance
    process = instance.service.process
    process.terminate()
    await until(lambda: process.poll() is not None, "the end of the service")
    load.held.promise(process.returncode == 0, "exit code 0", process.returncode)
    instance.start()
    await asyncio.to_thread(instance.ready)


async def as_usual(load: Load, size: int) -> None:
    await load.requests(size, most_s=5.0)


async def sent_again(load: Load, size: int) -> None:
    """The same list four times at once, by as many connections: one set of events."""
    same = [load.another() for _ in range(4)]
    for _ in range(max(2, size // 60)):
        events = _events(load, 20)
        body = _body([told for _, told in events])
        taken = await asyncio.gather(*(writer.tell(events, body) for writer in same))
        load.held.promise(all(taken), "each is acknowledged", taken)


async def as_many_as_may_be(load: Load, size: int) -> None:
    writer = load.another()
    for _ in range(_rounds(size)):
        events = _events(load, LIMIT)
        taken = await writer.tell(events, _body([told for _, told in events]))
        load.held.promise(taken, f"{LIMIT} events are taken", load.held.quoted)


async def too_many(load: Load, size: int) -> None:
    """None of them is written: nobody takes them down as sent."""
    writer = load.another()
    for number in TOO_MANY:
        account = writer.account()
        await writer.tell([], _body([writer.event(account) for _ in range(number)]))
    refused = dict(load.held.refused)
    load.held.promise(refused == {422: 2, 413: 1}, "422, 422 and 413", refused)


def _events(load: Load, number: int) -> list[tuple[Account, Told]]:
    """Of new users, taken down as sent."""
    writer = load.another()
    owners = [writer.account() for _ in range(OWNERS)]
    events = [(owner, writer.event(owner)) for _ in range(number // OWNERS) for owner in owners]
    for owner, told in events:
        owner.sends([told])
    return events


def _body(events: list[Told]) -> list[dict[str, object]]:
    return [{name: value for name, value in told._asdict().items() if value is not None} for told in events]


SERVICES_OF_WRITES = [
    Writes(
        "writes: a worker killed",
        "one of two workers is killed by SIGKILL, again and again",
        f"{KEEPS}; another takes its place, nobody else loses an answer",
        worker_killed,
        lost=ROUND * WRITERS,
        short=True,
    ),
    Writes(
        "writes: the instance killed",
        "the service is killed by SIGKILL, and started again",
        f"{KEEPS}; who was amid a call gets no answer",
        instance_killed,
        lost=2 * WRITERS,  # who comes again at once may meet a socket whose last owner is just dying
    ),
    Writes(
        "writes: SIGTERM",
        "SIGTERM under writes, and started again",
        f"{KEEPS}; nothing accepted is left unanswered",
        told_to_end,
    ),
    Writes(
        "writes: hang-ups",
        "three calls in ten are cut off by their callers, amid the request or before the answer",
        f"{KEEPS}; what was cut off is written whole or not at all, or told again",
        as_usual,
        refused=(),
        manners=Manners(hangs_up=0.3),
    ),
    Writes(
        "writes: sent again",
        "every list is sent twice, and some four times at once",
        f"{KEEPS}, once",
        sent_again,
        refused=(),
        manners=Manners(tells_twice=1.0),
    ),
    Writes(
        "writes: slow uploads",
        "a third of the requests come in pieces over a quarter of a second",
        f"{KEEPS}; others do not wait",
        as_usual,
        refused=(),
        manners=Manners(uploads_slowly=0.33),
    ),
    Writes(
        "writes: a list at the limit",
        f"{LIMIT} events in a body",
        f"{KEEPS}",
        as_many_as_may_be,
        refused=(),
    ),
    Writes(
        "writes: a list over the limit",
        f"{', '.join(map(str, TOO_MANY))} events in a body",
        "422, or 413 where the body is too large; none of them is written",
        too_many,
        refused=(413, 422),
    ),
]
