"""The store's format and its reading and writing, against real servers."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

import service.store.format
from model.features.behaviour import Behaviour
from service.store import clients
from service.store.format import history_key, pack, profile_key, queue_write, unpack
from service.store.history import Stored, StoreUnavailable
from service.store.redis import RedisHistory
from tests.stores import Proxy, black_hole_url, dead_url, read_one

KEEP = 5
TTL_S = 1000

names = st.text(st.characters(codec="utf-8", exclude_characters="|"))
behaviours = st.builds(Behaviour, names, names, st.text(), st.integers(-(2**53), 2**53))


def click(object_id: str, timestamp: int) -> Behaviour:
    return Behaviour("click", "item", object_id, timestamp)


def clicks(*timestamps: int) -> list[Behaviour]:
    return [click(f"i{timestamp}", timestamp) for timestamp in timestamps]


@asynccontextmanager
async def opened(
    url: str, keep: int = KEEP, timeout_ms: int = 5000, connections: int = 4
) -> AsyncIterator[RedisHistory]:
    history = RedisHistory(url, keep=keep, ttl_s=TTL_S, timeout_ms=timeout_ms, connections=connections)
    try:
        yield history
    finally:
        await history.close()


@pytest.fixture
def admin(store_url):
    with clients.opened_sync(store_url, 10) as client:
        yield client


@given(behaviours)
def test_a_packed_behaviour_unpacks_to_itself(behaviour):
    assert unpack(pack(behaviour)) == behaviour
    assert unpack(pack(behaviour).encode()) == behaviour


def test_an_object_id_may_hold_the_separator():
    assert unpack("click|item|a|b||1|5") == click("a|b||1", 5)


@pytest.mark.parametrize("behaviour", [Behaviour("a|b", "item", "i", 1), Behaviour("click", "a|b", "i", 1)])
def test_an_action_or_type_with_the_separator_is_refused(behaviour):
    with pytest.raises(ValueError, match=r"a\|b"):
        pack(behaviour)


MALFORMED = [
    b"click|item|i1|9007199254740993",
    b"",
    b"click",
    b"click|item|i1",
    b"click|item|5",
    b"click|item|i1|",
    b"click|item|i1|x",
]
MALFORMED += [b"click|item|i1|1.5", b"click|item|i1|+1", b"click|item|i1|01", b"click|item|i1| 1", b"click|item|\xff|1"]


@pytest.mark.parametrize("member", MALFORMED)
def test_what_pack_would_not_make_does_not_unpack(member):
    with pytest.raises(ValueError):
        unpack(member)


@given(st.text())
def test_both_keys_of_a_user_fall_into_one_cluster_slot(user_id):
    profile, history = profile_key(user_id).encode(), history_key(user_id).encode()

    assert key_slot(profile) == key_slot(history)
    assert key_slot(profile) == key_slot(f"u:{user_id}".split("}")[0].encode())  # spread by the id, not by the prefix


@given(st.text(), st.text())
def test_no_two_users_share_a_key(one, other):
    assert (one == other) == (profile_key(one) == profile_key(other)) == (history_key(one) == history_key(other))
    assert profile_key(one) != history_key(other)


def test_a_user_never_written_is_empty(store_url):
    async def scenario():
        async with opened(store_url) as history:
            assert await read_one(history, "nobody", None) == Stored({}, [], 0)

    asyncio.run(scenario())


@pytest.mark.parametrize("user_id", ["u1", "", "7", "a}b", "{a", "}{", "ü \n|:", "日本"])
def test_what_is_written_is_read(store_url, user_id):
    async def scenario():
        async with opened(store_url) as history:
            profile = {"age": "30", "city": "北京", "tags": '["a", "b"]', "": ""}
            await history.write(user_id, clicks(3, 1, 2), profile)
            await history.write(user_id + "x", clicks(9), None)

            assert await read_one(history, user_id, None) == Stored(profile, clicks(1, 2, 3), 0)

    asyncio.run(scenario())


def test_writing_again_changes_nothing(store_url, admin):
    async def scenario():
        async with opened(store_url) as history:
            await history.write("u", clicks(1, 2, 2), {"age": "30"})
            once = await read_one(history, "u", None)
            await history.write("u", clicks(2, 1), {"age": "30"})

            assert await read_one(history, "u", None) == once == Stored({"age": "30"}, clicks(1, 2), 0)

    asyncio.run(scenario())


def test_a_profile_field_is_replaced_and_the_others_stay(store_url):
    async def scenario():
        async with opened(store_url) as history:
            await history.write("u", [], {"age": "30", "city": "x"})
            await history.write("u", [], {"age": "31"})

            assert (await read_one(history, "u", None)).profile == {"age": "31", "city": "x"}

    asyncio.run(scenario())


def test_a_late_event_lands_in_its_place(store_url):
    async def scenario():
        async with opened(store_url) as history:
            await history.write("u", clicks(10, 30), None)
            await history.write("u", clicks(20), None)

            assert (await read_one(history, "u", None)).behaviours == clicks(10, 20, 30)

    asyncio.run(scenario())


def test_the_newest_are_kept_whatever_the_order_of_arrival(store_url, admin):
    async def scenario():
        async with opened(store_url) as history:
            for timestamp in (50, 90, 10, 70, 30, 80, 20, 60, 40):
                await history.write("u", clicks(timestamp), None)

            assert (await read_one(history, "u", None)).behaviours == clicks(50, 60, 70, 80, 90)
            assert admin.zcard(history_key("u")) == KEEP

    asyncio.run(scenario())


def test_ties_in_time_are_ordered_and_trimmed_alike_whatever_the_order_of_arrival(store_url):
    async def scenario():
        tied = [click(f"i{n}", 7) for n in range(8)]
        async with opened(store_url) as history:
            await history.write("forth", tied, None)
            await history.write("back", tied[::-1], None)

            forth, back = [(await read_one(history, user, None)).behaviours for user in ("forth", "back")]
            assert forth == back == tied[-KEEP:]

    asyncio.run(scenario())


def test_only_what_happened_strictly_before_is_read(store_url):
    async def scenario():
        async with opened(store_url, keep=2) as history:
            async with opened(store_url, keep=100) as untrimmed:
                await untrimmed.write("u", clicks(10, 20, 30, 40), None)

            assert (await read_one(history, "u", 30)).behaviours == clicks(10, 20)
            assert (await read_one(history, "u", 31)).behaviours == clicks(20, 30)
            assert (await read_one(history, "u", 10)).behaviours == []

    asyncio.run(scenario())


def test_a_live_request_sees_a_click_stamped_ahead_of_our_clock(store_url):
    async def scenario():
        tomorrow = int(time.time() * 1000) + 86_400_000
        async with opened(store_url) as history:
            await history.write("u", clicks(tomorrow), None)

            assert (await read_one(history, "u", None)).behaviours == clicks(tomorrow)

    asyncio.run(scenario())


def test_every_write_renews_profile_and_history(store_url, admin):
    async def scenario():
        async with opened(store_url) as history:
            for behaviours, profile in ((clicks(1), {"age": "30"}), (clicks(2), None), ([], {"age": "31"})):
                await history.write("u", behaviours, profile)

                for key in (profile_key("u"), history_key("u")):
                    assert TTL_S * 1000 - 60_000 < admin.pttl(key) <= TTL_S * 1000
                    admin.pexpire(key, 5000)

    asyncio.run(scenario())


def test_members_that_are_no_behaviours_are_skipped_and_counted(store_url, admin):
    async def scenario():
        admin.zadd(history_key("u"), {member: 5 for member in MALFORMED})
        async with opened(store_url, keep=100) as history:
            await history.write("u", clicks(1, 9), None)

            assert await read_one(history, "u", None) == Stored({}, clicks(1, 9), len(MALFORMED))

    asyncio.run(scenario())


def test_a_score_that_differs_from_the_members_time_shows_nobody_the_future(store_url, admin):
    async def scenario():
        admin.zadd(history_key("u"), {pack(click("ahead", 100)): 1, pack(click("i2", 2)): 5})
        async with opened(store_url) as history:
            assert await read_one(history, "u", 50) == Stored({}, [click("i2", 2)], 1)
            assert (await read_one(history, "u", None)).behaviours == [click("i2", 2), click("ahead", 100)]

    asyncio.run(scenario())


def test_bytes_that_are_no_text_in_a_profile_do_not_break_the_read(store_url, admin):
    async def scenario():
        admin.hset(profile_key("u"), mapping={b"age": b"30", b"city": b"\xff"})
        async with opened(store_url) as history:
            assert (await read_one(history, "u", None)).profile == {"age": "30", "city": "\ufffd"}

    asyncio.run(scenario())


def test_the_documented_commands_leave_what_write_leaves(store_url, admin):
    async def scenario():
        assert service.store.format.__doc__
        commands = [line.split() for line in service.store.format.__doc__.splitlines() if "{u:42}" in line]
        assert len(commands) == 5
        for command in commands:
            admin.execute_command(*command)
        documented = [admin.dump(key) for key in (profile_key("42"), history_key("42"))]
        ours = RedisHistory(store_url, keep=100, ttl_s=90 * 86_400, timeout_ms=5000, connections=1)
        admin.flushall()
        await ours.write("42", [Behaviour("click", "item", "2268318", 1511544070000)], {"age": "30", "city": "110000"})
        await ours.close()

        assert [admin.dump(key) for key in (profile_key("42"), history_key("42"))] == documented

    asyncio.run(scenario())


def test_a_full_history_and_its_next_clicks_stay_in_the_compact_encoding(store_url, admin):
    async def scenario():
        async with opened(store_url, keep=100) as history:
            await history.write("u", [click("123456789012", 1511544070000 + n) for n in range(100)], None)
            await history.write("u", [click("123456789012", 1511544080000 + n) for n in range(28)], None)

            assert admin.object("encoding", history_key("u")) == b"listpack"

    asyncio.run(scenario())


def test_the_same_commands_queue_on_a_pipeline_of_many_users(store_url, admin):
    async def scenario():
        pipeline = admin.pipeline(transaction=False)
        for n in range(100):
            queue_write(pipeline, f"u{n}", clicks(n, n + 1), {"n": str(n)}, keep=KEEP, ttl_s=TTL_S)
        pipeline.execute()

        async with opened(store_url) as history:
            for n in range(100):
                assert await read_one(history, f"u{n}", None) == Stored({"n": str(n)}, clicks(n, n + 1), 0)

    asyncio.run(scenario())


def test_a_behaviour_that_cannot_be_packed_queues_nothing(admin):
    pipeline = admin.pipeline(transaction=False)

    with pytest.raises(ValueError):
        queue_write(
            pipeline, "u", [click("i", 1), Behaviour("a|b", "item", "i", 2)], {"a": "b"}, keep=KEEP, ttl_s=TTL_S
        )

    assert len(pipeline) == 0


def test_a_read_is_one_round_trip_and_so_is_a_write_on_a_fresh_connection_too(socket_url):
    async def scenario():
        with Proxy(socket_url) as proxy:
            async with opened(proxy.url, keep=2000, connections=1) as history:
                await history.write("u", clicks(*range(1000)), {"age": "30"})
                assert proxy.turns == 1

                stored = await read_one(history, "u", None)
                assert proxy.turns == 2
                assert stored == Stored({"age": "30"}, clicks(*range(1000)), 0)
            async with opened(proxy.url) as history:
                await read_one(history, "u", 10)
                assert proxy.turns == 3

    asyncio.run(scenario())


def test_reads_at_the_same_time_share_the_connections_and_get_their_own_user(store_url):
    async def scenario():
        async with opened(store_url, connections=3) as history:
            for n in range(50):
                await history.write(f"u{n}", clicks(n), {"n": str(n)})

            answers = await asyncio.gather(*(read_one(history, f"u{n}", None) for n in range(50)))

            assert answers == [Stored({"n": str(n)}, clicks(n), 0) for n in range(50)]

    asyncio.run(scenario())


@pytest.mark.parametrize("answered", [0, 1, 30])
def test_a_read_cancelled_while_its_answer_is_on_the_way_leaves_it_to_nobody(socket_url, answered):
    async def scenario():
        with Proxy(socket_url) as proxy:
            async with opened(proxy.url, connections=1) as history:
                await history.write("one", clicks(1), {"name": "one", "more": "than 30 bytes"})
                await history.write("other", clicks(2), {"name": "other"})

                proxy.hold(after=answered)
                reading = asyncio.create_task(read_one(history, "one", None))
                assert await asyncio.to_thread(proxy.held.wait, 10)
                for _ in range(20):  # until it waits for the answer: Python 3.11 loses a cancel as the request leaves
                    await asyncio.sleep(0)
                reading.cancel()
                await asyncio.wait([reading])
                proxy.release()

                assert reading.cancelled()
                for _ in range(3):
                    assert await read_one(history, "other", None) == Stored({"name": "other"}, clicks(2), 0)

    asyncio.run(scenario())


def test_a_read_cancelled_at_any_step_leaves_its_answer_to_nobody(store_url):
    async def scenario():
        async with opened(store_url, connections=1) as history:
            await history.write("one", clicks(1), {"name": "one"})
            await history.write("other", clicks(2), {"name": "other"})

            finished = 0
            for steps in range(60):
                reading = asyncio.create_task(read_one(history, "one", None))
                for _ in range(steps):
                    await asyncio.sleep(0)
                reading.cancel()
                await asyncio.wait([reading])
                finished += not reading.cancelled()

                assert await read_one(history, "other", None) == Stored({"name": "other"}, clicks(2), 0)
            assert finished < 60

    asyncio.run(scenario())


def test_an_answer_later_than_the_timeout_is_nobodys(socket_url):
    async def scenario():
        with Proxy(socket_url) as proxy:
            async with opened(socket_url) as direct:
                await direct.write("one", clicks(1), None)
                await direct.write("other", clicks(2), None)
            async with opened(proxy.url, timeout_ms=300, connections=1) as history:
                proxy.hold()
                with pytest.raises(StoreUnavailable):
                    await read_one(history, "one", None)
                proxy.release()

                assert (await read_one(history, "other", None)).behaviours == clicks(2)

    asyncio.run(scenario())


def test_a_caller_waits_for_a_free_connection_no_longer_than_the_timeout(socket_url):
    async def scenario():
        with Proxy(socket_url) as proxy:
            async with (
                opened(proxy.url, timeout_ms=10_000, connections=1) as history,
                opened(proxy.url, timeout_ms=100, connections=1) as hurried,
            ):
                await hurried.write("u", clicks(1), None)
                proxy.hold()
                both = await asyncio.gather(*(read_one(hurried, "u", None) for _ in range(2)), return_exceptions=True)
                assert all(isinstance(answer, StoreUnavailable) for answer in both), both

                waiting = [asyncio.create_task(read_one(history, "u", None)) for _ in range(3)]
                assert await asyncio.to_thread(proxy.held.wait, 10)
                proxy.release()
                assert [(await read).behaviours for read in waiting] == [clicks(1)] * 3

    asyncio.run(scenario())


def test_a_store_that_went_away_and_came_back_is_read_at_once(socket_url):
    async def scenario():
        with Proxy(socket_url) as proxy:
            async with opened(proxy.url) as history:
                await history.write("u", clicks(1), None)
                await asyncio.to_thread(proxy.cut)
                for _ in range(20):  # the end of the connections is there: the loop has but to read it
                    await asyncio.sleep(0)

                assert (await read_one(history, "u", None)).behaviours == clicks(1)

    asyncio.run(scenario())


def test_a_store_cut_off_midway_is_unavailable(socket_url):
    async def scenario():
        with Proxy(socket_url) as proxy:
            async with opened(proxy.url) as history:
                await history.write("u", clicks(1), None)
                proxy.hold(after=3)
                reading = asyncio.create_task(read_one(history, "u", None))
                assert await asyncio.to_thread(proxy.held.wait, 10)
                await asyncio.to_thread(proxy.cut)

                with pytest.raises(StoreUnavailable):
                    await reading

    asyncio.run(scenario())


def test_a_dead_store_is_unavailable_at_once_and_named_without_its_password():
    async def scenario():
        with dead_url() as url:
            where = url.removeprefix("redis://")
            async with opened(f"redis://someone:hush@{where}/3") as history:
                started = time.monotonic()
                for call in (read_one(history, "u", None), history.write("u", clicks(1), None)):
                    with pytest.raises(StoreUnavailable, match=where) as refused:
                        await call
                    assert "hush" not in str(refused.value)
                assert time.monotonic() - started < 4  # the timeout is 5 s

    asyncio.run(scenario())


def test_a_missing_socket_is_unavailable(tmp_path):
    async def scenario():
        async with opened(f"unix://{tmp_path}/none") as history:
            with pytest.raises(StoreUnavailable, match="none"):
                await read_one(history, "u", None)

    asyncio.run(scenario())


def test_a_store_that_never_answers_is_given_up_after_the_timeout():
    async def scenario():
        with black_hole_url() as url:
            async with opened(url, timeout_ms=200) as history:
                started = time.monotonic()
                with pytest.raises(StoreUnavailable):
                    await read_one(history, "u", None)
                assert 0.15 < time.monotonic() - started < 3

    asyncio.run(scenario())


def test_a_wrong_password_is_unavailable_and_not_told(socket_url):
    async def scenario():
        with Proxy(socket_url) as proxy:
            async with opened(proxy.url.replace("redis://", "redis://:hush@")) as history:
                with pytest.raises(StoreUnavailable) as refused:
                    await read_one(history, "u", None)
                assert "hush" not in str(refused.value)

    asyncio.run(scenario())


def test_an_error_reply_is_unavailable_and_does_not_name_the_user(store_url, admin):
    async def scenario():
        admin.set(history_key("private"), "no sorted set")
        async with opened(store_url) as history:
            for call in (read_one(history, "private", None), history.write("private", clicks(1), {"age": "30"})):
                with pytest.raises(StoreUnavailable, match="WRONGTYPE") as refused:
                    await call
                assert "private" not in str(refused.value)

    asyncio.run(scenario())


@pytest.mark.parametrize("url", ["http://x", "localhost:6379", "redis://user:hu/sh@host", "redis://host:99999"])
def test_a_url_that_is_none_is_refused_without_showing_a_password(url):
    with pytest.raises(ValueError, match="redis://, rediss:// or unix://") as refused:
        RedisHistory(url, keep=1, ttl_s=1, timeout_ms=1, connections=1)
    assert "hu" not in str(refused.value)
