"""The machine of a run: processor, cores and system, for its report, and room for connections. No name, no address."""

import platform
import resource
from contextlib import suppress
from pathlib import Path

CONNECTIONS = 10_240  # more than macOS allows a process


def processor() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def system() -> str:
    return f"{platform.system()} {platform.release()}"


def allow_connections(wanted: int = CONNECTIONS) -> None:
    """Room for a service that stalls, which needs one connection per request; the usual limit is 1024 files.

    What is started later has it too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # -1: no limit
    if 0 <= soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard) if hard >= 0 else wanted, hard))
