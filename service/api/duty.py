"""Whether new requests should come here: said by /health/ready, by each answer's `connection`, and by the counts."""

from collections.abc import Callable

DUTY = "ranker.duty"  # where the lifespan's state holds it, for the protocol


class Duty:
    """One worker's. `tell` gets each change."""

    def __init__(self, tell: Callable[[bool], None] = lambda draining: None):
        self.draining = False  # this instance is not ready
        self.closing = False  # each answer is its connection's last
        self._tell = tell

    def drain(self) -> None:
        self.draining = True
        self._tell(True)
        self.close()

    def close(self) -> None:
        """Alone where another process answers on the same port: the instance goes on, these connections do not."""
        self.closing = True
