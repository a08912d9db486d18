"""A bundle's pages in this process: mapped before requests need them, and let go before its memory is given back.

A request of 500 candidates reads some 1,500 pages of large tables. Until a page is mapped, each costs a fault; and to
give millions of mapped pages back at once takes a tenth of a second, during which Python stands still. Both are done
here in pieces, without Python's lock, by a thread that runs where nobody else wants the core.
"""

import ctypes
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("ranker")

DONT_NEED, POPULATE_READ = 4, 22  # madvise's; the second since Linux 5.14
PIECE = 32 * 2**20  # bytes of one call
MOST_OF_FREE = 0.5  # a bundle larger than this share of the free memory is not mapped ahead: it would drive out others


def populate(folder: Path) -> None:
    """Maps all pages of the bundle's files that this process has mapped. Blocks; does nothing where it cannot."""
    ranges = list(_ranges(folder))
    size = sum(end - start for start, end in ranges)
    if size > MOST_OF_FREE * _free_bytes():
        log.info("bundle %s: %d MB are not mapped ahead: free memory is short of twice that", folder, size >> 20)
        return
    _idly(ranges, POPULATE_READ)


def let_go(folder: Path) -> None:
    """The opposite; whoever still reads it gets its pages again from the page cache. Blocks."""
    _idly(list(_ranges(folder)), DONT_NEED)


def _idly(ranges: list[tuple[int, int]], advice: int) -> None:
    thread = threading.Thread(target=_advise, args=(ranges, advice), name="pages", daemon=True)
    thread.start()
    thread.join()


def _advise(ranges: list[tuple[int, int]], advice: int) -> None:
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)  # on Linux a thread's own
    madvise = ctypes.CDLL(None, use_errno=True).madvise  # ctypes lets Python's lock go meanwhile
    for start, end in ranges:
        for at in range(start, end, PIECE):
            if madvise(ctypes.c_void_p(at), ctypes.c_size_t(min(PIECE, end - at)), advice):
                return  # an older kernel


def _ranges(folder: Path) -> Iterator[tuple[int, int]]:
    """Addresses of the folder's files in this process; none where there is no /proc."""
    with suppress(OSError):
        for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and fields[5].startswith(f"{folder}/"):
                start, end = fields[0].split("-")
                yield int(start, 16), int(end, 16)


def _free_bytes() -> int:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    return 0
