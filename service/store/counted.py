"""A history whose round trips are counted and timed."""

import time
from collections.abc import Sequence

from service.store.history import History, Stored, StoreTimedOut, StoreUnavailable
from service.telemetry.counts import Metrics


class Counted:
    """A history whose round trips are counted and timed."""

    def __init__(self, history: History, metrics: Metrics):
        self._history, self._metrics = history, metrics

    async def read(self, user_id: str, before: int | None) -> Stored:
        return (await self.read_many([(user_id, before)]))[0]

    async def read_many(self, asked: Sequence[tuple[str, int | None]]) -> list[Stored]:
        begun = time.perf_counter()
        try:
            stored = await self._history.read_many(asked)
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
        await self._history.close()
