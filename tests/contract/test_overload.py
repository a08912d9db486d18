"""In time or at once no: what is refused before it is read, cut off, given up or asked by nobody, and how it counts."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from model.bundle.reading import Bundle
from service.rank import store_share_s
from tests.client import client_of, items_of, requests, run
from tests.stores import Proxy


@pytest.fixture
def proxy(valkey_url: str) -> Iterator[Proxy]:
    with Proxy(valkey_url) as door:
        yield door


async def held(client: httpx.AsyncClient, proxy: Proxy, body: Any) -> "asyncio.Task[httpx.Response]":
    """A request that is under way until `proxy.release()`."""
    await asyncio.to_thread(proxy.hold)
    task = asyncio.create_task(client.post("/rank", json=body))
    while not proxy.held.is_set():
        await asyncio.sleep(0.001)
    return task


def test_what_finds_no_room_is_refused_unread_and_told_when_to_come_again(small_bundle: Bundle, proxy: Proxy) -> None:
    body = {"user_id": "u1", "candidates": items_of(small_bundle, 8)}

    async def unread() -> Any:
        raise AssertionError("its body was read")
        yield b""

    async def go() -> tuple[httpx.Response, list[httpx.Response], str]:
        async with client_of(small_bundle, proxy.url, queue_candidates=10, history_timeout_ms=20_000) as client:
            first = await held(client, proxy, body)
            headers = {"content-length": "1000", "x-request-id": "mine"}
            refused = [await client.post(path, content=unread(), headers=headers) for path in ("/rank", "/rank/batch")]
            batch = await client.post("/rank/batch", json=[body, body])  # as a whole
            await asyncio.to_thread(proxy.release)
            answered = await first
            again = await client.post("/rank", json=body)
            return answered, [*refused[:1], batch, again], (await client.get("/metrics")).text

    first, (refused, batch, again), metrics = run(go())
    assert first.status_code == again.status_code == 200
    for answer in (refused, batch):
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        error = answer.json()["error"]
        assert error["kind"] == "overloaded" and "8 under way, at most 10" in error["message"]
    assert refused.headers["x-request-id"] == "mine" == refused.json()["error"]["request_id"]
    assert requests(metrics, "/rank", "shed") == 1 and requests(metrics, "/rank", "failed") == 0
    assert requests(metrics, "/rank/batch", "shed") == 2  # one unread, by its length, and one once it was counted


def test_a_deadline_of_its_own_cuts_the_read_off_and_what_is_late_then_is_not_begun(
    small_bundle: Bundle, proxy: Proxy
) -> None:
    body = {"user_id": "u1", "candidates": items_of(small_bundle, 8) * 400, "timeout_ms": 1}

    async def go() -> tuple[httpx.Response, str]:
        async with client_of(small_bundle, proxy.url, history_timeout_ms=20_000) as client:
            await asyncio.to_thread(proxy.hold)
            answer = await client.post("/rank", json=body)
            await asyncio.to_thread(proxy.release)
            return answer, (await client.get("/metrics")).text

    answer, metrics = run(go())
    assert answer.status_code == 504, answer.text
    error = answer.json()["error"]
    assert error["kind"] == "deadline_exceeded" and error["message"].startswith("1 ms are over by ")
    assert requests(metrics, "/rank", "late") == 1 and requests(metrics, "/rank", "failed") == 0


@pytest.mark.parametrize("timeout_ms", [0, -1, 600_001, 1.5, "5"])
def test_a_deadline_that_is_none_is_refused(small_bundle: Bundle, valkey_url: str, timeout_ms: object) -> None:
    async def go() -> httpx.Response:
        async with client_of(small_bundle, valkey_url) as client:
            return await client.post("/rank", json={"user_id": "u1", "candidates": ["i1"], "timeout_ms": timeout_ms})

    answer = run(go())
    assert answer.status_code == 422 and "timeout_ms" in answer.json()["error"]["message"]


def test_half_of_the_time_that_is_left_is_the_stores() -> None:
    class Left:
        def __init__(self, left_s: float | None):
            self._left_s = left_s

        def left_s(self) -> float | None:
            return self._left_s

    shares = [store_share_s(Left(left_s)) for left_s in (None, 0.2, 0.0, -1.0)]  # type: ignore[arg-type]
    assert shares == [None, 0.1, 0.0, 0.0]
