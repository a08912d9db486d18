"""The folder of the workers' counts: made before they start, removed after."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER_PREFIX = "ranker-metrics-"
FOLDER_BYTES_PER_WORKER = 5 * 2**20  # a worker's file is 4.3 MB, of which 0.4 are rows by model; 4.5 with 20 budgets


@contextmanager
def prepare_folder(workers: int) -> Iterator[Path]:
    """An empty private folder for `workers` workers' counts, removed on leaving; the parent process holds it.

    In memory where there is room: on a disk, the kernel's writing back of a mapped page can hold up the request that
    touches it. A parent that was killed cannot remove its folder, so the next one does: it is the folder that nobody
    holds a lock on.
    """
    bases = [Path(base) for base in ("/dev/shm", tempfile.gettempdir()) if os.access(base, os.W_OK)]
    for base in bases:
        _remove_abandoned(base)
    roomy = [base for base in bases if shutil.disk_usage(base).free >= workers * FOLDER_BYTES_PER_WORKER]
    folder, lock = _make_locked(roomy[0] if roomy else None)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        os.close(lock)


def _make_locked(base: Path | None) -> tuple[Path, int]:
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
