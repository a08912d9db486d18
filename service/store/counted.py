"""A store whose round trips are counted and timed."""

import time
from collections.abc import Sequence

from model.features.wanted import Wanted
from service.store.history import Asked, Store, Stored, StoreTimedOut, StoreUnavailable
from service.telemetry.counts import Metrics


class Counted:
    """A store whose round trips are counted and timed."""

    def __init__(self, store: Store, metrics: Metrics):
        self._store, self._metrics = store, metrics

    async def read(
        self, users: Sequence[Asked], wanted: Wanted, timeout_s: float | None = None
    ) -> list[Stored | StoreUnavailable]:
        begun = time.perf_counter()
        try:
            stored = await self._store.read(users, wanted, timeout_s)
        except StoreUnavailable as error:
            late = isinstance(error, StoreTimedOut)
            self._count("timeout" if late else "error", begun)
            if late:
                self._metrics.add("ranker_deadline_exceeded", stage="history")
            raise
        self._count("ok", begun)
        return stored

    def _count(self, outcome: str, begun: float) -> None:
        self._metrics.add("ranker_store_ops", op="read", outcome=outcome)
        self._metrics.size("ranker_store_duration_seconds", time.perf_counter() - begun)

    async def close(self) -> None:
        await self._store.close()
