"""Users by their path: whatever an id holds, whatever another program has left under its keys."""

import time
from urllib.parse import quote

import pytest

from model.bundle.reading import Bundle
from tests.client import client_of, items_of, run

NOW = time.time_ns() // 1_000_000


@pytest.mark.parametrize("odd", ["u1\n", "\nu1", "u\n1", "u1\n\n", "u1\r\n", "u1/", "/u1", "u\0001", "%0A", "u}1|"])
def test_who_is_shown_and_forgotten_is_whom_the_path_names_and_nobody_else(
    small_bundle: Bundle, valkey_url: str, odd: str
) -> None:
    item = items_of(small_bundle, 1)[0]
    users = ("u1", odd)

    async def scenario() -> None:
        async with client_of(small_bundle, valkey_url) as client:
            events = [{"event": "click", "user_id": user, "item_id": item, "timestamp": NOW - 1} for user in users]
            assert (await client.post("/feedback", json=events)).json()["accepted"] == 2
            path = "/users/" + quote(odd, safe="")
            assert (await client.get(path)).json()["user_id"] == odd
            assert (await client.delete(path)).json()["user_id"] == odd
            assert (await client.get(path)).status_code == 404
            assert (await client.get("/users/u1")).status_code == 200

    run(scenario())
