"""Ids of a bundle that its golden requests name, and a request of them: what there is to try."""

from collections.abc import Mapping
from typing import Any

from model.bundle.reading import Bundle

SAMPLES = 1000  # ids that GET /model offers at most
Ids = Mapping[str, list[Any]]  # `user_ids` and `item_ids` to try


def samples(bundle: Bundle) -> dict[str, list[Any]]:
    """Ids from the bundle's golden requests, for load tests and a first try; users with profile and history first."""
    requests = sorted(bundle.golden(), key=lambda r: not (r["profile"] and r["behaviours"]))
    users = dict.fromkeys(request["user_id"] for request in requests)
    items = dict.fromkeys(item for request in requests for item in request["candidates"])
    return {"user_ids": list(users)[:SAMPLES], "item_ids": list(items)[:SAMPLES]}


def example(ids: Ids, candidates: int) -> dict[str, Any]:
    """A request that works."""
    return {"user_id": ids["user_ids"][0], "candidates": ids["item_ids"][:candidates]}
