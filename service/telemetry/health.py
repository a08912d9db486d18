"""Whether the workers of a service live and answer, from their records alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from service.telemetry.slots import lives, models
from service.telemetry.window import Record

# A worker's event loop beats four times a second (`pulse.py`). One that is only busy is late by some hundred
# milliseconds; one that has stood still for so long answers nobody in time.
STUCK_S = 5.0
DEAD_S = 30.0  # so long, and only a restart helps


class Health(NamedTuple):
    """Counts of workers, at one moment."""

    expected: int  # that there should be
    up: int  # whose process lives
    answering: int  # whose loop has beaten within the last STUCK_S: the bundle is loaded, and requests are taken
    stuck: bool  # all that ever beat have ended, or have not beaten for DEAD_S
    model: str = ""  # taken up last; empty before the first
    version: str = ""
    draining: bool = False  # one of them asks that nothing new come here

    @classmethod
    def of(cls, workers: Sequence[Record], expected: int, now_s: float) -> "Health":
        """`workers` are records of dtype `Form.layout`; `now_s` is on the clock that they beat by."""
        alive = [worker for worker in workers if lives(worker)]
        ages_s = [now_s - float(worker["worker"]["beat_s"]) for worker in alive if worker["worker"]["beat_s"]]
        stuck = bool(workers) and (not alive or (len(ages_s) == len(alive) and min(ages_s) > DEAD_S))
        draining = any(worker["worker"]["draining"] for worker in alive)
        newest = list(models(alive))[-1:]
        names = [(str(dict(labels)["name"]), str(dict(labels)["version"])) for labels in newest]
        model, version = names[0] if names else ("", "")
        answering = sum(age <= STUCK_S for age in ages_s)
        return cls(expected, len(alive), answering, stuck, model, version, draining)

    @property
    def ready(self) -> bool:
        """Whether requests should come here."""
        return self.up >= self.expected and self.answering > 0 and not self.draining

    @property
    def live(self) -> bool:
        """Whether a restart would not help: a service that starts or is busy is live."""
        return not self.stuck

    def body(self, status: str, well: bool) -> dict[str, Any]:
        """What a probe is answered, `status` being what it asked for: live or ready."""
        counts: dict[str, Any] = {"workers": self.expected, "up": self.up, "answering": self.answering}
        if self.model:
            counts |= {"model": self.model, "version": self.version}
        if self.draining:
            counts["draining"] = True
        return {"status": status if well else f"not {status}", **counts}
