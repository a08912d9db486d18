"""The plan of a run, drawn before the clock starts: when each request is due, and what it asks.

Arrivals are a Poisson process: independent callers, as a service has them. They do not wait for answers (open loop), so
a slow service meets its queue here as it would in production.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt
import orjson

from loadtest.budgets import Budget
from loadtest.errors import NoRun

CANDIDATES_DRAWN = 10_000_000  # in all bodies of a scenario, about 100 MB; after them the bodies come round again
USERS, ITEMS = 1_000, 10_000  # made up where the server offers no ids

Ids = Sequence[str | int]


class Body(NamedTuple):
    """A body for POST /rank, and how many items a right answer has."""

    content: bytes
    items: int


class Samples(NamedTuple):
    user_ids: Ids
    item_ids: Ids


def generator(seed: int, scenario: str) -> np.random.Generator:
    """A scenario's own randomness, whichever other scenarios run beside it."""
    return np.random.default_rng([seed, crc32(scenario.encode())])


def arrivals(budget: Budget, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Seconds from the start at which requests are due, ascending, (n,); those below `warmup_s` are warm-up.

    Given its count, a Poisson process is as many uniform draws. At least one request is measured.
    """
    warmup_s, end_s = budget.warmup_s, budget.warmup_s + budget.duration_s
    warmup = rng.uniform(0, warmup_s, rng.poisson(budget.rate * warmup_s))
    measured = rng.uniform(warmup_s, end_s, max(1, rng.poisson(budget.rate * budget.duration_s)))
    return np.sort(np.concatenate([warmup, measured]))


def draw_bodies(samples: Samples, candidates: int, count: int, rng: np.random.Generator) -> list[Body]:
    """`count` bodies (or as many as CANDIDATES_DRAWN allows) of random users and candidates.

    No item twice in a body, unless there are fewer items than candidates.
    """
    count = min(count, max(1, CANDIDATES_DRAWN // candidates))
    users = rng.integers(len(samples.user_ids), size=count).tolist()
    scarce = candidates > len(samples.item_ids)
    bodies = []
    for user in users:
        items = rng.choice(len(samples.item_ids), candidates, replace=scarce).tolist()
        asked = {"user_id": samples.user_ids[user], "candidates": [samples.item_ids[item] for item in items]}
        bodies.append(Body(orjson.dumps(asked), candidates))
    return bodies


def made_up() -> Samples:
    return Samples([f"u{i}" for i in range(1, USERS + 1)], [f"i{i}" for i in range(1, ITEMS + 1)])


def read_samples(model: bytes) -> Samples | None:
    """Ids from the answer of GET /model; None where it offers none. Raises NoRun where they are no ids."""
    try:
        samples = orjson.loads(model).get("samples")
    except (orjson.JSONDecodeError, AttributeError):
        return None
    if not isinstance(samples, dict) or not samples.get("user_ids") or not samples.get("item_ids"):
        return None
    for name in Samples._fields:
        ids = samples[name]
        wrong = [one for one in ids if type(one) not in (str, int)] if isinstance(ids, list) else [ids]
        if wrong:
            raise NoRun(f"GET /model: samples.{name} holds {wrong[0]!r:.60}; a list of strings and integers is allowed")
    return Samples(samples["user_ids"], samples["item_ids"])


def read_bodies(path: Path) -> list[Body]:
    """Bodies from JSON lines, sent in this order as they stand, and round again. Raises NoRun for a malformed line."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise NoRun(f"requests {path}: {error.strerror}") from None
    if not lines:
        raise NoRun(f"requests {path}: empty; a JSON object per line is needed, with user_id and candidates")
    return [_body(f"requests {path}:{number}", line) for number, line in enumerate(lines, 1)]


def _body(where: str, line: bytes) -> Body:
    try:
        asked: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise NoRun(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(asked, dict):
        raise NoRun(f"{where}: an object is allowed, given {asked!r:.60}")
    if "user_id" not in asked:
        raise NoRun(f"{where}: no user_id")
    candidates, top_k = asked.get("candidates"), asked.get("top_k")
    if not isinstance(candidates, list) or not candidates:
        raise NoRun(f"{where}: candidates is a list with at least one item, given {candidates!r:.60}")
    if top_k is not None and (type(top_k) is not int or top_k < 1):
        raise NoRun(f"{where}: top_k is an integer of at least 1, given {top_k!r:.60}")
    return Body(line, min(len(candidates), top_k or len(candidates)))
