"""What the log says of the store: a line at each change of its state, with cause and remedy, never one per request."""

import logging
import time
from collections.abc import Callable

from service.store.fallback.causes import cause_of
from service.store.history import StoreUnavailable
from service.telemetry.logs import event

log = logging.getLogger("ranker.store")

UP, FAILING, OPEN = "up", "failing", "open"
READS = 32  # that a state is judged by
MANY = 5  # of them failed: the store is failing; until none of them has
LINES, EVERY_S = 6, 10.0  # so many lines at once, then one every so often: a store that flaps does not fill the log


class Watch:
    """The state of the store at `where` (an address without secrets), as told so far. `clock` is monotonic, in seconds.

    `troubled` is whether answers need be told to it: while all is well they need not.
    """

    def __init__(self, where: str, clock: Callable[[], float] = time.monotonic):
        self._where, self._clock = where, clock
        self._state = self._told = UP
        self._failed = 0  # of the last READS a bit each, the newest lowest
        self._error: StoreUnavailable | None = None
        self._lines, self._refilled = float(LINES), clock()
        self._changes = 0  # since the last line
        self._down_since = 0.0

    @property
    def troubled(self) -> bool:
        return bool(self._failed) or self._state is not UP or self._told is not self._state

    def answered(self, answer_s: float) -> None:
        """The first answer, to a PING."""
        log.info(
            "store at %s answers: PING took %.1f ms", self._where, answer_s * 1000, extra=event("store", "answers")
        )

    def read(self, error: StoreUnavailable | None) -> None:
        """A read has ended; with `error`, all of it or one user's."""
        self._failed = (self._failed << 1 | (error is not None)) & ((1 << READS) - 1)
        if error is not None:
            self._error = error
        if self._state is UP and self._failed.bit_count() >= MANY:
            self._turn(FAILING)
        elif self._state is FAILING and not self._failed:
            self._turn(UP)
        elif self._told is not self._state:
            self._tell()

    def opened(self, error: StoreUnavailable) -> None:
        """The store does not answer, and is not asked any more, or soon will not be."""
        self._error = error
        self._turn(OPEN)

    def closed(self) -> None:
        """The store answers, and will be asked again if it was not."""
        if self._state is OPEN:
            self._failed = 0
            self._turn(UP)

    def _turn(self, state: str) -> None:
        if state is self._state:
            return
        if self._state is UP:
            self._down_since = self._clock()
        self._state = state
        self._changes += 1
        self._tell()

    def _tell(self) -> None:
        now = self._clock()
        self._lines = min(LINES, self._lines + (now - self._refilled) / EVERY_S)
        self._refilled = now
        if self._lines < 1 or self._state is self._told:
            return
        self._lines -= 1
        untold = self._changes - 1
        more = f" ({untold} changes before it had no line)" if untold else ""
        self._changes, self._told = 0, self._state
        if self._state is UP:
            down_s = now - self._down_since
            log.info("store at %s is up again after %.1f s%s", self._where, down_s, more, extra=event("store", UP))
            return
        assert self._error is not None
        cause = cause_of(self._error)
        if self._state is FAILING:
            text = "store at %s is failing: it %s. Those users are ranked without it, their writes get 503. To do: %s%s"
        else:
            text = (
                "store at %s is down: it %s. Requests no longer wait for it and are ranked without; it is asked in the "
                "background until it is back. To do: %s%s"
            )
        log.warning(text, self._where, cause.does, cause.help, more, extra=event("store", self._state, well=False))
