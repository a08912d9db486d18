"""How long the store may take, on a clock that stands still while our own event loop is late.

A loop that is busy reads an answer late that came in time, and runs timers late too. So a plain timeout throws away
answers that are there, and calls the store slow for what this process did.
"""

import asyncio
import time

TICK_S = 0.002  # a loop that is late by less is not called late
GRACE_S = 0.005  # after a late timer: for the loop to read what has come meanwhile
MOST = 1.5  # of the time allowed, however late the loop is: the request has a deadline of its own


class LoopLagged(Exception):
    """Time ran out by our own loop's lateness: the store did not have the time that it may take."""


class LoopLag:
    """Adds up by how much the running event loop was late, while anybody waits for the store.

    It ticks only then: some 500 timers per second at most. One of a worker; times are of `time.perf_counter`.
    """

    def __init__(self) -> None:
        self._late_s = 0.0  # in all
        self._waiting = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, now: float) -> float:
        """Somebody begins to wait. Gives the lateness so far, in seconds, to be taken from what `leave` gives."""
        self._waiting += 1
        if self._timer is None:
            self._arm(now)
            return self._late_s
        return self.so_far(now)

    def leave(self, now: float) -> float:
        """Somebody has ended waiting. Gives the lateness so far, in seconds."""
        self._waiting -= 1
        late_s = self.so_far(now)
        if not self._waiting and self._timer is not None:
            self._timer.cancel()  # a tick for nobody would wake the loop after each request
            self._timer = None
        return late_s

    def so_far(self, now: float) -> float:
        late = now - self._due
        if late > TICK_S and self._timer is not None:
            self._late_s += late
            self._due = now + TICK_S  # what was counted is not counted again
        return self._late_s

    def _arm(self, now: float) -> None:
        self._due = now + TICK_S
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        now = time.perf_counter()
        self.so_far(now)
        self._timer = None
        if self._waiting:
            self._arm(now)


class Patience:
    """A context whose inside is cancelled after `timeout_s` seconds of the store's own time.

    Raises TimeoutError where the store had its time, and LoopLagged where MOST times as much have passed before it had,
    by our loop's lateness; even then the loop first reads what is there. `store_s` is, after leaving, what passed
    without the loop's lateness, in seconds.
    """

    __slots__ = (
        *("_begun", "_cancels", "_due", "_expired", "_graced", "_lag", "_lagged", "_late_before"),
        *("_task", "_timeout_s", "_timer", "store_s"),
    )

    def __init__(self, timeout_s: float, lag: LoopLag):
        self._timeout_s, self._lag = timeout_s, lag
        self._expired = self._lagged = self._graced = False
        self.store_s = 0.0

    def __enter__(self) -> "Patience":  # and __exit__: as asyncio.timeout's, whose own timer and states take 2 us more
        task = asyncio.current_task()
        assert task is not None, "a read runs in a task"
        self._task, self._cancels = task, task.cancelling()
        self._begun = time.perf_counter()
        self._late_before = self._lag.enter(self._begun)
        self._wait(self._begun, self._timeout_s)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        now = time.perf_counter()
        self._timer.cancel()
        self.store_s = max(0.0, now - self._begun - (self._lag.leave(now) - self._late_before))
        if not self._expired or self._task.uncancel() > self._cancels or kind is not asyncio.CancelledError:
            return  # not by us, or not by us alone: a caller who hangs up at the same moment is heard
        if self._lagged:
            raise LoopLagged(f"the event loop was late by {now - self._begun - self.store_s:.3f} s") from error
        raise TimeoutError from error

    def _wait(self, now: float, for_s: float) -> None:
        self._due = now + for_s
        self._timer = asyncio.get_running_loop().call_later(for_s, self._look)

    def _look(self) -> None:
        now = time.perf_counter()
        passed = now - self._begun
        left = self._timeout_s - (passed - (self._lag.so_far(now) - self._late_before))
        late = now - self._due > TICK_S  # what came while this timer could not run has not been read either
        if left <= 0.001 and not late:
            self._expire()
        elif passed + left <= self._timeout_s * MOST:
            self._wait(now, max(left, GRACE_S))
        elif late and not self._graced:
            self._graced = True
            self._wait(now, GRACE_S)
        else:
            self._lagged = left > 0.001
            self._expire()

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()
