"""A folder of one process, below one that many share: who is killed cannot remove its own, so the next one does."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def own_folder(prefix: str, base: Path) -> Iterator[Path]:
    """A new, empty, private folder in `base`, removed on leaving; until then this process holds a lock on it.

    First it removes those of the same prefix that nobody holds a lock on. Raises OSError.
    """
    _remove_abandoned(prefix, base)
    folder, lock = _made(prefix, base)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _made(prefix: str, base: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # another process may have taken it for abandoned in between
            return folder, lock
        os.close(lock)


def _remove_abandoned(prefix: str, base: Path) -> None:
    for folder in base.glob(f"{prefix}*"):
        try:
            lock = os.open(folder, os.O_RDONLY)
        except (FileNotFoundError, PermissionError):  # removed by another process; another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)  # another process may be at it too
        except BlockingIOError:
            pass  # its process lives
        finally:
            os.close(lock)
