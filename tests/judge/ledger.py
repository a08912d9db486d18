"""Our own count of what was shown and what came back, kept by those who call; the log must say the same."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

WINDOW_MS = 30 * 60_000  # from a request until a click that still belongs to it


class Place(NamedTuple):
    """An item that a request returned."""

    request_id: str
    user_id: str
    item_id: str


class Told(NamedTuple):
    """An event by what makes it the same event."""

    event: str
    user_id: str
    item_id: str
    timestamp: int
    request_id: str | None


@dataclass
class Ledger:
    requests: int = 0  # that were ranked
    shown: set[Place] = field(default_factory=set)
    clicked: set[Place] = field(default_factory=set)  # of these, by an event within the window
    sent: set[Told] = field(default_factory=set)
    acknowledged: set[Told] = field(default_factory=set)
    kinds: Counter[str] = field(default_factory=Counter)  # events that were acknowledged, by what they are to the join
    tries: int = 0  # rankings after a click was acknowledged elsewhere
    unread: list[str] = field(default_factory=list)  # of these, those that did not see it
    degraded: Counter[str] = field(default_factory=Counter)
    retried: Counter[str] = field(default_factory=Counter)  # by what was met
    wrong: list[str] = field(default_factory=list)  # answers that no promise allows

    def behaviours(self, user_id: str) -> set[tuple[str, int]]:
        """What the store must hold of a user: clicked items and when."""
        return {(told.item_id, told.timestamp) for told in self.acknowledged if told.user_id == user_id}
