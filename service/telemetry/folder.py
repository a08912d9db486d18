"""The folder of the workers' counts: made before they start, removed after."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

MEMORY = Path("/dev/shm")
FOLDER_PREFIX = "ranker-metrics-"
FOLDER_BYTES_PER_WORKER = 7 * 2**20  # a worker's file is 6.0 MiB, 0.4 more with 20 budgets


@contextmanager
def prepare_folder(workers: int) -> Iterator[Path]:
    """An empty private folder for `workers` workers' counts, removed on leaving; the parent process holds it.

    In memory where there is room: on a disk, the kernel's writing back of a mapped page can hold up the request that
    touches it. A parent that was killed cannot remove its folder, so the next one does: it is the folder that nobody
    holds a lock on. Raises OSError where there is neither room nor leave.
    """
    folder, lock = _made(_bases(), workers)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _bases() -> list[Path]:
    try:
        return [MEMORY, Path(tempfile.gettempdir())]
    except FileNotFoundError:  # the whole file system is read-only, say
        return [MEMORY]


def _made(bases: Sequence[Path], workers: int) -> tuple[Path, int]:
    """The folder and its lock, in the first of these with room. Raises OSError, which says what is wrong with each."""
    needed = (workers + 1) * FOLDER_BYTES_PER_WORKER  # one more runs while it takes another's place
    wrong = []
    for base in bases:
        try:
            _remove_abandoned(base)
            free = shutil.disk_usage(base).free
            if free >= needed:
                return _make_locked(base)
            wrong.append(f"{base} has {free / 2**20:.1f} MB free")
        except OSError as error:
            wrong.append(f"{base}: {error.strerror}")
    raise OSError(
        f"the workers' counts need a folder with {needed / 2**20:.0f} MB: {'; '.join(wrong)}; make room there"
    )


def _make_locked(base: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=base))
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # another parent may have taken it for abandoned in between
            return folder, lock
        os.close(lock)


def _remove_abandoned(base: Path) -> None:
    for folder in base.glob(f"{FOLDER_PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY)
        except (FileNotFoundError, PermissionError):  # removed by another parent; another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)  # another parent may be at it too
        except BlockingIOError:
            pass  # its parent lives
        finally:
            os.close(lock)
