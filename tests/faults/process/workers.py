"""Workers and parents that are killed, frozen, told to end, or cannot start again."""

import os
import signal
import socket
import time
from contextlib import suppress

from tests.faults.process.own import CALLERS, Ordeal, Own, until

HANG_S = 2
FROZEN_S = 10.0  # in which a frozen worker must be replaced, its start included
SURVIVE_S = 15.0  # in which no worker outlives its parent
AFTER = 60  # answers that must come after what happened


def _signal(pid: int, which: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, which)


async def _replaced(own: Own, pids: list[int], which: signal.Signals) -> None:
    for pid in pids:
        _signal(pid, which)
    seconds = await own.whole(without=set(pids))
    own.held.figures["replaced_s"] = max(own.held.figures.get("replaced_s", 0.0), seconds)
    await own.load.answers(AFTER)


async def one_killed(own: Own) -> None:
    await _replaced(own, own.workers()[:1], signal.SIGKILL)
    starts = await own.counted("ranker_worker_starts_total")
    own.held.promise(starts == 3, "ranker_worker_starts_total counts three starts", starts)


async def all_killed(own: Own) -> None:
    await _replaced(own, own.workers(), signal.SIGKILL)


async def killed_again_and_again(own: Own) -> None:
    """Each time as soon as both answer again: a worker that did answer is no worker that cannot start."""
    for turn in range(own.rounds + 1):
        await _replaced(own, own.workers()[turn % 2 :][:1], signal.SIGKILL)


async def told_to_end(own: Own) -> None:
    await _replaced(own, own.workers()[:1], signal.SIGTERM)


async def hung_up_on(own: Own) -> None:
    """SIGHUP: look for another bundle. There is none."""
    before = own.workers()
    for _ in range(3):
        own.service.process.send_signal(signal.SIGHUP)
        await own.load.answers(AFTER)
    own.held.promise(own.workers() == before, "the same workers go on", f"{before} became {own.workers()}")


async def one_frozen(own: Own) -> None:
    await _frozen(own, own.workers()[:1])


async def all_frozen(own: Own) -> None:
    await _frozen(own, own.workers())


async def _frozen(own: Own, pids: list[int]) -> None:
    told = own.tell()
    try:
        await _replaced(own, pids, signal.SIGSTOP)
    finally:
        for pid in pids:
            _signal(pid, signal.SIGCONT)
    seconds = own.held.figures["replaced_s"]
    limit_s = HANG_S + FROZEN_S
    own.held.promise(seconds <= limit_s, f"another takes its place within {limit_s} s", f"{seconds:.1f} s")
    lines = own.service.output[told:].splitlines()
    own.held.promise(lines, "the log says so", "nothing")


async def parent_killed(own: Own) -> None:
    workers = own.workers()
    begun = time.perf_counter()
    own.service.children.look()
    own.service.process.kill()
    await until(lambda: not own.service.children.pids(), "the end of all processes", SURVIVE_S)
    own.held.figures["gone_s"] = time.perf_counter() - begun
    with socket.socket() as successor:
        successor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        successor.bind(("127.0.0.1", own.port))  # raises where somebody still listens
    own.held.promise(workers, "there were workers", workers)


def per_kill(kills: int) -> int:
    """Requests that may be under way in what is killed."""
    return kills * CALLERS


WORKERS_ROWS = [
    Ordeal(
        "a worker killed",
        "one of two workers is killed by SIGKILL",
        "another takes its place; nobody else loses an answer",
        one_killed,
        lost=lambda rounds: per_kill(1),
    ),
    Ordeal(
        "all workers killed",
        "both workers are killed at once",
        "others take their place; who connects meanwhile is answered",
        all_killed,
        lost=lambda rounds: per_kill(1),
    ),
    Ordeal(
        "workers killed again",
        "a worker is killed whenever two answer",
        "each time another takes its place: it does not give up",
        killed_again_and_again,
        lost=lambda rounds: per_kill(rounds + 1),
    ),
    Ordeal(
        "a worker told to end",
        "one of two workers gets SIGTERM",
        "it finishes what it has, another takes its place: nothing is lost",
        told_to_end,
    ),
    Ordeal("SIGHUP", "the parent gets SIGHUP, and there is no other bundle", "nothing changes", hung_up_on),
    Ordeal(
        "a worker frozen",
        "one of two workers is stopped by SIGSTOP",
        f"another takes its place after RANKER_HANG_S ({HANG_S}), and the log says so",
        one_frozen,
        settings={"hang_s": str(HANG_S)},
        needs=("hang_s",),
        lost=lambda rounds: per_kill(1),
    ),
    Ordeal(
        "all workers frozen",
        "both workers are stopped by SIGSTOP",
        "others take their place; who connects meanwhile is answered",
        all_frozen,
        settings={"hang_s": str(HANG_S)},
        needs=("hang_s",),
        lost=lambda rounds: per_kill(1),
        refused=(504,),  # who waited longer than RANKER_TIMEOUT_MS
    ),
    Ordeal(
        "the parent killed",
        "the parent is killed by SIGKILL",
        f"its workers end within {SURVIVE_S:.0f} s, and the port is free",
        parent_killed,
        lost=lambda rounds: per_kill(1),
        ends=True,
    ),
]
