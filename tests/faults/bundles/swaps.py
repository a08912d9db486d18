"""Bundles that are swapped under load: sound ones, and those that must be refused while the one before goes on.

Every answer is compared with what the version that it names gives: none may mix two.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client.parser import text_string_to_metric_families

from model.bundle.reading import Bundle
from model.bundle.writing import amend
from tests.client import Service
from tests.faults.bundles.made import FIRST, SECOND, WEIGHTS, Home, home_of, serving_a_home
from tests.faults.process.own import CALLERS, ROUND, Ordeal, Own, until
from tests.faults.serving import needed
from tests.faults.users import Users
from tests.processes import ROOT

POLL_S = 0.2
CHECKED_S = 120.0  # patience with a check that runs only where nobody else wants the core
SWAPS = {1: 1, ROUND: 20}  # by rounds
FEW_LINES = 12
BAD = "bad"


async def versions(own: Own) -> set[str]:
    """That workers answer with, by their metrics."""
    families = text_string_to_metric_families((await own.get("/metrics")).body.decode())
    return {
        sample.labels["version"]
        for family in families
        for sample in family.samples
        if sample.name == "ranker_model_info" and sample.value
    }


async def live(own: Own, version: str) -> float:
    """Seconds until all workers answer with a version, and no other."""

    async def alone() -> bool:
        return await versions(own) == {version}

    return await until(alone, f"version {version} in all workers", CHECKED_S)


def of_versions(users: Users, service: Service) -> Users:
    """Who judges each answer by the version that it names."""
    home = home_of(service)
    return users.of_versions(home.first, home.second)


async def sound(own: Own) -> None:
    home = home_of(own.service)
    for turn in range(SWAPS[own.rounds]):
        version = SECOND if turn % 2 == 0 else FIRST
        home.point(version)
        seconds = await live(own, version)
        own.held.figures["swap_s"] = max(own.held.figures.get("swap_s", 0.0), seconds)
        await own.load.answers(20)
    own.held.figures["swaps"] = SWAPS[own.rounds]


async def killed_amid(own: Own) -> None:
    """A worker dies while the second version is loaded: in the end all answer with it."""
    home_of(own.service).point(SECOND)
    killed = own.workers()[0]
    os.kill(killed, signal.SIGKILL)
    await own.whole(without={killed})
    await live(own, SECOND)


async def refused(damage: Callable[[Home], None], own: Own) -> None:
    """The first version goes on, which is told once and counted; a sound one is then taken."""
    told = own.tell()
    home = home_of(own.service)
    damage(home)
    await until(lambda: len(own.service.output) > told, "a word in the log", CHECKED_S)
    await own.load.answers(100)
    lines = own.service.output[told:].strip().splitlines()
    own.held.promise(len(lines) <= FEW_LINES, f"1 to {FEW_LINES} lines that say why", f"{len(lines)}: {lines[:5]}")
    own.held.promise(await versions(own) == {FIRST}, "the version before goes on", await versions(own))
    home.point(SECOND)
    await live(own, SECOND)


def corrupt(home: Home) -> None:
    weights = home.copy(BAD) / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    home.point(BAD)


def truncated(home: Home) -> None:
    weights = home.copy(BAD) / WEIGHTS
    os.truncate(weights, weights.stat().st_size // 2)
    home.point(BAD)


def lacking(home: Home) -> None:
    (home.copy(BAD) / "manifest.json").unlink()
    home.point(BAD)


def to_nothing(home: Home) -> None:
    home.point("nowhere")


def removed(home: Home) -> None:
    home.current.unlink()


async def swapped_while_read(own: Own) -> None:
    """`current` moves on while the bundle before it is being checked: the last one wins, and nothing is mixed."""
    home = home_of(own.service)
    for _ in range(3 * own.rounds):
        home.point(SECOND)
        await own.load.answers(2)
        home.point(FIRST)
        await own.load.answers(2)
    home.point(SECOND)
    await live(own, SECOND)
    await own.load.answers(50)


async def disk_full(own: Own) -> None:
    """`python -m service.publish` into a home without room: an exit code, a line, nothing half-written."""
    needed("service.publish")
    home = home_of(own.service)
    before = home.versions()
    with TemporaryDirectory() as folder:
        bundle = Path(shutil.copytree(home.folder / SECOND, f"{folder}/bundle"))
        amend(Bundle.open(bundle), {}, {"version": "3"}, [])
        limited = f"ulimit -f 64; exec '{sys.executable}' -m service.publish '{bundle}'"  # kB a file
        environment = os.environ | {"RANKER_BUNDLE": str(home.folder)}
        done = await asyncio.to_thread(
            subprocess.run, ["bash", "-c", limited], cwd=ROOT, env=environment, capture_output=True, text=True
        )
    lines = done.stderr.strip().splitlines()
    own.held.promise(done.returncode > 0, "an exit code that is an error", done.returncode)
    own.held.promise(len(lines) == 1, "one line that says why", lines[-3:])
    after = home.versions()
    own.held.promise(after == before, "nothing half-written is left", f"{before} became {after}")
    await own.load.answers(50)
    own.held.promise(await versions(own) == {FIRST}, "the version before goes on", await versions(own))


def _ordeal(name: str, does: str, promises: str, happens: Callable[[Own], Awaitable[None]], **more: object) -> Ordeal:
    settings = {"bundle_poll_s": str(POLL_S)}
    common = {"settings": settings, "needs": ("bundle_poll_s",), "start": serving_a_home, "people": of_versions}
    return Ordeal(name, does, promises, happens, **(common | more))  # type: ignore[arg-type]


GOES_ON = "the version before goes on, which the log says; the next sound one is taken"
BUNDLES = [
    _ordeal(
        "swaps",
        "`current` is moved from one version to another and back, again and again",
        "every answer is that of the version which it names; nothing is lost",
        sound,
    ),
    _ordeal(
        "a worker killed amid a swap",
        "a worker is killed while another version is loaded",
        "in the end all workers answer with it",
        killed_amid,
        lost=lambda rounds: CALLERS,
    ),
    _ordeal("a corrupt bundle", "a bit of the weights is another", GOES_ON, partial(refused, corrupt)),
    _ordeal("a truncated bundle", "half of the weights is missing", GOES_ON, partial(refused, truncated)),
    _ordeal("a bundle without manifest", "`current` points to no bundle", GOES_ON, partial(refused, lacking)),
    _ordeal("current points to nothing", "`current` is a dangling link", GOES_ON, partial(refused, to_nothing)),
    _ordeal("current removed", "`current` is gone", GOES_ON, partial(refused, removed)),
    _ordeal(
        "swapped while read",
        "`current` moves while the bundle that it pointed to is checked",
        "every answer is that of the version which it names; in the end the last one answers",
        swapped_while_read,
    ),
    _ordeal(
        "no room for a bundle",
        "python -m service.publish where no file may have more than 64 kB",
        "an exit code and one line; nothing half-written; the service goes on",
        disk_full,
    ),
]
