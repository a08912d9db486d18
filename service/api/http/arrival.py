"""When a request's bytes were there, and whether its caller still is.

A busy process looks at a socket late: new connections wait to be accepted, and bytes wait for the event loop. The
caller waits meanwhile, so a request's time begins when the kernel had its first byte. The kernel tells by a timestamp
on what it hands out (SO_TIMESTAMPNS, socket(7)), which a connection inherits from the socket that listens, so bytes
that came before it was accepted bear theirs too. asyncio asks a BufferedProtocol for room before it reads: that is
where the stamp is looked at, one byte peeked, 2 µs a read. Where there are no such stamps (other systems, other
servers), a request begins when it is looked at.
"""

import socket
import struct
import time

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.api.http.stamps import SO_TIMESTAMPNS

ARRIVAL = "ranker.arrival"  # where a request's scope holds its Arrival
LONGEST_LAG_NS = 600 * 10**9  # a longer one is a clock that was set

_TIMESPEC = struct.Struct("qq")
_ROOM = socket.CMSG_SPACE(_TIMESPEC.size)


class Arrival:
    """A request's way in. Times are of `time.perf_counter`, in seconds."""

    __slots__ = ("begun", "cycle", "whole")

    def __init__(self, begun: float) -> None:
        self.begun = begun  # the first byte could be read
        self.whole: float | None = None  # the last one; None until then
        self.cycle: RequestResponseCycle | None = None

    def gone(self) -> bool:
        """Whether the caller has hung up."""
        cycle = self.cycle
        return cycle is not None and (cycle.disconnected or cycle.transport.is_closing())


def waited_s(connection: socket.socket) -> float:
    """Seconds since the kernel got the byte that is read next; 0 where it does not tell."""
    try:
        _, told, _, _ = connection.recvmsg(1, _ROOM, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:  # nothing there, or a connection that was reset: whoever reads finds out
        return 0.0
    for _, kind, stamp in told:
        if kind == SO_TIMESTAMPNS and len(stamp) == _TIMESPEC.size:
            seconds, ns = _TIMESPEC.unpack(stamp)
            waited_ns = time.time_ns() - (seconds * 10**9 + ns)
            return waited_ns / 1e9 if 0 <= waited_ns <= LONGEST_LAG_NS else 0.0
    return 0.0
