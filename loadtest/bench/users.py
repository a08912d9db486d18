"""Made-up users with full histories, and a store that holds them."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import orjson
import redis

from loadtest.errors import NoRun
from model.features.behaviour import Behaviour
from service.loading.load import load_users
from service.store.embedded import EmbeddedStore, EmbeddedStoreError

NOW_MS = 1_700_000_000_000  # the recommending time of made-up users
DAY_MS = 86_400_000
HISTORY = 20  # behaviours of each
STORED = 100  # users in a benchmark's store
KEEP, TTL_S = 100, 86_400
PROFILE = {"age": 10, "gender": 3, "city": 400}  # how many values each has
User = dict[str, Any]  # as service.backfill reads them, one a line


def made_up_users(count: int, items: int, rng: np.random.Generator, clicks: int = HISTORY) -> list[User]:
    """Users "u0", "u1", …: a profile, and clicks up to a month old.

    The youngest click is a second before NOW_MS, and gaps grow by powers of two, as time positions do.
    """
    users = []
    for number in range(count):
        gaps_ms = np.sort(np.exp(rng.uniform(np.log(1_000), np.log(30 * DAY_MS), clicks)))[::-1].astype(np.int64)
        clicked = rng.integers(items, size=clicks)
        behaviours = [
            list(Behaviour("click", "item", f"i{item}", NOW_MS - gap))
            for item, gap in zip(clicked.tolist(), gaps_ms.tolist(), strict=True)
        ]
        profile = {name: f"{name}{rng.integers(values)}" for name, values in PROFILE.items()}
        users.append({"user_id": f"u{number}", "user": profile, "behaviours": behaviours})
    return users


def recent(user: User, then_ms: int) -> User:
    """A user of that time whose behaviours are as old now as then: the service ranks by its own clock."""
    shift_ms = time.time_ns() // 1_000_000 - then_ms
    return user | {"behaviours": [[*what, when + shift_ms] for *what, when in user["behaviours"]]}


def recent_users(items: int, rng: np.random.Generator, clicks: int = HISTORY) -> list[User]:
    """Made-up users whose newest click was a moment ago."""
    return [recent(user, NOW_MS) for user in made_up_users(STORED, items, rng, clicks)]


@contextmanager
def store(users: Sequence[User]) -> Iterator[str]:
    """The URL of an embedded store that holds these users and all of their behaviours. Raises NoRun."""
    keep = max(KEEP, *(len(user["behaviours"]) for user in users))
    try:
        with EmbeddedStore() as embedded:
            load_users([orjson.dumps(user) for user in users], embedded.url, keep=keep, ttl_s=TTL_S)
            yield embedded.url
    except (EmbeddedStoreError, redis.RedisError) as error:
        raise NoRun(str(error)) from None
