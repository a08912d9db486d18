"""Who orders a page: by chance, by clicks so far, by the service, by the truth."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import orjson

from loadtest.errors import NoRun
from loadtest.feed.visits import Click, Course, Feed, Page
from loadtest.generator.client import Client
from model.datasets import simulated
from model.datasets.simulated import Ints

CALLERS = 8  # users who browse at one time
TRIES, PAUSE_S = 50, 0.1  # of what is answered with 503: safe to send again


@dataclass
class Day:
    """What users met on a day, by user (U,)."""

    shown: Ints
    clicked: Ints
    clicks: list[Click] = field(default_factory=list)

    @classmethod
    def of(cls, feed: Feed) -> "Day":
        return cls(np.zeros(len(feed.activity), np.int64), np.zeros(len(feed.activity), np.int64))

    def add(self, page: Page, shown: int, clicks: Sequence[Click]) -> None:
        self.shown[page.user] += shown
        self.clicked[page.user] += len(clicks)
        self.clicks += clicks


class Order(Protocol):
    """A way of ordering; each has its own course."""

    async def day(self, pages: Mapping[int, list[Page]]) -> Day: ...


class Chance:
    """The candidates as they come, which is in random order."""

    def __init__(self, feed: Feed):
        self._course = Course(feed)

    async def day(self, pages: Mapping[int, list[Page]]) -> Day:
        return _by(self._course, pages, lambda page: np.arange(len(page.item)))


class Truth:
    """By the true relevance of this moment. Nobody who looks no further than the page can do better."""

    def __init__(self, feed: Feed):
        self._course = Course(feed)

    async def day(self, pages: Mapping[int, list[Page]]) -> Day:
        return _by(self._course, pages, lambda page: np.argsort(-self._course.relevance(page), kind="stable"))


class Popularity:
    """By clicks so far in the log that the served model learns from, too; `learn` is the evening."""

    def __init__(self, feed: Feed):
        self._course = Course(feed)
        self._clicks = np.zeros(len(feed.world.category), np.int64)

    def learn(self, clicked: Iterable[int]) -> None:
        np.add.at(self._clicks, np.fromiter(clicked, np.int64), 1)

    async def day(self, pages: Mapping[int, list[Page]]) -> Day:
        return _by(self._course, pages, lambda page: np.argsort(-self._clicks[page.item], kind="stable"))


def _by(course: Course, pages: Mapping[int, list[Page]], order: Callable[[Page], Ints]) -> Day:
    day = Day.of(course.feed)
    for page in (page for of_user in pages.values() for page in of_user):
        best = order(page)[: course.feed.top]
        day.add(page, len(best), course.show(page, best))
    return day


class Served:
    """By `POST /rank`; what users click goes to `POST /feedback` before they ask for the next page."""

    def __init__(self, feed: Feed, client: Client):
        self._course, self._feed, self._client = Course(feed), feed, client
        self._ids = [f"i{name}" for name in feed.world.name.tolist()]
        self._numbers = {name: number for number, name in enumerate(self._ids)}

    async def introduce(self) -> None:
        """Tells the service who the users are. Raises NoRun."""
        users = self._feed.users
        for number in range(len(self._feed.activity)):
            profile = {
                "age": simulated.AGES[users.age[number]],
                "gender": simulated.GENDERS[users.gender[number]],
                "city": f"city{users.city[number]}",
                "os": simulated.SYSTEMS[users.os[number]],
            }
            await self._ask("PUT", f"/users/{user_id(number)}", {"user": profile})

    async def day(self, pages: Mapping[int, list[Page]]) -> Day:
        """Raises NoRun for an answer that is none, or that ranked without the user's history."""
        day, left = Day.of(self._feed), iter(pages.values())

        async def browse() -> None:
            for of_user in left:  # shared: each takes the next user
                for page in of_user:
                    await self._page(day, page)

        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(browse())
        return day

    async def _page(self, day: Day, page: Page) -> None:
        channel = [simulated.CHANNELS[number] for number in page.channel.tolist()]
        candidates = [
            {"item_id": self._ids[item], "match_type": of} for item, of in zip(page.item.tolist(), channel, strict=True)
        ]
        ranked = await self._ask(
            "POST",
            "/rank",
            {
                "user_id": user_id(page.user),
                "candidates": candidates,
                "context": {"page": page.number},
                "timestamp": page.now,
                "top_k": self._feed.top,
            },
        )
        if ranked["degraded"]:
            raise NoRun(f"/rank without a history, {ranked['degraded']}: such a day tells nothing of the model")
        place = {item: at for at, item in enumerate(page.item.tolist())}
        order = np.array([place[self._numbers[one["item_id"]]] for one in ranked["items"]], np.int64)
        clicks = self._course.show(page, order)
        if clicks:
            events = [
                {
                    "event": "click",
                    "user_id": user_id(page.user),
                    "item_id": self._ids[click.item],
                    "timestamp": click.at,
                    "request_id": ranked["request_id"],
                }
                for click in clicks
            ]
            kept = await self._ask("POST", "/feedback", events)
            if kept["accepted"] != len(events):
                raise NoRun(f"/feedback refused a click: {kept['refused']}")
        day.add(page, len(order), clicks)

    async def _ask(self, method: str, path: str, body: Any) -> Any:
        content = orjson.dumps(body)
        for _ in range(TRIES):
            answer = await self._client.ask(method, path, content)
            if answer.status != 503:
                break
            await asyncio.sleep(PAUSE_S)
        if answer.status != 200:
            raise NoRun(f"{method} {path}: status {answer.status}: {answer.content[:300].decode(errors='replace')}")
        return orjson.loads(answer.content)


def user_id(number: int) -> str:
    return f"v{number}"  # not one of the starting set's, who are u0, u1, …
