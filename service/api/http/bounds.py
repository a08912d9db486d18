"""What a connection may bring and how long it may take: limits that hold before the application sees a request."""

import logging
import resource
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.settings import Settings  # its library is not for the admin process, whose connections have bounds too

log = logging.getLogger("ranker")

MOST_HEADERS = 100  # of one request, trailers included
MOST_URL = 8 * 1024  # bytes
SLOWEST_BYTES_S = 240  # a body that brings less on average is given up once it has taken SLOW_FROM_S
SLOW_FROM_S = 5.0
BODIES_HELD = 16  # bodies of the largest size that may be under way, together; the oldest then makes room
FRAMING = 8  # bytes that may frame each byte of a chunked body: `1\r\nx\r\n` takes five
LINGER_S = (
    2.0  # for which the rest is passed over after a refusal: a close with bytes unread is a reset, which takes it
)
MOST_PASSED_OVER = 128 * 2**20  # bytes of it, or of a body that was answered before it was read
OWN_DESCRIPTORS = 256  # beside connections and the store's: files, pipes, listening sockets


@dataclass(frozen=True)
class Bounds:
    """Of each worker; `Settings` says what each is for."""

    header_bytes: int = 32 * 1024
    header_s: float = 10.0
    body_bytes: int = 4 * 2**20
    body_s: float = 30.0
    connections: int = 2000
    keep_alive_s: float = 75.0
    young_s: float = 1.0  # a head, a silence or a rest after an answer that is younger is not closed to make room

    @classmethod
    def of(cls, settings: "Settings") -> "Bounds":
        return cls(
            settings.max_header_bytes,
            settings.header_timeout_s,
            settings.max_body_bytes,
            settings.body_timeout_s,
            settings.max_connections,
            settings.keep_alive_s,
        )

    @property
    def held_bytes(self) -> int:
        """Of all bodies that are under way."""
        return BODIES_HELD * self.body_bytes

    @property
    def lingering(self) -> int:
        """Connections that are refused and not closed yet, beside those that count."""
        return max(16, self.connections // 8)

    def afforded(self, others: int) -> "Bounds":
        """The same with no more connections than this process may open descriptors, `others` being used elsewhere.

        The soft limit is raised as far as needed and allowed.
        """
        needed = self.connections + self.lingering + others + OWN_DESCRIPTORS
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY or soft >= needed:
            return self
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed == needed:
            return self
        connections = max(1, (allowed - others - OWN_DESCRIPTORS) * 8 // 9)
        log.warning(
            "RANKER_MAX_CONNECTIONS=%d needs %d descriptors, the hard limit is %d: at most %d connections per worker; "
            "raise the limit (ulimit -Hn, LimitNOFILE)",
            *(self.connections, needed, hard, connections),
        )
        return replace(self, connections=connections)
