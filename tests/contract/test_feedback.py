"""POST /feedback and /users before real stores: seen by the next /rank, judged event by event, safe to send again."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from model.bundle.reading import Bundle
from model.features.behaviour import Behaviour
from model.servicelog.records import Event, Forgotten, Profile
from tests.client import client_of, items_of, run
from tests.stores import black_hole_url, dead_url, write

NOW = time.time_ns() // 1_000_000


def click(user: str, item: str, ago_ms: int = 1000, **more: Any) -> dict[str, Any]:
    return {"event": "click", "user_id": user, "item_id": item, "timestamp": NOW - ago_ms, **more}


def told(bundle: Bundle, url: str, *bodies: Any, **changes: Any) -> list[httpx.Response]:
    async def go() -> list[httpx.Response]:
        async with client_of(bundle, url, **changes) as client:
            return [await client.post("/feedback", json=body) for body in bodies]

    answers: list[httpx.Response] = run(go())
    return answers


def test_the_next_ranking_of_any_worker_sees_what_was_acknowledged(small_bundle: Bundle, store_url: str) -> None:
    items = items_of(small_bundle, 20)

    async def scenario() -> None:
        async with client_of(small_bundle, store_url) as one, client_of(small_bundle, store_url) as other:
            for number, item in enumerate(items, 1):
                answer = await one.post("/feedback", json=click("u1", item, 60_000 - number))
                assert answer.status_code == 200 and answer.json()["accepted"] == 1
                for client in (other, one):
                    ranked = await client.post("/rank", json={"user_id": "u1", "candidates": items})
                    assert ranked.json()["history_length"] == number and not ranked.json()["degraded"]

    run(scenario())


def test_events_sent_again_or_out_of_order_are_what_they_are_once_and_in_order(
    small_bundle: Bundle, valkey_url: str
) -> None:
    a, b, c = items_of(small_bundle, 3)
    late = [click("u1", b, 2000), click("u1", c, 1000), click("u1", a, 3000), click("u1", b, 2000)]
    seen = {"event": "impression", "user_id": "u1", "item_id": a, "timestamp": NOW}

    async def scenario() -> None:
        async with client_of(small_bundle, valkey_url) as client:
            for _ in range(2):
                answer = await client.post("/feedback", json=[*late, seen])
                assert answer.json() == {"request_id": answer.json()["request_id"], "accepted": 5, "refused": []}
            [history] = (await client.get("/users/u1")).json()["history"]
            assert history["behaviours"] == [[a, NOW - 3000], [b, NOW - 2000], [c, NOW - 1000]], "and no impression"

    run(scenario())


WRONG: Sequence[tuple[Any, str]] = [
    ({"event": "like"}, "event: 'like' on 'item' given, allowed: 'click' on 'item', and 'impression'"),
    ({"timestamp": NOW // 1000}, "looks like seconds, multiply by 1000"),
    ({"timestamp": NOW * 1000}, "looks like microseconds, divide by 1000"),
    ({"timestamp": NOW + 25 * 3_600_000}, "hours ahead of this machine's clock, up to 24 are allowed"),
    ({"timestamp": None}, "timestamp: "),
    ({"user_id": ""}, "user_id: "),
    ({"user_id": "u" * 257}, "user_id: "),
    ({"user_id": 1.5}, "user_id: "),
    ({"item_id": None}, "either item_id, or object_type and object_id"),
    ({"object_type": "item"}, "either item_id, or object_type and object_id"),
    ({"item_id": None, "object_type": "shop", "object_id": "s1"}, "'click' on 'shop' given, allowed"),
    ({"item_id": None, "object_type": "shop", "object_id": "s1", "event": "impression"}, "object_type: 'shop' given"),
    ({"watch_ms": -1}, "watch_ms: "),
    ({"request_id": "r" * 257}, "request_id: "),
    ({"more": 1}, "more: no such field; allowed: event, user_id"),
]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_a_wrong_event_is_refused_in_one_line(small_bundle: Bundle, valkey_url: str, change: Any, said: str) -> None:
    event = {
        name: value for name, value in (click("u1", "i1") | change).items() if value is not None or name == "timestamp"
    }
    (answer,) = told(small_bundle, valkey_url, event)
    error = answer.json()["error"]
    assert (answer.status_code, error["kind"]) == (422, "invalid_event") and said in error["message"], error
    assert "\n" not in error["message"]


def test_a_list_is_judged_event_by_event_and_the_right_ones_are_kept(small_bundle: Bundle, valkey_url: str) -> None:
    wrong = [click("u1", "i1") | change for change, _ in WRONG if None not in change.values()]
    right = [click("u1", f"i{n}", n) for n in range(5)]
    lists = [None, *right, 7, *wrong], [], wrong, "click", right * 6
    kept, empty, none, bare, many = told(small_bundle, valkey_url, *lists, max_feedback_events=29)
    assert kept.json()["accepted"] == 5 and kept.status_code == 200
    assert [one["index"] for one in kept.json()["refused"]] == [0, 6, *range(7, 7 + len(wrong))]
    assert kept.json()["refused"][0]["message"] == "None given, an object is allowed"
    assert (empty.status_code, empty.json()["error"]["kind"]) == (422, "invalid_request")
    assert (none.status_code, none.json()["error"]["kind"]) == (422, "invalid_event")
    assert none.json()["error"]["message"].count("event ") >= 3 and "more" in none.json()["error"]["message"]
    assert (bare.status_code, bare.json()["error"]["kind"]) == (422, "invalid_event")
    assert (many.status_code, many.json()["error"]["kind"]) == (422, "too_many_events")


def test_a_list_far_too_long_is_refused_before_it_becomes_objects(small_bundle: Bundle, valkey_url: str) -> None:
    async def scenario() -> None:
        async with client_of(small_bundle, valkey_url, max_body_bytes=16 * 2**20) as client:
            million = await client.post("/feedback", content=b"[" + b"0," * 1_000_000 + b"0]")
            assert (million.status_code, million.json()["error"]["kind"]) == (422, "too_many_events")
        async with client_of(small_bundle, valkey_url) as client:
            assert (await client.post("/feedback", content=b"[" + b"0," * 3_000_000 + b"0]")).status_code == 413
            assert (await client.post("/feedback", content=b"[1")).json()["error"]["kind"] == "malformed_json"

    run(scenario())


@pytest.mark.parametrize("store", [dead_url, black_hole_url])
def test_while_the_store_fails_nothing_is_acknowledged(small_bundle: Bundle, store: Any) -> None:
    async def scenario(url: str) -> None:
        async with client_of(small_bundle, url, feedback_timeout_ms=200, history_timeout_ms=50) as client:
            for method, path, body in (
                ("POST", "/feedback", click("u1", "i1")),
                ("POST", "/feedback", [click("u1", "i1")]),
                ("PUT", "/users/u1", {"user": {}}),
                ("GET", "/users/u1", None),
                ("DELETE", "/users/u1", None),
            ):
                answer = await client.request(method, path, json=body)
                assert answer.status_code == 503 and answer.headers["retry-after"] == "1", answer.text
                assert answer.json()["error"]["kind"] == "store_failed"
                assert url not in answer.text
            seen = {"event": "impression", "user_id": "u1", "item_id": "i1", "timestamp": NOW}
            assert (await client.post("/feedback", json=seen)).status_code == 200, "no store is needed for it"

    with store() as url:
        run(scenario(url))


def test_one_users_broken_key_is_that_users_alone(small_bundle: Bundle, valkey_url: str) -> None:
    redis.Redis.from_url(valkey_url).set("{u:broken}:history:2:click|item", "text")
    both, alone = told(small_bundle, valkey_url, [click("broken", "i1"), click("u1", "i2")], [click("broken", "i1")])
    assert both.status_code == 200 and both.json()["accepted"] == 1
    assert [(one["index"], one["kind"]) for one in both.json()["refused"]] == [(0, "store_failed")]
    assert alone.status_code == 503


# ---- users


def test_a_profile_is_set_shown_and_everything_forgotten(small_bundle: Bundle, store_url: str) -> None:
    item = items_of(small_bundle, 1)[0]
    write(store_url, "a/b c", [Behaviour("buy", "item", item, NOW - 5000)], {"age": "18-24", "city": "city1"})

    async def scenario() -> None:
        async with client_of(small_bundle, store_url) as client:
            path = "/users/a%2Fb%20c"
            assert (await client.put(path, json={"user": {"age": "25-29", "gender": None}})).status_code == 200
            await client.post("/feedback", json=click("a/b c", item))
            known = (await client.get(path)).json()
            assert known["user"] == {"age": "25-29"} and known["user_id"] == "a/b c" and known["expires_in_s"] > 0
            assert known["history"] == [
                {"action": "buy", "object_type": "item", "cut_until": None, "behaviours": [[item, NOW - 5000]]},
                {"action": "click", "object_type": "item", "cut_until": None, "behaviours": [[item, NOW - 1000]]},
            ]
            assert (await client.delete(path)).status_code == 200
            gone = await client.get(path)
            assert (gone.status_code, gone.json()["error"]["kind"]) == (404, "unknown_user")
            ranked = await client.post("/rank", json={"user_id": "a/b c", "candidates": [item]})
            assert ranked.json()["new_user"] is True
            assert (await client.delete(path)).status_code == 200, "again does no harm"

    run(scenario())


def test_no_key_of_a_forgotten_user_is_left(small_bundle: Bundle, valkey_url: str) -> None:
    admin = redis.Redis.from_url(valkey_url)
    write(valkey_url, "u1", [Behaviour("click", "item", "i1", NOW)], {"age": "18-24"})
    admin.zadd("{u:u1}:history:1", {f"click|item|i2|{NOW}": NOW})

    async def scenario() -> None:
        async with client_of(small_bundle, valkey_url) as client:
            assert (await client.delete("/users/u1")).status_code == 200

    run(scenario())
    assert not admin.keys("*u1*")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("PUT", "/users/u1", {"user": {"height": 3}}, 422, "user.height: no such feature of a user; allowed: age"),
        ("PUT", "/users/u1", {"user": {"age": {}}}, 422, "user.age: "),
        ("PUT", "/users/u1", {"profile": {}}, 422, "is allowed"),
        ("PUT", "/users/" + "u" * 257, {"user": {}}, 422, "1 to 256 are allowed"),
        ("GET", "/users/", None, 422, "1 to 256 are allowed"),
        ("POST", "/users/u1", {}, 405, "allowed"),
    ],
)
def test_what_is_wrong_with_a_user_is_one_clear_line(
    small_bundle: Bundle, valkey_url: str, method: str, path: str, body: Any, status: int, said: str
) -> None:
    async def scenario() -> httpx.Response:
        async with client_of(small_bundle, valkey_url) as client:
            return await client.request(method, path, json=body)

    answer = run(scenario())
    assert answer.status_code == status and said in answer.json()["error"]["message"], answer.text


# ---- the journal


def test_what_is_acknowledged_is_in_the_journal_and_a_journal_that_fails_acknowledges_nothing(
    small_bundle: Bundle, valkey_url: str, tmp_path: Path
) -> None:
    from service.journal.framing import Reader
    from service.journal.lines import record

    def records() -> list[Any]:
        found = []
        for path in sorted(tmp_path.glob("*.*")):
            with path.open("rb") as file:
                found += [record(fields) for block in Reader(file) for fields in block]
        return found

    async def scenario() -> None:
        async with client_of(small_bundle, valkey_url, journal=tmp_path) as client:
            before_us = time.time_ns() // 1000
            event = click("u1", "i1", request_id="r1", watch_ms=5)
            assert (await client.post("/feedback", json=[event, event])).status_code == 200
            assert (await client.put("/users/u1", json={"user": {"age": "25-29"}})).status_code == 200
            assert (await client.delete("/users/u1")).status_code == 200
            kept = [one for one in records() if isinstance(one, Event | Profile | Forgotten)]
            first, second, third = kept
            assert isinstance(first, Event) and isinstance(second, Profile)
            assert first == Event("click", "u1", "item", "i1", NOW - 1000, "r1", 5, first.received_us, first.stored_us)
            assert before_us <= first.received_us <= first.stored_us <= second.received_us <= second.stored_us
            assert (second.fields, second.replaced, third.user_id) == ({"age": "25-29"}, True, "u1")

    run(scenario())

    async def unwritable() -> None:
        async with client_of(small_bundle, valkey_url, journal=tmp_path / "nowhere") as client:
            for answer in (
                await client.post("/feedback", json=click("u1", "i1")),
                await client.put("/users/u1", json={"user": {}}),
                await client.delete("/users/u1"),
            ):
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                assert answer.json()["error"]["kind"] == "journal_failed"

    asyncio.run(unwritable())
