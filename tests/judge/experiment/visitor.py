"""A user of an experiment: looks at pages, clicks by the true probabilities, and makes mistakes that must not count."""

import random
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from tests.judge.experiment.crowd import Crowd
from tests.judge.experiment.tally import Tally

TOP = 10
WINDOW_S = 1800
STRANGE = 0.04  # chance of each mistake at a page
MINUTE_MS = 60_000
HEADER = "x-ranker-variant"


class Asking(Protocol):
    """Two instances of the service, by number."""

    async def ask(
        self,
        instance: int,
        method: str,
        path: str,
        body: Any,
        retried: Counter[str],
        headers: Mapping[str, str] = ...,
    ) -> Any:
        """The answer, which is 200; tried again until it is."""
        ...


class Seen(NamedTuple):
    """An item that somebody was shown."""

    user: int
    request_id: str
    item: str


class Hall:
    """What all visitors of a run share."""

    def __init__(self, crowd: Crowd, service: Asking, tally: Tally, seed: str):
        self.crowd, self.service, self.tally, self.seed = crowd, service, tally, seed
        self.lately: deque[Seen] = deque(maxlen=50)


class Visitor:
    def __init__(self, user: int, hall: Hall):
        self._user, self._hall, self._tally = user, hall, hall.tally
        self._draw = random.Random(f"{hall.seed}-{user}")
        self.user_id = user_id(user)

    async def browse(self) -> None:
        """One page to four: clicks of one user are not independent, and users differ."""
        for page in range(1, self._draw.choice((1, 1, 2, 2, 3, 4)) + 1):
            await self._page(page)

    async def _page(self, page: int) -> None:
        crowd, tally, instance = self._hall.crowd, self._tally, self._draw.randrange(2)
        asked_ms = _now_ms()
        ranked = await self._rank(instance)
        shown = [one["item_id"] for one in ranked["items"]]
        now, variant, request_id = _now_ms(), str(ranked["variant"]), str(ranked["request_id"])
        probability, clicked = crowd.look(self._user, page, shown, now)
        tally.shown(variant, self._user, instance, probability)
        tally.clicks[variant] += len(clicked)  # they are told until they are acknowledged

        events = [self._click(item, now + place, request_id) for place, item in enumerate(clicked)]
        events += await self._mistakes(instance, asked_ms, now, request_id, shown, clicked)
        self._hall.lately.append(Seen(self._user, request_id, self._draw.choice(shown)))
        self._draw.shuffle(events)
        if not events:
            return
        elsewhere = self._strange(0.5)
        for _ in range(2 if self._strange() else 1):  # who is not sure that it arrived sends it again, anywhere
            to = 1 - instance if elsewhere else instance
            kept = await self._hall.service.ask(to, "POST", "/feedback", events, tally.retried)
            if kept["accepted"] != len(events):
                tally.wrong.append(f"/feedback of {len(events)} events: {str(kept)[:300]}")
            elsewhere = not elsewhere

    async def _rank(self, instance: int, headers: Mapping[str, str] | None = None, **more: Any) -> Any:
        crowd = self._hall.crowd
        body = {"user_id": self.user_id, "candidates": crowd.candidates(self._user), "top_k": TOP}
        body |= {"user": crowd.profile(self._user)} | more
        return await self._hall.service.ask(instance, "POST", "/rank", body, self._tally.retried, headers or {})

    async def _mistakes(
        self, instance: int, asked_ms: int, now: int, request_id: str, shown: list[str], clicked: list[str]
    ) -> list[dict[str, Any]]:
        """Events that must not count."""
        some = self._draw.choice(shown)
        events: list[dict[str, Any]] = []

        def add(kind: str, item: str, at_ms: int, of: str | None) -> None:
            self._tally.mistakes[kind] += 1
            events.append(self._click(item, at_ms, of))

        if clicked and self._strange():
            add("doubled", clicked[0], now + 500, request_id)
        if clicked and self._strange():
            add("at_once", clicked[-1], now + len(clicked) - 1, request_id)
        if some not in clicked and self._strange():
            add("late", some, now + WINDOW_S * 1000 + MINUTE_MS, request_id)
        if some not in clicked and self._strange():
            add("early", some, asked_ms - MINUTE_MS, request_id)
        if self._strange():
            add("without_request", some, now, None)
        if self._strange():
            add("made_up", some, now, request_id[:-1] + ("0" if request_id[-1] != "0" else "1"))
        others = [seen for seen in self._hall.lately if seen.user != self._user]
        if others and self._strange():
            seen = self._draw.choice(others)
            add("anothers", seen.item, now, seen.request_id)
        if self._strange():
            replayed = await self._rank(instance, timestamp=now - MINUTE_MS)
            add("replayed", replayed["items"][0]["item_id"], _now_ms(), replayed["request_id"])
        if self._strange():
            own = self._tally.variant[self._user]
            tried = await self._rank(instance, {HEADER: own})
            add("by_header", tried["items"][0]["item_id"], _now_ms(), tried["request_id"])
        return events

    def _click(self, item: str, at_ms: int, of: str | None) -> dict[str, Any]:
        event = {"event": "click", "user_id": self.user_id, "item_id": item, "timestamp": at_ms}
        return event if of is None else event | {"request_id": of}

    def _strange(self, chance: float = STRANGE) -> bool:
        return self._draw.random() < chance


def user_id(user: int) -> str:
    return f"visitor-{user}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
