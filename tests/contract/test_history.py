"""The store's format and its reading and writing, against real servers."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from model.features.behaviour import LATEST_MS, Behaviour
from model.features.wanted import Newest, View, Wanted
from service.store import clients
from service.store.format import RENEW, SHOW, history_key, kind_of, kinds_key, pack, profile_key, queue_write, unpack
from service.store.history import Asked, Stored, StoreUnavailable, Write
from service.store.redis import RedisHistory
from tests.stores import Proxy, black_hole_url, dead_url, read_one

KEEP = 5
TTL_S = 1000
CLICKS = "click|item"
DOCS = Path(__file__).parents[2] / "docs" / "store.md"

names = st.text(st.characters(codec="utf-8", exclude_characters="|"))
behaviours = st.builds(Behaviour, names, names, st.text(), st.integers(0, LATEST_MS))


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
    kind, member = pack(behaviour)
    assert (*kind.split("|"), *unpack(member.encode())) == behaviour


@given(st.lists(behaviours))
def test_members_stand_in_the_order_of_time(many):
    packed = sorted((pack(behaviour)[1] for behaviour in many), key=str.encode)
    assert [unpack(member.encode())[1] for member in packed] == sorted(behaviour.timestamp for behaviour in many)


@pytest.mark.parametrize("behaviour", [Behaviour("a|b", "item", "i", 1), Behaviour("click", "a|b", "i", 1)])
def test_an_action_or_type_with_the_separator_is_refused(behaviour):
    with pytest.raises(ValueError, match=r"a\|b"):
        pack(behaviour)


@pytest.mark.parametrize("timestamp", [-1, LATEST_MS + 1])
def test_a_time_of_more_digits_is_refused(timestamp):
    with pytest.raises(ValueError, match=f"time {timestamp} given"):
        pack(click("i", timestamp))


MALFORMED = [b"", b"i1", b"00000000000005", b"5|i1", b"+0000000000005|i1", b"00000000000005|\xff", b"0000000000000x|i1"]


@pytest.mark.parametrize("member", MALFORMED)
def test_what_pack_would_not_make_does_not_unpack(member):
    with pytest.raises(ValueError):
        unpack(member)


@given(st.text(), names)
def test_all_keys_of_a_user_fall_into_one_cluster_slot(user_id, name):
    kind = kind_of(name, "item")
    slots = {key_slot(key.encode()) for key in (profile_key(user_id), kinds_key(user_id), history_key(user_id, kind))}

    assert slots == {key_slot(f"u:{user_id}".split("}")[0].encode())}  # spread by the id, not by the prefix


@given(st.text(), st.text())
def test_no_two_users_share_a_key(one, other):
    def keys(user_id):
        return {profile_key(user_id), kinds_key(user_id), history_key(user_id, CLICKS)}

    assert len(keys(one)) == 3 and (keys(one) == keys(other) if one == other else not keys(one) & keys(other))


def test_a_user_never_written_is_empty(store_url):
    async def scenario():
        async with opened(store_url) as history:
            assert await read_one(history, "nobody", None) == Stored({}, [], 0)

    asyncio.run(scenario())


@pytest.mark.parametrize("user_id", ["u1", "", "7", "a}b", "{a", "}{", "ü \n|:", "日本"])
def test_what_is_written_is_read(store_url, user_id):
    async def scenario():
        async with opened(store_url) as history:
            profile = {"": "", "age": "30", "city": "北京", "tags": '["a", "b"]'}
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
            assert admin.zcard(history_key("u", CLICKS)) == KEEP

    asyncio.run(scenario())


def test_ties_in_time_stay_together_up_to_twice_as_many_whatever_the_order_of_arrival(store_url):
    async def scenario():
        tied = [click(f"i{n:02}", 7) for n in range(20)]
        async with opened(store_url) as history:
            await history.write("forth", clicks(1, 2) + tied[:8], None)
            await history.write("back", tied[7::-1] + clicks(2, 1), None)
            await history.write("many", tied, None)
            for behaviour in tied:
                await history.write("singly", [behaviour], None)

            forth, back, many, singly = [
                (await read_one(history, user, None)).behaviours for user in ("forth", "back", "many", "singly")
            ]
            assert sorted(forth) == sorted(back) == tied[:8]
            assert sorted(many) == sorted(singly) == tied[-2 * KEEP :]

    asyncio.run(scenario())


def test_each_kind_of_behaviour_keeps_its_newest_whatever_else_the_user_does(store_url):
    async def scenario():
        likes = [Behaviour("like", "item", "i", n) for n in range(1000, 1100)]
        pages = [Behaviour("click", "page", "i", n) for n in range(2000, 2100)]
        async with opened(store_url, keep=25) as history:
            await history.write("u", clicks(*range(1, 26)), None)
            for at in range(0, 100, 10):
                await history.write("u", likes[at : at + 10] + pages[at : at + 10], None)

            assert (await read_one(history, "u", None)).behaviours == clicks(*range(1, 26)) + likes[-25:]

    asyncio.run(scenario())


def test_only_what_happened_strictly_before_is_read(store_url):
    async def scenario():
        async with opened(store_url) as history:
            await history.write("u", clicks(10, 20, 30, 40), None)

            assert (await read_one(history, "u", 30)).behaviours == clicks(10, 20)
            assert (await read_one(history, "u", 31)).behaviours == clicks(10, 20, 30)
            assert (await read_one(history, "u", 10)).behaviours == []

    asyncio.run(scenario())


def test_only_the_fields_and_kinds_that_are_wanted_are_read(store_url, admin):
    async def scenario():
        wanted = Wanted(
            ("age", "none"), (Newest("buy", "item", 2), Newest("click", "item", 2), Newest("tag", "word", 1))
        )
        buys = [Behaviour("buy", "item", f"b{n}", n) for n in (11, 29, 30)]
        words = [Behaviour("tag", "word", f"w{n}", n) for n in (1, 2)]
        async with opened(store_url, keep=100) as history:
            await history.write("u", clicks(*range(1, 30)) + buys + words, {f"x{n}": "1" for n in range(1000)})
            await history.write("u", [Behaviour("like", "item", "i", 40)], {"age": "30"})
            admin.config_resetstat()
            [stored] = await history.read([Asked("u", None)], wanted)

            assert stored.profile == {"age": "30"}
            assert sorted(stored.behaviours) == sorted(clicks(28, 29) + buys[1:] + words[1:])
            assert "cmdstat_hgetall" not in admin.info("commandstats")

    asyncio.run(scenario())


def test_who_is_read_for_one_model_in_two_rounds_is_not_read_for_another_that_comes_between(valkey_url):
    one = Wanted(("age",), (Newest("click", "item", 3),))
    other = Wanted(("city", "gone"), (Newest("buy", "item", 3), Newest("view", "page", 2)))
    stored = [click(f"i{number:03}", 7000) for number in range(40)]  # of one millisecond: a second round reads all

    async def scenario() -> None:
        async with opened(valkey_url, keep=100) as history:
            await history.write("u1", [*stored, Behaviour("buy", "item", "b", 8000)], {"age": "30", "city": "x"})
            [alone] = await history.read([Asked("u1", None)], one)
            assert len(alone.behaviours) == 40 and alone.profile == {"age": "30"}
            for _ in range(5):
                [[first], [second]] = await asyncio.gather(
                    history.read([Asked("u1", None)], one), history.read([Asked("u1", None)], other)
                )
                assert first == alone
                assert second.profile == {"city": "x"} and [b.action for b in second.behaviours] == ["buy"]

    asyncio.run(scenario())


@pytest.mark.parametrize("before", [None, 60])
def test_of_those_that_share_the_cuts_millisecond_all_are_read(store_url, before):
    """Which of them a network reads is a matter of their ids, as the encoder orders them."""

    async def scenario():
        tied = [click(f"i{n}", 50) for n in range(30)]
        async with opened(store_url, keep=100) as history:
            await history.write("u", clicks(1, 2) + tied + clicks(51), None)
            for most, behaviours in ((1, clicks(51)), (2, tied + clicks(51)), (40, clicks(1, 2) + tied + clicks(51))):
                [stored] = await history.read([Asked("u", before)], Wanted((), (Newest("click", "item", most),)))
                assert sorted(stored.behaviours) == sorted(behaviours)

    asyncio.run(scenario())


def test_members_that_are_none_do_not_hide_the_others(store_url, admin):
    async def scenario():
        wrong = {f"15115440700{n}|i": 0 for n in range(10, 30)}  # 13 digits: they stand behind all that have 14
        async with opened(store_url, keep=100) as history:
            await history.write("u", clicks(*range(1, 10)), None)
            admin.zadd(history_key("u", CLICKS), wrong)
            [stored] = await history.read([Asked("u", None)], Wanted((), (Newest("click", "item", 3),)))

            assert stored == Stored({}, clicks(7, 8, 9), len(wrong))

    asyncio.run(scenario())


def test_a_replay_that_reaches_further_back_than_the_store_holds_says_so(store_url):
    async def scenario():
        buys = [Behaviour("buy", "item", f"b{n}", n) for n in (3, 55)]
        one, both = Newest("click", "item", 3), Newest("buy", "item", 3)
        async with opened(store_url, keep=5) as history:

            async def complete(before, *kinds):
                [stored] = await history.read([Asked("u", before)], Wanted((), kinds))
                return stored.complete

            await history.write("u", clicks(10, 20, 30), None)
            assert await complete(35, one) and await complete(5, one), "nothing has been cut"

            await history.write("u", clicks(40, 50, 60, 70) + buys, None)  # 30 to 70 remain
            assert await complete(75, one) and await complete(51, one) and await complete(None, one)
            assert not await complete(50, one), "10 or 20 may have been the third"
            assert not await complete(5, one)
            assert await complete(75, both) and await complete(5, both), "of buys nothing has been cut"
            assert await complete(75, one, both) and not await complete(45, one, both)
            assert not await complete(75, one._replace(most=7), both._replace(most=7)), "the seventh is the buy at 3"

            async def looked_at_apart(most, *actions):
                kinds = one._replace(most=4), both._replace(most=4)
                wanted = Wanted((), kinds, (View("item", actions, most),))
                [stored] = await history.read([Asked("u", 75)], wanted)
                return stored.complete

            assert await looked_at_apart(4, "click") and await looked_at_apart(9, "buy")
            assert not await looked_at_apart(6, "click"), "20 was the sixth click, whatever a network's history holds"

        async with opened(store_url, keep=100) as other:  # what was cut stays told, whoever reads
            [stored] = await other.read([Asked("u", 50)], Wanted((), (one,)))
            assert not stored.complete
            await other.write("sent", clicks(*range(1, 200)), None)
            [early, late] = await other.read([Asked("sent", 102), Asked("sent", 103)], Wanted((), (one,)))
            assert late.complete and not early.complete, "what was not even sent is known to be missing"

    asyncio.run(scenario())


def test_a_live_request_sees_a_click_stamped_ahead_of_our_clock(store_url):
    async def scenario():
        tomorrow = int(time.time() * 1000) + 86_400_000
        async with opened(store_url) as history:
            await history.write("u", clicks(tomorrow), None)

            assert (await read_one(history, "u", None)).behaviours == clicks(tomorrow)

    asyncio.run(scenario())


def test_every_write_renews_the_user_as_a_whole(store_url, admin):
    async def scenario():
        async with opened(store_url) as history:
            await history.write("u", [*clicks(1), Behaviour("buy", "item", "i", 1)], {"age": "30"})
            keys = sorted(admin.scan_iter())
            assert len(keys) == 4
            for behaviours, profile in ((clicks(2), {"age": "30"}), (clicks(2), None), ([], {"age": "31"})):
                for key in keys:
                    admin.pexpire(key, 5000)
                await history.write("u", behaviours, profile)

                for key in keys:
                    assert TTL_S * 1000 - 60_000 < admin.pttl(key) <= TTL_S * 1000

            admin.eval(RENEW, 3, kinds_key("u"), profile_key("u"), "{u:u}:history:1", KEEP, 0)
            assert sorted(admin.scan_iter()) == []

    asyncio.run(scenario())


def test_members_that_are_no_behaviours_are_skipped_and_counted(store_url, admin):
    async def scenario():
        admin.zadd(history_key("u", CLICKS), {member: 0 for member in MALFORMED})
        async with opened(store_url, keep=100) as history:
            await history.write("u", clicks(1, 9), None)

            assert await read_one(history, "u", None) == Stored({}, clicks(1, 9), len(MALFORMED))

    asyncio.run(scenario())


def test_a_score_that_is_not_0_shows_nobody_the_future(store_url, admin):
    async def scenario():
        admin.zadd(history_key("u", CLICKS), {pack(click("ahead", 100))[1]: 1, pack(click("i2", 2))[1]: 5})
        async with opened(store_url) as history:
            assert click("ahead", 100) not in (await read_one(history, "u", 50)).behaviours

    asyncio.run(scenario())


def test_bytes_that_are_no_text_in_a_profile_do_not_break_the_read(store_url, admin):
    async def scenario():
        admin.hset(profile_key("u"), mapping={b"age": b"30", b"city": b"\xff"})
        async with opened(store_url) as history:
            assert (await read_one(history, "u", None)).profile == {"age": "30", "city": "\ufffd"}

    asyncio.run(scenario())


def test_the_documented_commands_leave_what_write_leaves(store_url, admin):
    async def scenario():
        text = DOCS.read_text()
        scripts = re.findall(r"```lua\n(.*?)```", text, re.S)
        assert scripts == [RENEW, SHOW], "docs/store.md shows the scripts as they are"
        commands = [line.split() for line in text.splitlines() if re.match(r"[A-Z]+ .*{u:42}", line)]
        assert [command[0] for command in commands] == ["ZADD", "ZADD", "HSET", "EVAL", "EVAL"]
        named = {"<script>": RENEW, "<show>": SHOW}
        for command in commands:
            admin.execute_command(*(named.get(part, part) for part in command))
        keys = sorted(admin.scan_iter())
        documented = [admin.dump(key) for key in keys]
        ours = RedisHistory(store_url, keep=100, ttl_s=90 * 86_400, timeout_ms=5000, connections=1)
        admin.flushall()
        click, seen = (Behaviour(action, "item", "2268318", 1511544070000) for action in ("click", "impression"))
        assert await ours.write_many([Write("42", [click], {"age": "30", "city": "110000"}, [seen])]) == [None]
        await ours.close()

        assert len(keys) == 4 and sorted(admin.scan_iter()) == keys
        assert [admin.dump(key) for key in keys] == documented

    asyncio.run(scenario())


def write_1(admin, user_id, behaviours, profile=None, keep=100):
    """As the release before wrote."""
    history = f"{{u:{user_id}}}:history:1"
    admin.zadd(history, {f"{b.action}|{b.object_type}|{b.object_id}|{b.timestamp}": b.timestamp for b in behaviours})
    admin.zremrangebyrank(history, 0, -(keep + 1))
    if profile:
        admin.hset(f"{{u:{user_id}}}:profile:1", mapping=profile)
    admin.pexpire(history, 1_000_000)
    admin.pexpire(f"{{u:{user_id}}}:profile:1", 1_000_000)


def test_version_1_is_read_beside_version_2_and_moved_by_the_next_write(store_url, admin):
    async def scenario():
        buys = [Behaviour("buy", "item", "a|b", 7), Behaviour("buy", "item", "a|b", 17)]
        async with opened(store_url, keep=100) as history:
            write_1(admin, "u", clicks(1, 2, 3) + buys, {"age": "30"})
            old = Stored({"age": "30"}, clicks(1, 2, 3) + buys, 0)
            assert await read_one(history, "u", None) == old
            assert (await read_one(history, "u", 3)).behaviours == clicks(1, 2)

            await history.write("u", [], {"city": "x"})
            assert not admin.exists("{u:u}:history:1")
            assert await read_one(history, "u", None) == old._replace(profile={"age": "30", "city": "x"})

            write_1(admin, "u", clicks(3, 4), {"age": "31"})  # one who has not been updated writes once more
            both = Stored({"age": "31", "city": "x"}, sorted(clicks(1, 2, 3, 4) + buys, key=lambda b: b.timestamp), 0)
            assert await read_one(history, "u", None) == both
            await history.write("u", clicks(4), None)
            assert await read_one(history, "u", None) == both and not admin.exists("{u:u}:history:1")

    asyncio.run(scenario())


def test_members_of_version_1_that_are_no_behaviours_are_skipped(store_url, admin):
    async def scenario():
        wrong = [
            "",
            "click",
            "click|item|i1",
            "click|item|5",
            "click|item|i1|x",
            "click|item|i1|1.5",
            "click|item|i|-1",
        ]
        admin.zadd("{u:u}:history:1", dict.fromkeys(wrong, 5))
        write_1(admin, "u", clicks(1))
        async with opened(store_url, keep=100) as history:
            assert await read_one(history, "u", None) == Stored({}, clicks(1), len(wrong))
            await history.write("u", [], {"age": "30"})
            assert await read_one(history, "u", None) == Stored({"age": "30"}, clicks(1), 0)

    asyncio.run(scenario())


def test_writers_at_once_lose_nothing_of_version_1(store_url, admin):
    async def scenario():
        async with opened(store_url, keep=1000, connections=8) as history:
            write_1(admin, "u", clicks(*range(1, 91)))
            await asyncio.gather(*(history.write("u", clicks(1000 + n), {"n": str(n)}) for n in range(20)))

            assert (await read_one(history, "u", None)).behaviours == clicks(*range(1, 91), *range(1000, 1020))
            assert not admin.exists("{u:u}:history:1")

    asyncio.run(scenario())


def test_a_full_history_of_version_1_may_have_lost_any_kind(store_url, admin):
    async def scenario():
        wanted = Wanted((), (Newest("click", "item", 2),))
        likes = [Behaviour("like", "item", f"i{n}", n) for n in range(10, 110)]
        async with opened(store_url, keep=200) as history:
            write_1(admin, "full", clicks(1, 2, 3) + likes)  # 100 likes remain
            write_1(admin, "few", clicks(1) + likes[:50])
            for _ in range(2):
                full, few = await history.read([Asked("full", 105), Asked("few", 105)], wanted)
                assert not full.complete and few.complete
                await history.write("full", clicks(110), None)
                await history.write("few", clicks(110), None)
            await history.write("full", clicks(111), None)
            [full] = await history.read([Asked("full", 200)], wanted)
            assert full.complete, "two clicks that are newer than all that version 1 had cut"

    asyncio.run(scenario())


def test_a_full_history_and_its_next_clicks_stay_in_the_compact_encoding(store_url, admin):
    async def scenario():
        async with opened(store_url, keep=100) as history:
            await history.write("u", [click("123456789012", 1511544070000 + n) for n in range(100)], None)
            await history.write("u", [click("123456789012", 1511544080000 + n) for n in range(28)], None)

            assert admin.object("encoding", history_key("u", CLICKS)) == b"listpack"

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
        admin.set(history_key("private", CLICKS), "no sorted set")
        async with opened(store_url) as history:
            for call in (read_one(history, "private", None), history.write("private", clicks(1), {"age": "30"})):
                with pytest.raises(StoreUnavailable, match="WRONGTYPE") as refused:
                    await call
                assert "private" not in str(refused.value)

    asyncio.run(scenario())


def test_one_users_broken_value_is_that_users_alone(store_url, admin):
    async def scenario():
        wanted = Wanted(("age",), (Newest("click", "item", 3),))
        admin.set(profile_key("p"), "no hash")
        admin.set(history_key("h", CLICKS), "no sorted set")
        admin.set("{u:old}:history:1", "no sorted set")
        async with opened(store_url) as history:
            await history.write("good", clicks(1), {"age": "30"})
            for user in ("p", "h", "old", "good"):
                [alone] = await history.read([Asked(user, None)], wanted)
                assert isinstance(alone, StoreUnavailable) == (user != "good")
            *broken, good = await history.read([Asked(user, None) for user in ("p", "h", "old", "good")], wanted)

            assert all("WRONGTYPE" in str(one) for one in broken) and good == Stored({"age": "30"}, clicks(1), 0)

    asyncio.run(scenario())


@pytest.mark.parametrize("url", ["http://x", "localhost:6379", "redis://user:hu/sh@host", "redis://host:99999"])
def test_a_url_that_is_none_is_refused_without_showing_a_password(url):
    with pytest.raises(ValueError, match="redis://, rediss:// or unix://") as refused:
        RedisHistory(url, keep=1, ttl_s=1, timeout_ms=1, connections=1)
    assert "hu" not in str(refused.value)
