"""Watches a bundle's catalogue and its counts, so that what changes daily reaches a service that runs.

A newer file is verified and opened in this thread, off the event loop, and handed over as one object: a request under
way keeps the one it began with. One that is broken or made for other features is refused, and the one before goes on.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.bundle.layout import CATALOG, COUNTS, BundleError
from model.bundle.reading import Bundle
from model.features.sealed import Stamp
from service.looking import Looking
from service.scoring.served import Live, Served
from service.telemetry.logs import event

log = logging.getLogger("ranker")

NO_FILE_YET = Stamp(0, 0, 0)  # of no file; None is the stamp of a file that is gone
Looked = Callable[[Any], None]  # told of what was taken over, and None for each file that was refused


@dataclass(frozen=True)
class Watched:
    """A file that is swapped while it is served."""

    name: str  # as people know it
    file: str
    stamp: Callable[[Served], Stamp | None]  # of the one that answers
    read: Callable[[Bundle], Any]  # verified and opened; raises BundleError
    taken: Callable[[Served, Any], Served]
    told: Callable[[Any], str]  # what a log says of it


CATALOGUE = Watched(
    "catalogue",
    CATALOG,
    lambda served: served.catalog.stamp,
    Bundle.read_catalog,
    Served.with_catalog,
    lambda catalog: f"catalogue of {len(catalog)} items",
)
STATISTICS = Watched(
    "statistics",
    COUNTS,
    lambda served: served.encoder.counts.stamp,
    Bundle.read_counts,
    Served.with_counts,
    lambda counts: f"statistics of {len(counts)} values",
)


class Watch:
    """Looks every `poll_s` seconds from `start` to `close`; 0 never looks.

    What is new is swapped into `live`. Whoever `looked` for it is told, in the watch's thread.
    """

    def __init__(self, live: Live, poll_s: float, looked: Sequence[tuple[Watched, Looked]]):
        self._live, self._looked = live, looked
        self._refused: dict[str, Stamp | None] = {}
        self._looking = Looking(self.look, poll_s, "catalog-watch")

    def start(self) -> None:
        self._looking.start()

    def close(self) -> None:
        """Ends the watch; a file that is being read is read to its end first."""
        self._looking.close()

    def look(self) -> None:
        """Takes over the files in place that are neither those that answer nor the last ones refused."""
        for watched, looked in self._looked:
            self._look(watched, looked)

    def _look(self, watched: Watched, looked: Looked) -> None:
        served = self._live.current
        path = served.bundle.folder / watched.file
        stamp, answers = _stamp(path), watched.stamp(served)
        if stamp in (answers, self._refused.get(watched.file, NO_FILE_YET)):
            return
        try:
            newer = watched.read(served.bundle)
            told = watched.told(newer)  # which counts it: here, and not on the event loop
        except BundleError as error:
            if _stamp(path) == stamp:  # else it was swapped meanwhile, and the next look judges the newer one
                self._refused[watched.file] = stamp
                refusal = event(watched.name, str(stamp), well=False)
                log.error("%s refused, the file before goes on: %s", watched.name, error, extra=refusal)
                looked(None)
            return
        # What was opened may not be what was verified, where the file was swapped in between.
        if _stamp(path) == stamp and self._live.change(served.bundle, lambda now: watched.taken(now, newer)):
            self._refused.pop(watched.file, None)
            looked(newer)
            log.info("%s taken over", told, extra=event(watched.name, str(stamp)))


def _stamp(path: Path) -> Stamp | None:
    try:
        return Stamp.of(path)
    except OSError:  # gone: refused like a broken one, by whoever opens it
        return None
