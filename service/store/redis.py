"""Profiles and histories in Redis or Valkey."""

import asyncio
import builtins
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from redis.exceptions import (
    ConnectionError,
    InvalidResponse,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
)

from model.features.behaviour import Behaviour
from model.features.wanted import Wanted
from service.settings import Settings
from service.store import clients
from service.store.everything import Everything
from service.store.format import DONE, queue_forget, queue_replace, queue_write
from service.store.history import Asked, BrokenValue, Known, Stored, StoreTimedOut, StoreUnavailable, Write
from service.store.reading import Reading, Unfinished

USERS = 30  # whose writes are queued before other requests get their turn: 0.2 ms
MODELS = 16  # whose readings are kept
DEFAULT_URL = "redis://localhost:6379"


def opened(settings: Settings) -> "RedisHistory":
    """The store that the settings name; nothing is connected yet."""
    return RedisHistory(
        settings.redis_url or DEFAULT_URL,
        keep=settings.history_keep,
        ttl_s=settings.history_ttl_s,
        timeout_ms=settings.history_timeout_ms,
        connections=settings.history_connections,
    )


class RedisHistory:
    """Profiles and histories in Redis or Valkey; a connection serves one call at a time.

    A call cancelled midway closes its connection: a pending reply left on it would be the next caller's answer.
    """

    def __init__(self, url: str, *, keep: int, ttl_s: int, timeout_ms: int, connections: int) -> None:
        """`url`: of any kind of store that service/store/clients/url.py names. Nothing is connected yet.

        `timeout_ms` bounds a call as a whole: the wait for one of the `connections`, connecting, all replies.
        Raises ValueError for a URL that cannot be used.
        """
        self._where = clients.address(url)
        self._redis = clients.opened(url, connections)
        self._keep, self._ttl_s, self._timeout_s = keep, ttl_s, timeout_ms / 1000
        self._readings: dict[Wanted, Reading] = {}  # of the models that were read for: variants answer in turns

    async def read(
        self, users: Sequence[Asked], wanted: Wanted, timeout_s: float | None = None
    ) -> list[Stored | StoreUnavailable]:
        """As Store.read has it; one round trip, and a second for users whose first did not say enough (reading.py)."""
        begun = time.monotonic()
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        reading = self._reading_of(wanted)
        outcomes = await self._round(users, reading, timeout_s)
        if again := [at for at, one in enumerate(outcomes) if isinstance(one, Unfinished)]:
            left_s = max(begun + timeout_s - time.monotonic(), 0.001)
            second: Sequence[Stored | StoreUnavailable | Unfinished]
            try:
                second = await self._round([users[at] for at in again], reading, left_s, whole=True)
            except StoreUnavailable as error:
                second = [error] * len(again)
            for at, one in zip(again, second, strict=True):
                outcomes[at] = one
        answers = [one for one in outcomes if not isinstance(one, Unfinished)]
        failed = [one for one in answers if isinstance(one, StoreUnavailable)]
        if failed and len(failed) == len(users) and not any(isinstance(one, BrokenValue) for one in failed):
            raise failed[0]
        return answers

    def _reading_of(self, wanted: Wanted) -> Reading:
        if (reading := self._readings.get(wanted)) is None:
            if len(self._readings) >= MODELS:
                self._readings.clear()
            reading = self._readings[wanted] = Reading(wanted, self._keep)
        return reading

    async def _round(
        self, users: Sequence[Asked], reading: Reading, timeout_s: float, *, whole: bool = False
    ) -> list[Stored | StoreUnavailable | Unfinished]:
        commands = clients.Commands()
        counts = [reading.queue(commands, asked, whole=whole) for asked in users]
        replies = await self._answered(clients.exchanged(self._redis, commands), timeout_s)
        outcomes: list[Stored | StoreUnavailable | Unfinished] = []
        begin = 0
        for asked, count in zip(users, counts, strict=True):
            own, begin = replies[begin : begin + count], begin + count
            outcomes.append(self._failure(own) or reading.stored(own, asked, whole=whole))
        return outcomes

    async def write(self, user_id: str, behaviours: Sequence[Behaviour], profile: Mapping[str, str] | None) -> None:
        """Adds behaviours of one user and sets fields of the profile, as `write_many`."""
        [failure] = await self.write_many([Write(user_id, behaviours, profile or {})])
        if failure is not None:
            raise failure

    async def write_many(
        self, writes: Sequence[Write], timeout_s: float | None = None
    ) -> list[StoreUnavailable | None]:
        """As Store.write_many has it; the newest of what comes stay, as `queue_write` says."""
        commands, counts = clients.Commands(), []
        for number, (user_id, behaviours, profile, shown) in enumerate(writes, 1):
            if not number % USERS:
                await asyncio.sleep(0)
            before = len(commands)
            queue_write(commands, user_id, behaviours, profile, keep=self._keep, ttl_s=self._ttl_s, shown=shown)
            counts.append(len(commands) - before)
        replies = iter(await self._told(commands, timeout_s))
        return [self._unwritten([next(replies) for _ in range(count)]) for count in counts]

    async def replace(self, user_id: str, profile: Mapping[str, str], timeout_s: float | None = None) -> None:
        """As Store.replace has it."""
        commands = clients.Commands()
        queue_replace(commands, user_id, profile, keep=self._keep, ttl_s=self._ttl_s)
        if failure := self._unwritten(await self._told(commands, timeout_s)):
            raise failure

    async def forget(self, user_id: str, timeout_s: float | None = None) -> None:
        """As Store.forget has it."""
        commands = clients.Commands()
        queue_forget(commands, user_id)
        if failure := self._unwritten(await self._told(commands, timeout_s)):
            raise failure

    async def known(self, user_id: str, timeout_s: float | None = None) -> Known:
        """As Store.known has it; two round trips: which kinds there are, and what they hold."""
        first, second = clients.Commands(), clients.Commands()
        Everything.ask(first, user_id)
        replies = await self._told(first, timeout_s)
        if failure := self._failure(replies):
            raise failure
        everything = Everything(user_id, replies)
        everything.ask_more(second)
        more = await self._told(second, timeout_s) if second else []
        if failure := self._failure(more):
            raise failure
        return everything.known(more)

    async def _told(self, commands: clients.Commands, timeout_s: float | None) -> list[Any]:
        seconds = self._timeout_s if timeout_s is None else timeout_s
        return await self._answered(clients.exchanged(self._redis, commands), seconds)

    async def ping(self, timeout_s: float | None = None) -> None:
        """One PING, answered. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(timeout_s or self._timeout_s):
                await self._redis.ping()
        except (TimeoutError, builtins.TimeoutError) as error:
            raise StoreTimedOut(f"the store at {self._where}: {error}") from error
        except (RedisError, RedisClusterException) as error:
            raise StoreUnavailable(f"the store at {self._where}: {error}") from error

    async def close(self) -> None:
        await self._redis.aclose()

    async def _answered(self, asking: Awaitable[list[Any]], timeout_s: float) -> list[Any]:
        try:
            async with asyncio.timeout(timeout_s):  # the whole of it; a cut-off command closes its connection
                replies = await asking
        except (TimeoutError, builtins.TimeoutError) as error:
            raise StoreTimedOut(f"the store at {self._where}: {error}") from error
        except (ConnectionError, ResponseError, InvalidResponse) as error:
            raise StoreUnavailable(f"the store at {self._where}: {error}") from error
        return replies

    def _unwritten(self, replies: Sequence[Any]) -> StoreUnavailable | None:
        """What is wrong with the replies to one user's write. No error is no proof: it may be another one's reply."""
        failure = self._failure(replies)
        if failure is None and replies and replies[-1] != DONE:
            failure = StoreUnavailable(f"the store at {self._where}: a write is answered by {str(replies[-1])[:60]!r}")
            failure.__cause__ = InvalidResponse("no reply to a write")
        return failure

    def _failure(self, replies: Sequence[Any]) -> StoreUnavailable | None:
        """What is wrong with one user's replies."""
        error = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if error is None:
            return None
        kind = BrokenValue if str(error).startswith("WRONGTYPE") else StoreUnavailable
        failure = kind(f"the store at {self._where}: {error}")
        failure.__cause__ = error
        return failure
