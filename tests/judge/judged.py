"""What a run measured, and which promises it saw broken."""

from typing import Any


class Judged:
    """A run's figures, and the promises that did not hold."""

    def __init__(self, name: str):
        self._name = name
        self.broken: list[str] = []
        self.figures: dict[str, Any] = {}

    def promise(self, holds: object, what: str, seen: object) -> None:
        if not holds:
            self.broken.append(f"{self._name}: promised: {what}; seen: {seen}")

    def equal(self, what: str, ours: object, theirs: object) -> None:
        self.promise(ours == theirs, f"{what}: {ours}", theirs)
