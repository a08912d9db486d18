"""What HTTP asks of every route: HEAD, OPTIONS, a path prefix, CORS, compressed bodies and answers."""

import gzip
import re
import time
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest

from model.bundle.reading import Bundle
from service.access.guard import Guard
from service.api.edges.cors import Cors
from service.api.gate import Gate
from service.scoring.admission import Admission, Size, Work
from service.settings import Settings, SettingsError, load_settings
from service.telemetry.families import STAGES
from service.wire.codings import MEMBERS, OFFERED, chosen, compressed, zstd
from tests.client import client_of, items_of, requests, run

SHOP = "https://shop.example"
READ = ("/", "/docs", "/model", "/metrics", "/health/live", "/health/ready", "/openapi.json")


def with_client(bundle: Bundle, url: str, use: Callable[[httpx.AsyncClient], Any], **settings: Any) -> Any:
    async def go() -> Any:
        async with client_of(bundle, url, **settings) as client:
            return await use(client)

    return run(go())


def rank_body(bundle: Bundle, candidates: int = 8) -> dict[str, Any]:
    return {"user_id": "u1", "candidates": (items_of(bundle, 8) * 200)[:candidates]}


# ---- methods


@pytest.mark.parametrize("path", [*READ, "/docs-assets/swagger-ui.css"])
def test_head_answers_as_get_does_but_for_the_body(small_bundle: Bundle, valkey_url: str, path: str) -> None:
    async def use(client: httpx.AsyncClient) -> Any:
        return await client.head(path), await client.get(path), await client.get("/metrics")

    head, full, metrics = with_client(small_bundle, valkey_url, use)
    assert head.status_code == full.status_code and head.content == b""
    differ = {"x-request-id", "server-timing", *({"content-length"} if path == "/metrics" else ())}
    assert {k: v for k, v in head.headers.items() if k not in differ} == {
        k: v for k, v in full.headers.items() if k not in differ
    }
    if path in READ[:-1]:
        assert requests(metrics.text, path, "ok") >= 2, "HEAD counts under its route"


def test_options_and_a_wrong_method_tell_what_is_allowed(small_bundle: Bundle, valkey_url: str) -> None:
    async def use(client: httpx.AsyncClient) -> Any:
        return [
            await client.options("/rank"),
            await client.options("/health/live"),
            await client.delete("/health/live"),
            await client.head("/rank"),
            await client.options("/nowhere"),
        ]

    rank, live, wrong, head, nowhere = with_client(small_bundle, valkey_url, use)
    assert (rank.status_code, rank.headers["allow"], rank.content) == (204, "OPTIONS, POST", b"")
    assert live.headers["allow"] == wrong.headers["allow"] == "GET, HEAD, OPTIONS"
    assert (wrong.status_code, head.status_code, head.headers["allow"], head.content) == (
        405,
        405,
        "OPTIONS, POST",
        b"",
    )
    assert nowhere.status_code == 404


@pytest.mark.parametrize("path", ["/", "/rank/", "/docs/", "//rank", "/docs-assets", "//evil.example", "/model/"])
def test_no_answer_repeats_the_callers_host(small_bundle: Bundle, valkey_url: str, path: str) -> None:
    async def use(client: httpx.AsyncClient) -> Any:
        evil = {"host": "evil.example", "x-forwarded-host": "evil.example", "x-forwarded-prefix": "//evil.example"}
        return [await client.request(m, f"http://ranker{path}", headers=evil) for m in ("GET", "POST", "HEAD")]

    for answer in with_client(small_bundle, valkey_url, use):
        named = [value for name, value in answer.headers.items() if "evil" in value]
        assert not named and answer.headers.get("location", "/docs") == "/docs"
        assert answer.status_code == (307 if path == "/" and answer.request.method != "POST" else answer.status_code)
        if path != "/":
            assert answer.status_code == 404


def test_a_host_that_is_none_is_no_fault_of_ours(small_bundle: Bundle, valkey_url: str) -> None:
    async def use(client: httpx.AsyncClient) -> Any:
        return await client.get("/nowhere", headers={"host": "[::1"})

    assert with_client(small_bundle, valkey_url, use).status_code == 404


# ---- a prefix


@pytest.mark.parametrize("sent", ["/ranker", ""], ids=["not stripped", "stripped"])
def test_behind_a_prefix_docs_their_assets_and_routes_work_and_labels_are_without_it(
    small_bundle: Bundle, valkey_url: str, sent: str
) -> None:
    async def use(client: httpx.AsyncClient) -> Any:
        page = (await client.get(f"{sent}/docs")).text
        links = re.findall(r"['\"](/[\w./-]+\.(?:js|css|json|png))['\"]", page)
        fetched = [await client.get(sent + link.removeprefix("/ranker")) for link in links]
        home = await client.get(f"{sent}/")
        ranked = await client.post(f"{sent}/rank", json=rank_body(small_bundle))
        missing = await client.get(f"{sent}/nowhere")
        return links, fetched, home, ranked, missing, (await client.get(f"{sent}/metrics")).text

    links, fetched, home, ranked, missing, metrics = with_client(small_bundle, valkey_url, use, root_path="/ranker")
    assert len(links) == 4 and all(link.startswith("/ranker/") for link in links)
    assert [answer.status_code for answer in fetched] == [200] * 4
    document = next(answer.json() for answer in fetched if answer.headers["content-type"] == "application/json")
    assert document["servers"] == [{"url": "/ranker"}] and "/rank" in document["paths"]
    assert home.headers["location"] == "/ranker/docs" and ranked.status_code == 200
    assert missing.status_code == 404 and missing.json()["error"]["message"].startswith("GET /nowhere: Not Found")
    assert requests(metrics, "/rank", "ok") == requests(metrics, "/docs", "ok") == 1
    assert 'route="/ranker' not in metrics


def test_a_route_is_taken_as_it_stands_whatever_the_prefix_is(small_bundle: Bundle, valkey_url: str) -> None:
    async def use(client: httpx.AsyncClient) -> Any:
        return [await client.post(path, json=rank_body(small_bundle)) for path in ("/rank", "/rank/rank")]

    assert [a.status_code for a in with_client(small_bundle, valkey_url, use, root_path="/rank")] == [200, 200]


@pytest.mark.parametrize(
    ("trusted", "value", "where"),
    [
        (("127.0.0.0/8",), "/a/b/", "/a/b/docs"),
        (("127.0.0.1",), "//evil.example", "/set/docs"),
        (("127.0.0.1",), "/../x", "/set/docs"),
        (("127.0.0.1",), "https://evil.example", "/set/docs"),
        (("10.0.0.0/8",), "/a", "/set/docs"),
        ((), "/a", "/set/docs"),
    ],
)
def test_a_forwarded_prefix_counts_of_a_trusted_proxy_alone(
    small_bundle: Bundle, valkey_url: str, trusted: tuple[str, ...], value: str, where: str
) -> None:
    async def use(client: httpx.AsyncClient) -> Any:
        return await client.get("/", headers={"x-forwarded-prefix": value})

    settings = {"trusted_proxies": trusted, "root_path": "/set"}
    assert with_client(small_bundle, valkey_url, use, **settings).headers["location"] == where


# ---- CORS


def test_a_page_of_an_allowed_origin_may_call_and_sees_errors_and_refusals_too(
    small_bundle: Bundle, valkey_url: str
) -> None:
    async def use(client: httpx.AsyncClient) -> Any:
        preflight = await client.options(
            "/rank",
            headers={
                "origin": SHOP,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization, content-type",
            },
        )
        wanted = {"origin": SHOP}
        answers = [
            await client.post("/rank", json=rank_body(small_bundle), headers=wanted),
            await client.post("/rank", content=b"{", headers=wanted),
            await client.get("/nowhere", headers=wanted),
            await client.post("/rank", json=rank_body(small_bundle), headers=wanted | {"content-encoding": "br"}),
        ]
        other = await client.post("/rank", json=rank_body(small_bundle), headers={"origin": "https://evil.example"})
        return preflight, answers, other

    preflight, answers, other = with_client(small_bundle, valkey_url, use, cors_origins=(SHOP,))
    assert preflight.status_code == 204
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert [answer.status_code for answer in answers] == [200, 400, 404, 415]
    for answer in (preflight, *answers):
        assert answer.headers["access-control-allow-origin"] == SHOP and "Origin" in answer.headers["vary"]
        assert answer.headers.get_list("access-control-allow-origin") == [SHOP]
    exposed = {name.strip() for name in answers[0].headers["access-control-expose-headers"].split(",")}
    assert {"Server-Timing", "X-Request-Id", "Retry-After"} <= exposed
    assert "access-control-allow-origin" not in other.headers and "Origin" in other.headers["vary"]


def test_a_page_that_may_not_call_is_told_so_and_without_the_setting_nothing_is_said(
    small_bundle: Bundle, valkey_url: str
) -> None:
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}

    async def use(client: httpx.AsyncClient) -> Any:
        return await client.options("/rank", headers=asked)

    refused = with_client(small_bundle, valkey_url, use, cors_origins=(SHOP,))
    assert refused.status_code == 400 and refused.json()["error"]["kind"] == "cors_refused"
    assert "access-control-allow-origin" not in refused.headers
    anybody = with_client(small_bundle, valkey_url, use, cors_origins=("*",))
    assert anybody.status_code == 204 and anybody.headers["access-control-allow-origin"] == "*"
    off = with_client(small_bundle, valkey_url, use)
    assert not [name for name in off.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CORS_ORIGINS", "*,https://shop.example"),
        ("CORS_ORIGINS", "shop.example"),
        ("CORS_ORIGINS", "https://shop.example/"),
        ("CORS_ORIGINS", "null"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("TRUSTED_PROXIES", "proxy.example"),
        ("ROOT_PATH", "ranker"),
        ("ROOT_PATH", "//evil.example"),
        ("ROOT_PATH", "/a/../b"),
    ],
)
def test_a_setting_of_the_edges_that_cannot_be_meant_is_refused_by_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"RANKER_{name}", value)
    with pytest.raises(SettingsError, match=f"RANKER_{name}='"):
        load_settings()


# ---- compressed bodies


def packed(coding: str, content: bytes) -> bytes:
    return gzip.compress(content) if coding == "gzip" else zstd.compress(content)


def sent(bundle: Bundle, url: str, *calls: tuple[str | None, bytes], **settings: Any) -> list[httpx.Response]:
    """Answers to bodies with their Content-Encoding."""

    async def use(client: httpx.AsyncClient) -> Any:
        return [
            await client.post("/rank", content=body, headers={} if coding is None else {"content-encoding": coding})
            for coding, body in calls
        ]

    answers: list[httpx.Response] = with_client(bundle, url, use, **settings)
    return answers


def scores(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


@pytest.mark.parametrize("coding", OFFERED)
@pytest.mark.parametrize("candidates", [8, 1600])
def test_a_compressed_body_is_ranked_as_the_plain_one(
    small_bundle: Bundle, valkey_url: str, coding: str, candidates: int
) -> None:
    plain = orjson.dumps(rank_body(small_bundle, candidates))
    plain = plain.replace(b',"i', b"," + b" " * (90_000 // candidates) + b'"i')  # more than is made plain at once
    half = len(plain) // 2
    in_two = packed(coding, plain[:half]) + packed(coding, plain[half:])
    calls = [(None, plain), (coding, packed(coding, plain)), (coding.upper(), in_two), ("identity", plain)]
    first, *others = sent(small_bundle, valkey_url, *calls)
    assert all(scores(other) == scores(first) for other in others)


@pytest.mark.parametrize("coding", OFFERED)
def test_a_bomb_a_torn_body_and_another_format_are_refused_with_what_is_wrong(
    small_bundle: Bundle, valkey_url: str, coding: str
) -> None:
    plain = orjson.dumps(rank_body(small_bundle))
    good, bomb = packed(coding, plain), packed(coding, b" " * 50_000_000 + plain)
    assert len(bomb) < 100_000
    calls = [bomb, good[:-3], plain, b"", good + b"junk", packed(coding, b"") * (MEMBERS + 1)]
    answers = sent(small_bundle, valkey_url, *((coding, body) for body in calls), max_body_bytes=1_000_000)
    assert [answer.status_code for answer in answers] == [413, *[400] * 5]
    kinds = {answer.json()["error"]["kind"] for answer in answers[1:]}
    assert kinds == {"malformed_encoding"}
    messages = [answer.json()["error"]["message"] for answer in answers]
    assert messages[0] == "more than 1000000 bytes once decompressed, at most 1000000"
    assert "ends too early" in messages[1] and f"no {coding}" in messages[2]


@pytest.mark.parametrize("coding", ["br", "deflate", "gzip, gzip", "gzip, zstd", "nonsense"])
def test_a_coding_that_is_not_known_or_one_on_another_names_those_that_are(
    small_bundle: Bundle, valkey_url: str, coding: str
) -> None:
    [answer] = sent(small_bundle, valkey_url, (coding, b"x"))
    assert (answer.status_code, answer.json()["error"]["kind"]) == (415, "unsupported_encoding")
    assert "zstd, gzip" in answer.json()["error"]["message"]
    assert answer.headers["accept-encoding"] == "zstd, gzip"


def test_what_a_compressed_body_holds_is_expected_from_the_length_that_it_will_have() -> None:
    """By the length that it comes in, a crowd of large requests would look like one of small ones."""
    admission = Admission(2000, lambda: Work(1e-4, 1e-6))
    gate = Gate(admission, Settings(), {"/rank": False}, Told(), Guard(None, {}))  # type: ignore[arg-type]
    admission.enter(Size(1, 1500), None)
    for _ in range(300):
        gate.expanded(1000, 20_000)
    plain = [(b"content-length", b"1000")]
    for head, refused in ((plain, False), ([*plain, (b"content-encoding", b"gzip")], True)):
        answer = gate.turn_away(time.perf_counter(), b"POST", b"/rank", head)
        assert (answer is not None) == refused


class Told:
    """In the place of a Report."""

    def refused(self, *_: Any) -> None:
        pass


def test_who_is_turned_away_under_a_prefix_or_by_a_page_is_told_as_all_others_are() -> None:
    admission = Admission(1000, lambda: Work(1e-4, 1e-6))
    settings = Settings(root_path="/ranker")
    gate = Gate(admission, settings, {"/rank": False}, Told(), Guard(None, {}), Cors((SHOP,), ("POST",)))  # type: ignore[arg-type]
    admission.enter(Size(1, 1000), None)
    for path in (b"/rank", b"/ranker/rank?x=1"):
        answer = gate.turn_away(time.perf_counter(), b"POST", path, [(b"origin", SHOP.encode())])
        assert answer is not None and b"\r\naccess-control-allow-origin: https://shop.example\r\n" in answer
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"content-length: %d" % len(body) in head and orjson.loads(body)["error"]["kind"] == "overloaded"
        assert b"\r\n\r\n" not in head and b"retry-after" in head


# ---- compressed answers


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (b"gzip", "gzip"),
        (b"gzip, deflate, br, zstd", "zstd"),
        (b"gzip;q=1, zstd;q=0.5", "gzip"),
        (b"zstd;q=0, *", "gzip"),
        (b"X-GZIP", "gzip"),
        (b"*", "zstd"),
        (b"gzip;q=0", None),
        (b"gzip;q=0.2, identity", None),
        (b"gzip;q=much", None),
        (b"br, deflate", None),
        (b"", None),
    ],
)
def test_the_coding_is_the_one_that_the_caller_likes_best(accept: bytes, coding: str | None) -> None:
    assert chosen(accept) == coding


def opened(answer: httpx.Response, raw: bytes) -> bytes:
    match answer.headers.get("content-encoding"):
        case "gzip":
            return zlib.decompress(raw, wbits=31)
        case "zstd":
            return bytes(zstd.decompress(raw))
    return raw


async def raw_of(client: httpx.AsyncClient, method: str, path: str, accept: str, **given: Any) -> Any:
    async with client.stream(method, path, headers={"accept-encoding": accept}, **given) as answer:
        return answer, b"".join([piece async for piece in answer.aiter_raw()])


@pytest.mark.parametrize("accept", ["gzip", "zstd", "identity"])
def test_large_answers_are_compressed_for_those_who_ask(small_bundle: Bundle, valkey_url: str, accept: str) -> None:
    async def use(client: httpx.AsyncClient) -> Any:
        large = await raw_of(client, "POST", "/rank", accept, json=rank_body(small_bundle, 1600))
        small = await raw_of(client, "POST", "/rank", accept, json=rank_body(small_bundle))
        return large, small, await raw_of(client, "GET", "/metrics", accept)

    (large, raw), (small, small_raw), (metrics, text) = with_client(small_bundle, valkey_url, use)
    assert len(orjson.loads(opened(large, raw))["items"]) == 1600
    assert b"ranker_requests_total" in opened(metrics, text)
    for answer, content in ((large, raw), (metrics, text)):
        assert answer.headers.get("content-encoding", "identity") == accept
        assert answer.headers["vary"] == "Accept-Encoding" and int(answer.headers["content-length"]) == len(content)
    assert "content-encoding" not in small.headers and orjson.loads(small_raw)["items"]


def test_nothing_is_compressed_where_the_operator_wants_that_nor_what_would_not_be_smaller(
    small_bundle: Bundle, valkey_url: str
) -> None:
    async def use(client: httpx.AsyncClient) -> Any:
        body = rank_body(small_bundle, 1600)
        return await raw_of(client, "POST", "/rank", "gzip", json=body), await client.get(
            "/docs-assets/favicon-32x32.png"
        )

    (off, _), _ = with_client(small_bundle, valkey_url, use, compress_from_bytes=0)
    assert "content-encoding" not in off.headers and "vary" not in off.headers
    _, picture = with_client(small_bundle, valkey_url, use, compress_from_bytes=1)
    assert "content-encoding" not in picture.headers and picture.content.startswith(b"\x89PNG")


@pytest.mark.parametrize("coding", OFFERED)
def test_what_is_compressed_can_be_opened(coding: str) -> None:
    content = b"one and the same " * 1000
    shorter = compressed(coding, content)
    assert len(shorter) < len(content) / 10
    assert (zlib.decompress(shorter, wbits=31) if coding == "gzip" else zstd.decompress(shorter)) == content


# ---- timings


@pytest.mark.parametrize("accept", ["identity", "gzip"])
def test_the_bodys_timings_are_those_of_the_header_but_for_what_came_after_it(
    small_bundle: Bundle, valkey_url: str, accept: str
) -> None:
    async def use(client: httpx.AsyncClient) -> Any:
        return await raw_of(client, "POST", "/rank", accept, json=rank_body(small_bundle, 1600))

    answer, raw = with_client(small_bundle, valkey_url, use)
    header = {m[1]: float(m[2]) for m in re.finditer(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"])}
    body = orjson.loads(opened(answer, raw))["timings_ms"]
    assert set(body) == set(header) == {*STAGES, "total"}
    later = {"total", *({"serialise"} if accept == "gzip" else ())}
    for stage in header:
        assert body[stage] <= header[stage] if stage in later else body[stage] == header[stage]
    assert body["serialise"] > 0 and body["parse"] > 0
