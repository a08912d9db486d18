"""Watches the bundle's catalogue file, so that new items and changed features reach a service that runs.

A newer file is verified and opened in this thread, off the event loop, and handed over as one object: a request under
way keeps the one it began with. One that is broken or made for other features is refused, and the one before goes on.
"""

import logging
import threading
from collections.abc import Callable

from model.bundle.layout import CATALOG, BundleError
from model.bundle.reading import Bundle
from model.features.catalog import Catalog, Stamp

log = logging.getLogger("ranker")


class CatalogWatch:
    """Looks every `poll_s` seconds from `start` to `close`; 0 never looks.

    `reloaded` gets each new catalogue and None for each file that was refused; it is called in the watch's thread.
    """

    def __init__(self, bundle: Bundle, poll_s: float, reloaded: Callable[[Catalog | None], None]):
        self._bundle, self._poll_s, self._reloaded = bundle, poll_s, reloaded
        self._path = bundle.folder / CATALOG
        self._seen: Stamp | None = bundle.catalog.stamp
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
        """Takes over the file in place if it is another than the last one seen."""
        there = self._there()
        if there == self._seen:
            return
        try:
            catalog = self._bundle.read_catalog()
            count = len(catalog)
        except BundleError as error:
            if self._there() == there:  # else it was swapped meanwhile, and the next look judges the newer one
                self._seen = there
                log.error("catalogue refused, the one before goes on: %s", error)
                self._reloaded(None)
            return
        if self._there() == there:  # else what was opened may not be what was verified
            self._seen = there
            self._reloaded(catalog)
            log.info("catalogue of %d items taken over", count)

    def _there(self) -> Stamp | None:
        try:
            return Stamp.of(self._path)
        except OSError:  # gone: refused like a broken one, by whoever opens it
            return None
