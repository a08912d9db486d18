"""Services of a fault's own, and what they are asked about themselves."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from service.settings import Settings
from tests.client import Service
from tests.faults.held import LeftOut
from tests.faults.within import NO_NAMESPACE
from tests.processes import started, wait_until


@contextmanager
def serving_within(
    *bounds: object, until_ready: bool = True, temporary: str | None = None, **settings: str
) -> Iterator[Service]:
    """As `tests.client.serving`, within bounds. Raises LeftOut where they cannot be had.

    `temporary`: the folder for temporary files, which must be there before the bounds are.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RANKER_")}
    environment |= {"RANKER_PORT": "0", "RANKER_DRAIN_S": "0", "PYTHONUNBUFFERED": "1"}
    environment |= {f"RANKER_{name.upper()}": value for name, value in settings.items()}
    environment |= {"TMPDIR": temporary} if temporary else {}
    command = ("-m", "tests.faults.within", *bounds, "--", "service")
    with started(*command, environment=environment, kind=Service) as service:
        wait_until(lambda: not until_ready or "curl" in service.output or service.process.poll() is not None, service)
        if NO_NAMESPACE in service.output:
            raise LeftOut(service.output.strip().splitlines()[-1])
        yield service


def needed(*names: str) -> None:
    """Raises LeftOut where the service lacks a setting (`hang_s`) or a command (`service.publish`)."""
    for name in names:
        if "." in name and find_spec(name) is None:
            raise LeftOut(f"there is no python -m {name}")
        if "." not in name and name not in Settings.model_fields:
            raise LeftOut(f"there is no RANKER_{name.upper()}")


def workers_of(service: Service) -> list[int]:
    """The processes that answer, oldest first; a service without a parent answers itself."""
    lists = Path(f"/proc/{service.process.pid}/task").glob("*/children")
    below = sorted(int(pid) for path in lists for pid in path.read_text().split())
    return [pid for pid in below if b"process.worker" in _read(pid, "cmdline")] or [service.process.pid]


def resident_bytes(pid: int) -> int:
    pages = _read(pid, "statm").split()
    return int(pages[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0


def spent_s(pid: int) -> float:
    """Seconds of processor time that a process has had."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has just ended
        return b""
