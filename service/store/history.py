"""What the store knows of a user, a profile and a history, read in one round trip.

service/store/format.py says how it is kept.
"""

from collections.abc import Mapping, Sequence
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


class StoreLagged(StoreTimedOut):
    """Time was up before the answer could be read, by our own event loop's lateness: not the store's failure."""


class Stored(NamedTuple):
    """One user's profile (feature -> text) and behaviours (oldest first), of both what a model reads; empty: none.

    `skipped` counts members that are no behaviours, and were left out.
    """

    profile: dict[str, str]
    behaviours: Sequence[Behaviour]
    skipped: int
    complete: bool = True  # False: the store may no longer hold all that a replay would have read
    missing: str | None = None  # of REASONS: the store did not give it
    shown_today: int = -1  # impressions of the day that was asked for; -1: of none, or the store did not say


class Asked(NamedTuple):
    """One user to read. `before`: only what happened strictly earlier (ms); None is a live request.

    `today`: when the day began (ms) whose impressions are to be counted; None: they need not be.
    """

    user_id: str
    before: int | None
    today: int | None = None


class Write(NamedTuple):
    """Behaviours to add to one user, and fields of the profile to set; the others stay."""

    user_id: str
    behaviours: Sequence[Behaviour]
    profile: Mapping[str, str]
    shown: Sequence[Behaviour] = ()  # impressions to count


class Known(NamedTuple):
    """All that is held of a user. Of each kind (action, type of object) up to when it was cut (ms; 0: never)."""

    profile: dict[str, str]
    behaviours: list[Behaviour]  # oldest first, of each kind
    cut_until: dict[tuple[str, str], int]
    expires_in_s: int | None
    shown: Sequence[tuple[str, int]] = ()  # items of impressions of the last days, and when (ms)


class Store(Protocol):
    """A store that may fail."""

    async def write_many(
        self, writes: Sequence[Write], timeout_s: float | None = None
    ) -> list[StoreUnavailable | None]:
        """Writes to distinct users in one round trip: of each None, or why it could not be done (in part, maybe).

        Raises StoreUnavailable, where all failed alike. Writing all of it again does no harm.
        """
        ...

    async def replace(self, user_id: str, profile: Mapping[str, str], timeout_s: float | None = None) -> None:
        """The profile is this one from now on. Raises StoreUnavailable."""
        ...

    async def known(self, user_id: str, timeout_s: float | None = None) -> Known:
        """All that is held. Raises StoreUnavailable."""
        ...

    async def forget(self, user_id: str, timeout_s: float | None = None) -> None:
        """Nothing is held any more. Raises StoreUnavailable."""
        ...

    async def read(
        self, users: Sequence[Asked], wanted: Wanted, timeout_s: float | None = None
    ) -> list[Stored | StoreUnavailable]:
        """What is known of several users, in one round trip: of each, or why it cannot be had.

        Of a type of object come the newest that are wanted, and maybe more: the encoder cuts.

        A live request sees all that the store holds: it has happened, a click stamped ahead of our clock included.
        `timeout_s` is for all of it; None is the store's own. Raises StoreUnavailable, where all failed alike.
        """
        ...

    async def ping(self, timeout_s: float | None = None) -> None:
        """One PING; returns when it is answered. Raises StoreUnavailable."""
        ...

    async def close(self) -> None: ...


class Histories(Protocol):
    """Users' profiles and behaviours, whatever the store does."""

    async def read(self, users: Sequence[Asked], wanted: Wanted, timeout_s: float | None = None) -> list[Stored]:
        """As Store's, but it never raises: what cannot be had is empty or remembered, and `missing` says why."""
        ...


class History(Histories, Protocol):
    """Where they are read from, and written to; what is written raises as Store's."""

    async def write_many(
        self, writes: Sequence[Write], timeout_s: float | None = None
    ) -> list[StoreUnavailable | None]: ...

    async def replace(self, user_id: str, profile: Mapping[str, str], timeout_s: float | None = None) -> None: ...

    async def known(self, user_id: str, timeout_s: float | None = None) -> Known: ...

    async def forget(self, user_id: str, timeout_s: float | None = None) -> None: ...

    async def start(self, wanted: Wanted) -> None:
        """Asks the store once whether it is there, and writes what it says into the log; never raises.

        `wanted` is what the model reads that the service starts with.
        """
        ...

    async def close(self) -> None: ...
