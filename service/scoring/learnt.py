"""What is learnt of the last requests: ratios of what they took, and the least of a few seconds."""

import math
from collections.abc import Callable

MEMORY = 0.98  # is kept with each request more: what one taught is gone after some hundred
OUTLIER = 3  # times what was expected: whatever stalled for longer counts as this much
LEAST_OVER_S = 1.0


class Ratio:
    """Of sums over the last requests: `over` per `under`, which begins with what is believed before any is seen."""

    def __init__(self, over: float, under: float) -> None:
        self._over, self._under = over, under

    def __call__(self, under: float = 1.0) -> float:
        """What is to be expected of so much."""
        return self._over / self._under * under

    def learn(self, over: float, under: float, outlier: float = math.inf) -> None:
        """One more; where it is more than `outlier` times what was expected, as if it were that."""
        over = min(over, outlier * self(under)) if outlier < math.inf else over
        self._over = self._over * MEMORY + over
        self._under = self._under * MEMORY + under


class Least:
    """The least of the values of the last one to two seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._since = clock, clock()
        self._now = self._before = math.inf

    def of(self, value: float) -> float:
        """With this one among them."""
        now = self._clock()
        if now - self._since > LEAST_OVER_S:
            stale = now - self._since > 2 * LEAST_OVER_S
            self._before, self._now, self._since = math.inf if stale else self._now, math.inf, now
        self._now = min(self._now, value)
        return min(self._now, self._before)
