"""A clock that is set while the service runs: by `clock.c`, it alone sees another time, and its steady clock goes on.

Requests that name their time have one right answer throughout. Those that do not are ranked by the clock, so theirs
are reckoned for the time that it shows.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from model.bundle.reading import Bundle
from service.settings import DEMO_BUNDLE
from tests.client import Service, serving
from tests.faults.held import LeftOut
from tests.faults.process.own import Ordeal, Own
from tests.faults.store.proxy import Refuses
from tests.faults.users import CACHED
from tests.faults.world import World

HOUR_MS = 3600 * 1000
EXPORTED = "ranker_model_exported_timestamp_seconds"
FUTURE = "ranker_future_behaviours_total"
JUMPS_MS = {
    "1 h ahead": HOUR_MS,
    "1 h back": -HOUR_MS,
    "3 h back": -3 * HOUR_MS,  # before the newest behaviours of many
    "100 years ahead": 100 * 365 * 24 * HOUR_MS,
}


def _library(folder: Path) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        raise LeftOut("no C compiler to make another clock with (Debian: apt install gcc libc6-dev)")
    library = folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source], check=True, capture_output=True)
    return library


@contextmanager
def serving_by_another_clock(**settings: str) -> Iterator[Service]:
    """A service whose clock goes right until `set_clock`."""
    with TemporaryDirectory(prefix="ranker-faults-") as folder, pytest.MonkeyPatch.context() as environment:
        offset = Path(folder) / "offset"
        offset.write_bytes(bytes(8))
        environment.setenv("CLOCK_OFFSET", str(offset))
        environment.setenv("LD_PRELOAD", str(_library(Path(folder))))
        with serving(**settings) as service:
            environment.delenv("LD_PRELOAD")
            service.offset = offset  # type: ignore[attr-defined]
            yield service


def set_clock(service: Service, ms: int) -> None:
    """At once, for all its processes."""
    with Path(service.offset).open("r+b", buffering=0) as file:  # type: ignore[attr-defined]
        file.write((ms // 1000).to_bytes(8, sys.byteorder, signed=True))


async def jumps(ms: int, own: Own) -> None:
    held, since_ms = own.held, time.time_ns() // 1_000_000 - own.users.now_ms  # so old is the world
    later = own.users.seen_by(Bundle.open(DEMO_BUNDLE), since_ms + ms)
    before = {name: await own.counted(name) for name in (EXPORTED, FUTURE)}
    set_clock(own.service, ms)
    await own.load.answers(100)
    by_clock = World(own.store, own.proxy, own.service, later)
    await by_clock.ask_many(held, 60)
    recent = own.users.ordinary[0]
    await by_clock.ask_once(held, recent)
    own.proxy.become(Refuses())
    try:
        remembered = [await by_clock.ask_once(held, recent) for _ in range(10)]  # by the worker that read it
        held.promise([CACHED] in remembered, f"who was read just now is remembered: {CACHED}", remembered)
    finally:
        own.honest()
    after = {name: await own.counted(name) for name in (EXPORTED, FUTURE)}
    held.promise(after[EXPORTED] == before[EXPORTED], f"{EXPORTED} is the bundle's", f"{before} became {after}")
    ahead = after[FUTURE] - before[FUTURE]
    wanted = "counts some" if ms < -2 * HOUR_MS else "counts none"
    held.promise((ahead > 0) == (ms < -2 * HOUR_MS), f"{FUTURE} {wanted}", ahead)
    set_clock(own.service, 0)
    await own.load.answers(50)


CLOCKS = [
    Ordeal(
        f"clock {name}",
        f"the service's clock is set {name} and back, while its steady clock goes on",
        "right answers for the time that is named, else for the clock's; no deadline, cache or probe goes astray",
        partial(jumps, ms),
        start=serving_by_another_clock,
        by_proxy=True,
        names_time=True,
    )
    for name, ms in JUMPS_MS.items()
]
