"""What the store knows of a user, a profile and a history, read in one round trip.

service/store/format.py says how it is kept.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from model.features.behaviour import Behaviour


class StoreUnavailable(Exception):
    """The store did not answer, or answered with an error; the message names where it is, never password or user."""


class StoreTimedOut(StoreUnavailable):
    """The store did not answer in time."""


class Stored(NamedTuple):
    """One user's profile (feature -> text) and behaviours (oldest first); both empty for a user never written.

    `skipped` counts members that are no behaviours, and were left out.
    """

    profile: dict[str, str]
    behaviours: list[Behaviour]
    skipped: int


class History(Protocol):
    """Where users' profiles and behaviours are read from."""

    async def read(self, users: Sequence[tuple[str, int | None]]) -> list[Stored]:
        """What is known of several users, (user id, before) each, in one round trip.

        Of the behaviours the newest that happened strictly before `before` (ms). None means a live request: all that
        the store holds has happened, a click stamped ahead of our clock included. Raises StoreUnavailable.
        """
        ...

    async def close(self) -> None: ...
