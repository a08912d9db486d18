"""Faults of callers and of single users' data: what one of them does must not show in another's answer."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.faults.client import Caller, Lost, post
from tests.faults.held import Held
from tests.faults.outages import STRAY
from tests.faults.proxy import Late
from tests.faults.users import BROKEN, ERROR, HUGE
from tests.faults.world import RECOVER_S, World

TOO_MANY = (413, 422, 429)  # how a call that asks for too much is refused
WAIT_S = 3.0  # the longest that others may wait beside a greedy call: generous, for a busy machine
BODY = 4 * 2**20 - 100  # bytes: as large as a body may be
ANSWER = 2 * BODY  # bytes of an answer to it
MEMORY = 300 * 2**20  # bytes that the service may grow by while it refuses such a call
HANG_UPS = 0.2  # share of callers


@dataclass(frozen=True)
class Misuse:
    """A fault that callers or one user's data bring. `load` sends about `size` requests."""

    name: str
    does: str
    promises: str
    load: Callable[[World, Held, int], Awaitable[None]]
    short: bool = False
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
    held.promise(stray <= max(1, STRAY * beside.sent), "others keep their history", f"{stray} of {beside.sent} do not")
    if beside.seconds:
        longest = max(beside.seconds)
        held.figures |= {"others_p50_ms": median(beside.seconds) * 1000, "others_longest_s": longest}
        held.promise(longest < WAIT_S, f"others wait less than {WAIT_S:.0f} s", f"{longest:.1f} s")


async def hang_ups(world: World, held: Held, size: int) -> None:
    """Reads whose replies come at odd times, cut off by callers who leave and by deadlines of their own."""

    def own_deadline(draw: random.Random) -> dict[str, Any]:
        return {"timeout_ms": draw.choice([20, 50, 1000])} if draw.random() < 0.1 else {}

    for late_s, share in ((0.0, 0.5), (0.004, 0.35), (0.02, 0.15)):
        world.proxy.become(Late(0.0, late_s))
        await world.ask_many(held, int(size * share), callers=24, hang_ups=HANG_UPS, more=own_deadline)
    world.honest()


async def pipelined(world: World, held: Held, size: int) -> None:
    """Five requests in one packet, then gone: at once, or amid the answers."""
    draw = random.Random(3)
    async with others(world, held):
        for _ in range(size // 5):
            caller = Caller(world.port)
            held.sent += 5
            held.hung_up += 5
            await caller.send(
                b"".join(post("/rank", world.users.body(draw.choice(world.users.ordinary))) for _ in range(5))
            )
            await asyncio.sleep(draw.choice([0.0, 0.001, 0.005]))
            caller.hang_up(by_reset=draw.random() < 0.5)
    for _ in range(5):  # who stays gets all five, in order
        users, caller, begun = draw.sample(world.users.ordinary, 5), Caller(world.port), time.perf_counter()
        await caller.send(b"".join(post("/rank", world.users.body(user_id)) for user_id in users))
        held.sent += 5
        for user_id in users:
            try:
                held.judge(world.users, user_id, await caller.receive(), time.perf_counter() - begun)
            except Lost as error:
                held.lose(error)
        caller.hang_up()


async def cut_uploads(world: World, held: Held, size: int) -> None:
    """Half a body, then gone."""
    draw = random.Random(4)
    async with others(world, held):
        for _ in range(size // 2):
            request, caller = post("/rank", world.users.body(draw.choice(world.users.ordinary))), Caller(world.port)
            held.sent += 1
            held.hung_up += 1
            await caller.send(request[: draw.randrange(1, len(request))])
            await asyncio.sleep(draw.uniform(0, 0.003))
            caller.hang_up(by_reset=draw.random() < 0.5)


async def slow_uploads(world: World, held: Held, size: int) -> None:
    """A body in ten pieces over 1.5 s: an answer or 408, and the time is the caller's own."""
    told: list[float] = []

    async def upload(user_id: str) -> None:
        request, caller = post("/rank", world.users.body(user_id)), Caller(world.port)
        held.sent += 1
        begun, step = time.perf_counter(), len(request) // 10 + 1
        try:
            for at in range(0, len(request), step):
                await caller.send(request[at : at + step])
                await asyncio.sleep(0.15)
            answer = await caller.receive()
        except (Lost, OSError) as error:
            held.lose(error)
            return
        finally:
            caller.hang_up()
        if held.judge(world.users, user_id, answer, time.perf_counter() - begun) is not None:
            told.append(answer.json()["timings_ms"]["total"])

    async with others(world, held):
        await asyncio.gather(*(upload(user_id) for user_id in world.users.ordinary[: min(20, size)]))
    if told:
        held.figures["uploads_total_p50_ms"] = median(told)
        held.promise(median(told) < 500, "the upload's 1,500 ms are not the service's time", f"{median(told):.0f} ms")


async def greedy(world: World, held: Held, body: bytes, count: int) -> None:
    """A call of /rank/batch that asks for too much, beside others."""
    before = world.memory()
    async with others(world, held):
        caller = Caller(world.port)
        held.sent += 1
        try:
            answer = await caller.ask("/rank/batch", body)
        except (Lost, OSError) as error:
            held.lose(error)
            return
        finally:
            caller.hang_up()
        if answer.status == 200:
            elements = answer.json()
            held.answered += 1
            held.promise(len(elements) == count, f"{count} answers or errors", len(elements))
        else:
            held.turned_away(answer)
    grown = world.memory() - before
    held.figures |= {"answer_bytes": len(answer.body), "grown_mb": grown / 2**20}
    held.promise(len(answer.body) <= ANSWER, f"an answer of at most {ANSWER} bytes", len(answer.body))
    held.promise(grown <= MEMORY, f"memory grows by at most {MEMORY >> 20} MB", f"{grown >> 20} MB")


async def invalid_batch(world: World, held: Held, size: int) -> None:
    count = BODY // 3
    await greedy(world, held, b"[" + b",".join([b"{}"] * count) + b"]", count)


async def long_batch(world: World, held: Held, size: int) -> None:
    count = 20_000
    one = {"candidates": world.users.items[:1]}
    await greedy(world, held, json.dumps([{"user_id": f"nobody-{n}", **one} for n in range(count)]).encode(), count)


async def full_batch(world: World, held: Held, size: int) -> None:
    """As many users in one call as may be, each with its own history."""
    users = (world.users.ordinary * 5)[: min(2000, max(400, size))]
    async with others(world, held):
        for _ in range(1 if size < 1000 else 10):
            degraded = [reasons for reasons in await world.batch(held, users) if reasons]
            held.promise(not degraded, "all of a batch keep their history", f"{len(degraded)} of {len(users)} do not")


async def broken_user(world: World, held: Held, size: int) -> None:
    """Every key of one user is of a wrong type: that user alone is ranked without history, alone and in batches."""
    keys = world.store.keys_of(BROKEN)
    assert keys, "the broken user was never written"
    saved = {key: world.store.admin.dump(key) for key in keys}
    for key in keys:
        text = world.store.admin.type(key) != b"string"
        world.store.admin.delete(key)
        _ = world.store.admin.set(key, "wrong") if text else world.store.admin.rpush(key, "wrong")
    try:
        async with others(world, held):
            for _ in range(max(1, size // 20)):
                alone = await world.ask_once(held, BROKEN)
                held.promise(alone == [ERROR], f"the broken user gets {ERROR}", alone)
                ids = [*random.Random(5).sample(world.users.ordinary, 9), BROKEN]
                *rest, broken = await world.batch(held, ids) or [None]
                held.promise(broken == [ERROR], f"the broken user gets {ERROR} in a batch", broken)
                degraded = [reasons for reasons in rest if reasons]
                held.promise(not degraded, "the other users of a batch keep their history", degraded)
                if held.broken:
                    break
    finally:
        for key, value in saved.items():
            world.store.admin.restore(key, 0, value, replace=True)


async def huge_profile(world: World, held: Held, size: int) -> None:
    """One user's profile has 200,000 fields that no model reads."""
    [key] = [key for key in world.store.keys_of(HUGE) if b"profile" in key]
    fields = [f"field-{n}" for n in range(200_000)]
    for at in range(0, len(fields), 10_000):
        world.store.admin.hset(key, mapping=dict.fromkeys(fields[at : at + 10_000], "value"))
    try:
        async with others(world, held):
            await world.ask_many(held, max(16, size // 10), callers=4, users=[HUGE])
    finally:
        world.store.admin.hdel(key, *fields)


async def crowd(world: World, held: Held, size: int) -> None:
    """More callers at once than can be answered soon: 429 or 504 for some, the right answer for all others."""
    await world.ask_many(held, size, callers=200)
    held.promise(held.answered, "some are answered", dict(held.refused))


MISUSES = [
    Misuse(
        "hang-ups",
        f"{HANG_UPS:.0%} of callers leave at a random moment, replies of the store come late",
        "every answer is that of its own user",
        hang_ups,
        short=True,
        refused=(504,),  # deadlines of their own
    ),
    Misuse("pipelined", "five requests at once, then a hang-up", "not counted as failed", pipelined, short=True),
    Misuse("cut uploads", "half a body, then a hang-up", "not counted as failed", cut_uploads, short=True),
    Misuse(
        "slow uploads",
        "a body in pieces over 1.5 s",
        "200 or 408; not in the service's time",
        slow_uploads,
        short=True,
        refused=(408,),
    ),
    Misuse(
        "invalid batch",
        "4 MB of invalid elements in one /rank/batch",
        "refused; others wait no longer than ever",
        invalid_batch,
        short=True,
        refused=TOO_MANY,
    ),
    Misuse(
        "long batch", "20,000 requests of one candidate in one /rank/batch", "likewise", long_batch, refused=TOO_MANY
    ),
    Misuse(
        "full batch",
        "2,000 users in one /rank/batch",
        "each with its own history",
        full_batch,
    ),
    Misuse(
        "broken user",
        "every key of one user has a wrong type",
        f"that user is ranked with {ERROR}, alone and in a batch; all others undegraded",
        broken_user,
        short=True,
    ),
    Misuse("huge profile", "one user's profile has 200,000 fields", "all keep their history", huge_profile, short=True),
    Misuse("crowd", "200 callers at once", "200, 429 or 504", crowd, refused=(429, 504)),
]
