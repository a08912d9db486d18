"""The journal files of a folder that a drain may have: closed ones, and those whose owner is dead."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from service.journal.file import CLOSED, NEW, OPEN

ASIDE, KEPT = "aside", "drained"  # folders within the journal's
LOCK = ".drain.lock"
LATELY = "lately.json"  # what the last pass told for /metrics, as service/telemetry/lately.py reads it
NEW_S = 60.0  # after which a file that was never opened whole is a dead one's


def waiting(folder: Path) -> tuple[list[Path], list[Path]]:
    """Journal files by age, live ones included, and files that are none by their name."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    journals = [path for path in files if path.suffix in (OPEN, CLOSED)]
    return journals, [
        path for path in files if path.suffix not in (OPEN, CLOSED, NEW, ".probe") and path.name != LATELY
    ]


@contextmanager
def taken(path: Path) -> Iterator[BinaryIO | None]:
    """The file, with its lock; None where its owner lives, or it has just been closed and has another name."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        yield None
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file if path.exists() else None


def sweep(folder: Path) -> None:
    """Removes files of owners who died before they had written a first line."""
    for path in folder.glob(f"*{NEW}"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > NEW_S:
                with taken(path) as file:
                    if file is not None:
                        path.unlink()


def finish(path: Path, into: str | None) -> None:
    """Removes a drained file, or moves it into a folder beside it."""
    if into is None:
        path.unlink()
        return
    place = path.parent / into
    place.mkdir(exist_ok=True)
    os.replace(path, place / path.name)
