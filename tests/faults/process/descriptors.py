"""A service that has no descriptors left: connections nobody can accept must neither end it nor make it spin."""

import asyncio
from contextlib import suppress
from functools import partial

from tests.faults.process.own import Ordeal, Own
from tests.faults.serving import serving_within, spent_s, workers_of

FILES, IDLE = 120, 400  # open files of each process; connections that say nothing
HELD_S, SPIN = 2.0, 0.6  # so long; share of a core that a worker may spend meanwhile, beside the load


async def used_up(own: Own) -> None:
    """Who says nothing makes room for who asks, while it is still there."""
    writers: list[asyncio.StreamWriter] = []
    workers = own.workers()
    try:
        for _ in range(IDLE):
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", own.port)
                writers.append(writer)
        before = {pid: spent_s(pid) for pid in workers}
        await asyncio.sleep(HELD_S)
        shares = [(spent_s(pid) - before[pid]) / HELD_S for pid in workers]
        own.held.figures["busiest_share"] = max(shares)
        own.held.promise(max(shares) < SPIN, f"no worker spins: below {SPIN} of a core", [f"{s:.2f}" for s in shares])
        await own.load.answers(50)
    finally:
        for writer in writers:
            writer.close()
    own.held.promise(workers_of(own.service) == workers, "the same workers go on", own.service.output[-300:])


DESCRIPTORS = [
    Ordeal(
        "descriptors used up",
        f"{IDLE} idle connections where each process may have {FILES} open files",
        "who asks has the place of who says nothing, within seconds, and 503 until then; no worker spins or ends",
        used_up,
        settings={"history_connections": "8"},
        start=partial(serving_within, "--files", FILES),
        anew=0,  # who is not accepted waits or is hung up on
        refused=(503,),
    )
]
