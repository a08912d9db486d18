"""A service that runs an experiment of two variants, the second by chance, and what its callers see of it."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from model.bundle.reading import Bundle
from service.settings import DEMO_BUNDLE
from tests.client import client_of, items_of, run

GOOD = """\
salt = "s"
start = 2020-01-01T00:00:00Z
[[variants]]
name = "control"
share = 0.5
[[variants]]
name = "chance"
builtin = "random"
share = 0.5
"""
DEMO = Bundle.open(DEMO_BUNDLE)


async def told(client: httpx.AsyncClient, wanted: Callable[[Any], object] = bool) -> Any:
    """GET /experiments, once it is as `wanted`."""
    until = time.monotonic() + 60
    while not wanted(answer := (await client.get("/experiments")).json()):
        assert time.monotonic() < until, answer
        await asyncio.sleep(0.02)
    return answer


async def variants_of(client: httpx.AsyncClient, users: int = 40) -> Counter[str]:
    """How many users get which."""
    bodies = [{"user_id": f"u{number}", "candidates": items_of(DEMO, 4)} for number in range(users)]
    return Counter([(await client.post("/rank", json=body)).json()["variant"] for body in bodies])


def in_service(url: str, path: Path, scenario: Callable[[httpx.AsyncClient], Awaitable[None]], **more: Any) -> None:
    async def go() -> None:
        async with client_of(DEMO, url, experiments=path, catalog_poll_s=0.02, **more) as client:
            await scenario(client)

    run(go())
