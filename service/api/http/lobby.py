"""All connections of a process by what they are waited for, and the one timer that ends the waiting.

Each queue is in the order in which its connections entered it, and has one limit of time: so once a second a look at
its front is enough, and a request costs no timer. uvicorn's own sets one per answer.
"""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Protocol

from service.api.http.bounds import LINGER_S, SLOW_FROM_S, SLOWEST_BYTES_S, Bounds
from service.errors import RankerError, SlowHead, SlowUpload

log = logging.getLogger("ranker")

LOBBY = "ranker.lobby"  # where the lifespan's state holds it, for the protocol
SWEEP_S = 1.0
TOLD_EVERY_S = 60.0  # a line in the log: who sends garbage must not fill it
SILENT, EVICTED, UNREAD = "silent", "evicted", "unread"  # reasons to close that no answer tells


class Connection(Protocol):
    queue: "Queue | None"  # None: it waits for us
    counts: bool  # whether it is let in
    received: int  # bytes of the body that is under way

    def refuse(self, error: RankerError) -> None:
        """Tells it, and closes it once that is read; counts it by the error's kind."""

    def ours(self) -> bool:
        """Whether it is this process that does not read on."""

    def unseen(self) -> bool:
        """Whether bytes of it have come that are not read yet."""

    def close(self) -> None: ...
    def abort(self) -> None: ...


Queue = OrderedDict[Connection, float]  # since when


class Lobby:
    """`tell` gets the reason of each refusal and closing, one of families.BAD_REQUESTS."""

    def __init__(self, bounds: Bounds | None = None, tell: Callable[[str], None] = lambda reason: None):
        self.bounds = bounds or Bounds()
        self.silent: Queue = OrderedDict()  # has sent nothing since it was accepted
        self.heads: Queue = OrderedDict()  # a head is under way
        self.bodies: Queue = OrderedDict()
        self.idle: Queue = OrderedDict()  # answered, and kept
        self.leaving: Queue = OrderedDict()  # refused: what still comes is passed over, so that the refusal is read
        self.unread: Queue = OrderedDict()  # has an answer that it does not take
        self.count = 0  # of connections that are let in
        self.held = 0  # bytes of bodies under way
        self._tell = tell
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._untold: Counter[str] = Counter()
        self._told = -TOLD_EVERY_S

    def enter(self, connection: Connection) -> bool:
        """Whether there is room for it, which is made where that takes nothing from anybody who is at work."""
        if self._timer is None:
            self._arm()
        if self.count >= self.bounds.connections and not self._make_room():
            return False
        self.count += 1
        connection.counts = True
        self.move(connection, self.silent)
        return True

    def leave(self, connection: Connection) -> None:
        """It is closed, or is about to be. Once is enough."""
        self.count -= connection.counts
        connection.counts = False
        self.move(connection, None)

    def move(self, connection: Connection, queue: Queue | None) -> None:
        before = connection.queue
        if before is queue:
            return
        if before is not None:
            del before[connection]
        if queue is not None:
            queue[connection] = time.perf_counter()
        connection.queue = queue

    def linger(self, connection: Connection) -> None:
        """It is refused, and closed in a moment."""
        if len(self.leaving) >= self.bounds.lingering:
            next(iter(self.leaving)).abort()  # has had its moment
        self.leave(connection)
        self.move(connection, self.leaving)

    def hold(self, more: int) -> None:
        """So many more bytes of bodies are held. Where they are too many the oldest body is given up."""
        self.held += more
        if more > 0 and self.held > self.bounds.held_bytes and self.bodies:
            next(iter(self.bodies)).refuse(SlowUpload("no room for more bodies at once, and this was the oldest"))

    def tell(self, reason: str) -> None:
        self._tell(reason)
        self._untold[reason] += 1
        self._say(time.perf_counter())

    def _make_room(self) -> bool:
        young = time.perf_counter() - self.bounds.young_s
        for queue in (self.silent, self.heads):
            oldest = next(iter(queue), None)
            if oldest is not None and queue[oldest] < young:
                oldest.refuse(SlowHead("no room for more connections, and this one had sent no whole head"))
                return True
        for oldest, since in self.idle.items():
            if since >= young:
                break
            if not oldest.unseen():
                self.tell(EVICTED)
                oldest.close()
                return True
        return False

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = time.perf_counter() + SWEEP_S
        self._timer = loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        now = time.perf_counter()
        self._timer = None
        if now - self._due < SWEEP_S:  # else this process was late, and what it waits for may have come
            self._end_waiting(now)
        self._say(now)
        if self.count or self.leaving or self._untold:
            self._arm()

    def _end_waiting(self, now: float) -> None:
        bounds = self.bounds
        for one in _since(self.silent, now - bounds.header_s):
            if not one.unseen():
                self.tell(SILENT)
                one.close()  # without a word, which a caller could take for the answer to what it is about to send
        for one in _since(self.heads, now - bounds.header_s):
            one.refuse(SlowHead(f"no whole head within {bounds.header_s:g} s"))
        for one in _since(self.bodies, now - min(SLOW_FROM_S, bounds.body_s)):
            took_s = now - self.bodies[one]
            if one.ours():
                self.move(one, None)  # what it has sent has not been read yet: its time begins anew
                self.move(one, self.bodies)
            elif took_s > bounds.body_s:
                one.refuse(SlowUpload(f"no whole body within {bounds.body_s:g} s"))
            elif one.received < SLOWEST_BYTES_S * took_s:
                told = f"{one.received} bytes of a body in {took_s:.0f} s"
                one.refuse(SlowUpload(f"{told}; at least {SLOWEST_BYTES_S} bytes per second are allowed"))
        for one in _since(self.idle, now - bounds.keep_alive_s):
            if not one.unseen():
                one.close()
        for one in _since(self.leaving, now - LINGER_S):
            one.abort()
        for one in _since(self.unread, now - bounds.body_s):
            self.tell(UNREAD)
            one.abort()

    def _say(self, now: float) -> None:
        if self._untold and now - self._told >= TOLD_EVERY_S:
            told = ", ".join(f"{count} {reason}" for reason, count in self._untold.most_common())
            log.warning("connections refused or closed: %s (%d are open); docs/operations.md#limits", told, self.count)
            self._untold.clear()
            self._told = now


def _since(queue: Queue, before: float) -> list[Connection]:
    """Those that entered it before then."""
    expired = []
    for connection, entered in queue.items():
        if entered >= before:
            break
        expired.append(connection)
    return expired
