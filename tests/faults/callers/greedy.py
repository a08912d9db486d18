"""Calls of /rank/batch that ask for much or too much, and one user's data that is too much or of a wrong type."""

import json
import random

from tests.faults.callers.misuse import Misuse, others
from tests.faults.client import Caller, Lost
from tests.faults.held import Held
from tests.faults.users import BROKEN, CACHED, ERROR, HUGE
from tests.faults.world import World

TOO_MANY = (413, 422, 429)  # how a call that asks for too much is refused
BODY = 4 * 2**20 - 100  # bytes: as large as a body may be
ANSWER = 2 * BODY  # bytes of an answer to it
MEMORY = 300 * 2**20  # bytes that the service may grow by while it refuses such a call


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
    allowed = [ERROR], [CACHED]
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
                held.promise(alone in allowed, f"the broken user gets one of {allowed}", alone)
                ids = [*random.Random(5).sample(world.users.ordinary, 9), BROKEN]
                *rest, broken = await world.batch(held, ids) or [None]
                held.promise(broken in allowed, f"the broken user gets one of {allowed} in a batch", broken)
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


GREEDY = [
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
]
