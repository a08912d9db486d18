"""Watches the bundle's catalogue file, so that new items and changed features reach a service that runs.

A newer file is verified and opened in this thread, off the event loop, and handed over as one object: a request under
way keeps the one it began with. One that is broken or made for other features is refused, and the one before goes on.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from model.bundle.layout import CATALOG, BundleError
from model.features.catalog import Catalog
from model.features.sealed import Stamp
from service.scoring.served import Live
from service.telemetry.logs import event

log = logging.getLogger("ranker")

NO_FILE_YET = Stamp(0, 0, 0)  # of no file; None is the stamp of a file that is gone


class CatalogWatch:
    """Looks every `poll_s` seconds from `start` to `close`; 0 never looks.

    A new catalogue is swapped into `live`. `looked` is then told of it, and gets None for each file that was refused;
    it is called in the watch's thread.
    """

    def __init__(self, live: Live, poll_s: float, looked: Callable[[Catalog | None], None]):
        self._live, self._poll_s, self._looked = live, poll_s, looked
        self._refused: Stamp | None = NO_FILE_YET
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="catalog-watch", daemon=True)

    def start(self) -> None:
        if self._poll_s:
            self._thread.start()

    def close(self) -> None:
        """Ends the watch; a file that is being read is read to its end first."""
        self._stop.set()
        if self._poll_s:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_s):
            self.look()

    def look(self) -> None:
        """Takes over the file in place if it is neither the one that answers nor the last one refused."""
        served = self._live.current
        path = served.bundle.folder / CATALOG
        stamp = _stamp(path)
        if stamp in (served.catalog.stamp, self._refused):
            return
        try:
            catalog = served.bundle.read_catalog()
            count = len(catalog)
        except BundleError as error:
            if _stamp(path) == stamp:  # else it was swapped meanwhile, and the next look judges the newer one
                self._refused = stamp
                told = event("catalogue", str(stamp), well=False)
                log.error("catalogue refused, the one before goes on: %s", error, extra=told)
                self._looked(None)
            return
        # What was opened may not be what was verified, where the file was swapped in between.
        if _stamp(path) == stamp and self._live.swap_catalog(served.bundle, catalog):
            self._refused = NO_FILE_YET
            self._looked(catalog)
            log.info("catalogue of %d items taken over", count, extra=event("catalogue", str(stamp)))


def _stamp(path: Path) -> Stamp | None:
    try:
        return Stamp.of(path)
    except OSError:  # gone: refused like a broken one, by whoever opens it
        return None
