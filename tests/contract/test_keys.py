"""Who may ask for what, in process: scopes, refusals, pages in a browser, rates, and what is told of it all."""

import base64
import gzip
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response

from model.bundle.reading import Bundle
from service.access.guard import Guard
from service.access.keyring import Keyring
from service.access.keys import ADMIN, METRICS, OPEN, RANK, SCOPES, WRITE, KeysError
from service.api.answers import CALL
from service.api.auth import guard_of
from service.api.endpoint import Endpoint, install
from service.api.routes import ENDPOINTS
from service.app import create_app
from service.call import Call
from service.errors import Forbidden, Unauthorized
from service.settings import DEMO_BUNDLE, Settings
from service.telemetry.folder import prepare_folder
from tests.client import client_of, requests, run
from tests.stores import dead_url

TOKENS = {scope: f"the-key-of-{scope}-callers" for scope in SCOPES}  # of each scope one key, named after it
KEYS = "; ".join(f"{scope}-caller {scope} {token}" for scope, token in TOKENS.items())
BODY = {"user_id": "u1", "candidates": ["i1"]}
OF_DOCS = ("/docs-assets/swagger-ui.css", "/openapi.json")


def bearer(scope: str) -> dict[str, str]:
    return {"authorization": f"Bearer {TOKENS[scope]}"}


def password(token: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(f'anybody:{token}'.encode()).decode()}"}


@asynccontextmanager
async def keyed(**changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    with dead_url() as url:
        async with client_of(Bundle.open(DEMO_BUNDLE), url, keys=KEYS, **changes) as client:
            yield client


def test_without_a_key_nothing_answers_but_what_is_open_and_with_one_only_its_scope() -> None:
    async def go() -> None:
        async with keyed() as client:
            for endpoint in ENDPOINTS:
                for scope in (None, *SCOPES):
                    json = [BODY] if endpoint.bulk else BODY if endpoint.stages else None
                    headers = {} if scope is None else bearer(scope)
                    answer = await client.request(endpoint.method, endpoint.path, headers=headers, json=json)
                    told = (endpoint.path, scope, answer.text[:200])
                    if endpoint.scope in (OPEN, scope):
                        # The last: there is no body here, and no store behind.
                        assert answer.status_code in (200, 307, 400, 415, 503), told
                    elif scope is None:
                        assert answer.status_code == 401 and answer.json()["error"]["kind"] == "unauthorized", told
                        assert answer.headers["www-authenticate"].startswith('Bearer realm="bst-ranker"'), told
                    else:
                        assert answer.status_code == 403 and answer.json()["error"]["kind"] == "forbidden", told
                        assert f"scope {endpoint.scope};" in answer.json()["error"]["message"], told
                        assert f'scope="{endpoint.scope}"' in answer.headers["www-authenticate"], told

    run(go())


def test_the_routes_that_are_open_are_those_of_health_alone() -> None:
    assert [endpoint.path for endpoint in ENDPOINTS if endpoint.scope == OPEN] == ["/health/live", "/health/ready"]


def test_what_the_pages_load_needs_the_scope_of_the_pages() -> None:
    async def go() -> None:
        async with keyed() as client:
            for scope in SCOPES:
                answers = [await client.get(path, headers=bearer(scope)) for path in (*OF_DOCS, "/docs")]
                wanted = 200 if scope == RANK else 403
                assert [answer.status_code for answer in answers] == [wanted] * 3, scope

    run(go())


def test_an_order_may_be_compressed_as_any_body_may() -> None:
    async def go() -> None:
        async with keyed() as client:
            headers = bearer(ADMIN) | {"content-type": "application/json", "content-encoding": "gzip"}
            answer = await client.post(
                "/admin/model", headers=headers, content=gzip.compress(b'{"rollback": 1, "a": 2}')
            )
            assert answer.status_code == 422 and "allowed: bundle" in answer.json()["error"]["message"], answer.text
            bomb = gzip.compress(bytes(2**20))
            assert (await client.post("/admin/model", headers=headers, content=bomb)).status_code == 413

    run(go())


def test_a_stranger_does_not_even_learn_which_paths_and_methods_there_are() -> None:
    paths = ("/nope", "/rank", "/rank/", "//rank", "/RANK", "/health", "/health/live/", "/docs-assets/", *OF_DOCS)

    async def go() -> None:
        async with keyed() as client:
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"):
                for path in paths:
                    answer = await client.request(method, path)
                    assert answer.status_code == 401, (method, path)
                known = await client.request(method, "/nope", headers=bearer(METRICS))
                assert known.status_code == 404  # any key may learn that

    run(go())


NO_KEYS: list[list[tuple[str, str]]] = [
    [("authorization", f"Bearer {TOKENS[RANK]}x")],
    [("authorization", TOKENS[RANK])],
    [("authorization", f"Token {TOKENS[RANK]}")],
    [("authorization", f"Bearer{TOKENS[RANK]}")],
    [("authorization", "Bearer")],
    [("authorization", "Bearer ")],
    [("authorization", "")],
    [("authorization", f"Bearer {TOKENS[RANK]}, Bearer {TOKENS[RANK]}")],
    [("authorization", f"Bearer {TOKENS[RANK]}"), ("authorization", f"Bearer {TOKENS[RANK]}")],
    [("authorization", "Basic !!!")],
    [("authorization", password(TOKENS[RANK])["authorization"])],
    [("x-api-key", TOKENS[RANK])],
    [("cookie", f"authorization=Bearer {TOKENS[RANK]}")],
    [("authorization", "Bearer " + "x" * 60_000)],
]


def test_what_is_not_quite_the_header_is_no_key() -> None:
    async def go() -> None:
        async with keyed() as client:
            for headers in NO_KEYS:
                answer = await client.post("/rank", json=BODY, headers=headers)
                assert answer.status_code == 401 and TOKENS[RANK] not in answer.text, headers
            answer = await client.post("/rank", json=BODY, headers={"authorization": f"bEARER   {TOKENS[RANK]} "})
            assert answer.status_code == 200  # the scheme has no case, and spaces do not count

    run(go())


def test_a_browser_opens_the_pages_by_a_key_as_password_and_nothing_else() -> None:
    async def go() -> None:
        async with keyed() as client:
            for path in ("/", "/docs", *OF_DOCS):
                asked = await client.get(path)
                assert asked.headers.get_list("www-authenticate") == [
                    'Bearer realm="bst-ranker"',
                    'Basic realm="bst-ranker"',
                ]
                assert (await client.get(path, headers=password(TOKENS[RANK]))).status_code in (200, 307), path
                assert (await client.get(path, headers=password("wrong"))).status_code == 401, path
            for method, path in (("GET", "/model"), ("POST", "/rank"), ("POST", "/docs"), ("GET", "/metrics")):
                answer = await client.request(method, path, headers=password(TOKENS[RANK]), json=BODY)
                assert answer.headers.get_list("www-authenticate") == ['Bearer realm="bst-ranker"'], path
            document = (await client.get("/openapi.json", headers=bearer(RANK))).json()
            assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
            secured = {path: "security" in next(iter(methods.values())) for path, methods in document["paths"].items()}
            assert secured == {path: not path.startswith("/health/") for path in secured}

    run(go())


def test_without_keys_the_document_asks_for_none_and_a_key_does_no_harm() -> None:
    async def go() -> None:
        with dead_url() as url:
            async with client_of(Bundle.open(DEMO_BUNDLE), url) as client:
                assert "securitySchemes" not in (await client.get("/openapi.json")).json()["components"]
                assert (await client.post("/rank", json=BODY, headers=bearer(RANK))).status_code == 200

    run(go())


def test_metrics_are_open_where_that_is_set() -> None:
    async def go() -> None:
        async with keyed(metrics_open=True) as client:
            assert (await client.get("/metrics")).status_code == 200
            assert (await client.get("/model")).status_code == 401

    run(go())


def test_refusals_count_as_refused_by_their_kind_and_never_as_load() -> None:
    async def go() -> None:
        async with keyed(rate="2/hour") as client:
            for headers in ({}, {}, bearer(METRICS), bearer(RANK), bearer(RANK), bearer(RANK)):
                answer = await client.post("/rank", json=BODY, headers=headers)
            assert answer.status_code == 429 and answer.json()["error"]["kind"] == "too_many_requests"
            assert 3590 <= int(answer.headers["retry-after"]) <= 3600
            metrics = (await client.get("/metrics", headers=bearer(METRICS))).text
            for kind, count in (("unauthorized", 2), ("forbidden", 1), ("too_many_requests", 1)):
                assert f'ranker_key_refusals_total{{kind="{kind}"}} {count}.0' in metrics
            assert requests(metrics, "/rank", "refused") == 4
            assert requests(metrics, "/rank", "shed") == 0
            assert 'ranker_in_flight{worker="0"} 0.0' in metrics

    run(go())


def test_the_log_names_the_key_and_never_shows_it(caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> None:
        async with keyed(log_level="debug") as client:
            with caplog.at_level(logging.DEBUG):
                await client.post("/rank", json=BODY, headers=bearer(RANK))
                await client.post("/rank", json=BODY, headers={"authorization": "Bearer a-key-that-is-unknown"})

    run(go())
    lines: list[Mapping[str, Any]] = [getattr(record, "ranker_fields", {}) for record in caplog.records]
    told = [(line["status"], line.get("key"), line.get("error")) for line in lines if line.get("route") == "/rank"]
    assert told == [(200, "rank-caller", None), (401, None, "unauthorized")]
    assert not [record for record in caplog.records if TOKENS[RANK] in record.getMessage() + str(record.__dict__)]
    assert not [record for record in caplog.records if "a-key-that-is-unknown" in str(record.__dict__)]
    assert TOKENS[RANK] not in repr(Settings(keys=KEYS))


@pytest.mark.parametrize("spelt", [("/x/metrics", "/x"), ("/health/live/metrics", "/health/live"), ("/metrics", "/")])
def test_a_prefix_of_a_proxy_leads_nobody_past_a_scope(spelt: tuple[str, str], tmp_path: Path) -> None:
    path, root = spelt

    async def go() -> list[int]:
        with dead_url() as url, prepare_folder(1) as folder:
            app = create_app(Settings(keys=KEYS, redis_url=url), folder)
            async with app.router.lifespan_context(app):
                transport = httpx.ASGITransport(app=app, root_path=root)
                async with httpx.AsyncClient(transport=transport, base_url="http://ranker") as client:
                    asked = [{}, bearer(RANK), password(TOKENS[METRICS])]
                    return [(await client.get(path, headers=headers)).status_code for headers in asked]

    assert run(go()) == [401, 403, 401]


def test_a_browser_that_asks_for_a_page_of_another_origin_needs_a_key_unless_such_pages_may_call() -> None:
    headers = [(b"origin", b"https://shop.example"), (b"access-control-request-method", b"POST")]
    ring = Keyring(KEYS)
    assert Guard(ring, {}, preflights=True).admit("OPTIONS", "/rank", headers, True) is None
    for guard, method, sent in (
        (Guard(ring, {}), "OPTIONS", headers),
        (Guard(ring, {}, preflights=True), "POST", headers),
        (Guard(ring, {}, preflights=True), "OPTIONS", headers[:1]),
    ):
        with pytest.raises(Unauthorized):
            guard.admit(method, "/rank", sent, True)


def test_what_a_proxy_s_prefix_may_open_is_left_to_who_knows_the_prefix() -> None:
    guard = guard_of(Settings(keys=KEYS))
    for path in ("/rank", "/x/rank", "/model", "/metrics", "/x/metrics", "/health/live", "/docs", "/", "/nope", "/x/"):
        assert guard.foresees(path), path
    for path in ("/x/health/live", "/a/b/health/ready", "/x/docs", "/x/docs-assets/swagger-ui.css"):
        assert not guard.foresees(path), path
    assert not guard_of(Settings(keys=KEYS, metrics_open=True)).foresees("/x/metrics")


def test_a_route_asks_for_its_scope_where_the_table_of_paths_cannot_name_it() -> None:
    async def get_user(call: Call, request: Request, parts: Any) -> Response:
        return Response("there")

    ring = Keyring(KEYS)
    app = FastAPI()
    parts: Any = SimpleNamespace(gate=SimpleNamespace(guard=Guard(ring, {})))
    install(app, [Endpoint("GET", "/users/{id}", get_user, WRITE)], parts)

    async def status(key: str | None) -> int:
        async def with_call(scope: Any, receive: Any, send: Any) -> None:
            await app(
                scope | {CALL: Call("1", 0.0, key=ring.who(TOKENS[key].encode()) if key else None)}, receive, send
            )

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=with_call), base_url="http://ranker") as client:
            return (await client.get("/users/7")).status_code

    assert run(status(WRITE)) == 200
    with pytest.raises(Forbidden, match="scope write"):
        run(status(RANK))
    with pytest.raises(Unauthorized):
        run(status(None))


def test_a_route_that_names_no_scope_is_for_administrators() -> None:
    async def handler(call: Call, request: Request, parts: Any) -> Response:
        return Response()

    assert Endpoint("GET", "/new", handler).scope == "admin"


def test_a_rate_without_keys_is_refused() -> None:
    with pytest.raises(KeysError, match="RANKER_RATE='5/second' bounds requests per key, but there are no keys"):
        guard_of(Settings(rate="5/second"))
