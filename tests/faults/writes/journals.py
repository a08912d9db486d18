"""Writes while the journal cannot be written, loses files, or is drained by one that is killed again and again."""

import asyncio
import os
import random
import shutil
import sys
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path

from service.drained.files import ASIDE
from service.journal.file import CLOSED
from service.journal.framing import Reader
from tests.faults.process.own import until
from tests.faults.writes.desk import Desk, desk
from tests.faults.writes.load import Load, Writes
from tests.faults.writes.services import KEEPS
from tests.faults.writes.writer import Manners
from tests.judge.ledger import Told
from tests.processes import ROOT

ROOM = 8 * 2**20  # bytes of a disk for a journal; what is written meanwhile is far less
FEW_LINES = 4
REFUSED = 20  # writes, while the journal cannot be written
KILLS, FEWEST = {True: 2, False: 4}, 5  # of a drain, in short and in full; files that it must find


async def disk_full(load: Load, size: int) -> None:
    told = len(load.desk.service.output)
    filler = load.desk.journal / ".filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    await load.refused(REFUSED)
    await _ranks_on(load)
    filler.unlink()
    await load.acknowledged(40)
    _told(load, told)


async def read_only(load: Load, size: int) -> None:
    """What is open is written on; a new file cannot be begun."""
    told = len(load.desk.service.output)
    load.desk.journal.chmod(0o555)
    try:
        await load.refused(REFUSED)
        await _ranks_on(load)
    finally:
        load.desk.journal.chmod(0o755)
    await load.acknowledged(40)
    _told(load, told)


async def removed(load: Load, size: int) -> None:
    """What was in it is gone; nothing is acknowledged until it is there again."""
    told = len(load.desk.service.output)
    while load.desk.journal.exists():
        shutil.rmtree(load.desk.journal, ignore_errors=True)
    await load.refused(REFUSED)
    await _ranks_on(load)
    for account in load.accounts:
        account.log_is_gone()
    load.desk.journal.mkdir()
    await load.acknowledged(40)
    _told(load, told)


async def cut_in_half(load: Load, size: int) -> None:
    await until(lambda: _closed(load), "a closed file")
    path = max(_closed(load), key=lambda path: path.stat().st_size)
    before = _events_in(path)
    os.truncate(path, path.stat().st_size // 2)
    taken = before - _events_in(path)
    load.held.promise(taken, "some events are lost with the half", path.name)
    load.held.figures["taken"] = len(taken)
    for account in load.accounts:
        account.unlogged |= taken


def is_told(load: Load) -> None:
    lines = [line for line in load.told if ": cut, its last" in line]
    load.held.promise(len(lines) == load.cut_files == 1, "the drain says which file was cut", load.told[:3])
    kept = len(list((load.desk.journal / ASIDE).iterdir()))
    load.held.promise(kept == 1, "and keeps it aside", kept)


async def drain_killed(load: Load, size: int) -> None:
    """Each at a random moment after it has begun to write tables."""
    draw, kills = random.Random(16), 0
    for _ in range(KILLS[size < 200]):
        await until(lambda: len(_closed(load)) >= FEWEST, "closed files")
        command = ("-m", "service.drain", "--journal", str(load.desk.journal), "--out", str(load.log))
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        enough = _tables(load.log) + draw.randint(1, len(_closed(load)))
        while process.returncode is None and _tables(load.log) < enough:
            await asyncio.sleep(0.001)
        with suppress(ProcessLookupError):
            process.kill()
        kills += await process.wait() < 0
    load.held.figures["killed"] = kills
    load.held.promise(kills, "a drain is killed amid its work", kills)


def _closed(load: Load) -> list[Path]:
    return list(load.desk.journal.glob(f"*{CLOSED}"))


def _tables(log: Path) -> int:
    return sum(1 for _ in log.rglob("*.parquet"))


def _events_in(path: Path) -> set[Told]:
    """Of a journal's file, up to where it is whole."""
    with path.open("rb") as file:
        lines = [line for block in Reader(file) for line in block if line["kind"] == "event"]
    names = ("event", "user_id", "object_id", "timestamp", "request_id")
    return {Told(*(line[name] for name in names)) for line in lines}


async def _ranks_on(load: Load) -> None:
    answer = await load.rank()
    load.held.promise(answer.status == 200, "the candidates are ranked meanwhile", answer)


def _told(load: Load, told: int) -> None:
    lines = load.desk.service.output[told:].splitlines()
    of_it = [line for line in lines if "until it can be written" in line]
    load.held.promise(1 <= len(of_it) <= FEW_LINES, f"1 to {FEW_LINES} lines of the log say so", lines[:3])


def _on_a_small_disk() -> AbstractContextManager[Desk]:
    return desk(lambda journal: ("--tmpfs", ROOM, journal))


def _obeying_modes() -> AbstractContextManager[Desk]:
    return desk(lambda journal: ("--obeys-modes",))


_journal = partial(Writes, promises=f"503 journal_failed, ranking goes on, the log says so; {KEEPS}")
JOURNALS_OF_WRITES = [
    _journal(
        "journal: disk full",
        "the journal's disk fills up, then there is room again",
        happens=disk_full,
        begin=_on_a_small_disk,
    ),
    _journal(
        "journal: read-only",
        "the journal's folder may not be written, then it may",
        happens=read_only,
        begin=_obeying_modes,
    ),
    Writes(
        "journal: removed",
        "the journal's folder is removed, then made again",
        f"503 until it is there; what was in it is gone; {KEEPS} from then on",
        removed,
    ),
    Writes(
        "journal: cut in half",
        "a closed file of the journal is cut to half",
        "the drain says so and keeps it aside; all that is whole is drained",
        cut_in_half,
        refused=(),
        manners=Manners(events_alone=True),
        afterwards=is_told,
    ),
    Writes(
        "journal: the drain killed",
        "the drain is killed by SIGKILL at random moments, and run again",
        f"{KEEPS}, once",
        drain_killed,
        refused=(),
        short=True,
    ),
]
