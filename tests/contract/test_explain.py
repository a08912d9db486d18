"""`explain: true`: what it tells beside attention (tests/unit/test_merged.py), its bounds, and bundles without it."""

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest

from model import export
from model.bundle.attention import FACTS, Attention
from model.bundle.layout import ATTENTION_GRAPH, GRAPH, BundleError, _sha256
from model.bundle.reading import Bundle
from model.features.behaviour import Behaviour
from service.call import Call
from service.errors import DeadlineExceeded
from service.explain import Subject, explain
from service.scoring.explaining import OTHER_GRAPH, Explaining
from service.scoring.scorer import Scorer
from service.scoring.served import Served
from service.store.history import Stored
from service.wire.shapes import MOST_EXPLAINED, RankRequest
from tests.client import NOW, ask, client_of, items_of, run
from tests.documented import check
from tests.stores import write

PROFILE = {"age": "25-29", "gender": "f"}


def why(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["explanation"]


def known_user(bundle: Bundle, url: str, clicks: int = 3) -> dict[str, Any]:
    """A user with some clicks, and a request for a few items that the bundle knows."""
    items = items_of(bundle, 8)
    behaviours = [Behaviour("click", "item", items[n], NOW - 5000 * (clicks - n)) for n in range(clicks)]
    write(url, "u1", behaviours, PROFILE)
    return {"user_id": "u1", "candidates": items, "timestamp": NOW, "explain": True}


def without_graph(bundle: Bundle, folder: Path) -> Bundle:
    """As a release before wrote it."""
    shutil.copytree(bundle.folder, folder)
    (folder / ATTENTION_GRAPH).unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"][ATTENTION_GRAPH]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Bundle.open(folder)


def test_the_score_without_history_is_that_of_the_same_profile_without_a_click(
    small_bundle: Bundle, valkey_url: str
) -> None:
    body = known_user(small_bundle, valkey_url)
    earlier = body | {"timestamp": NOW - 16_000, "explain": False}
    explained, bare = ask(small_bundle, valkey_url, body, earlier)
    assert bare.json()["history_length"] == 0
    expected = {item["item_id"]: item["score"] for item in bare.json()["items"]}
    for item in explained.json()["items"]:
        told = item["explanation"]
        assert told["score"] == item["score"] and "explanation" not in bare.json()
        assert told["score_without_history"] == pytest.approx(expected[item["item_id"]], abs=1e-6)
        assert abs(told["score"] - told["score_without_history"]) > 1e-6
    assert [one["age_s"] for one in why(explained)["behaviours"]] == [15.0, 10.0, 5.0]


def test_a_user_without_history_is_explained_by_nothing_past(small_bundle: Bundle, valkey_url: str) -> None:
    body = {"user_id": "nobody", "candidates": items_of(small_bundle, 3), "timestamp": NOW, "explain": True}
    (answer,) = ask(small_bundle, valkey_url, body)
    assert why(answer)["behaviours"] == []
    for item in answer.json()["items"]:
        told = item["explanation"]
        assert told["attention"] == [] and told["attention_target"] == pytest.approx(1)
        assert told["score"] == pytest.approx(told["score_without_history"], abs=1e-6)


def test_what_was_unknown_or_missing_is_named_for_user_item_and_context(small_bundle: Bundle, valkey_url: str) -> None:
    item = items_of(small_bundle, 1)[0]
    candidates = [item, "stranger", {"item_id": item, "page": 999}]
    body = known_user(small_bundle, valkey_url) | {"candidates": candidates, "user": {"city": "nowhere"}}
    (answer,) = ask(small_bundle, valkey_url, body)
    assert why(answer)["unknown"] == ["city"] and why(answer)["missing"] == ["os"]
    told = [(one["item_id"], one["explanation"]["unknown"]) for one in answer.json()["items"]]
    assert sorted(told) == sorted([(item, []), ("stranger", ["item_id"]), (item, ["page"])])
    (stranger,) = [one["explanation"] for one in answer.json()["items"] if one["item_id"] == "stranger"]
    assert stranger["missing"] == ["category_id", "shop_id", "tag"], "it is in no catalogue"


def test_only_returned_items_are_explained_and_no_more_than_allowed(small_bundle: Bundle, valkey_url: str) -> None:
    body = known_user(small_bundle, valkey_url)
    many = body | {"candidates": items_of(small_bundle, 100)[:50] * 3}
    few = many | {"top_k": 2}
    refused, allowed = ask(small_bundle, valkey_url, many, few)
    message = refused.json()["error"]["message"]
    assert refused.status_code == 422 and f"150 items would be returned, at most {MOST_EXPLAINED}" in message
    assert ["attention" in item["explanation"] for item in allowed.json()["items"]] == [True, True]


def test_elements_of_a_batch_are_explained_as_alone_and_others_are_not(small_bundle: Bundle, valkey_url: str) -> None:
    body = known_user(small_bundle, valkey_url)
    plain, large = body | {"explain": False}, body | {"candidates": body["candidates"] * 13}

    async def go() -> tuple[httpx.Response, ...]:
        async with client_of(small_bundle, valkey_url) as client:
            document = (await client.get("/openapi.json")).json()
            together = await client.post("/rank/batch", json=[plain, body, large])
            alone = await client.post("/rank", json=body)
            check(document, together)
            check(document, alone)
            wide = body | {"candidates": (body["candidates"] * 13)[:MOST_EXPLAINED]}
            return together, alone, await client.post("/rank/batch", json=[wide] * 11)

    together, alone, too_many = run(go())
    first, second, third = together.json()
    assert "explanation" not in first and not any("explanation" in item for item in first["items"])
    assert second["explanation"] == alone.json()["explanation"]
    for one, other in zip(second["items"], alone.json()["items"], strict=True):
        assert one["explanation"]["attention"] == pytest.approx(other["explanation"]["attention"], abs=1e-6)
    assert third["error"]["kind"] == "invalid_request" and "104 items" in third["error"]["message"]
    assert too_many.status_code == 422 and "1100 items to explain" in too_many.json()["error"]["message"]


def test_explanations_asked_at_once_with_short_lists_do_not_mix(small_bundle: Bundle, valkey_url: str) -> None:
    """Their histories are of several lengths, and runs of short lists may be joined."""
    items = items_of(small_bundle, 8)
    for clicks in range(1, 9):
        write(
            valkey_url,
            f"w{clicks}",
            [Behaviour("click", "item", items[n], NOW - 1000 * n - 1) for n in range(clicks)],
            {},
        )
    bodies = [
        {"user_id": f"w{n % 9}", "candidates": items[: 1 + n % 8], "timestamp": NOW, "explain": n % 3 > 0}
        for n in range(60)
    ]

    async def go() -> tuple[list[httpx.Response], list[httpx.Response]]:
        async with client_of(small_bundle, valkey_url) as client:
            at_once = await asyncio.gather(*(client.post("/rank", json=body) for body in bodies))
            return at_once, [await client.post("/rank", json=body) for body in bodies]

    for together, alone in zip(*run(go()), strict=True):
        assert together.json().get("explanation") == alone.json().get("explanation")
        for one, other in zip(together.json()["items"], alone.json()["items"], strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-6)
            told, expected = one.get("explanation", {}), other.get("explanation", {})
            assert told.get("attention") == pytest.approx(expected.get("attention"), abs=1e-6)


def test_an_explanation_that_would_be_late_is_not_begun(small_bundle: Bundle) -> None:
    scorer = Scorer(1)
    served = Served.open(small_bundle, scorer)
    golden = small_bundle.golden()[0]
    request = RankRequest(user_id=golden["user_id"], candidates=golden["candidates"], explain=True)
    stored = Stored(golden["profile"], [Behaviour(*one) for one in golden["behaviours"]], 0)
    encoded = small_bundle.encoder.encode(
        golden["user_id"], stored.profile, stored.behaviours, request.candidates, golden["now"], small_bundle.catalog
    )
    order = np.arange(len(request.candidates))
    subject = Subject(request, golden["user_id"], stored, golden["now"], encoded, served.run(encoded.inputs)[0], order)
    late = Call("late", time.perf_counter(), deadline=time.perf_counter() - 1)
    try:
        with pytest.raises(DeadlineExceeded, match="before score"):
            run(explain(late, subject, served))
        told = run(explain(Call("in time", time.perf_counter()), subject, served))
    finally:
        scorer.close()
    assert not late.stages and len(told.of_items) == len(order)


def test_who_does_not_ask_opens_no_graph(small_bundle: Bundle, valkey_url: str) -> None:
    body = known_user(small_bundle, valkey_url)

    async def go() -> None:
        async with client_of(small_bundle, valkey_url) as client:
            explaining = client._transport.app.state.live.current.explaining  # type: ignore[attr-defined]
            plain = await client.post("/rank", json=body | {"explain": False})
            assert explaining.opened is None and "explanation" not in plain.text
            await client.post("/rank", json=body)
            assert explaining.opened is not None and explaining.opened.attention is not None

    run(go())


def test_a_bundle_without_the_graph_explains_the_rest_and_says_so(
    small_bundle: Bundle, valkey_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = without_graph(small_bundle, tmp_path / "older")
    older.verify()
    body = known_user(older, valkey_url)
    (answer,) = ask(older, valkey_url, body)
    assert "model.export --explain" in why(answer)["note"] and why(answer)["normalised"] is None
    assert len(why(answer)["behaviours"]) == answer.json()["history_length"] == 3
    assert all(item["explanation"].keys() >= {"score_without_history"} for item in answer.json()["items"])
    assert not any("attention" in item["explanation"] for item in answer.json()["items"])

    assert export.main(["--bundle", str(older.folder), "--explain"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["max_abs_diff_torch"] < 1e-5
    newer = Bundle.open(older.folder)
    newer.verify()
    (answer,) = ask(newer, valkey_url, body)
    assert why(answer)["note"] is None and len(answer.json()["items"][0]["explanation"]["attention"]) == 3


def test_a_graph_that_is_not_the_networks_is_not_believed(
    small_bundle: Bundle, valkey_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(small_bundle.folder, folder)
    model = onnx.load(folder / ATTENTION_GRAPH, load_external_data=False)
    facts = json.loads(model.metadata_props[0].value)
    facts["golden"][0][1][0][0] += 1e-3
    onnx.helper.set_model_props(model, {FACTS: json.dumps(facts)})
    onnx.save(model, folder / ATTENTION_GRAPH)
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match="off the recorded ones"):
        Attention.open(bundle)
    (answer,) = ask(bundle, valkey_url, known_user(bundle, valkey_url))
    assert "cannot be opened: the service's log says why" in why(answer)["note"]
    assert "attention" not in answer.json()["items"][0]["explanation"] and "off the recorded ones" in caplog.text


def test_where_int8_answers_the_fp32_graph_is_explained(small_bundle: Bundle) -> None:
    serving = small_bundle.session()  # in the place of an int8 graph's
    explainer = Explaining().open(small_bundle, serving, "int8")
    assert explainer.session is not serving and (explainer.precision, explainer.note) == ("fp32", OTHER_GRAPH)
    same = Explaining().open(small_bundle, serving, "fp32")
    assert same.session is serving and same.note is None


def test_the_graph_lies_on_the_tables_of_the_one_that_serves_which_it_leaves_alone(
    small_bundle: Bundle, tmp_path: Path
) -> None:
    graph = onnx.load(small_bundle.folder / ATTENTION_GRAPH, load_external_data=False)
    shared = [one.name for one in graph.graph.initializer if one.external_data]
    assert {name.split(".")[-2] for name in shared} >= {"item_id", "category_id"}
    assert {
        entry.value for one in graph.graph.initializer for entry in one.external_data if entry.key == "location"
    } == {"model.onnx.data"}
    older = without_graph(small_bundle, tmp_path / "older")
    before = {name: _sha256(older.folder / name) for name in (GRAPH, "model.onnx.data")}
    assert export.main(["--bundle", str(older.folder), "--explain"]) == 0
    assert before == {name: _sha256(older.folder / name) for name in before}
