"""The OpenAPI document says what the service does: every answer is as documented, and what it allows is accepted."""

import asyncio
import itertools
import json
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from model.bundle.reading import Bundle
from model.features.ids import BadValue
from model.features.schema import Schema, parse
from service.api.openapi.document import API_VERSION
from service.api.openapi.responses import ANYWHERE, KEYED
from service.api.routes import ENDPOINTS
from service.app import create_app
from service.errors import KINDS, ClientGone, CorsRefused, MethodNotAllowed, NotFound
from service.settings import Settings
from service.wire import values
from service.wire.refusals import IN_BATCH, SHAPES, told
from tests.client import NOW, client_of, items_of, run
from tests.documented import check, problems

TINY = {"max_candidates": 20, "max_batch_requests": 3, "max_batch_candidates": 30, "max_body_bytes": 20_000}


@asynccontextmanager
async def documented(bundle: Bundle, url: str, **changes: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Any]]:
    """A client, and the document that it gets."""
    async with client_of(bundle, url, **changes) as client:
        yield client, (await client.get("/openapi.json")).json()


@pytest.fixture(scope="module")
def demo() -> Bundle:
    return Bundle.open(Settings().bundle)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return create_app(Settings(), tmp_path_factory.mktemp("counts")).openapi()


def walked(value: Any) -> Iterator[Any]:
    yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        yield from walked(one)


def operations(document: Any) -> list[Any]:
    return [operation for of_path in document["paths"].values() for operation in of_path.values()]


# ---- the document itself


def test_every_schema_is_sound_and_every_reference_leads_somewhere(document: Any) -> None:
    for name, schema in document["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert schema.get("description") or schema.get("enum"), f"{name} does not say what it is"
    for part in walked(document):
        if isinstance(part, dict) and isinstance(part.get("$ref"), str):
            found = document
            for step in part["$ref"].removeprefix("#/").split("/"):
                found = found[step]


def test_bodies_and_answers_are_named_schemas_and_lists_of_these(document: Any) -> None:
    """An object without a name would be named after its place by a generator, and anew when it moves."""
    for part in walked([document["paths"], *document["components"]["schemas"].values()]):
        if isinstance(part, dict) and part not in document["components"]["schemas"].values():
            assert part.get("type") != "object", part


def test_operations_have_names_of_their_own_a_tag_and_a_summary(document: Any) -> None:
    named = [operation["operationId"] for operation in operations(document)]
    expected = ["rank", "rank_batch", "get_model", "get_metrics", "get_health_live", "get_health_ready"]
    assert set(expected) <= set(named) and len(set(named)) == len(named)
    tags = {tag["name"] for tag in document["tags"]}
    assert all(set(operation["tags"]) <= tags and operation["summary"] for operation in operations(document))


def test_the_apis_version_is_its_own_and_the_bundles_stands_beside_it(document: Any, demo: Bundle) -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    assert f"The API's version is {API_VERSION}." in page
    assert document["info"]["version"] == API_VERSION and re.fullmatch(r"\d+\.\d+\.\d+", API_VERSION)
    assert document["info"]["x-bundle"] == {"name": demo.name, "version": demo.version}


def test_each_status_documents_its_kinds_with_an_example_and_a_meaning(document: Any) -> None:
    for error in KINDS:
        assert told(error), f"{error.__name__} needs a docstring: it is the documentation of its kind"
        if error is not ClientGone:
            detail = document["components"]["schemas"][f"Error{error.status}Detail"]["properties"]["kind"]
            assert error.kind in detail.get("enum", [detail.get("const")])
    for operation in operations(document):
        for status, response in operation["responses"].items():
            for example in response["content"].get("application/json", {}).get("examples", {}).values():
                schema = {"$ref": f"#/components/schemas/Error{status}"}
                assert not problems(document, schema, example["value"])
    assert set(SHAPES) == {error.status for error in KINDS} - {ClientGone.status}


def test_limits_are_those_that_are_set(demo: Bundle, valkey_url: str) -> None:
    async def go() -> None:
        async with documented(demo, valkey_url, **TINY) as (client, document):
            batch = document["paths"]["/rank/batch"]["post"]["requestBody"]["content"]["application/json"]["schema"]
            request = document["components"]["schemas"]["RankRequest"]["properties"]
            assert (batch["minItems"], batch["maxItems"]) == (1, 3)
            assert (request["candidates"]["minItems"], request["candidates"]["maxItems"]) == (1, 20)
            assert request["timestamp"]["anyOf"][0]["minimum"] > 10**10, "seconds are no milliseconds"
            assert (await client.get("/model")).json()["limits"].items() >= TINY.items()

    run(go())


# ---- what it says and what the service does


def test_examples_are_answered_and_examples_of_answers_are_answers(demo: Bundle, valkey_url: str) -> None:
    async def go() -> None:
        async with documented(demo, valkey_url) as (client, document):
            for path, of_path in document["paths"].items():
                for method, operation in of_path.items():
                    (content,) = operation["responses"]["200"]["content"].values()
                    if "example" in content:
                        assert not problems(document, content["schema"], content["example"])
                    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
                    for example in body.get("examples", {}).values():
                        assert not problems(document, body["schema"], example["value"])
                        if "admin" in operation["tags"]:
                            continue  # there is no parent here
                        answer = await client.request(method, path.format(user_id="u1"), json=example["value"])
                        assert answer.status_code == 200, answer.text
                        check(document, answer)

    run(go())


def test_answers_of_all_kinds_are_as_documented(demo: Bundle, valkey_url: str) -> None:
    """Also each error within a batch, and each status that a caller can bring about."""
    items = items_of(demo, 5)
    good = {"user_id": "u1", "candidates": items}
    dear = good | {"candidates": [items[0], {"item_id": items[1], "position": 2, "category_id": None}]}
    bad = [good | change for change in ({"candidates": []}, {"top_k": 0}, {"timestamp": 1_757_900_000}, {"more": 1})]
    bad += [good | {"candidates": items * 5}, good | {"context": {"nothing": 1}}, {}, [], "x"]
    batches = [[good, dear], [good, bad[0], bad[4]], [good] * 4, [], {}, [good | {"candidates": items * 4}] * 2]
    replay = good | {"timestamp": NOW, "user": {"age": None}, "top_k": 2, "timeout_ms": 60_000}

    async def go() -> set[str]:
        async with documented(demo, valkey_url, **TINY) as (client, document):
            answers = [await client.post("/rank", json=body) for body in (good, dear, replay, *bad)]
            answers += [await client.post("/rank/batch", json=body) for body in batches]
            answers += [await client.post(path, content=b"{") for path in ("/rank", "/rank/batch")]
            answers += [await client.post("/rank", content=b"{" * 30_000)]
            answers += [await client.get(path) for path in ("/model", "/metrics", "/health/live", "/health/ready")]
            client._transport.app.state.duty.drain()  # type: ignore[attr-defined]
            answers += [await client.get("/health/ready")]
            for answer in answers:
                check(document, answer)
        kinds = {str(answer.json()["error"]["kind"]) for answer in answers if answer.status_code >= 400}
        return kinds | {str(answer.status_code) for answer in answers}

    seen = run(go())
    assert seen >= {"200", "400", "413", "422", "503"}
    assert seen >= {"invalid_request", "too_many_candidates", "too_many_requests_in_batch", "malformed_json"}


def test_late_and_refused_requests_are_as_documented(demo: Bundle, valkey_url: str) -> None:
    items = items_of(demo, 5)
    late = {"user_id": "u1", "candidates": items, "timeout_ms": 1}

    async def go() -> set[int]:
        async with documented(demo, valkey_url, queue_candidates=1) as (client, document):
            slow = [await client.post("/rank", json=late | {"candidates": items * 900}) for _ in range(3)]
            many = await asyncio.gather(*(client.post("/rank", json=late | {"timeout_ms": 9}) for _ in range(60)))
            for answer in (*slow, *many):
                check(document, answer)
            return {answer.status_code for answer in (*slow, *many)}

    assert run(go()) & {429, 504}


NOBODYS = {NotFound, MethodNotAllowed, ClientGone, CorsRefused}  # kinds that no documented route answers


def test_every_kind_of_error_is_documented_where_it_can_come() -> None:
    documented = {error for endpoint in ENDPOINTS for error in endpoint.errors} | {*ANYWHERE, *KEYED}
    undocumented = set(KINDS) - documented - NOBODYS
    assert not undocumented, f"{undocumented}: name them in a row of the table, ANYWHERE or here in NOBODYS"
    assert not documented & NOBODYS
    batch = next(endpoint for endpoint in ENDPOINTS if endpoint.path == "/rank/batch")
    assert set(IN_BATCH) <= set(batch.errors)


def test_the_model_is_told_from_its_bundle(demo: Bundle, valkey_url: str) -> None:
    async def go() -> Any:
        async with client_of(demo, valkey_url) as client:
            return (await client.get("/model")).json()

    model = run(go())
    features = {feature["name"]: feature for feature in model["features"]}
    schema, encoder = demo.schema, demo.encoder
    assert list(features) == [feature.name for feature in schema.features]
    assert features["position"]["default"] == 1 and features["position"]["type"] == "int"
    assert features["age_x_item"]["of"] == ["age", "item_id"] and features["age_x_item"]["vocabulary"] is None
    assert features["item_id"]["vocabulary"] == len(encoder.vocabularies["item_id"].table.items()[0])
    assert model["history"]["length"] == schema.history.length and model["catalog"]["attributes"]
    assert model["exported_at"] == int(demo.exported_s * 1000)
    assert [worker["version"] for worker in model["workers"]] == [demo.version]


def test_another_model_gets_a_document_of_its_own(demo: Bundle, valkey_url: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(demo.folder, other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"version": "another"}))

    async def go() -> tuple[Any, Any]:
        async with documented(demo, valkey_url) as (client, before):
            loading = client._transport.app.state.loading  # type: ignore[attr-defined]
            assert (await loading.load(1, other)).problem is None
            assert (await loading.switch(1)).problem is None
            return before, (await client.get("/openapi.json")).json()

    before, after = run(go())
    assert before["info"]["x-bundle"]["version"] == demo.version
    assert after["info"]["x-bundle"]["version"] == "another" and after["info"]["version"] == API_VERSION


# ---- values of features

KINDS_OF_VALUES = parse(
    {
        "user_id": "int",
        "feature": [
            {"name": "item_id", "side": "item", "kind": "id", "type": "int", "sequence_width": 4},
            {"name": "text", "side": "context", "kind": "category", "type": "str", "width": 4, "default": "a"},
            {"name": "whole", "side": "context", "kind": "category", "type": "int", "width": 4, "default": 1},
            {"name": "number", "side": "context", "kind": "number", "transform": "standard", "default": 0.5},
            {"name": "bucketed", "side": "user", "kind": "number", "transform": "log", "width": 4},
            {"name": "texts", "side": "item", "kind": "multi", "type": "str", "width": 4, "max_values": 2},
            {"name": "wholes", "side": "item", "kind": "multi", "type": "int", "width": 4, "max_values": 2},
        ],
    }
)
SINGLE = [None, "", "a", "7", "-7", "007", " 7", "7.5", "9" * 18, "9" * 30, 0, 7, -7, 2**63 - 1, 2**63, -(2**63), 2**70]
SINGLE += [0.5, 1e30, 1e39, float("inf"), True, {}, {"a": 1}]
SEVERAL = [[], *([one] for one in SINGLE), ["a", None], [1, None], [1, "2", 3], [["a"]]]
NARROWER = {"number", "bucketed"}  # text that holds a number is taken too, which is not documented


@pytest.mark.parametrize("feature", KINDS_OF_VALUES.features, ids=lambda feature: str(feature.name))
def test_a_value_that_the_document_allows_is_one_that_the_encoder_takes(feature: Any) -> None:
    allowed = Draft202012Validator(values.value(feature))
    for given in (*SINGLE, *SEVERAL):
        try:
            feature.column([given])
            taken = True
        except BadValue:
            taken = False
        assert taken or not allowed.is_valid(given), f"{given!r:.80} is documented and refused"
        longer = isinstance(given, str) and len(given) > 18
        if taken and feature.name not in NARROWER and not longer and not isinstance(given, list):
            assert allowed.is_valid(given), f"{given!r:.80} is taken and not documented"


def test_features_of_another_bundle_are_no_error_to_a_client_made_for_this_one() -> None:
    schema: Schema = KINDS_OF_VALUES
    for sides in itertools.permutations(("user", "item", "context"), 1):
        assert values.features(schema, *sides)["additionalProperties"] is True  # type: ignore[arg-type]


def test_making_the_document_asks_nothing_of_the_event_loop(demo: Bundle, valkey_url: str) -> None:
    """It is made once for a model, in a thread; after that it is at hand."""

    async def go() -> tuple[Any, Any]:
        async with client_of(demo, valkey_url) as client:
            app = client._transport.app  # type: ignore[attr-defined]
            return app.openapi(), app.openapi()

    first, second = run(go())
    assert first is second and json.dumps(first)
