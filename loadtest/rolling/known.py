"""Users whose histories show in their scores, and requests whose right scores are known before the clock starts.

An answer to another request, and one that was ranked with another user's history, then has other scores than it must.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from loadtest.errors import NoRun
from loadtest.generator.answers import TOLERANCE
from loadtest.generator.client import Client
from loadtest.generator.plan import Body

MOST_CLICKS = 20
AGES = (12, 24)  # powers of two, in seconds: from an hour to half a year
ASKED = 20  # times for an answer that is not degraded
Id = str | int


def made_up_users(count: int, items: Sequence[Id], now_ms: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Users "known0", "known1", … as service.backfill reads them, each with 1 to MOST_CLICKS clicks.

    An age of 1.4 to 1.6 times a power of two is the same time position for as long as a run takes (BST's edges are the
    powers of two), so a score stays what it is.
    """
    users = []
    for number in range(count):
        clicks = 1 + number % MOST_CLICKS
        ages_s = np.sort(rng.uniform(1.4, 1.6, clicks) * 2.0 ** rng.integers(*AGES, clicks))[::-1]
        clicked = rng.choice(len(items), clicks, replace=clicks > len(items))
        behaviours = [
            ["click", "item", items[item], now_ms - int(1000 * age_s)]
            for item, age_s in zip(clicked.tolist(), ages_s.tolist(), strict=True)
        ]
        users.append({"user_id": f"known{number}", "user": {}, "behaviours": behaviours})
    return users


def draw(
    users: Sequence[Mapping[str, Any]], items: Sequence[Id], candidates: int, count: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Requests by each user in turn, each for items drawn anew."""
    return [
        {"user_id": users[number % len(users)]["user_id"], "candidates": _some(items, candidates, rng)}
        for number in range(count)
    ]


def _some(items: Sequence[Id], count: int, rng: np.random.Generator) -> list[Id]:
    return [items[item] for item in rng.choice(len(items), min(count, len(items)), replace=False).tolist()]


async def known(instances: Sequence[Client], requests: Sequence[Mapping[str, Any]]) -> list[Body]:
    """The requests, with the scores that all instances give them. Raises NoRun where they do not agree."""
    bodies = []
    for request in requests:
        content = orjson.dumps(request)
        first, *others = [await _scores(client, content) for client in instances]
        for other in others:
            apart = max(abs(other[item] - score) for item, score in first.items())
            if apart > TOLERANCE:
                raise NoRun(f"two instances score a request of {request['user_id']} {apart:g} apart before any load")
        bodies.append(Body(content, len(first), first))
    return bodies


async def _scores(client: Client, content: bytes) -> dict[Id, float]:
    for _ in range(ASKED):
        answer = await client.ask("POST", "/rank", content)
        if answer.status != 200:
            raise NoRun(f"POST /rank is answered {answer.status} before any load: {answer.content[:200]!r}")
        parsed = orjson.loads(answer.content)
        if not parsed["degraded"]:
            return {one["item_id"]: one["score"] for one in parsed["items"]}
    raise NoRun(f"{ASKED} answers in a row are degraded before any load: {parsed['degraded']}")


def told_apart(bodies: Sequence[Body]) -> float:
    """Of requests for the same items by different users: the largest difference that the two nearest ones have."""
    scores: npt.NDArray[np.float64] = np.array(
        [[body.scores[item] for item in sorted(body.scores, key=str)] for body in bodies if body.scores]
    )
    apart = np.abs(scores[:, None] - scores[None]).max(-1)
    return float(apart[~np.eye(len(scores), dtype=bool)].min())
