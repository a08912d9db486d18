"""Callers who hang up, pipeline, upload slowly or come all at once: each answer is that of its own user."""

import asyncio
import random
import time
from statistics import median
from typing import Any

from tests.faults.callers.misuse import Misuse, others
from tests.faults.client import Caller, Lost, post
from tests.faults.held import Held
from tests.faults.store.proxy import Late
from tests.faults.world import World

HANG_UPS = 0.2  # share of callers


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


async def crowd(world: World, held: Held, size: int) -> None:
    """More callers at once than can be answered soon: 429 or 504 for some, the right answer for all others.

    Proxy and callers share a process, so a busy one is a late store too: what is degraded is not judged.
    """
    await world.ask_many(held, size, callers=200)
    held.promise(held.answered, "some are answered", dict(held.refused))


CLUMSY = [
    Misuse(
        "hang-ups",
        f"{HANG_UPS:.0%} of callers leave at a random moment, replies of the store come late",
        "every answer is that of its own user",
        hang_ups,
        short=True,
        size=100_000,
        refused=(429, 504),  # deadlines of their own, as short as 20 ms
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
    Misuse("crowd", "200 callers at once", "200, 429 or 504", crowd, refused=(429, 504)),
]
