"""The journal of one worker: what it is told goes to its file by a thread beside the event loop.

Impressions are made lines once the answer has left, and written at intervals: nobody waits for them. Events are
written at once, those that wait together in one write, and whoever sent them waits for it. Compressing and writing
release the interpreter, so that requests go on meanwhile.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from model.servicelog.records import Event, Forgotten, Profile
from service.journal.files import JournalFile
from service.journal.journal import Journal, JournalFull, NoJournal
from service.journal.lines import EVENT, FORGOTTEN, IMPRESSION, PROFILE, Showing, line_of, line_of_showing
from service.journal.who import Who
from service.settings import Settings
from service.telemetry.counts import Metrics
from service.telemetry.logs import event

log = logging.getLogger("ranker")

PENDING_BYTES = 64 * 2**20  # of impressions that wait to be written: with more the disk does not keep up
AGAIN_S = 1.0  # after a write that failed, impressions are dropped unread for so long
_KIND = {Event: EVENT, Profile: PROFILE, Forgotten: FORGOTTEN}
WRITTEN, DROPPED = "written", "dropped"

Count = Callable[[str, str, int], object]  # kind, WRITTEN or DROPPED, how many


@dataclass(frozen=True)
class Bounds:
    """How long impressions may wait, when a file is done and the next begun, and whether events wait for the disk."""

    flush_s: float
    rotate_bytes: int
    rotate_s: float
    sync: bool


def journal_of(settings: Settings, metrics: Metrics) -> Journal:
    """The journal that the settings name, of this worker."""
    if settings.journal is None:
        return NoJournal()
    salt = settings.journal_salt.get_secret_value() if settings.journal_salt else None
    bounds = Bounds(
        settings.journal_flush_s,
        round(settings.journal_rotate_mb * 2**20),
        settings.journal_rotate_s,
        settings.journal_sync,
    )

    def count(kind: str, outcome: str, records: int) -> None:
        metrics.add("ranker_journal_records", records, kind=kind, outcome=outcome)

    return Appending(settings.journal, metrics.number, Who(settings.journal_sample, salt), bounds, count)


class Appending:
    """A journal.Journal in a folder."""

    def __init__(self, folder: Path, worker: int, who: Who, bounds: Bounds, count: Count):
        self._folder, self._worker, self._who, self._bounds, self._count = folder, worker, who, bounds, count
        self._thread = ThreadPoolExecutor(1, "journal")
        self._file: JournalFile | None = None  # the thread's
        self._lines: list[bytes] = []  # of impressions
        self._pending_bytes = 0
        self._waiting: list[tuple[list[bytes], asyncio.Future[None]]] = []  # events, and who sent them
        self._writing: asyncio.Task[None] | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._failing_until = 0.0
        self._trouble: str | None = None

    def keeps(self, user_id: str) -> bool:
        return self._who.keeps(user_id)

    def shown(self, showing: Showing) -> None:
        if not self._who.keeps(showing.user_id):
            return
        loop = asyncio.get_running_loop()
        if self._ticking is None:
            self._ticking = loop.create_task(self._tick())
        loop.call_soon(self._keep, showing)  # once this answer is on its way

    def _keep(self, showing: Showing) -> None:
        if self._pending_bytes > PENDING_BYTES or time.monotonic() < self._failing_until:
            self._count(IMPRESSION, DROPPED, 1)
            return
        line = line_of_showing(showing, self._who.named(showing.user_id))
        self._lines.append(line)
        self._pending_bytes += len(line)

    async def append(self, records: Sequence[Event | Profile | Forgotten]) -> None:
        kept = [record for record in records if self._who.keeps(record.user_id)]
        if not kept:
            return
        loop = asyncio.get_running_loop()
        written = loop.create_future()
        self._waiting.append(([line_of(one, self._who.named(one.user_id)) for one in kept], written))
        if self._ticking is None:
            self._ticking = loop.create_task(self._tick())
        if self._writing is None or self._writing.done():
            self._writing = loop.create_task(self._write_events())
        try:
            await written
        finally:
            failed = written.cancelled() or written.exception() is not None
            for record in kept:
                self._count(_KIND[type(record)], DROPPED if failed else WRITTEN, 1)

    async def _write_events(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            error = await self._append([line for lines, _ in waiting for line in lines], self._bounds.sync)
            for _, written in waiting:
                if written.done():  # who sent them has gone
                    continue
                if error is None:
                    written.set_result(None)
                else:
                    written.set_exception(JournalFull(error))

    async def _tick(self) -> None:
        while not self._closing.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._bounds.flush_s)
            await self._flush()

    async def _flush(self) -> None:
        lines, self._lines, self._pending_bytes = self._lines, [], 0
        error = await self._append(lines, sync=False)
        if lines:
            self._count(IMPRESSION, WRITTEN if error is None else DROPPED, len(lines))

    async def _append(self, lines: Sequence[bytes], sync: bool) -> str | None:
        """What went wrong, in words; None: they are written."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, self._append_here, lines, sync)
        except OSError as error:
            self._failing_until = time.monotonic() + AGAIN_S
            self._tell(f"{self._folder} cannot be written: {error.strerror}")
            return self._trouble
        if lines:
            self._tell(None)
        return None

    def _append_here(self, lines: Sequence[bytes], sync: bool) -> None:
        """In the thread. Raises OSError."""
        file = self._file
        if file is not None and self._is_full(file):
            self._file = None
            file.close()
        if not lines:
            return
        if self._file is None:
            self._file = JournalFile(self._folder, self._worker)
        self._file.append(lines, sync)

    def _is_full(self, file: JournalFile) -> bool:
        old = time.monotonic() - file.begun_s >= self._bounds.rotate_s
        return file.bytes >= self._bounds.rotate_bytes or (old and not file.empty)

    def _tell(self, trouble: str | None) -> None:
        """One line a change."""
        if trouble is not None and self._trouble is None:
            told = "impressions are dropped and counted, events refused (503) until it can be"
            log.error("journal: %s: %s", trouble, told, extra=event("journal", trouble))
        elif trouble is None and self._trouble is not None:
            log.warning("journal: %s is written again", self._folder, extra=event("journal", "written again"))
        self._trouble = trouble

    async def close(self) -> None:
        self._closing.set()
        if self._ticking is not None:
            await self._ticking
        if self._writing is not None:
            await self._writing
        await self._flush()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close_here)
        self._thread.shutdown(wait=False)

    def _close_here(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # it stays `.open`, without a lock: a drain takes it for a dead worker's
                file.close()
