"""The service through HTTP, in process, before real stores."""

import asyncio
import json
import math
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from model.bundle.reading import Bundle
from model.features.behaviour import Behaviour
from model.prepared.loader import Prepared
from tests.client import NOW, ask, client_of, items_of, replay, requests, run
from tests.stores import black_hole_url, dead_url, write


def test_ranked_items_come_back_best_first_with_all_that_is_documented(small_bundle: Bundle, socket_url: str) -> None:
    items = items_of(small_bundle, 30)
    write(socket_url, "u1", [Behaviour("click", "item", items[0], NOW - 5000)], {"age": "25-29", "gender": "f"})
    (answer,) = ask(small_bundle, socket_url, {"user_id": "u1", "candidates": items, "timestamp": NOW})
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {
        *("request_id", "model", "version", "variant", "items", "history_length", "unknown_items", "new_user"),
        *("degraded", "history_complete", "timings_ms"),
    }
    scores = [item["score"] for item in body["items"]]
    assert scores == sorted(scores, reverse=True) and all(0 < score < 1 for score in scores)
    assert sorted(item["item_id"] for item in body["items"]) == sorted(items)
    assert (body["history_length"], body["unknown_items"], body["new_user"], body["degraded"]) == (1, 0, False, [])
    assert body["history_complete"] is True
    assert set(body["timings_ms"]) == {"parse", "history", "encode", "queue", "score", "sort", "serialise", "total"}
    assert body["timings_ms"]["total"] >= body["timings_ms"]["score"] > 0
    assert answer.headers["x-request-id"] == body["request_id"]


def test_new_users_unknown_items_and_duplicates_are_ranked_and_reported(small_bundle: Bundle, valkey_url: str) -> None:
    known = items_of(small_bundle, 2)
    candidates = [known[0], "nobody-knows", known[0], {"item_id": "new", "category_id": "c1", "shop_id": "s1"}]
    (answer,) = ask(small_bundle, valkey_url, {"user_id": "stranger", "candidates": candidates})
    body = answer.json()
    assert len(body["items"]) == 4 and body["unknown_items"] == 2 and body["history_length"] == 0 and body["new_user"]
    assert "history_complete" not in body, "it is a replay's"
    by_id: dict[str, set[float]] = {}
    for item in body["items"]:
        by_id.setdefault(item["item_id"], set()).add(item["score"])
    assert len(by_id[known[0]]) == 1 and by_id["new"] != by_id["nobody-knows"]


def test_ties_keep_the_callers_order_and_top_k_cuts(small_bundle: Bundle, valkey_url: str) -> None:
    strangers = [f"stranger{n}" for n in range(200)]  # so many that an unstable sort would show
    body = {"user_id": "u1", "candidates": strangers, "timestamp": NOW}
    whole, cut, wide = ask(small_bundle, valkey_url, body, body | {"top_k": 2}, body | {"top_k": 999})
    scores = {item["item_id"]: item["score"] for item in whole.json()["items"]}
    order = sorted(strangers, key=lambda item: -scores[item])  # a stable sort
    assert len(set(scores.values())) < 200 and [item["item_id"] for item in whole.json()["items"]] == order
    assert cut.json()["items"] == whole.json()["items"][:2] and wide.json()["items"] == whole.json()["items"]


def test_position_and_profile_given_in_the_request_change_the_score(small_bundle: Bundle, valkey_url: str) -> None:
    item = items_of(small_bundle, 1)[0]
    base = {"user_id": "u1", "candidates": [item], "timestamp": NOW}
    variants = [
        base,
        base | {"context": {"position": 9}},
        base | {"candidates": [{"item_id": item, "position": 9}]},
        base | {"user": {"gender": "f"}},
        base | {"candidates": [{"item_id": item, "category_id": "c3"}]},
    ]
    scores = [answer.json()["items"][0]["score"] for answer in ask(small_bundle, valkey_url, *variants)]
    assert scores[1] == scores[2] and len({round(score, 9) for score in scores}) == 4


def test_a_replay_sees_only_what_happened_strictly_before_and_a_live_request_all(
    small_bundle: Bundle, socket_url: str
) -> None:
    items = items_of(small_bundle, 3)
    clicks = [Behaviour("click", "item", item, NOW + at) for item, at in zip(items, (-1, 0, 1), strict=True)]
    ahead = Behaviour("click", "item", items[0], 32_000_000_000_000)  # a clock far ahead of ours
    write(socket_url, "u1", [*clicks, ahead], {})
    base = {"user_id": "u1", "candidates": items}
    replays = [base | {"timestamp": NOW + at} for at in (-1, 0, 1, 2)]
    lengths = [answer.json()["history_length"] for answer in ask(small_bundle, socket_url, *replays, base)]
    assert lengths == [0, 1, 2, 3, 4]


def test_a_dead_store_costs_history_and_not_the_answer(small_bundle: Bundle) -> None:
    items = items_of(small_bundle, 5)
    with dead_url() as dead, black_hole_url() as hole:
        for url, why in ((dead, "history:error"), (hole, "history:timeout")):
            (answer,) = ask(small_bundle, url, {"user_id": "u1", "candidates": items, "timestamp": NOW})
            body = answer.json()
            assert answer.status_code == 200 and body["degraded"] == [why] and len(body["items"]) == 5
            assert body["history_length"] == 0 and not body["new_user"]


BAD: list[tuple[Any, int, str, str]] = [
    (b"{", 400, "malformed_json", "EOF"),
    (b"", 400, "malformed_json", "EOF"),
    (
        b'{"user_id": "u1", "candidates": ["i1"], "user": {"a": NaN}}',
        422,
        "invalid_request",
        "unknown 'a'; allowed: age",
    ),
    (b'{"user_id": "u1", "candidates": ["i1"], "context": {"position": NaN}}', 422, "invalid_request", "nan given"),
    (b'{"user_id": "u1", "candidates": ["i1"], "context": {"position": 1.0}}', 422, "invalid_request", "write 1$"),
    (b'{"user_id": "u1", "candidates": [NaN]}', 422, "invalid_request", r"candidates\[0\]: nan given"),
    (
        {"user_id": "u1", "candidates": [2**70]},
        422,
        "invalid_request",
        r"candidates\[0\]: 1180591620717411303424 given",
    ),
    ({"user_id": 2**70, "candidates": ["i1"]}, 422, "invalid_request", "user_id: 1180591620717411303424 given"),
    ({"user_id": "u1", "candidates": ["i1"], "x" * 3000: 1}, 422, "invalid_request", "allowed fields"),
    ({"user_id": "u1", "candidates": ["i1"], "context": {"x" * 3000: 1}}, 422, "invalid_request", "allowed: match"),
    (b"\xff\xfe", 400, "malformed_json", ""),
    (b"[]", 422, "invalid_request", "object"),
    ({"candidates": ["i1"]}, 422, "invalid_request", "user_id: Field required"),
    ({"user_id": "u1"}, 422, "invalid_request", "candidates: Field required"),
    ({"user_id": "u1", "candidates": []}, 422, "invalid_request", "at least 1 item.*given \\[\\]"),
    ({"user_id": "", "candidates": ["i1"]}, 422, "invalid_request", "user_id"),
    ({"user_id": 1.5, "candidates": ["i1"]}, 422, "invalid_request", "user_id"),
    ({"user_id": True, "candidates": ["i1"]}, 422, "invalid_request", "user_id"),
    ({"user_id": "u1", "candidates": "i1"}, 422, "invalid_request", "candidates.*array"),
    ({"user_id": "u1", "candidates": ["i"] * 21}, 422, "too_many_candidates", "21 candidates, at most 20"),
    ({"user_id": "u1", "candidates": ["i1", 1.5]}, 422, "invalid_request", r"candidates\[1\]: 1.5 given, a string"),
    ({"user_id": "u1", "candidates": [None]}, 422, "invalid_request", r"candidates\[0\]: None given"),
    ({"user_id": "u1", "candidates": [{"id": 1}]}, 422, "invalid_request", r"candidates\[0\]: item_id is missing"),
    (
        {"user_id": "u1", "candidates": [{"item_id": "i", "x": 1}]},
        422,
        "invalid_request",
        "unknown 'x'; allowed: item_id",
    ),
    ({"user_id": "u1", "candidates": ["i1"], "timestamp": -5}, 422, "invalid_request", "milliseconds.*given -5"),
    (
        {"user_id": "u1", "candidates": ["i1"], "timestamp": 1_511_544_070},
        422,
        "invalid_request",
        ": 1511544070 looks like seconds",
    ),
    ({"user_id": "u1", "candidates": ["i1"], "timestamp": 10**17}, 422, "invalid_request", "milliseconds"),
    ({"user_id": "u1", "candidates": ["i1"], "timestamp": "soon"}, 422, "invalid_request", "timestamp"),
    ({"user_id": "u1", "candidates": ["i1"], "top_k": 0}, 422, "invalid_request", "top_k"),
    ({"user_id": "u1", "candidates": ["i1"], "topk": 5}, 422, "invalid_request", "allowed fields: user_id, candidates"),
    ({"user_id": "u1", "candidates": ["i1"], "context": {"position": "x"}}, 422, "invalid_request", "context.position"),
    ({"user_id": "u1", "candidates": ["i1"], "context": {"place": 1}}, 422, "invalid_request", "allowed: match_type"),
    ({"user_id": "u1", "candidates": ["i1"], "user": {"age": 1.5}}, 422, "invalid_request", "user.age: 1.5 given"),
    (b'{"user_id": "u1", "candidates": ["' + b"x" * 5000 + b'"]}', 413, "body_too_large", "at most 4096"),
]


def test_bad_input_gets_its_kind_what_was_given_and_what_is_allowed(small_bundle: Bundle, valkey_url: str) -> None:
    answers = ask(small_bundle, valkey_url, *(case[0] for case in BAD), max_candidates=20, max_body_bytes=4096)
    for (body, status, kind, says), answer in zip(BAD, answers, strict=True):
        assert answer.status_code == status, (body, answer.text)
        error = answer.json()["error"]
        assert error["kind"] == kind and re.search(says, error["message"]), (body, error)
        assert error["request_id"] == answer.headers["x-request-id"]
        assert "Traceback" not in answer.text and len(answer.text) < 1000


def test_a_chunked_body_over_the_limit_is_refused_too(small_bundle: Bundle, valkey_url: str) -> None:
    async def go() -> httpx.Response:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b" " * 100

        async with client_of(small_bundle, valkey_url, max_body_bytes=4096) as client:
            return await client.post("/rank", content=chunks())

    assert run(go()).status_code == 413


def test_other_routes_answer_as_documented_and_errors_look_alike(small_bundle: Bundle, valkey_url: str) -> None:
    async def go() -> None:
        async with client_of(small_bundle, valkey_url) as client:
            assert (await client.get("/health/live")).json() == {"status": "live"}
            assert (await client.get("/health/ready")).json()["status"] == "ready"
            model = (await client.get("/model")).json()
            assert model["name"] == "bst_simulated" and model["version"] == small_bundle.version
            assert len(model["samples"]["user_ids"]) > 10 and len(model["samples"]["item_ids"]) > 50
            assert {f["name"] for f in model["features"]} >= {"item_id", "position", "age_x_item"}
            missing, wrong = await client.get("/nothing"), await client.get("/rank")
            assert (missing.status_code, missing.json()["error"]["kind"]) == (404, "not_found")
            assert (wrong.status_code, wrong.json()["error"]["kind"]) == (405, "method_not_allowed")
            given = await client.get("/health/live", headers={"x-request-id": "mine-1"})
            assert given.headers["x-request-id"] == "mine-1"
            bad = await client.get("/health/live", headers={"x-request-id": "no spaces allowed"})
            assert len(bad.headers["x-request-id"]) == 32

    run(go())


def test_the_docs_need_no_internet_and_their_example_works(small_bundle: Bundle, valkey_url: str) -> None:
    async def go() -> None:
        async with client_of(small_bundle, valkey_url) as client:
            page = (await client.get("/docs")).text
            assert "https://" not in page and "swagger" in page
            script = await client.get("/docs-assets/swagger-ui-bundle.js")
            assert script.status_code == 200 and len(script.content) > 100_000
            operation = (await client.get("/openapi.json")).json()["paths"]["/rank"]["post"]
            for example in operation["requestBody"]["content"]["application/json"]["examples"].values():
                answer = await client.post("/rank", json=example["value"])
                assert answer.status_code == 200 and len(answer.json()["items"]) == 3

    run(go())


def test_metrics_tell_what_happened_without_naming_anybody(small_bundle: Bundle, valkey_url: str) -> None:
    async def go() -> str:
        async with client_of(small_bundle, valkey_url) as client:
            items = items_of(small_bundle, 3)
            for _ in range(3):
                await client.post("/rank", json={"user_id": "secret-user", "candidates": [*items, "secret-item"]})
            await client.post("/rank", json={"user_id": "secret-user", "candidates": []})
            await client.get("/secret-path")
            return (await client.get("/metrics")).text

    text = run(go())
    assert "secret" not in text
    values = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    for route, outcome, count in (("/rank", "ok", 3), ("/rank", "refused", 1), ("unmatched", "refused", 1)):
        assert requests(text, route, outcome) == count
    model = [("model", small_bundle.name), ("variant", ""), ("version", small_bundle.version)]
    of_model = {key[0]: value for key, value in values.items() if key[1:] == tuple(model)}
    assert of_model["ranker_candidates_sum"] == 12 and of_model["ranker_unknown_items_total"] == 3
    assert of_model["ranker_cold_users_total"] == 3 and of_model["ranker_history_length_count"] == 3
    for stage in ("parse", "history", "queue", "encode", "score", "sort", "serialise"):
        assert values["ranker_stage_duration_seconds_count", *sorted([*model, ("stage", stage)])] >= 3
    labels = [("outcome", "ok"), ("quantile", "0.99"), ("route", "/rank"), ("stage", "total")]
    p99 = values[("ranker_response_time_seconds", *labels)]
    assert not math.isnan(p99) and 0 < p99 < 60
    (info,) = [key for key in values if key[0] == "ranker_model_info"]
    assert ("version", small_bundle.version) in info


def test_what_nobody_foresaw_is_a_500_with_an_id_and_no_traceback(
    small_bundle: Bundle, valkey_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def go() -> tuple[httpx.Response, str]:
        async with client_of(small_bundle, valkey_url, closed_pool=True) as client:
            answer = await client.post("/rank", json={"user_id": "u1", "candidates": ["i1"]})
            return answer, (await client.get("/metrics")).text

    answer, metrics = run(go())
    assert answer.status_code == 500 and answer.json()["error"]["kind"] == "internal"
    request_id = answer.headers["x-request-id"]
    assert answer.json()["error"]["request_id"] == request_id and "Traceback" not in answer.text
    assert f"request {request_id} failed" in caplog.text and "cannot schedule" in caplog.text
    assert requests(metrics, "/rank", "failed") == 1


def test_a_caller_that_hangs_up_is_no_failure_of_ours(
    small_bundle: Bundle, valkey_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/rank",
        "raw_path": b"/rank",
        "headers": [],
        "query_string": b"",
    }

    async def go() -> str:
        async with client_of(small_bundle, valkey_url) as client:
            app = client._transport.app  # type: ignore[attr-defined]  # httpx.ASGITransport's
            await app(scope | {"root_path": "", "scheme": "http"}, receive, send)
            return (await client.get("/metrics")).text

    metrics = run(go())
    assert requests(metrics, "/rank", "gone") == 1 and requests(metrics, "/rank", "failed") == 0
    assert "failed" not in caplog.text


def test_strange_things_in_the_store_cost_no_answer(small_bundle: Bundle, socket_url: str) -> None:
    """Another program's mistakes: members that are none, a time beyond all bounds, deep JSON, a wrong type of value."""
    with redis.Redis.from_url(socket_url) as admin:
        for member in ("x", "click|item|i1|99999999999999999999", "click|item|i2|1757000000000"):
            admin.zadd("{u:u1}:history:1", {member: 1_757_000_000_000})
        for member in ("x", "1757000000001|i1", "01757000000001|i1"):
            admin.zadd("{u:u1}:history:2:click|item", {member: 0})
        admin.hset("{u:u1}:profile:1", mapping={"age": "[" * 10_000, "gender": b"\xff", "nothing": "x"})
        admin.set("{u:u2}:history:2:click|item", "no sorted set")
    items = items_of(small_bundle, 3)
    one, two = ask(small_bundle, socket_url, *({"user_id": u, "candidates": items} for u in ("u1", "u2")))
    assert one.status_code == 200 and one.json()["history_length"] == 2 and not one.json()["degraded"]
    assert two.status_code == 200 and two.json()["degraded"] == ["history:error"]


def test_a_bundle_whose_users_have_no_profile_is_served_all_the_same(
    small_bundle: Bundle, tmp_path: Path, valkey_url: str
) -> None:
    folder = Path(shutil.copytree(small_bundle.folder, tmp_path / "bundle"))
    golden = json.loads((folder / "golden.json").read_text())
    kept = [request for request in golden["requests"] if not request["profile"]]
    (folder / "golden.json").write_text(json.dumps({"requests": kept}))
    (answer,) = ask(Bundle.open(folder), valkey_url, {"user_id": "u1", "candidates": ["i1"]})
    assert answer.status_code == 200 and kept


def test_two_requests_at_once_are_both_right(small_bundle: Bundle, valkey_url: str) -> None:
    items = items_of(small_bundle, 40)

    async def go() -> None:
        async with client_of(small_bundle, valkey_url, score_threads=2) as client:
            bodies = [{"user_id": f"u{n}", "candidates": items[n : n + 10], "timestamp": NOW} for n in range(20)]
            alone = [(await client.post("/rank", json=body)).json()["items"] for body in bodies]
            together = await asyncio.gather(*(client.post("/rank", json=body) for body in bodies))
            for one, other in zip(alone, together, strict=True):
                assert [i["item_id"] for i in one] == [i["item_id"] for i in other.json()["items"]]
                np.testing.assert_allclose(
                    [i["score"] for i in one], [i["score"] for i in other.json()["items"]], atol=1e-6
                )

    run(go())


def test_served_scores_are_those_that_evaluate_measures(
    small_data: Prepared, small_bundle: Bundle, valkey_url: str
) -> None:
    """Impressions replayed in time order by their timestamp, before a store that holds the whole untrimmed log."""
    assert replay(small_bundle, small_data, valkey_url, small_data.of_split("test")[:600]) == 1
