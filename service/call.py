"""What one request carries, from its arrival to its line in the log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


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
    degraded: list[str] = field(default_factory=list)  # what the answer does without
    error: str | None = None  # kind of the error that the caller gets

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Writes the seconds spent inside into `stages`; nothing when it ends by an error."""
        begun = time.perf_counter()
        yield
        self.stages[name] = time.perf_counter() - begun
