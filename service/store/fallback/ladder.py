"""What a user is ranked with when the store fails: what was read in the last seconds, else nothing; always a reason.

While the store is dead it is not asked at all (breaker.py). Probes ask it in the background, one at a time: no request
pays for the question, and a probe that waits for a frozen store has its answer as soon as the store goes on.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar
from uuid import uuid4

from model.features.wanted import Wanted
from service.store.fallback.breaker import CLOSED, OPEN, Breaker
from service.store.fallback.causes import blames_store, forbids
from service.store.fallback.counted import PROBE, Counted
from service.store.fallback.recent import Recent
from service.store.fallback.watch import Watch
from service.store.history import (
    ERROR,
    TIMEOUT,
    Asked,
    Known,
    Stored,
    StoreLagged,
    StoreTimedOut,
    StoreUnavailable,
    Write,
)
from service.store.history import OPEN as NOT_ASKED

Answer = TypeVar("Answer")

LONG_S = 0.5  # that the start and a probe of a dead store wait: a thawed store's answer shall find the probe waiting


class Ladder:
    """A history that answers whatever its store does (history.History). In one event loop."""

    def __init__(self, store: Counted, recent: Recent, breaker: Breaker, watch: Watch):
        self._store, self._recent, self._breaker, self._watch = store, recent, breaker, watch
        self._wanted = Wanted((), ())  # of the last read that failed, or of the start: a probe asks the same
        self._probing: asyncio.Task[None] | None = None

    async def start(self, wanted: Wanted) -> None:
        self._wanted = wanted
        begun = time.monotonic()
        try:
            await self._ping(LONG_S)
        except StoreUnavailable as error:
            self._breaker.failed(begun)
            self._watch.opened(error)
            self._probe()
        else:
            self._watch.answered(time.monotonic() - begun)

    async def read(self, users: Sequence[Asked], wanted: Wanted, timeout_s: float | None = None) -> list[Stored]:
        if timeout_s is not None:
            if timeout_s <= 0:
                return [self._instead(asked, wanted, TIMEOUT) for asked in users]
            timeout_s = min(timeout_s, self._store.timeout_s)
        if self._breaker.state != CLOSED:
            if not self._breaker.admits():
                return [self._instead(asked, wanted, NOT_ASKED) for asked in users]
            try:
                return await self._read(users, wanted, timeout_s)
            finally:
                self._breaker.release()
        return await self._read(users, wanted, timeout_s)

    async def _read(self, users: Sequence[Asked], wanted: Wanted, timeout_s: float | None) -> list[Stored]:
        begun = time.monotonic()
        try:
            read = await self._store.read(users, wanted, timeout_s)
        except StoreUnavailable as error:
            self._failed(error, begun, wanted, timeout_s)
            return [self._instead(asked, wanted, _reason(error)) for asked in users]
        refused: StoreUnavailable | None = None
        stored: list[Stored] = []
        for asked, one in zip(users, read, strict=True):
            if isinstance(one, StoreUnavailable):
                refused = one
                one = self._instead(asked, wanted, _reason(one))
            elif asked.before is None and self._recent.on:
                self._recent.keep(asked.user_id, wanted, one, begun, asked.today)
            stored.append(one)
        if refused is not None and blames_store(refused) and all(isinstance(one, StoreUnavailable) for one in read):
            self._failed(refused, begun, wanted, timeout_s)
            return stored
        if self._breaker.failures or self._breaker.state != CLOSED:
            self._watch.closed()
            self._breaker.answered()
        if refused is not None or self._watch.troubled:
            self._watch.read(refused)
        return stored

    async def write_many(
        self, writes: Sequence[Write], timeout_s: float | None = None
    ) -> list[StoreUnavailable | None]:
        users = [write.user_id for write in writes]
        return await self._asked(lambda: self._store.write_many(writes, timeout_s), timeout_s, users)

    async def replace(self, user_id: str, profile: Mapping[str, str], timeout_s: float | None = None) -> None:
        await self._asked(lambda: self._store.replace(user_id, profile, timeout_s), timeout_s, [user_id])

    async def forget(self, user_id: str, timeout_s: float | None = None) -> None:
        await self._asked(lambda: self._store.forget(user_id, timeout_s), timeout_s, [user_id])

    async def known(self, user_id: str, timeout_s: float | None = None) -> Known:
        return await self._asked(lambda: self._store.known(user_id, timeout_s), timeout_s)

    async def _asked(
        self, asking: Callable[[], Awaitable[Answer]], timeout_s: float | None, written: Sequence[str] = ()
    ) -> Answer:
        """What nothing can stand in for. Raises StoreUnavailable; of a store that is dead, at once.

        `written`: users whose remembered histories are old afterwards, also where it failed: it may be written.
        """
        if self._breaker.state == CLOSED:
            return await self._answer(asking, timeout_s, written)
        if not self._breaker.admits():
            raise StoreUnavailable("the store does not answer; it is asked again in the background")
        try:  # a worker that is never asked to rank would wait for a read for ever
            return await self._answer(asking, timeout_s, written)
        finally:
            self._breaker.release()

    async def _answer(
        self, asking: Callable[[], Awaitable[Answer]], timeout_s: float | None, written: Sequence[str]
    ) -> Answer:
        begun = time.monotonic()
        try:
            answer = await asking()
        except StoreUnavailable as error:
            self._failed(error, begun, self._wanted, timeout_s)
            raise
        finally:
            for user_id in written:
                self._recent.drop(user_id)
        outcomes = answer if isinstance(answer, list) else [None]
        refused = next((one for one in outcomes if isinstance(one, StoreUnavailable)), None)
        if refused is not None and blames_store(refused) and None not in outcomes:
            self._failed(refused, begun, self._wanted, timeout_s)
            return answer
        if self._breaker.failures or self._breaker.state != CLOSED:
            self._watch.closed()
            self._breaker.answered()
        if refused is not None or self._watch.troubled:
            self._watch.read(refused)
        return answer

    def _instead(self, asked: Asked, wanted: Wanted, reason: str) -> Stored:
        return self._recent.find(asked, wanted) or Stored({}, [], 0, missing=reason)

    def _failed(self, error: StoreUnavailable, begun: float, wanted: Wanted, timeout_s: float | None) -> None:
        if isinstance(error, StoreLagged):
            return  # this process was late, and not the store
        self._wanted = wanted
        if not blames_store(error):
            self._watch.read(error)
            return
        hurried = timeout_s is not None and timeout_s < self._store.timeout_s and isinstance(error, StoreTimedOut)
        if not hurried:  # a caller with less time than the store may take proves nothing; a probe will
            self._watch.read(error)
            if self._breaker.failed(begun):
                self._watch.opened(error)
        self._probe()

    def _probe(self) -> None:
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._ask_until_answered())

    async def _ask_until_answered(self) -> None:
        """Probes until the store answers one in time."""
        breaker = self._breaker
        while True:
            asked = breaker.state == OPEN and await self._answers(LONG_S)
            if (asked or breaker.state != OPEN) and await self._answers(self._store.timeout_s):
                break
            if breaker.state == CLOSED and not breaker.failures:
                return  # a request was answered meanwhile
            await asyncio.sleep(breaker.pause_s())
        breaker.probed()
        self._watch.closed()

    async def _answers(self, timeout_s: float) -> bool:
        """One probe: it reads a user whom nobody has, as requests read. A store that only answers PING is no store."""
        begun = time.monotonic()
        try:
            if not any(self._wanted):  # a model that reads nothing
                await self._ping(timeout_s)
                return True
            [answer] = await self._store.read([Asked(f"probe:{uuid4()}", None)], self._wanted, timeout_s, PROBE)
            if isinstance(answer, StoreUnavailable) and blames_store(answer):
                raise answer
        except StoreLagged:
            return False
        except StoreUnavailable as error:
            if self._breaker.failed(begun):
                self._watch.opened(error)
            return False
        return True

    async def _ping(self, timeout_s: float) -> None:
        try:
            await self._store.ping(timeout_s)
        except StoreUnavailable as error:
            if not forbids(error):  # who may read, but not PING, has had an answer
                raise

    async def close(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        await self._store.close()


def _reason(error: StoreUnavailable) -> str:
    return TIMEOUT if isinstance(error, StoreTimedOut) else ERROR
