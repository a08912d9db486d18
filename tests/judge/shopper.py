"""A simulated user of the judge: asks, clicks, and makes every mistake that a join must tell apart."""

import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from tests.judge.ledger import WINDOW_MS, Ledger, Place, Told

CANDIDATES, TOP = 12, 5
T = 20  # behaviours that the demo bundle's network reads
CLICKS, CONFIRMS, STRANGE = 0.3, 0.1, 0.04  # chances: of an item shown, of one confirmed, of each mistake at a request
MINUTE_MS = 60_000


class Reaction(NamedTuple):
    """An event, and what it is to the join."""

    kind: str
    told: Told


class Asking(Protocol):
    """Two instances of the service, by number."""

    async def ask(self, instance: int, method: str, path: str, body: Any, retried: Counter[str]) -> Any:
        """The answer, which is 200; tried again until it is."""
        ...


class Shopper:
    def __init__(self, number: int, items: Sequence[str], service: Asking, ledger: Ledger, seed: int):
        self._draw = random.Random(f"{seed}-{number}")
        self._number, self._items, self._service, self._ledger = number, items, service, ledger
        self._clicks: set[tuple[str, int]] = set()  # acknowledged
        self._last_ms = 0
        self.user_id = f"shopper-{number}"

    async def browse(self, rounds: int) -> None:
        """Each ranking is asked of the instance that did not take the clicks before."""
        if self._draw.random() < 0.5:
            profile = {"age": self._draw.choice(("18-24", "50+")), "gender": self._draw.choice("fm")}
            await self._service.ask(
                self._number % 2, "PUT", f"/users/{self.user_id}", {"user": profile}, self._ledger.retried
            )
        for turn in range(rounds):
            instance = (self._number + turn) % 2
            reactions = self._reactions(*await self._rank(instance))
            if turn + 1 < rounds:
                await self._tell(instance, reactions)

    async def _rank(self, instance: int) -> tuple[int, dict[str, Any]]:
        """When it was asked, and the answer."""
        asked_ms, ledger = _now_ms(), self._ledger
        body = {"user_id": self.user_id, "candidates": self._draw.sample(self._items, CANDIDATES), "top_k": TOP}
        ranked: dict[str, Any] = await self._service.ask(instance, "POST", "/rank", body, ledger.retried)
        ledger.requests += 1
        ledger.shown |= {Place(ranked["request_id"], self.user_id, one["item_id"]) for one in ranked["items"]}
        ledger.degraded.update(ranked["degraded"])
        if self._clicks and not ranked["degraded"]:
            ledger.tries += 1
            if ranked["history_length"] != min(T, len(self._clicks)):
                told = f"{self.user_id}: history_length {ranked['history_length']} after {len(self._clicks)} clicks"
                ledger.unread.append(told)
        return asked_ms, ranked

    def _reactions(self, asked_ms: int, ranked: dict[str, Any]) -> list[Reaction]:
        request_id = ranked["request_id"]
        shown = [one["item_id"] for one in ranked["items"]]
        some = self._draw.choice(shown)

        def click(kind: str, item: str, at_ms: int, of: str | None = request_id) -> Reaction:
            return Reaction(kind, Told("click", self.user_id, item, at_ms, of))

        reactions = [click("joined", item, self._next_ms()) for item in shown if self._draw.random() < CLICKS]
        if reactions and self._strange():
            reactions.append(reactions[0]._replace(kind="twice"))
        if reactions and self._strange():
            reactions.append(click("doubled", reactions[0].told.item_id, self._next_ms()))
        clicked = {reaction.told.item_id for reaction in reactions}
        if some not in clicked and self._strange():
            reactions.append(click("late", some, self._next_ms() + WINDOW_MS + MINUTE_MS))
        if some not in clicked and self._strange():
            reactions.append(click("early", some, asked_ms - MINUTE_MS - len(self._clicks)))
        if self._strange():
            unshown = self._draw.choice([item for item in self._items if item not in shown])
            reactions.append(click("not_returned", unshown, self._next_ms()))
        if self._strange():
            reactions.append(click("orphaned", some, self._next_ms(), f"never-served-{self._number}"))
        if self._strange():
            reactions.append(click("without_request", some, self._next_ms(), None))
        for item in shown:
            if self._draw.random() < CONFIRMS:
                seen = Told("impression", self.user_id, item, self._next_ms(), request_id)
                reactions.append(Reaction("confirmed", seen))
        self._draw.shuffle(reactions)
        return reactions

    async def _tell(self, instance: int, reactions: Sequence[Reaction]) -> None:
        ledger = self._ledger
        events = [{name: value for name, value in told._asdict().items() if value is not None} for _, told in reactions]
        spoilt = len(events) if self._strange() else None
        if spoilt is not None:
            events.append({"event": "no-such-action", "user_id": self.user_id, "item_id": "i1", "timestamp": _now_ms()})
        if not reactions:
            return
        ledger.sent |= {told for _, told in reactions}
        for sending in range(2 if self._strange() else 1):  # who is not sure that it arrived sends it again
            kept = await self._service.ask(instance, "POST", "/feedback", events, ledger.retried)
            refused = [one["index"] for one in kept["refused"]]
            if kept["accepted"] != len(reactions) or refused != ([] if spoilt is None else [spoilt]):
                ledger.wrong.append(f"/feedback of {len(events)} events, the bad one at {spoilt}: {str(kept)[:300]}")
            ledger.kinds["sent_again"] += sending * len({told for _, told in reactions})
        for kind, told in reactions:
            ledger.kinds[kind] += 1
            ledger.acknowledged.add(told)
            place = Place(str(told.request_id), told.user_id, told.item_id)
            if told.event == "click":
                self._clicks.add((told.item_id, told.timestamp))
                if kind == "joined":
                    ledger.clicked.add(place)

    def _strange(self) -> bool:
        return self._draw.random() < STRANGE

    def _next_ms(self) -> int:
        """Now, and later than what was told before."""
        self._last_ms = max(self._last_ms + 1, _now_ms())
        return self._last_ms


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
