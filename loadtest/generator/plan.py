"""What the requests of a run ask, drawn before the clock starts. (When they are due is in arrivals.py.)"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import orjson

from loadtest.errors import NoRun
from loadtest.generator import mix
from loadtest.generator.budgets import Budget
from model.textfile import UnreadableFile, numbered_lines

CANDIDATES_DRAWN = 10_000_000  # in all bodies of a scenario, about 100 MB; after them the bodies come round again
USERS, ITEMS = 1_000, 10_000  # made up where the server offers no ids

Ids = Sequence[str | int]


class Body(NamedTuple):
    """A body for POST /rank, and how many items a right answer has.

    `scores`: of each of its candidates, where they are known beforehand; an answer with others is not this one's.
    """

    content: bytes
    items: int
    scores: Mapping[str | int, float] | None = None


class Samples(NamedTuple):
    user_ids: Ids
    item_ids: Ids


def generator(seed: int, scenario: str) -> np.random.Generator:
    """A scenario's own randomness, whichever other scenarios run beside it."""
    return np.random.default_rng([seed, crc32(scenario.encode())])


def draw_bodies(
    samples: Samples,
    budget: Budget,
    count: int,
    rng: np.random.Generator,
    lengths: Mapping[str | int, int] | None = None,
) -> list[Body]:
    """`count` bodies (or as many as CANDIDATES_DRAWN allows) of users and candidates as the budget mixes them.

    No item twice in a body, unless there are fewer items than candidates. `lengths`: of the users' histories.
    """
    sizes = mix.sizes(budget, count, rng)
    fit = int(np.searchsorted(np.cumsum(sizes), CANDIDATES_DRAWN, side="right"))
    sizes = sizes[: max(1, fit)]
    bodies = []
    for user, size in zip(mix.users(samples.user_ids, lengths, budget, len(sizes), rng), sizes.tolist(), strict=True):
        items = rng.choice(len(samples.item_ids), size, replace=size > len(samples.item_ids)).tolist()
        request = {"user_id": user, "candidates": [samples.item_ids[item] for item in items]}
        bodies.append(Body(orjson.dumps(request), size))
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
        bodies = [_body(f"requests {path}:{number}", line) for number, line in numbered_lines(path)]
    except OSError as error:
        raise NoRun(f"requests {path}: {error.strerror}") from None
    except UnreadableFile as error:
        raise NoRun(f"requests {error}") from None
    if not bodies:
        raise NoRun(f"requests {path}: empty; a JSON object per line is needed, with user_id and candidates")
    return bodies


def _body(where: str, line: bytes) -> Body:
    try:
        request: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise NoRun(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(request, dict):
        raise NoRun(f"{where}: an object is allowed, given {request!r:.60}")
    if "user_id" not in request:
        raise NoRun(f"{where}: no user_id")
    candidates, top_k = request.get("candidates"), request.get("top_k")
    if not isinstance(candidates, list) or not candidates:
        raise NoRun(f"{where}: candidates is a list with at least one item, given {candidates!r:.60}")
    if top_k is not None and (type(top_k) is not int or top_k < 1):
        raise NoRun(f"{where}: top_k is an integer of at least 1, given {top_k!r:.60}")
    return Body(line, min(len(candidates), top_k or len(candidates)))
