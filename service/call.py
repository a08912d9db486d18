"""What one request carries, from its arrival to its line in the log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.access.keys import Key
from service.errors import ClientGone, DeadlineExceeded


@dataclass(slots=True)
class Ticket:
    """What a request was let in with (scoring/admission.py). Work is in seconds."""

    candidates: int
    work_s: float  # its own
    together_s: float  # its own and what was under way before it
    bulk: bool  # a batch, which lets single requests pass


@dataclass(slots=True)
class Call:
    """One request under way. Times are of `time.perf_counter`, in seconds."""

    id: str
    begun: float
    deadline: float | None = None  # an answer is of no use after it; None: it always is
    stages: dict[str, float] = field(default_factory=dict)  # seconds spent in each stage that it came to
    user_id: str | int | None = None  # for the log, where the operator asks for it
    model: str = ""  # who answers: empty until a model is taken
    version: str = ""
    variant: str | None = None
    slot: int | None = None  # the row of that model in the metrics
    arm: Callable[[str, float], None] | None = None  # told of outcome and seconds, where it counts for a variant
    degraded: list[str] = field(default_factory=list)  # what the answer does without
    key: Key | None = None  # by which it was let in; None where no key is needed
    error: str | None = None  # kind of the error that the caller gets
    late_before: str | None = None  # the stage before which its deadline had passed
    gone: Callable[[], bool] = lambda: False  # whether the caller has hung up
    upload_s: float = 0.0  # from `begun` until the body was there: the caller's time, not ours
    ticket: Ticket | None = None  # while it is let in: from when its body is whole until its answer begins

    def spent_s(self) -> float:
        """Seconds that the request has taken us so far."""
        return time.perf_counter() - self.begun - self.upload_s

    def left_s(self) -> float | None:
        """Seconds until the deadline, negative once it has passed; None where there is none."""
        return None if self.deadline is None else self.deadline - time.perf_counter()

    def check(self, before: str) -> None:
        """Raises DeadlineExceeded or ClientGone where `before`, the stage to come, would be in vain."""
        if self.gone():
            raise ClientGone(f"the caller hung up before {before}")
        if self.deadline is not None and (late_s := time.perf_counter() - self.deadline) > 0:
            allowed_ms = (self.deadline - self.begun) * 1000
            raise DeadlineExceeded(f"{allowed_ms:.0f} ms are over by {late_s * 1000:.0f} ms, before {before}", before)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the seconds spent inside to `stages`; nothing when it ends by an error."""
        begun = time.perf_counter()
        yield
        self.spent(name, time.perf_counter() - begun)

    def spent(self, name: str, seconds: float) -> None:
        """A batch comes to each stage as often as it has chunks."""
        self.stages[name] = self.stages.get(name, 0.0) + seconds
