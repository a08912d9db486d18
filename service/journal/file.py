"""One file of a journal while it is written, by one worker that holds it with flock: a drain sees who is dead.

It is OPEN while it is written and CLOSED, by a rename, after. A write that fails leaves what was whole before.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from service.journal.framing import first_line

OPEN, CLOSED, NEW = ".open", ".journal", ".new"


class JournalFile:
    """Raises OSError. In one thread."""

    def __init__(self, folder: Path, **fields: Any):
        """`fields` are what the first line tells."""
        started_us = time.time_ns() // 1000
        self.begun_s = time.monotonic()
        self.broken = False  # nothing more may be appended
        name = f"{started_us}-{fields.get('worker', 0)}-{os.getpid()}-{token_hex(4)}"  # of no other file on any host
        self.path = folder / f"{name}{OPEN}"
        new = self.path.with_suffix(NEW)
        self._fd = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)  # before anybody sees it under its name
            self.size = 0
            self.append(first_line(**fields, started_us=started_us))
            self._empty = self.size
            new.rename(self.path)
        except OSError:
            with suppress(OSError):
                new.unlink()
            os.close(self._fd)
            raise

    def append(self, content: bytes) -> None:
        """All of it, or the file ends where it ended before."""
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(self._fd, left) :]
            if self.size and os.fstat(self._fd).st_nlink == 0:
                self.broken = True
                raise FileNotFoundError(2, "was removed while it was written", str(self.path))
        except OSError:
            try:
                os.ftruncate(self._fd, self.size)
            except OSError:
                self.broken = True  # half a block may be its end, which a reader tells and passes over
            raise
        self.size += len(content)

    def sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError:
            self.broken = True  # what the disk has of it is not known, nor told a second time
            raise

    def close(self) -> None:
        """Whoever drains may have it. It lets go of it also where it cannot be renamed: then it is a dead one's."""
        try:
            if self.size == self._empty:
                self.path.unlink()
            else:
                self.path.rename(self.path.with_suffix(CLOSED))
        finally:
            os.close(self._fd)
