"""POST /rank/batch: a list of rank requests, one answer or error each."""

import asyncio
import time
from typing import Any

import httpx
import orjson
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from model.bundle.reading import Bundle
from model.features.behaviour import Behaviour
from service.batch import CUT, Batch, rank_batch
from service.call import Call
from service.errors import ClientGone, DeadlineExceeded
from service.rank import Ranked
from service.scoring.scorer import Scorer
from service.scoring.served import Served
from service.store.redis import RedisHistory
from service.wire.turns import Turns
from tests.client import NOW, client_of, items_of, run
from tests.stores import Proxy, black_hole_url, write


def both(bundle: Bundle, url: str, requests: list[Any], **changes: Any) -> tuple[httpx.Response, list[httpx.Response]]:
    """The answer to all of them in one call, and to each alone."""

    async def go() -> tuple[httpx.Response, list[httpx.Response]]:
        async with client_of(bundle, url, **changes) as client:
            return await client.post("/rank/batch", json=requests), [
                await client.post("/rank", json=request) for request in requests
            ]

    answers: tuple[httpx.Response, list[httpx.Response]] = run(go())
    return answers


def test_each_request_is_answered_as_it_would_be_alone(small_bundle: Bundle, socket_url: str) -> None:
    items = items_of(small_bundle, 30)
    write(socket_url, "b1", [Behaviour("click", "item", items[0], NOW - 5000)], {"age": "25-29"})
    requests = [
        {"user_id": "b1", "candidates": items, "timestamp": NOW},
        {"user_id": "stranger", "candidates": items[:3], "top_k": 2, "timestamp": NOW},
        {"user_id": "b1", "candidates": [items[1], "nobody-knows"], "user": {"gender": "f"}, "timestamp": NOW},
    ]
    together, alone = both(small_bundle, socket_url, requests)
    assert together.status_code == 200
    answers = together.json()
    assert len(answers) == 3
    for answer, single in zip(answers, [one.json() for one in alone], strict=True):
        assert set(answer) == set(single)
        for name in ("history_length", "unknown_items", "new_user", "degraded", "model", "version"):
            assert answer[name] == single[name]
        assert [item["item_id"] for item in answer["items"]] == [item["item_id"] for item in single["items"]]
        for one, other in zip(answer["items"], single["items"], strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-6)
    assert {answer["request_id"] for answer in answers} == {together.headers["x-request-id"]}


def test_what_is_wrong_with_one_request_is_that_ones_answer(small_bundle: Bundle, valkey_url: str) -> None:
    items = items_of(small_bundle, 4)
    requests: list[Any] = [
        {"user_id": "u", "candidates": []},
        {"user_id": "u", "candidates": items},
        {"user_id": "u", "candidates": items, "colour": "red"},
        7,
        {"user_id": "u", "candidates": items * 3},
        {"user_id": "u", "candidates": [{"item_id": items[0], "age": 3}]},
    ]
    together, alone = both(small_bundle, valkey_url, requests, max_candidates=5)
    answers = together.json()
    assert together.status_code == 200 and len(answers) == len(requests)
    kinds = [answer["error"]["kind"] if "error" in answer else None for answer in answers]
    wrong = "invalid_request"
    assert kinds == [wrong, None, wrong, wrong, "too_many_candidates", wrong]
    for answer, single in zip(answers, alone, strict=True):
        if "error" in answer and "(given 7)" not in answer["error"]["message"]:
            assert answer["error"]["message"] == single.json()["error"]["message"]
    assert len(answers[1]["items"]) == 4


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"[", 400, "EOF"),
        (b"[]", 422, "one or more requests"),
        (b'{"user_id": "u"}', 422, "a list of one or more"),
        (
            b'[{"user_id": "u", "candidates": ["a", "b", "c"]}, {"user_id": "v", "candidates": ["a", "b"]}]',
            422,
            "5 cand",
        ),
    ],
)
def test_a_body_that_is_no_such_list_is_refused_whole(
    small_bundle: Bundle, valkey_url: str, body: bytes, status: int, said: str
) -> None:
    async def go() -> httpx.Response:
        async with client_of(small_bundle, valkey_url, max_batch_candidates=4) as client:
            return await client.post("/rank/batch", content=body)

    answer = run(go())
    assert answer.status_code == status and said in answer.json()["error"]["message"]


def test_a_store_that_does_not_answer_degrades_all_of_them_and_is_waited_for_once_a_chunk(small_bundle: Bundle) -> None:
    items = items_of(small_bundle, 4)

    async def go(url: str) -> tuple[httpx.Response, str]:
        async with client_of(small_bundle, url) as client:
            answer = await client.post(
                "/rank/batch", json=[{"user_id": f"u{n}", "candidates": items} for n in range(9)]
            )
            return answer, (await client.get("/metrics")).text

    with black_hole_url() as url:
        answer, metrics = run(go(url))
    told = [one["degraded"] for one in answer.json()]
    assert told[0] == ["history:timeout"] and all(one in (told[0], ["history:open"]) for one in told)
    # the timeout is one second: for the first chunk, for asking again, which is in vain, and for the second chunk
    assert answer.json()[-1]["timings_ms"]["history"] < 9 * 1000 / 2
    families = {family.name: family for family in text_string_to_metric_families(metrics)}
    degraded = [(s.labels["version"], s.value) for s in families["ranker_degraded"].samples if s.value]
    assert {version for version, _ in degraded} == {small_bundle.version} and sum(n for _, n in degraded) == 9
    counted = {(s.labels["route"], s.labels["outcome"]): s.value for s in families["ranker_requests"].samples}
    assert counted["/rank/batch", "degraded"] == 1


def test_a_batch_that_is_refused_for_its_size_is_told_in_the_metrics_too(small_bundle: Bundle, valkey_url: str) -> None:
    async def go() -> str:
        async with client_of(small_bundle, valkey_url, max_batch_candidates=4) as client:
            too_many = [{"user_id": f"u{n}", "candidates": ["a", "b"]} for n in range(3)]
            assert (await client.post("/rank/batch", json=too_many)).status_code == 422
            return str((await client.get("/metrics")).text)

    families = {family.name: family for family in text_string_to_metric_families(run(go()))}
    sizes = {
        sample.name: sample.value for sample in families["ranker_batch_requests"].samples if "le" not in sample.labels
    }
    assert sizes == {"ranker_batch_requests_count": 1, "ranker_batch_requests_sum": 3}
    (shed,) = (s.value for s in families["ranker_shed"].samples if s.labels == {"reason": "too_many_candidates"})
    assert shed == 1


def stages_of(answers: list[Any]) -> list[float]:
    return [sum(ms for name, ms in one["timings_ms"].items() if name != "total") for one in answers]


def test_a_batch_of_many_chunks_is_answered_in_order_and_its_stages_add_up(
    small_bundle: Bundle, valkey_url: str
) -> None:
    items = items_of(small_bundle, 6)
    for number in range(40):
        write(valkey_url, f"m{number}", [Behaviour("click", "item", items[0], NOW - 5000 - n) for n in range(5)], {})
    wrong_key = {"user_id": "m3", "candidates": items[:1], "user": {"age": {}}}
    requests: list[Any] = [{"user_id": f"m{number}", "candidates": items[: 1 + number % 6]} for number in range(40)]
    requests[17] = wrong_key
    together, _ = both(small_bundle, valkey_url, requests)
    answers = together.json()
    assert [one["error"]["kind"] for one in answers if "error" in one] == ["invalid_request"] and "error" in answers[17]
    ranked = [one for one in answers if "error" not in one]
    assert [len(one["items"]) for one in ranked] == [1 + number % 6 for number in range(40) if number != 17]
    assert all(one["history_length"] and not one["degraded"] for one in ranked)
    spent = [one["timings_ms"]["history"] for one in ranked]
    assert spent == sorted(spent) and len(set(spent)) > 1  # told as far as each one's chunk
    assert all(of <= one["timings_ms"]["total"] for of, one in zip(stages_of(ranked), ranked, strict=True))
    header = dict(part.split(";dur=") for part in together.headers["server-timing"].split(", "))
    assert sum(float(ms) for name, ms in header.items() if name != "total") <= float(header["total"])


def test_a_wrong_typed_key_costs_its_own_user_alone_the_history(small_bundle: Bundle, socket_url: str) -> None:
    items = items_of(small_bundle, 3)
    for number in range(20):
        write(socket_url, f"w{number}", [Behaviour("click", "item", items[0], NOW - 5000)], {})
    with redis.Redis.from_url(socket_url) as admin:
        (key,) = [key for key in admin.scan_iter("{u:w5}*") if b"click" in key]
        admin.delete(key)
        admin.set(key, "no sorted set")
    requests = [{"user_id": f"w{number}", "candidates": items} for number in range(20)]
    together, _ = both(small_bundle, socket_url, requests)
    told = [(one["history_length"], one["degraded"]) for one in together.json()]
    assert told.pop(5) == (0, ["history:error"]) and told == [(1, [])] * 19


HOSTILE = {  # body, and what is said of it: as a whole, or of its first request
    "ones": (b"[" + b"1," * 2_000_000 + b"1]", "too_many_requests_in_batch"),
    "empty objects": (b"[" + b"{}," * 1_300_000 + b"{}]", "too_many_requests_in_batch"),
    "20,001 users": (
        b"[" + b",".join(b'{"user_id":"u%d","candidates":["i"]}' % n for n in range(20_001)) + b"]",
        "too_many_requests_in_batch",
    ),
    "nested": (b"[" + b"[" * 4_000_000, "malformed_json"),
    "white space": (b"[" + b" " * 4_000_000 + b"]", "invalid_request"),
    "many keys": (b"[{" + b",".join(b'"k%d":1' % n for n in range(300_000)) + b"}]", "too_many_candidates"),
    "many wrong candidates": (b'[{"user_id":"u","candidates":[' + b"[]," * 1_300_000 + b"1]}]", "too_many_candidates"),
    "a long key": (b'[{"' + b"k" * 4_000_000 + b'":1}]', "invalid_request"),
    "a long text": (b'[{"user_id":"' + b"\\u00e9" * 600_000 + b'"}]', "invalid_request"),
    "wrong keys": (b"[" + b",".join([b'{"' + b"k" * 1500 + b'":1}'] * 2000) + b"]", "invalid_request"),
    "wrong values": (b"[" + b",".join([b'{"user_id":[' + b"[]," * 600 + b"1]}"] * 2000) + b"]", "invalid_request"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_four_megabytes_of_nonsense_get_a_short_answer(small_bundle: Bundle, valkey_url: str, name: str) -> None:
    body, kind = HOSTILE[name]

    async def go() -> httpx.Response:
        async with client_of(small_bundle, valkey_url, max_body_bytes=2**23) as client:
            return await client.post("/rank/batch", content=body)

    answer = run(go())
    told = answer.json()[0] if answer.status_code == 200 else answer.json()
    assert told["error"]["kind"] == kind
    assert len(answer.content) < 600_000 and max(map(len, answer.text.split('"message"'))) < 1_000


def test_messages_of_a_batch_are_bounded_together_and_the_kind_stays(small_bundle: Bundle, valkey_url: str) -> None:
    requests = [{"user_id": "u", "candidates": ["a"], "c" * 60: n} for n in range(1000)]

    async def go() -> tuple[httpx.Response, str]:
        async with client_of(small_bundle, valkey_url) as client:
            return await client.post("/rank/batch", json=requests), (await client.get("/metrics")).text

    answer, metrics = run(go())
    messages = [one["error"]["message"] for one in answer.json()]
    assert "allowed fields" in messages[0] and messages[-1] == CUT
    assert sum(map(len, messages)) < 64 * 1024 + len(CUT) * 1000
    assert all(one["error"]["kind"] == "invalid_request" for one in answer.json())
    families = {family.name: family for family in text_string_to_metric_families(metrics)}
    counted = {s.labels["kind"]: s.value for s in families["ranker_batch_errors"].samples if s.value}
    assert counted == {"invalid_request": 1000}


def test_a_request_that_comes_during_a_batch_is_answered_before_it(small_bundle: Bundle, valkey_url: str) -> None:
    items = items_of(small_bundle, 5)
    hostile = b"[" + b",".join([b'{"user_id":"u","candidates":[' + b"[]," * 500 + b"1]}"] * 2000) + b"]"
    long = orjson.dumps([{"user_id": f"u{number}", "candidates": items} for number in range(400)])

    room = {"queue_candidates": 2**22, "batch_timeout_ms": 0}

    async def go() -> list[str]:
        ended: list[str] = []
        async with client_of(small_bundle, valkey_url, max_batch_candidates=2**20, **room) as client:

            async def post(name: str, path: str, body: bytes) -> None:
                assert (await client.post(path, content=body)).status_code == 200
                ended.append(name)

            batches = [asyncio.create_task(post("batch", "/rank/batch", body)) for body in (hostile, long, long)]
            await asyncio.sleep(0)
            one = orjson.dumps({"user_id": "u", "candidates": items})
            for _ in range(5):
                await post("single", "/rank", one)
            await asyncio.gather(*batches)
        return ended

    assert run(go()) == ["single"] * 5 + ["batch"] * 3


def test_what_a_deadline_finds_not_begun_gets_its_own_error(small_bundle: Bundle, valkey_url: str) -> None:
    items = items_of(small_bundle, 3)
    bodies = [orjson.dumps({"user_id": "u", "candidates": items}) for _ in range(20)]

    async def go() -> tuple[list[Any], Call, Call]:
        batch = await Batch.of(b"[" + b",".join(bodies) + b"]", 100, turns := Turns())
        await batch.measure(100, 1000)
        history: Any = store  # which does not fail here
        served = Served.open(small_bundle, scorer)
        late, gone = Call("1", time.perf_counter(), deadline=0.0), Call("2", time.perf_counter())
        with pytest.raises(DeadlineExceeded):
            [one async for one in rank_batch(late, batch, 100, NOW, history, served, turns)]
        late.deadline = None
        chunks: list[Any] = []
        async for chunk in rank_batch(late, batch, 100, NOW, history, served, turns):
            late.deadline = 0.0  # over as soon as the first is answered
            chunks += chunk
        with pytest.raises(ClientGone):
            async for _ in rank_batch(gone, batch, 100, NOW, history, served, turns):
                gone.gone = lambda: True
        await history.close()
        return chunks, late, gone

    scorer = Scorer(1)
    store = RedisHistory(valkey_url, keep=100, ttl_s=1000, timeout_ms=5000, connections=1)
    chunks, _, _ = run(go())
    scorer.close()
    assert len(chunks) == 20 and isinstance(chunks[0], Ranked)
    assert {type(one) for one in chunks} == {Ranked, DeadlineExceeded}
    assert [type(one) for one in chunks] == [Ranked] * 8 + [DeadlineExceeded] * 12


def test_a_requests_own_timeout_counts_for_it_alone(small_bundle: Bundle, valkey_url: str) -> None:
    items = items_of(small_bundle, 5)
    requests: list[Any] = [{"user_id": f"u{number}", "candidates": items} for number in range(100)]
    requests[-1] |= {"timeout_ms": 1}  # its place comes later than that
    requests[-2] |= {"timeout_ms": 600_000}
    requests[-3] |= {"timeout_ms": 0}
    together, _ = both(small_bundle, valkey_url, requests)
    kinds = [one["error"]["kind"] if "error" in one else None for one in together.json()]
    assert kinds == [None] * 97 + ["invalid_request", None, "deadline_exceeded"]


def test_a_chunk_that_the_store_was_late_for_is_asked_for_once_more(small_bundle: Bundle, valkey_url: str) -> None:
    items = items_of(small_bundle, 3)
    for number in range(9):
        write(valkey_url, f"r{number}", [Behaviour("click", "item", items[0], NOW - 5000)], {})
    requests = [{"user_id": f"r{number}", "candidates": items} for number in range(9)]

    async def go(proxy: Proxy) -> tuple[Any, Any]:
        async with client_of(small_bundle, proxy.url) as client:
            await client.post("/rank", json=requests[0])
            proxy.hold()
            asked = asyncio.create_task(client.post("/rank/batch", json=requests))
            await asyncio.to_thread(proxy.held.wait, 10)
            await asyncio.sleep(1.2)  # longer than the timeout
            proxy.release()
            return (await asked).json(), (await client.get("/metrics")).text

    with Proxy(valkey_url) as proxy:
        answers, metrics = run(go(proxy))
    assert [(one["history_length"], one["degraded"]) for one in answers] == [(1, [])] * 9
    assert 'ranker_store_ops_total{op="read",outcome="timeout"} 1' in metrics
