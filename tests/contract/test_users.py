"""Users by their path: whatever an id holds, whatever another program has left under its keys."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import redis

from model.bundle.reading import Bundle
from model.features.behaviour import LATEST_MS, Behaviour
from service.store.clients import Commands
from service.store.format import queue_forget, queue_write
from service.store.history import Write
from service.store.redis import RedisHistory
from tests.client import client_of, items_of, run

NOW = time.time_ns() // 1_000_000


@pytest.mark.parametrize(
    "odd", ["u1\n", "\nu1", "u\n1", "u1\n\n", "u1\r\n", "u1/", "/u1", "u\0001", "%0A", "u}1|", ".", ".."]
)
def test_who_is_shown_and_forgotten_is_whom_the_path_names_and_nobody_else(
    small_bundle: Bundle, valkey_url: str, odd: str
) -> None:
    item = items_of(small_bundle, 1)[0]
    users = ("u1", odd)

    async def scenario() -> None:
        async with client_of(small_bundle, valkey_url) as client:
            events = [{"event": "click", "user_id": user, "item_id": item, "timestamp": NOW - 1} for user in users]
            assert (await client.post("/feedback", json=events)).json()["accepted"] == 2
            path = "/users/" + quote(odd, safe="").replace(".", "%2E")
            assert (await client.get(path)).json()["user_id"] == odd
            assert (await client.delete(path)).json()["user_id"] == odd
            assert (await client.get(path)).status_code == 404
            assert (await client.get("/users/u1")).status_code == 200

    run(scenario())


@pytest.mark.parametrize("before", [1, 2, 3])
def test_a_user_who_is_forgotten_amid_a_write_keeps_nothing_that_a_second_time_would_not_find(
    valkey_url: str, before: int
) -> None:
    admin: Any = redis.Redis.from_url(valkey_url)
    written, forgotten = Commands(), Commands()
    queue_write(written, "u1", [Behaviour("click", "item", "i1", NOW)], {"age": "18-24"}, keep=100, ttl_s=100)
    queue_forget(forgotten, "u1")
    for command in [*written[:before], *forgotten, *written[before:]]:
        admin.execute_command(*command)
    assert all(admin.pttl(key) > 0 for key in admin.keys()), "all expire"
    admin.execute_command(*forgotten[0])
    assert not admin.keys()


def test_a_profile_that_is_set_is_no_list_of_kinds(small_bundle: Bundle, valkey_url: str) -> None:
    admin: Any = redis.Redis.from_url(valkey_url)
    admin.zadd("{u:u1}:history:2:18-24", {"x": 0})  # what stands where a kind of the name of a value would

    async def scenario() -> int:
        async with client_of(small_bundle, valkey_url) as client:
            return (await client.put("/users/u1", json={"user": {"age": "18-24"}})).status_code

    assert run(scenario()) == 200
    assert not admin.exists("{u:u1}:kinds:2")


def test_what_another_program_left_is_shown_as_far_as_it_can_be_and_blames_no_store(
    small_bundle: Bundle, valkey_url: str
) -> None:
    admin: Any = redis.Redis.from_url(valkey_url)
    admin.hset("{u:u1}:profile:1", mapping={b"age": b"18-24", b"city": b"\xff"})
    admin.zadd("{u:u1}:kinds:2", {"no kind": 0, b"\xff": 0, "click|item": "inf"})
    admin.zadd("{u:u1}:history:2:click|item", {f"{NOW:014}|i1": 0, b"%014d|\xff" % NOW: 0, b"\xff\xfe": 0})
    admin.set("{u:u2}:kinds:2", "of another type")

    async def scenario() -> list[httpx.Response]:
        async with client_of(small_bundle, valkey_url) as client:
            event = {"event": "click", "user_id": "u2", "item_id": "i1", "timestamp": NOW}
            other = event | {"user_id": "u3"}
            return [
                await client.get("/users/u1"),
                await client.get("/users/u2"),
                await client.delete("/users/u2"),
                await client.post("/feedback", json=[event, other]),
            ]

    shown, *broken, listed = run(scenario())
    assert shown.json()["user"] == {"age": "18-24", "city": "\ufffd"}
    [history] = shown.json()["history"]
    assert (history["behaviours"], history["cut_until"]) == ([["i1", NOW]], LATEST_MS)
    said = "another program has put a value of the wrong type under this user's keys"
    assert all(said in answer.json()["error"]["message"] and answer.status_code == 503 for answer in broken)
    assert [said in one["message"] for one in listed.json()["refused"]] == [True]


def test_a_profile_of_megabytes_is_refused(small_bundle: Bundle, valkey_url: str) -> None:
    async def scenario() -> httpx.Response:
        async with client_of(small_bundle, valkey_url) as client:
            return await client.put("/users/u1", json={"user": {"age": "x" * 65536}})

    answer: httpx.Response = run(scenario())
    assert answer.status_code == 413 and "at most 65536" in answer.json()["error"]["message"]


class Noted(list[Write]):
    """Writes that note, each as it is taken, how often the loop has gone round."""

    def __init__(self, writes: list[Write]):
        super().__init__(writes)
        self.turn, self.taken = 0, Counter[int]()

    def __iter__(self) -> Iterator[Write]:
        for write in super().__iter__():
            self.taken[self.turn] += 1
            yield write


def test_other_requests_get_their_turn_while_a_long_list_is_queued(valkey_url: str) -> None:
    writes = Noted([Write(f"u{number}", [Behaviour("click", "item", "i1", NOW)], {}) for number in range(1000)])

    async def scenario() -> None:
        store = RedisHistory(valkey_url, keep=100, ttl_s=100, timeout_ms=10_000, connections=1)
        writing = asyncio.create_task(store.write_many(writes))
        while not writing.done():
            writes.turn += 1
            await asyncio.sleep(0)
        assert await writing == [None] * 1000
        await store.close()

    asyncio.run(scenario())
    assert max(writes.taken.values()) <= 30, "users' writes in one round of the loop"
