"""Users with histories that tell them apart, and the answer that each must get, reckoned without service or store.

Clicks lie in the middle of their buckets of time, so that the right answer stays the same for half an hour.
"""

import json
import random
import time
from collections.abc import Callable
from copy import copy
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model.bundle.reading import Bundle
from model.features.behaviour import Behaviour
from service.settings import DEMO_BUNDLE

CANDIDATES = 10
TOLERANCE = 1e-5  # of a score
APART = 1e-3  # by which two users' scores differ at some candidate
UNREAD, FAULTS = 8, 48  # users of each fault who are asked about only while it lasts: nothing can remember them
SOME = 40  # people whom more than one bundle, or another time, has an answer for
BROKEN, HUGE = "broken", "huge"  # who get a key of a wrong type, and a profile of 200,000 fields

TIMEOUT, ERROR, OPEN, CACHED = "history:timeout", "history:error", "history:open", "history:cached"
REASONS = (TIMEOUT, ERROR, OPEN, CACHED)  # as the documentation of the answer names them


class Expected(NamedTuple):
    scores: dict[str, float]
    history_length: int


def _ranks(bundle: Bundle, items: list[str], now_ms: int) -> Callable[..., Expected]:
    """The right answer for a user, a profile and behaviours."""
    session = bundle.session()

    def ranks(user_id: str, profile: dict[str, str], behaviours: list[Behaviour]) -> Expected:
        encoded = bundle.encoder.encode(user_id, profile, behaviours, items, now_ms, bundle.catalog)
        scores = bundle.score(session, encoded.inputs).ravel().tolist()
        return Expected(dict(zip(items, scores, strict=True)), encoded.history_length)

    return ranks


class Users:
    """`ids` and, for each, what an answer with history (`whole`) and without (`bare`) must hold."""

    def __init__(self, count: int, seed: int = 7):
        bundle = Bundle.open(DEMO_BUNDLE)
        draw = random.Random(seed)
        items = list(dict.fromkeys(item for request in bundle.golden() for item in request["candidates"]))
        self.items = items[:CANDIDATES]
        self.now_ms = time.time_ns() // 1_000_000
        ranks = _ranks(bundle, self.items, self.now_ms)
        self.ordinary = [f"user-{n}" for n in range(count)]
        self.unread = [f"unread-{n}" for n in range(UNREAD * FAULTS)]
        self.ids = [*self.ordinary, *self.unread, BROKEN, HUGE]
        self.lines: list[str] = []
        self._faults: dict[str, int] = {}
        self.whole: dict[str, Expected] = {}
        self.bare: dict[str, Expected] = {}
        self.by_version: dict[str, Users] = {}  # where more than one bundle answers, these judge
        self._known: dict[str, tuple[dict[str, str], list[Behaviour]]] = {}

        seen: list[list[float]] = []
        for user_id in self.ids:
            while True:
                profile = {"age": draw.choice(["18-24", "25-29", "30-39", "40-49", "50+"])}
                profile |= {"gender": draw.choice("fm"), "city": f"city{draw.randrange(12)}"}
                profile |= {"os": draw.choice(["ios", "android"])}
                steps = sorted((draw.randrange(12, 24) for _ in range(draw.randint(1, 20))), reverse=True)
                ages_s = [1.5 * 2**step - place for place, step in enumerate(steps)]
                clicks = [
                    Behaviour("click", "item", draw.choice(items), self.now_ms - int(age * 1000)) for age in ages_s
                ]
                whole = ranks(user_id, profile, clicks)
                scores = list(whole.scores.values())
                if not seen or float(np.abs(np.array(seen) - scores).max(axis=1).min()) > APART:
                    break
            seen.append(scores)
            self.whole[user_id] = whole
            self.bare[user_id] = ranks(user_id, {}, [])
            self._known[user_id] = profile, clicks
            self.lines.append(json.dumps({"user_id": user_id, "user": profile, "behaviours": clicks}))

    def seen_by(self, bundle: Bundle, later_ms: int = 0) -> "Users":
        """Some of the same people, as a bundle ranks the same items for them so many ms later."""
        others = copy(self)
        others.ordinary = self.ordinary[:SOME]
        ranks = _ranks(bundle, self.items, self.now_ms + later_ms)
        others.whole = {user_id: ranks(user_id, *self._known[user_id]) for user_id in others.ordinary}
        others.bare = {user_id: ranks(user_id, {}, []) for user_id in others.ordinary}
        return others

    def of_versions(self, *bundles: Bundle) -> "Users":
        """Some of the same people; each answer must be that of the version that it names, and of no other."""
        by_version = {bundle.version: self.seen_by(bundle) for bundle in bundles}
        for one, other in combinations(by_version.values(), 2):
            for user_id in one.ordinary:
                pairs = zip(one.whole[user_id].scores.values(), other.whole[user_id].scores.values(), strict=True)
                assert max(abs(a - b) for a, b in pairs) > APART, f"two versions rank {user_id} alike"
        others = copy(next(iter(by_version.values())))
        others.by_version = by_version
        return others

    def unread_of(self, fault: str) -> list[str]:
        """Users of this fault alone."""
        at = self._faults.setdefault(fault, len(self._faults)) % FAULTS * UNREAD
        return self.unread[at : at + UNREAD]

    def write(self, path: Path) -> None:
        """A file for `python -m service.backfill --users`."""
        path.write_text("\n".join(self.lines) + "\n")

    def body(self, user_id: str, **more: Any) -> dict[str, Any]:
        return {"user_id": user_id, "candidates": self.items, **more}

    def wrong(self, user_id: str, answer: Any) -> str | None:
        """What is wrong with a ranked answer for a user; None where it is right, degraded or not.

        With the history, also a remembered one, every score must be that user's; without it, that of nobody's history.
        """
        if self.by_version:
            named = self.by_version.get(answer["version"])
            return named.wrong(user_id, answer) if named else f"version {answer['version']}, which was never there"
        degraded = answer["degraded"]
        if any(reason not in REASONS for reason in degraded):
            return f"degraded says {degraded}, allowed are {', '.join(REASONS)}"
        expected = self.bare[user_id] if any(reason != CACHED for reason in degraded) else self.whole[user_id]
        if answer["history_length"] != expected.history_length:
            return f"history_length {answer['history_length']} for {expected.history_length}, degraded: {degraded}"
        scores = {item["item_id"]: item["score"] for item in answer["items"]}
        if scores.keys() != expected.scores.keys():
            return f"{len(scores)} items for {len(expected.scores)}, or others"
        gap = max(abs(score - expected.scores[item]) for item, score in scores.items())
        if not gap <= TOLERANCE:
            return f"a score is {gap:.2g} from that of this user, degraded: {degraded}{self._whose(scores)}"
        if list(scores.values()) != sorted(scores.values(), reverse=True):
            return "items are not best first"
        return "new_user is true" if answer["new_user"] else None

    def _whose(self, scores: dict[str, float]) -> str:
        for user_id, expected in self.whole.items():
            if all(abs(scores[item] - score) <= TOLERANCE for item, score in expected.scores.items()):
                return f"; they are {user_id}'s: CROSSED"
        return ""
