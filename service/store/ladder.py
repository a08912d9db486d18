"""What a user is ranked with when the store fails: never an error, and always a reason."""

from collections.abc import Sequence

from model.features.wanted import Wanted
from service.store.history import ERROR, TIMEOUT, Asked, Store, Stored, StoreTimedOut, StoreUnavailable


class Ladder:
    """A history that answers whatever its store does (history.History)."""

    def __init__(self, store: Store):
        self._store = store

    async def read(self, users: Sequence[Asked], wanted: Wanted, timeout_s: float | None = None) -> list[Stored]:
        try:
            read = await self._store.read(users, wanted, timeout_s)
        except StoreUnavailable as error:
            read = [error] * len(users)
        return [_without(one) if isinstance(one, StoreUnavailable) else one for one in read]

    async def close(self) -> None:
        await self._store.close()


def _without(error: StoreUnavailable) -> Stored:
    return Stored({}, [], 0, missing=TIMEOUT if isinstance(error, StoreTimedOut) else ERROR)
