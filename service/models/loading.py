"""In a worker: another bundle is opened and warmed beside the one that answers, then takes its place.

What it costs is spread out: between two of its steps the thread sleeps for longer than the step took, since a thread
that computes in Python keeps the interpreter from the requests' own.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from model.bundle.errors import BundleError
from model.bundle.precision import Precision
from model.bundle.reading import Bundle
from service.models import apart, pages
from service.pause import Pause
from service.process.control import Done
from service.scoring.scorer import Scorer
from service.scoring.served import Live, Served

log = logging.getLogger("ranker")


@dataclass(frozen=True)
class Refusal:
    """The last bundle that was not taken."""

    bundle: str
    problem: str
    at: int  # ms since 1970


class Loading:
    """Opens bundles in threads. `announce` gives one its row in the metrics; `gone` gets what it replaced.

    `refused` is told of each bundle that is dropped.
    """

    def __init__(
        self,
        live: Live,
        scorer: Scorer,
        precision: Precision,
        announce: Callable[[Served, float], Served],
        gone: Callable[[Served, Served], None],
        refused: Callable[[], None],
    ):
        self._live, self._scorer, self._precision = live, scorer, precision
        self._announce, self._gone, self._refused = announce, gone, refused
        self._ready: dict[int, tuple[Served, float]] = {}
        self.refusal: Refusal | None = None  # since the last switch

    async def load(self, number: int, folder: Path) -> Done:
        begun = time.perf_counter()
        try:
            served = await apart.thread(lambda: self._open(folder))
        except (BundleError, OSError) as error:
            return Done(number, str(error))
        seconds = time.perf_counter() - begun
        self._ready[number] = served, seconds
        return Done(number, None, seconds)

    async def switch(self, number: int) -> Done:
        loaded = self._ready.pop(number, None)
        if loaded is None:
            return Done(number, "it was not loaded")
        try:
            served = await apart.thread(lambda: self._announce(*loaded))  # it waits for scrapes
            before = await apart.thread(lambda: self._live.swap(served))  # who follows is announced too
        except (BundleError, ValueError) as error:
            return Done(number, str(error))
        self._gone(before, served)
        self.refusal = None
        folder = before.bundle.folder
        if folder != served.bundle.folder:
            await apart.thread(partial(pages.let_go, folder))  # which must not keep the one before
        return Done(number)

    def drop(self, number: int, folder: str, problem: str) -> None:
        self._ready.pop(number, None)
        self.refusal = Refusal(folder, problem, time.time_ns() // 1_000_000)
        self._refused()

    def told(self) -> dict[str, Any] | None:
        return asdict(self.refusal) if self.refusal else None

    def _open(self, folder: Path) -> Served:
        pause = Pause()
        served = Served.open(Bundle.open(folder), self._scorer, self._precision, pause)
        len(served.catalog)  # counted here and not on the event loop
        pause()
        pages.populate(served.bundle.folder)
        return served
