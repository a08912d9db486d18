"""Children's standard error, passed on line by line: all of it in one format, and one line for an event of several.

What onnxruntime, a broken interpreter or the C library writes there is no log line of ours, and no setting of theirs
makes it one. Where JSON is asked for, it becomes one here.

Workers see the same things happen: the store goes, a catalogue comes. A record that carries an Event is told once:
the same of another process within WINDOW_S is left out. What befalls one worker alone is told, by that worker.
"""

import atexit
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import NamedTuple

from service.telemetry import logs

WINDOW_S = 60.0  # workers start seconds apart where bundles are large; what comes later is told again
LONGEST = 256 * 1024  # bytes of a line; a longer one is cut
ROOM = 2**20  # bytes of lines that wait while this process is busy, before who writes them waits too
LAST_S = 2.0  # for the last lines, when this process ends

_numbers = count()
_threads: set[threading.Thread] = set()


class Relayed(NamedTuple):
    """What a child is started with; `stderr` None: it writes where this process does."""

    stderr: int | None
    environment: dict[str, str]


@contextmanager
def relayed(name: str) -> Iterator[Relayed]:
    """For a child that is started inside. `name` is told beside its lines, where they are JSON."""
    if not logs.configured():
        yield Relayed(None, {})
        return
    ours, theirs = os.pipe()
    with suppress(AttributeError, OSError):  # other systems, or less allowed
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, ROOM)
    thread = threading.Thread(target=_pass_on, args=(ours, name), name=f"log of {name}", daemon=True)
    _threads.add(thread)
    thread.start()
    try:
        yield Relayed(theirs, {logs.PROCESS: name})
    finally:
        os.close(theirs)  # the child has its own: when that ends, so does the thread


@atexit.register
def finish() -> None:
    """What children said last is said before this process ends."""
    until = time.monotonic() + LAST_S
    for thread in list(_threads):
        thread.join(max(0.0, until - time.monotonic()))


class Events:
    """Which lines somebody else has told already. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[str, tuple[bool, dict[str, tuple[float, set[int]]]]] = {}  # by subject: well, and its states

    def news(self, event: logs.Event, teller: int) -> bool:
        """Whether it is to be told. A line of one stands for one line of each other; for none of its own.

        Once a subject is well again, or no longer, what was told before stands for nothing: who is down alone after
        "is up again" has a line.
        """
        now = self._clock()
        with self._lock:
            well, states = self._told.get(event.subject, (event.well, {}))
            if well != event.well:
                states = {}
            self._told[event.subject] = event.well, states
            until, tellers = states.get(event.state, (0.0, set()))
            if now < until and teller not in tellers:
                tellers.add(teller)
                return False
            states[event.state] = now + WINDOW_S, {teller}
            return True


_events = Events()


def _pass_on(reader: int, name: str) -> None:
    teller = next(_numbers)
    try:
        with os.fdopen(reader, "rb") as lines:
            while raw := lines.readline(LONGEST):
                event, line = logs.Event.read(raw.decode(errors="replace").rstrip("\r\n"))
                if event is None or _events.news(event, teller):
                    logs.pass_on(line, name)
    finally:
        _threads.discard(threading.current_thread())
