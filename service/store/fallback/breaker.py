"""A circuit breaker: while the store is dead, nobody waits for it, and one at a time asks whether it is back.

Nygard, Release It! (2007), chapter 5. Two things are added. Evidence has to last: failures that come at once, as of one
cut connection, are one event. And open turns half-open by a probe beside the requests, whose waiting costs none of
them; half-open then lets one request's call through as a trial, for a store may answer probes and nothing else.
"""

import random
import time
from collections.abc import Callable

FAILURES = 5  # in a row, no read answered between: with a third of a cluster dead such rows come, but do not last
PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.5  # between probes: doubled each time, to a bound that keeps recovery below a second
CLOSED, HALF_OPEN, OPEN = 0, 1, 2  # as `ranker_store_breaker_state` shows them


class Breaker:
    """Opens after FAILURES in a row that last at least `lasting_s` seconds. Closes when a request's call is answered.

    `clock` is monotonic, in seconds; `uniform` draws between two numbers; `tell` gets each new state.
    """

    def __init__(
        self,
        lasting_s: float,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
        tell: Callable[[int], None] = lambda state: None,
    ):
        self.state = CLOSED
        self.failures = 0  # in a row, while closed
        self._lasting_s, self._clock, self._uniform, self._tell = lasting_s, clock, uniform, tell
        self._first_failure = self._turned = 0.0
        self._trial = False  # whether one is under way
        self._pause_s = PAUSE_S

    def admits(self) -> bool:
        """Whether a call may go to the store now. Half-open, one may: `release` it, however it ended."""
        if self.state == CLOSED:
            return True
        if self.state == OPEN or self._trial:
            return False
        self._trial = True
        return True

    def release(self) -> None:
        """The trial has ended; another may come, if the state still is half-open."""
        self._trial = False

    def answered(self) -> None:
        """What a request asked was answered in time."""
        self.failures, self._pause_s = 0, PAUSE_S
        if self.state != CLOSED:
            self._turn(CLOSED)

    def probed(self) -> None:
        """A probe was answered in time."""
        if self.state == OPEN:
            self._turn(HALF_OPEN)

    def failed(self, begun: float) -> bool:
        """The store did not give what it was asked for at `begun`, in a read or a probe. True where that opens it."""
        if self.state == OPEN or begun < self._turned:  # asked of a store that has changed since
            return False
        if self.state == CLOSED:
            now = self._clock()
            if not self.failures:
                self._first_failure = now
            self.failures += 1
            if self.failures < FAILURES or now - self._first_failure < self._lasting_s:
                return False
        self.trip()
        return True

    def trip(self) -> None:
        """Opens it, whatever the count."""
        self.failures = 0
        self._turn(OPEN)

    def pause_s(self) -> float:
        """Seconds until the next probe; once open, longer each time until a read is answered. Workers differ."""
        pause_s = self._pause_s
        if self.state != CLOSED:
            self._pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return pause_s * self._uniform(0.5, 1.0)

    def _turn(self, state: int) -> None:
        self.state, self._turned = state, self._clock()
        self._tell(state)
