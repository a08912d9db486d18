"""The folder of the workers' counts: made before they start, removed after."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from service.ownfolder import own_folder

MEMORY = Path("/dev/shm")
FOLDER_PREFIX = "ranker-metrics-"
FOLDER_BYTES_PER_WORKER = 7 * 2**20  # a worker's file is 6.0 MiB, 0.4 more with 20 budgets


@contextmanager
def prepare_folder(workers: int) -> Iterator[Path]:
    """An empty private folder for `workers` workers' counts, removed on leaving; the parent process holds it.

    In memory where there is room: on a disk, the kernel's writing back of a mapped page can hold up the request that
    touches it. Raises OSError where there is neither room nor leave.
    """
    with ExitStack() as stack:
        yield _made(stack, _bases(), workers)


def _bases() -> list[Path]:
    try:
        return [MEMORY, Path(tempfile.gettempdir())]
    except FileNotFoundError:  # the whole file system is read-only, say
        return [MEMORY]


def _made(stack: ExitStack, bases: Sequence[Path], workers: int) -> Path:
    """In the first of these with room. Raises OSError, which says what is wrong with each."""
    needed = (workers + 1) * FOLDER_BYTES_PER_WORKER  # one more runs while it takes another's place
    wrong = []
    for base in bases:
        try:
            folder = stack.enter_context(own_folder(FOLDER_PREFIX, base))
            free = shutil.disk_usage(base).free
            if free >= needed:
                return folder
            stack.close()
            wrong.append(f"{base} has {free / 2**20:.1f} MB free")
        except OSError as error:
            wrong.append(f"{base}: {error.strerror}")
    raise OSError(
        f"the workers' counts need a folder with {needed / 2**20:.0f} MB: {'; '.join(wrong)}; make room there"
    )
