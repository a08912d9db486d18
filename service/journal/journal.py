"""What handlers ask of a journal."""

from collections.abc import Sequence
from typing import Protocol

from model.servicelog.records import Event, Forgotten, Profile
from service.journal.lines import Showing


class JournalFull(Exception):
    """Records could not be written, so nothing may be acknowledged; says why."""


class Journal(Protocol):
    """Where records go. In one event loop."""

    def keeps(self, user_id: str) -> bool:
        """Whether this user is in the sample; of others nothing is to be told."""
        ...

    def shown(self, showing: Showing) -> None:
        """An impression, which is written soon. It never blocks and never raises: what cannot be kept is counted."""
        ...

    async def append(self, records: Sequence[Event | Profile | Forgotten]) -> None:
        """Returns once those of users in the sample are in the file. Raises JournalFull: not all of them are."""
        ...

    async def close(self) -> None:
        """All that is pending is written, and the file is done."""
        ...


class NoJournal:
    """Where the operator wants none."""

    def keeps(self, user_id: str) -> bool:
        return False

    def shown(self, showing: Showing) -> None:
        return None

    async def append(self, records: Sequence[Event | Profile | Forgotten]) -> None:
        return None

    async def close(self) -> None:
        return None
