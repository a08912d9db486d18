"""What the store knows of a user, a profile and a history, read in one round trip.

service/store/format.py says how it is kept.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from model.features.behaviour import Behaviour
from model.features.wanted import Wanted

TIMEOUT, ERROR, OPEN, CACHED = "history:timeout", "history:error", "history:open", "history:cached"
REASONS = (TIMEOUT, ERROR, OPEN, CACHED)  # why a user is ranked without what the store holds; `degraded` says them


class StoreUnavailable(Exception):
    """The store did not answer, or answered with an error; the message names where it is, never password or user."""


class StoreTimedOut(StoreUnavailable):
    """The store did not answer in time."""


class BrokenValue(StoreUnavailable):
    """Another program has put a value of the wrong type there: one user's fault, and not the store's."""


class Stored(NamedTuple):
    """One user's profile (feature -> text) and behaviours (oldest first), of both what a model reads; empty: none.

    `skipped` counts members that are no behaviours, and were left out.
    """

    profile: dict[str, str]
    behaviours: list[Behaviour]
    skipped: int
    complete: bool = True  # False: the store may no longer hold all that a replay would have read
    missing: str | None = None  # of REASONS: the store did not give it


class Asked(NamedTuple):
    """One user to read. `before`: only what happened strictly earlier (ms); None is a live request."""

    user_id: str
    before: int | None


class Store(Protocol):
    """A store that may fail."""

    async def read(
        self, users: Sequence[Asked], wanted: Wanted, timeout_s: float | None = None
    ) -> list[Stored | StoreUnavailable]:
        """What is known of several users, in one round trip: of each, or why it cannot be had.

        Of a type of object come the newest that are wanted, and maybe more: the encoder cuts.

        A live request sees all that the store holds: it has happened, a click stamped ahead of our clock included.
        `timeout_s` is for all of it; None is the store's own. Raises StoreUnavailable, where all failed alike.
        """
        ...

    async def close(self) -> None: ...


class History(Protocol):
    """Where users' profiles and behaviours are read from, whatever the store does."""

    async def read(self, users: Sequence[Asked], wanted: Wanted, timeout_s: float | None = None) -> list[Stored]:
        """As Store's, but it never raises: what cannot be had is empty or remembered, and `missing` says why."""
        ...

    async def close(self) -> None: ...
