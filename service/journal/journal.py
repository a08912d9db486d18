"""What handlers ask of a journal."""

from collections.abc import Callable, Sequence
from typing import Protocol

from model.servicelog.records import Event, Forgotten, Impression, Profile


class JournalFull(Exception):
    """Records could not be written, so nothing may be acknowledged; says why."""


class Journal(Protocol):
    """Where records go. In one event loop."""

    on: bool  # False: nothing is kept, and making records is in vain

    def keeps(self, user_id: str) -> bool:
        """Whether this user is in the sample."""
        ...

    def shown(self, user_id: str, record: Callable[[], Impression]) -> None:
        """Of a user in the sample it is made once the answer was sent, and written soon.

        It never blocks and never raises: what cannot be kept is counted.
        """
        ...

    async def append(self, records: Sequence[Event | Profile | Forgotten]) -> None:
        """Returns once they are in the file, of users in the sample. Raises JournalFull: they are not, or not all."""
        ...

    async def close(self) -> None: ...


class NoJournal:
    """Where the operator wants none."""

    on = False

    def keeps(self, user_id: str) -> bool:
        return False

    def shown(self, user_id: str, record: Callable[[], Impression]) -> None:
        return None

    async def append(self, records: Sequence[Event | Profile | Forgotten]) -> None:
        return None

    async def close(self) -> None:
        return None
