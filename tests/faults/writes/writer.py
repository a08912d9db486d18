"""A caller who writes: tells events, sets, reads and forgets users, sends again what was not acknowledged, and makes
mistakes. It judges each answer by what it knows of its own users, whom nobody else writes of.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tests.faults.client import Answer, Caller, Lost, request
from tests.faults.held import Held
from tests.faults.writes.account import Account
from tests.judge.ledger import Told

USERS, CALLS = 4, 40  # users whom a writer has at a time; calls after which one of them gives way to a new one
MOST, AGAIN, PAUSE_S = 8, 2, 0.02  # events of a user in a list; times that one is sent again; before each
FEEDBACK, PUT, GET = 0.6, 0.75, 0.93  # of the calls up to here; the rest are DELETE
ALONE, SPOILT = 0.1, 0.1  # shares of lists that are one event and no list, and that hold what is no event
ODD = ("", "/..", "%2F", " ü|", "{u:")  # ends of users' ids
PIECES, PIECE_S = 8, 0.03  # of a slow upload


@dataclass(frozen=True)
class Manners:
    """Shares of a writer's calls."""

    hangs_up: float = 0.0
    uploads_slowly: float = 0.0
    tells_twice: float = 0.1  # of acknowledged lists
    events_alone: bool = False  # it sets, reads and forgets nobody


class Writer:
    """Writes until it is told to end. `accounts` are of all users that it ever had."""

    def __init__(self, name: str, port: int, items: Sequence[str], held: Held, manners: Manners):
        self.accounts: list[Account] = []
        self.acknowledged_at: list[float] = []  # by time.perf_counter, of what was written
        self.not_taken = 0  # connections that nobody took: nothing was sent
        self.hasty = 0  # 503 without Retry-After
        self._name, self._items, self._held, self._manners = name, items, held, manners
        self._draw, self._caller = random.Random(name), Caller(port)
        self._now: list[Account] = []
        self._last_ms = self._calls = self._profiles = 0

    async def go(self, ends: asyncio.Event, pause_s: float) -> None:
        try:
            while not ends.is_set():
                await self._call()
                await asyncio.sleep(self._draw.uniform(0, 2 * pause_s))
        finally:
            self.hang_up()

    def hang_up(self) -> None:
        self._caller.hang_up()

    async def _call(self) -> None:
        self._calls += 1
        stay = [account for account in self._now if not account.left]
        if self._calls % CALLS == 0:
            stay = stay[1:]
        while len(stay) < USERS:
            stay.append(self.account())
        self._now, chance, account = stay, self._draw.random(), self._draw.choice(stay)
        if chance < FEEDBACK or self._manners.events_alone:
            await self._tell(self._draw.sample(stay, self._draw.randint(1, 3)))
        elif chance < PUT:
            await self._put(account)
        elif chance < GET:
            await self._get(account)
        else:
            await self._delete(account)

    def account(self) -> Account:
        """Of a new user."""
        number = len(self.accounts)
        self.accounts.append(Account(user_id=f"{self._name}-{number}{ODD[number % len(ODD)]}"))
        return self.accounts[-1]

    def event(self, account: Account) -> Told:
        self._last_ms = max(self._last_ms + 1, time.time_ns() // 1_000_000)
        kind = "impression" if self._draw.random() < 0.2 else "click"
        return Told(kind, account.user_id, self._draw.choice(self._items), self._last_ms, f"r-{self._name}")

    # ---- what it asks for

    async def _tell(self, accounts: Sequence[Account]) -> None:
        events = [(one, self.event(one)) for one in accounts for _ in range(self._draw.randint(1, MOST))]
        if self._draw.random() < ALONE:
            events = events[:1]
        for account, told in events:
            account.sends([told])
        body: Any = [{name: value for name, value in told._asdict().items() if value is not None} for _, told in events]
        spoilt = len(body) if self._draw.random() < SPOILT else None
        if spoilt is not None:
            body.append({"event": "click", "user_id": accounts[0].user_id, "item_id": None, "timestamp": 0})
        elif len(body) == 1 and self._draw.random() < 0.5:
            [body] = body
        acknowledged = False
        for again in range(1 + AGAIN):
            acknowledged = await self.tell(events, body, spoilt) or acknowledged
            if acknowledged and not (again == 0 and self._draw.random() < self._manners.tells_twice):
                return
            await asyncio.sleep(PAUSE_S)

    async def tell(self, events: Sequence[tuple[Account, Told]], body: Any, spoilt: int | None = None) -> bool:
        """Sends a body of /feedback, whose place `spoilt` holds no event; whether all others are acknowledged."""
        begun = time.perf_counter()
        answer = await self._ask("POST", "/feedback", body)
        if answer is None or answer.status != 200:
            for account, event in events:
                account.doubts([event])
            return False
        told = answer.json()
        failed = {one["index"] for one in told["refused"] if one["kind"] == "store_failed"}
        bad = {one["index"] for one in told["refused"]} - failed
        for place, (account, event) in enumerate(events):
            (account.doubts if place in failed else account.acknowledges)([event])
        right = bad == {spoilt} - {None} and told["accepted"] == len(events) - len(failed)
        self._took(begun, None if right else f"{len(events)} events, bad at {spoilt}: {str(told)[:300]}", writes=True)
        return not failed

    async def _put(self, account: Account) -> None:
        self._profiles += 1
        profile = {"age": self._draw.choice(["18-24", "50+"]), "city": f"{self._name}-{self._profiles}"}
        profile |= {"gender": "f"} if self._draw.random() < 0.5 else {}
        account.puts(profile)
        if await self._written("PUT", account, {"user": profile}):
            account.has_put(profile)

    async def _delete(self, account: Account) -> None:
        account.deletes()
        if await self._written("DELETE", account, b""):
            account.deleted()

    async def _written(self, method: str, account: Account, body: Any) -> bool:
        begun = time.perf_counter()
        answer = await self._ask(method, f"/users/{quote(account.user_id, safe='')}", body)
        if answer is None or answer.status != 200:
            return False
        named = answer.json()["user_id"]
        right = named == account.user_id
        self._took(begun, None if right else f"{method} of {account.user_id} names {named!r}", writes=True)
        return True

    async def _get(self, account: Account) -> None:
        begun = time.perf_counter()
        answer = await self._ask("GET", f"/users/{quote(account.user_id, safe='')}", b"", may_miss=True)
        if answer is not None and answer.status in (200, 404):
            nothing: Any = {"user_id": account.user_id, "user": {}, "history": []}
            told = answer.json() if answer.status == 200 else nothing
            clicks = {(item, at) for kind in told["history"] for item, at in kind["behaviours"]}
            self._took(begun, account.known(told["user_id"], told["user"], clicks))

    # ---- how it asks

    async def _ask(self, method: str, path: str, body: Any, may_miss: bool = False) -> Answer | None:
        """The answer, counted unless it is 200, or 404 where that may be; None where there is none."""
        message, chance = request(method, path, body), self._draw.random()
        self._held.sent += 1
        try:
            if chance < self._manners.hangs_up:
                await self._hang_up(message)
                return None
            if chance < self._manners.hangs_up + self._manners.uploads_slowly:
                for at in range(0, len(message), step := len(message) // PIECES + 1):
                    await self._caller.send(message[at : at + step])
                    await asyncio.sleep(PIECE_S)
            else:
                await self._caller.send(message)
            answer = await self._caller.receive()
        except ConnectionRefusedError:
            self._held.sent -= 1
            self.not_taken += 1
            await asyncio.sleep(PAUSE_S)
            return None
        except (Lost, OSError) as error:
            self._caller.hang_up()
            self._held.lose(f"{method} {path}: {error}")
            return None
        if answer.status != 200 and not (may_miss and answer.status == 404):
            self._held.turned_away(answer)
            self.hasty += answer.status == 503 and "retry-after" not in answer.headers
        return answer

    async def _hang_up(self, message: bytes) -> None:
        self._held.hung_up += 1
        whole = self._draw.random() < 0.7
        await self._caller.send(message if whole else message[: self._draw.randrange(1, len(message))])
        await asyncio.sleep(self._draw.choice([0, self._draw.uniform(0, 0.003), self._draw.uniform(0, 0.03)]))
        self._caller.hang_up(by_reset=self._draw.random() < 0.5)

    def _took(self, begun: float, wrong: str | None, writes: bool = False) -> None:
        now = time.perf_counter()
        if self._held.took(now - begun, wrong) and writes:
            self.acknowledged_at.append(now)
