"""In a worker: another bundle is opened and warmed beside the one that answers, then takes its place."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from model.bundle.layout import BundleError
from model.bundle.reading import Bundle
from service.process.control import Done
from service.scoring.scorer import Scorer
from service.scoring.served import Live, Precision, Served


class Loading:
    """Opens bundles in a thread. `announce` gives one its row in the metrics; `gone` gets what it replaced."""

    def __init__(
        self,
        live: Live,
        scorer: Scorer,
        precision: Precision,
        announce: Callable[[Served, float], Served],
        gone: Callable[[Served], None],
    ):
        self._live, self._scorer, self._precision = live, scorer, precision
        self._announce, self._gone = announce, gone
        self._ready: dict[int, tuple[Served, float]] = {}

    async def load(self, number: int, folder: Path) -> Done:
        begun = time.perf_counter()
        try:
            served = await asyncio.to_thread(self._open, folder)
        except BundleError as error:
            return Done(number, str(error))
        seconds = time.perf_counter() - begun
        self._ready[number] = served, seconds
        return Done(number, None, seconds)

    def switch(self, number: int) -> Done:
        loaded = self._ready.pop(number, None)
        if loaded is None:
            return Done(number, "it was not loaded")
        served = self._announce(*loaded)
        try:
            self._gone(self._live.swap(served))
        except BundleError as error:
            return Done(number, str(error))
        return Done(number)

    def drop(self, number: int) -> None:
        self._ready.pop(number, None)

    def _open(self, folder: Path) -> Served:
        return Served.open(Bundle.open(folder), self._scorer, self._precision)
