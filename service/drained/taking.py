"""Which of a journal's files may be drained: those that are done, and those whose writer has died."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from service.journal.files import DONE, MAKING, OPEN

MAKING_S = 60.0  # a file is begun in an instant: of one that is not after so long the writer was killed meanwhile


def takeable(folder: Path) -> list[Path]:
    """In the order of their names; none is being written. Raises OSError."""
    done = [path for path in folder.iterdir() if path.suffix == DONE]
    left = [path for path in folder.glob(f"*{OPEN}") if not _is_held(path)]
    return sorted(done + left, key=lambda path: path.name)


def clean(folder: Path) -> None:
    """Removes what killed writers had not begun."""
    for path in folder.glob(f"*{MAKING}"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > MAKING_S and not _is_held(path):
                path.unlink()


@contextmanager
def taken(path: Path) -> Iterator[bool]:
    """Holds a file meanwhile; False where it is gone or somebody's by now."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # it was `.open`, and its writer has closed it since
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(fd)


def _is_held(path: Path) -> bool:
    with taken(path) as free:
        return not free
