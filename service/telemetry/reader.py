"""Reads all workers' counts: what `GET /metrics` shows, and whether the workers are well.

Whoever has the folder may read, in whatever process: a reader is no worker, and changes no worker's file.
"""

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.telemetry.form import Form, clock
from service.telemetry.health import Health
from service.telemetry.render import Scrape
from service.telemetry.slots import Row, Slots, by_worker, lives
from service.telemetry.window import Record, WorkerFiles, merge


class Reader:
    """Sight of the counts of all workers in a folder. `pause` is called between the parts of a scrape."""

    def __init__(
        self,
        folder: Path,
        form: Form,
        clock: Callable[[], float] = clock,
        pause: Callable[[], object] = lambda: None,
    ) -> None:
        self._folder, self._form, self._clock, self._pause = folder, form, clock, pause
        self.slots = Slots(folder)
        self._files = WorkerFiles(folder, form.layout)

    def everyone(self) -> list[Record]:
        """The records of all workers that ever started, in the order of their slots; dead ones' too."""
        return [record for record in self._files.everyone() if record["worker"]["started_s"]]

    def rows(self) -> tuple[list[Row], list[Record]]:
        """The counts of all workers, summed by model, at one moment; and the records that they were read from."""
        with self.slots.locked(fcntl.LOCK_SH):
            workers = self.everyone()
            return self.slots.totals(workers, self._form.columns), workers

    def render(self) -> tuple[bytes, str]:
        """The body of `GET /metrics` and its content type, for all workers."""
        rows, workers = self.rows()
        now_s = self._clock()
        recent_SB = merge([worker["window"] for worker in workers], now_s, self._form.layout["window"])
        return Scrape(self._form, rows, recent_SB, workers, now_s, self._pause, self._folder).text()

    def models(self) -> list[dict[str, Any]]:
        """Which model each living worker answers with."""
        living = [worker for worker in self.everyone() if lives(worker)]
        return [
            {"worker": slot, "name": dict(labels)["name"], "version": dict(labels)["version"]}
            for slot, labels in by_worker(living)
        ]

    def health(self, expected: int) -> Health:
        """How those workers are, of which there should be so many."""
        return Health.of(self.everyone(), expected, self._clock())
