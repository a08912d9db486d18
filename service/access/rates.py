"""How often a key may ask: requests per key in fixed windows, counted by each worker for itself.

The counts lie in a dictionary of ours. The library's own storage starts a thread every 10 ms to clear up, which takes
0.2 ms of a request, and goes by the wall clock, which jumps.
"""

import math
import time

import limits
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

from service.access.keys import Key, KeysError
from service.errors import TooManyOfKey


class _Counts(Storage):
    """By name: how many in the window, and when it ends by `time.monotonic`. There are as many names as keys."""

    def __init__(self) -> None:
        super().__init__()
        self._windows: dict[str, tuple[int, float]] = {}

    @property
    def base_exceptions(self) -> type[Exception]:
        return KeyError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        count, ends = self._windows.get(key, (0, 0.0))
        now = time.monotonic()
        count, ends = (amount, now + expiry) if now >= ends else (count + amount, ends)
        self._windows[key] = count, ends
        return count

    def get(self, key: str) -> int:
        count, ends = self._windows.get(key, (0, 0.0))
        return 0 if time.monotonic() >= ends else count

    def get_expiry(self, key: str) -> float:
        return self._windows.get(key, (0, 0.0))[1]

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        count = len(self._windows)
        self._windows.clear()
        return count

    def clear(self, key: str) -> None:
        self._windows.pop(key, None)


class Rates:
    """`text`: such as 100/second. Raises KeysError."""

    def __init__(self, text: str):
        try:
            self._item = limits.parse(text)
        except ValueError:
            allowed = "a count per second, minute, hour or day is allowed, such as 100/second"
            raise KeysError(f"RANKER_RATE={text!r}: {allowed}") from None
        if self._item.amount < 1:
            raise KeysError(f"RANKER_RATE={text!r}: at least 1 is allowed; unset it for no bound")
        self._counts = _Counts()
        self._limiter = FixedWindowRateLimiter(self._counts)

    def check(self, key: Key, count: bool) -> None:
        """`count`: whether this is a request, or only the question. Raises TooManyOfKey."""
        if (self._limiter.hit if count else self._limiter.test)(self._item, key.name):
            return
        left_s = self._counts.get_expiry(self._item.key_for(key.name)) - time.monotonic()
        raise TooManyOfKey(f"more than {self._item} by the key {key.name!r}", max(1, math.ceil(left_s)))
