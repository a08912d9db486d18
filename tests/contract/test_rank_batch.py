"""POST /rank/batch: a list of rank requests, one answer or error each."""

from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from model.bundle.reading import Bundle
from model.features.behaviour import Behaviour
from tests.client import NOW, client_of, items_of, run
from tests.stores import black_hole_url, write


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


def test_a_store_that_does_not_answer_degrades_all_of_them_and_is_waited_for_once(small_bundle: Bundle) -> None:
    items = items_of(small_bundle, 4)

    async def go(url: str) -> tuple[httpx.Response, str]:
        async with client_of(small_bundle, url) as client:
            answer = await client.post(
                "/rank/batch", json=[{"user_id": f"u{n}", "candidates": items} for n in range(9)]
            )
            return answer, (await client.get("/metrics")).text

    with black_hole_url() as url:
        answer, metrics = run(go(url))
    assert [one["degraded"] for one in answer.json()] == [["history:timeout"]] * 9
    assert answer.json()[0]["timings_ms"]["history"] < 9 * 1000 / 2  # the timeout is one second, waited for once
    families = {family.name: family for family in text_string_to_metric_families(metrics)}
    degraded = {s.labels["version"]: s.value for s in families["ranker_degraded"].samples if s.value}
    assert degraded == {small_bundle.version: 9}
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
