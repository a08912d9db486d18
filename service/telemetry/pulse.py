"""A worker's pulse: how late its event loop wakes it, what waits for a scoring thread, and whether the process lives.

Measured a few times a second, beside the requests.
"""

import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

EVERY_S = 0.25
LAG_OVER_S = 60.0  # the longest lag of so many seconds: a scrape between two stalls must not miss them

Waiting = tuple[int, float]  # candidates that wait for a thread, and for how many seconds the first of them has


async def beat(waiting: Callable[[], Waiting], tell: Callable[[float, int, float], None]) -> None:
    """Until it is cancelled: calls `tell` with the event loop's longest lag in seconds and with `waiting()`."""
    lags: deque[tuple[float, float]] = deque()
    tell(0.0, *waiting())
    while True:
        due = time.monotonic() + EVERY_S
        await asyncio.sleep(EVERY_S)
        now = time.monotonic()
        lags.append((now, max(0.0, now - due)))
        while lags[0][0] < now - LAG_OVER_S:
            lags.popleft()
        tell(max(lag for _, lag in lags), *waiting())


def born(pid: int) -> int:
    """When the process began, as a number that no other process of that id has; 0 when it is gone.

    Where /proc is not, 1 for any living process of that id.
    """
    if pid <= 0:
        return 0
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return 0
        return 0 if fields[0] in "ZX" else int(fields[19])
    try:
        os.kill(pid, 0)
    except OSError:
        return 0
    return 1


def resident_bytes() -> int:
    """Memory of this process that is in RAM, shared pages included; 0 where /proc is not."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
