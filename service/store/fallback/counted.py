"""The store's adapter: whatever a store does, its round trips are timed, counted and end in one of two ways."""

from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from model.features.wanted import Wanted
from service.store.fallback.patience import LoopLag, LoopLagged, Patience
from service.store.history import Asked, Known, Store, Stored, StoreLagged, StoreTimedOut, StoreUnavailable, Write
from service.telemetry.counts import Metrics

BACKSTOP = 4  # times the time allowed, as the store's own timeout: ours, which knows the loop's lateness, comes first
READ, WRITE, SHOW, PROBE = "read", "write", "show", "probe"

Answer = TypeVar("Answer")


class Counted:
    """A store whose round trips are timed and counted. It raises StoreUnavailable and nothing else, but for a cancel.

    `timeout_s` seconds of the store's own time are allowed where a caller does not say.
    """

    def __init__(self, store: Store, metrics: Metrics, timeout_s: float):
        self._store, self._metrics = store, metrics
        self.timeout_s = timeout_s
        self._lag = LoopLag()

    async def read(
        self, users: Sequence[Asked], wanted: Wanted, timeout_s: float | None = None, op: str = READ
    ) -> list[Stored | StoreUnavailable]:
        """As Store's. Probes, of `op` PROBE, are counted apart: the times of reads are those that requests paid."""
        allowed_s = self.timeout_s if timeout_s is None else timeout_s
        return await self._answer(op, self._store.read(users, wanted, allowed_s * BACKSTOP), allowed_s)

    async def write_many(
        self, writes: Sequence[Write], timeout_s: float | None = None
    ) -> list[StoreUnavailable | None]:
        """As Store's."""
        allowed_s = self.timeout_s if timeout_s is None else timeout_s
        return await self._answer(WRITE, self._store.write_many(writes, allowed_s * BACKSTOP), allowed_s)

    async def replace(self, user_id: str, profile: Mapping[str, str], timeout_s: float | None = None) -> None:
        """As Store's."""
        allowed_s = self.timeout_s if timeout_s is None else timeout_s
        await self._answer(WRITE, self._store.replace(user_id, profile, allowed_s * BACKSTOP), allowed_s)

    async def forget(self, user_id: str, timeout_s: float | None = None) -> None:
        """As Store's."""
        allowed_s = self.timeout_s if timeout_s is None else timeout_s
        await self._answer(WRITE, self._store.forget(user_id, allowed_s * BACKSTOP), allowed_s)

    async def known(self, user_id: str, timeout_s: float | None = None) -> Known:
        """As Store's."""
        allowed_s = self.timeout_s if timeout_s is None else timeout_s
        return await self._answer(SHOW, self._store.known(user_id, allowed_s * BACKSTOP), allowed_s)

    async def ping(self, timeout_s: float | None = None) -> None:
        """As Store's."""
        allowed_s = self.timeout_s if timeout_s is None else timeout_s
        await self._answer(PROBE, self._store.ping(allowed_s * BACKSTOP), allowed_s)

    async def _answer(self, op: str, asking: Awaitable[Answer], allowed_s: float) -> Answer:
        patience = Patience(allowed_s, self._lag)
        try:
            with patience:
                answer = await asking
        except LoopLagged as error:
            self._count(op, "lagged", patience.store_s)
            raise StoreLagged(str(error)) from error
        except (TimeoutError, StoreTimedOut) as error:
            self._count(op, "timeout", patience.store_s)
            raise StoreTimedOut(f"no answer within {allowed_s * 1000:.0f} ms") from error
        except StoreUnavailable:
            self._count(op, "error", patience.store_s)
            raise
        except Exception as error:  # whatever a store sends and a client makes of it, the candidates are ranked
            self._count(op, "error", patience.store_s)
            raise StoreUnavailable(_place(error)) from error
        self._count(op, "ok", patience.store_s)
        return answer

    def _count(self, op: str, outcome: str, store_s: float) -> None:
        self._metrics.add("ranker_store_ops", op=op, outcome=outcome)
        if op == READ:
            self._metrics.size("ranker_store_duration_seconds", store_s)
            if outcome in ("timeout", "lagged"):
                self._metrics.add("ranker_deadline_exceeded", stage="history")

    async def close(self) -> None:
        await self._store.close()


def _place(error: Exception) -> str:
    """What went wrong and where in the code. Its text stays out: it may hold a user's id, or a piece of a reply."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    at = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__}{at}"
