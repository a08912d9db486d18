"""The journal that is kept: records become lines on the event loop, and files in one thread beside it.

Records and lines are made on the loop, an impression's right after its answer was sent: some 20 µs, in which no
request waits longer than for any other one. In a thread the same work would hold the interpreter's lock, and the loop
would wait for it up to 5 ms. The thread compresses and writes, both without the lock.

What waits is taken together: events wake the thread at once, and those that come while it writes are its next block.
"""

import asyncio
import errno
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from model.command import words
from model.servicelog.records import Event, Forgotten, Impression, Profile, Record
from service.journal.file import JournalFile
from service.journal.framing import BLOCK, blocks
from service.journal.journal import JournalFull
from service.journal.lines import kind_of, line
from service.journal.users import Users
from service.telemetry.counts import Metrics
from service.telemetry.families import JOURNAL_FAILS, JOURNAL_WRITES
from service.telemetry.logs import event

log = logging.getLogger("ranker")

MOST_PENDING = 8 << 20  # bytes of lines that wait; a disk that writes takes them within a second
MOST_WAITING = 1000  # impressions whose lines are not made yet: behind them are profiles and histories
APPEND_S = 2.0  # after which a disk that hangs is as good as full
Outcome = Literal["written", "full", "unwritable", "overflow"]


class FileJournal:
    """Files in `folder`, one after another; `service.journal.journal.Journal` says what each method promises.

    A file is closed after `rotate_bytes` or `rotate_s`. `sync`: what is acknowledged is on the disk, and not in the
    kernel's memory alone: a power cut takes nothing of it.
    """

    on = True

    def __init__(
        self,
        folder: Path,
        metrics: Metrics,
        users: Users,
        *,
        flush_s: float = 1.0,
        rotate_bytes: int = 16 << 20,
        rotate_s: float = 300.0,
        sync: bool = False,
        worker: int = 0,
    ):
        self._folder, self._metrics, self._users = folder, metrics, users
        self._flush_s, self._rotate_bytes, self._rotate_s, self._sync = flush_s, rotate_bytes, rotate_s, sync
        self._head = {"service": version("bst-ranker"), "worker": worker}
        self._thread = ThreadPoolExecutor(1, "journal")
        self._file: JournalFile | None = None  # the thread's
        self._lines: list[bytes] = []
        self._kinds: list[str] = []
        self._pending = self._waiting = 0
        self._commits: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._well, self._dropped = True, 0
        self.keeps = users.keeps

    # ---- what handlers call

    def shown(self, user_id: str, record: Callable[[], Impression]) -> None:
        if not self._users.keeps(user_id):
            return
        if self._closing or self._pending > MOST_PENDING or self._waiting >= MOST_WAITING:
            self._drop("impression", "overflow")
            return
        self._waiting += 1
        self._begin().call_soon(self._take, record)  # after the answer was sent

    async def append(self, records: Sequence[Event | Profile | Forgotten]) -> None:
        # Who is forgotten may have been in the sample when it was larger.
        kept = [one for one in records if isinstance(one, Forgotten) or self._users.keeps(one.user_id)]
        if not kept:
            return
        loop = self._begin()
        if self._closing:
            raise JournalFull("the journal is closed: the service stops")
        if self._pending > MOST_PENDING:
            for one in kept:
                self._drop(kind_of(one), "overflow")
            raise JournalFull(f"{self._pending >> 20} MiB wait to be written to {self._folder}")
        for one in kept:
            self._add(one)
        done: asyncio.Future[None] = loop.create_future()
        self._commits.append(done)
        self._wake.set()
        try:
            await asyncio.wait_for(done, APPEND_S)
        except TimeoutError:
            raise JournalFull(f"{self._folder} took longer than {APPEND_S:g} s to write") from None

    async def close(self) -> None:
        """Writes all that waits, and closes the file."""
        if self._task is not None:
            await asyncio.sleep(0)  # impressions whose lines were to be made next
            self._closing = True
            self._wake.set()
            await asyncio.shield(self._task)
        self._closing = True
        self._thread.shutdown(wait=False)

    # ---- on the loop

    def _begin(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._metrics.journal(0, JOURNAL_WRITES)
            self._task = loop.create_task(self._run())
        return loop

    def _take(self, record: Callable[[], Impression]) -> None:
        self._waiting -= 1
        try:
            self._add(record())
        except Exception:  # the loop logs it, since no answer can tell of it any more
            self._drop("impression", "unwritable")
            raise
        if self._pending > BLOCK:
            self._wake.set()

    def _add(self, record: Record) -> None:
        written = line(record, self._users.name(record.user_id))
        self._lines.append(written)
        self._kinds.append(kind_of(record))
        self._pending += len(written)

    async def _run(self) -> None:
        while not (self._closing and not self._lines):
            try:
                await asyncio.wait_for(self._wake.wait(), self._flush_s)
            except TimeoutError:
                pass
            self._wake.clear()
            await self._flush()
        await self._in_thread(self._let_go)

    async def _flush(self) -> None:
        """All that waits, in one write."""
        lines, kinds, commits = self._lines, self._kinds, self._commits
        self._lines, self._kinds, self._commits = [], [], []
        size = sum(map(len, lines))
        try:
            written = await asyncio.get_running_loop().run_in_executor(self._thread, self._write, lines)
        except OSError as error:
            outcome: Outcome = "full" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "unwritable"
            self._failed(words(error))
            for kind in kinds:
                self._drop(kind, outcome)
            for commit in commits:
                if not commit.done():
                    commit.set_exception(JournalFull(f"the journal: {words(error)}"))
        else:
            if lines:
                self._works(written, kinds)
            for commit in commits:
                if not commit.done():
                    commit.set_result(None)
        self._pending -= size
        self._metrics.journal(self._pending, JOURNAL_WRITES if self._well else JOURNAL_FAILS)

    def _works(self, written: int, kinds: Sequence[str]) -> None:
        for kind in set(kinds):
            self._metrics.add("ranker_journal_records", kinds.count(kind), kind=kind, outcome="written")
        self._metrics.add("ranker_journal_bytes", written)
        if not self._well:
            self._well = True
            log.info(
                "the journal is written again; %d records were dropped", self._dropped, extra=event("journal", "ok")
            )
            self._dropped = 0

    def _failed(self, why: str) -> None:
        if self._well:
            self._well = False
            log.error(
                "the journal: %s; until it can be written, impressions are dropped and feedback gets 503",
                why,
                extra=event("journal", "failing", well=False),
            )

    def _drop(self, kind: str, outcome: Outcome) -> None:
        self._dropped += 1
        self._metrics.add("ranker_journal_records", kind=kind, outcome=outcome)

    async def _in_thread(self, what: Callable[[], None]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, what)
        except OSError as error:
            self._failed(words(error))

    # ---- in the thread

    def _write(self, lines: Sequence[bytes]) -> int:
        """Bytes that they took; without lines it looks alone whether the file is old."""
        written = 0
        if lines:
            content = b"".join(blocks(lines))
            if self._file is None:
                self._file = JournalFile(self._folder, **self._head)
            try:
                self._file.append(content)
                if self._sync:
                    self._file.sync()
            except OSError:
                if self._file.broken:  # what is whole in it is drained; the next one begins anew
                    with suppress(OSError):
                        self._let_go()
                raise
            written = len(content)
        file = self._file
        if file and (file.size >= self._rotate_bytes or time.monotonic() - file.begun_s >= self._rotate_s):
            with suppress(OSError):  # what is written stays so: it is drained as a dead one's
                self._let_go()
        return written

    def _let_go(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
