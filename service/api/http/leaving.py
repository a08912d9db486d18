"""A worker's connections from the moment that it accepts no new ones.

What is under way is answered. Who has just connected gets a moment to ask. A request of which a part has come gets a
moment for the rest; then it is refused (503), since who sends slowly could hold an instance for ever. Connections
between two requests come last, as one may just be on its way; who asks is told that this answer is the last one.
"""

import asyncio
import fcntl
import struct
import termios
import time
from collections.abc import Iterable
from typing import Any

from service.errors import Draining

FRESH_S = 0.5  # for who has connected and asked nothing yet
REST_S = 1.0  # for the rest of a request
SEEN_S = 0.3  # after a refusal: to close at once would be a reset, which takes the answer from who is still sending
LOOK_S = 0.01

Connection = Any  # an http.protocol.Http


def last_answers(connections: Iterable[Connection]) -> None:
    """What these connections answer next is their last answer."""
    for connection in connections:
        cycle = connection.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False


async def finish(connections: set[Connection], until: float, linger_s: float) -> None:
    """Until all are closed, but not after `until` (time.perf_counter). `linger_s`: those that ask nothing stay so long.

    Ones that are still under way then are left.
    """
    begun = time.perf_counter()
    rest_s = min(REST_S, max(0.0, until - begun) / 2)
    refused: dict[Connection, float] = {}
    last_answers(connections)
    while connections and (now := time.perf_counter()) < until:
        at_rest = []
        for connection in list(connections):
            if connection in refused:
                if now - refused[connection] > SEEN_S:
                    connection.transport.close()
            elif _asks(connection):
                if _partial(connection) and now - max(begun, connection.asked_at) > rest_s:
                    refused[connection] = now
                    connection.refuse(Draining("this instance has stopped before the whole request had come"))
            elif not _unread(connection) and (connection.asked_at or now - begun > FRESH_S):
                at_rest.append(connection)
        if len(at_rest) == len(connections) and now - begun >= linger_s:
            for connection in at_rest:
                connection.transport.close()
        await asyncio.sleep(LOOK_S)


def _asks(connection: Connection) -> bool:
    """Whether a request has come, or a part of one, that is not answered."""
    cycle = connection.cycle
    return (cycle is not None and not cycle.response_complete) or connection.amid_request


def _partial(connection: Connection) -> bool:
    cycle = connection.cycle
    return bool(connection.amid_request or (cycle is not None and not cycle.response_complete and cycle.more_body))


def _unread(connection: Connection) -> bool:
    """Whether bytes have come that the loop has not looked at."""
    held = connection.transport.get_extra_info("socket")
    try:
        return held is not None and struct.unpack("i", fcntl.ioctl(held.fileno(), termios.FIONREAD, b"\0" * 4))[0] > 0
    except (OSError, ValueError):  # closed meanwhile
        return False
