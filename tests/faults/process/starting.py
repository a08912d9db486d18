"""Workers that cannot start: their bundle is gone or cut, or there is no room for their counts."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from service.settings import DEMO_BUNDLE
from tests.client import Service, serving
from tests.faults.held import Held
from tests.faults.process.own import CALLERS, Ordeal, Own, until
from tests.faults.serving import serving_within
from tests.faults.world import SETTINGS, World

CATALOG = "catalog/items.npy"
GIVES_UP_S = 60.0  # in which a service whose workers cannot start must end
FEW_LINES = 12
ROOM = 32 * 2**20  # for the counts of two workers and the admin process, and hardly more


@contextmanager
def serving_a_copy(**settings: str) -> Iterator[Service]:
    """A service on a copy of the demo bundle, which a fault may damage."""
    with TemporaryDirectory(prefix="ranker-faults-") as folder:
        bundle = Path(shutil.copytree(DEMO_BUNDLE, Path(folder) / "bundle"))
        with serving(bundle=str(bundle), **settings) as service:
            service.bundle = bundle  # type: ignore[attr-defined]
            yield service


def bundle_of(own: Own) -> Path:
    return Path(own.service.bundle)  # type: ignore[attr-defined]


async def _gives_up(own: Own, told: int) -> None:
    """It ends, and says why in a few lines, once no worker answers and none can start."""
    seconds = await own.ended(GIVES_UP_S)
    code, lines = own.service.ended(), own.service.output[told:].strip().splitlines()
    own.held.figures |= {"gave_up_s": seconds, "exit_code": float(code), "lines": float(len(lines))}
    own.held.promise(code > 0, "an exit code that is an error", code)
    own.held.promise(0 < len(lines) <= FEW_LINES, f"1 to {FEW_LINES} lines that say why", f"{len(lines)}: {lines[:5]}")


def _kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


async def bundle_removed(own: Own) -> None:
    told = own.tell()
    shutil.rmtree(bundle_of(own))
    await own.load.answers(50)  # what is open needs no folder
    _kill(own.workers())
    await _gives_up(own, told)
    named = str(bundle_of(own)) in own.service.output[told:]
    own.held.promise(named, "the log names the bundle", own.service.output[told:][:300])


async def catalog_cut(own: Own) -> None:
    """In place, under those who have it open: right answers or an end with a code, never a wrong answer."""
    told = own.tell()
    with (bundle_of(own) / CATALOG).open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) // 2)
    await until(lambda: len(own.load.answers_at) >= 200 or own.service.process.poll() is not None, "answers or an end")
    if own.service.process.poll() is None:
        _kill(own.workers())
    await _gives_up(own, told)


async def counts_full(own: Own) -> None:
    """No room is left for the counts of a worker that starts; then there is again."""
    told = own.tell()
    folder = Path(f"/proc/{own.service.process.pid}/root/dev/shm")
    with (folder / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(4096)):
            pass
    await own.load.answers(50)  # those who count already go on
    [killed, *_] = own.workers()
    _kill([killed])
    await own.load.answers(50)
    (folder / "filler").unlink()
    if own.service.process.poll() is None:
        await own.whole(without={killed})
    else:
        own.held.promise(False, "it goes on with the worker that it has", own.service.output[told:][:500])


class NoRoom:
    """A service that starts where there is no room for its counts."""

    name = "no room for counts"
    does = "/dev/shm and the temporary folder have 64 kB when it starts"
    promises = "exit code 1 and a few lines that say why"
    short, size = False, 0

    async def run(self, world: World, held: Held, size: int) -> None:
        settings = SETTINGS | {"redis_url": world.store.url, "workers": "2"}
        with TemporaryDirectory() as folder:
            bounds = ("--tmpfs", 65536, "/dev/shm", "--tmpfs", 65536, folder)
            with serving_within(*bounds, until_ready=False, temporary=folder, **settings) as service:
                await until(lambda: service.process.poll() is not None or "curl" in service.output, "an end or a start")
                code = service.process.poll()
                output = service.output if code is None else (service.ended(), service.output)[1]
        lines = [line for line in output.strip().splitlines() if " INFO " not in line]
        held.promise(code == 1, "exit code 1", "it runs" if code is None else code)
        held.promise(0 < len(lines) <= 3, "1 to 3 lines that say why", f"{len(lines)}: {lines[-3:]}")
        told = all(place in output for place in ("/dev/shm", folder)) and "make room" in output
        held.promise(told, "one of them says where there is no room", lines[-3:])


def _within(*bounds: object) -> Callable[..., object]:
    return partial(serving_within, *bounds)


STARTING = [
    Ordeal(
        "bundle removed",
        "the bundle's folder is removed while it serves, and then all workers are killed",
        "answers as long as a worker lives; then it ends with an exit code and a few lines that name the bundle",
        bundle_removed,
        start=serving_a_copy,
        lost=lambda rounds: 2 * CALLERS,  # those of the killed, and who has then waited in vain when it gives up
        ends=True,
    ),
    Ordeal(
        "catalogue cut",
        "the catalogue's file is cut to half in place while it serves, and then all workers are killed",
        "no wrong answer; it ends with an exit code and a few lines",
        catalog_cut,
        start=serving_a_copy,
        lost=lambda rounds: 6 * CALLERS,  # each worker that meets the missing half dies of it
        ends=True,
    ),
    Ordeal(
        "counts full",
        "the folder of the counts fills up, a worker is killed, then there is room again",
        "who counts already goes on answering, and the killed one is replaced when there is room",
        counts_full,
        start=_within("--tmpfs", ROOM, "/dev/shm"),  # type: ignore[arg-type]
        lost=lambda rounds: CALLERS,
    ),
    NoRoom(),
]
