"""A log's timestamps, to send by: a text file, a time per line.

A time is a number of seconds, of milliseconds since 1970 (above 1e11), or ISO 8601 (`2026-11-21T17:03:19.250Z`; without
a zone it is UTC). Lines need not be in order; empty ones are passed over. Only the gaps count, not the day.
"""

import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from loadtest.errors import NoRun

MOST_TIMES = 1_000_000
SECONDS_UP_TO = 1e11  # the year 5138; larger numbers are milliseconds

Seconds = npt.NDArray[np.float64]


def read_times(path: Path) -> Seconds:
    """Seconds from the first time of the log, ascending, (n,) with n of at least 2. Raises NoRun."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NoRun(f"replay {path}: {getattr(error, 'strerror', None) or 'not text'}") from None
    times = [_seconds(f"replay {path}:{number}", line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not 2 <= len(times) <= MOST_TIMES or max(times) == min(times):
        raise NoRun(f"replay {path}: {len(times)} times; 2 to {MOST_TIMES} that are not all the same are allowed")
    ordered: Seconds = np.sort(np.array(times))
    ordered -= ordered[0]
    return ordered


def pace(times: Seconds) -> float:
    """Requests per second that the log had."""
    return float((len(times) - 1) / times[-1])


def _seconds(where: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise NoRun(f"{where}: {text!r:.60}; seconds, milliseconds since 1970 and ISO 8601 are allowed") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(number):
        raise NoRun(f"{where}: {text!r:.60} is no time")
    return number / 1000 if abs(number) > SECONDS_UP_TO else number
