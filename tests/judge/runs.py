"""The two runs: one in which everything is counted, and one in which whatever holds events is killed meanwhile."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from model.bundle import versions
from tests.judge import kept, offline
from tests.judge.calling import called
from tests.judge.judged import Judged
from tests.judge.ledger import Ledger
from tests.judge.shopper import Shopper
from tests.judge.stage import Stage, stage
from tests.processes import ROOT
from tests.versions import FIRST, SECOND

ROUNDS = 3  # rankings of each user; between two of them there is what the user did
SEED = 16
TOLERANCE = 1e-5
LOST = ("late", "early", "orphaned", "not_returned", "without_request")  # clicks that are in the history alone
Happens = Sequence[Callable[[Stage], Awaitable[None]]]  # one after another, at equal parts of the run


async def shop(stage: Stage, users: int, rounds: int, happens: Happens) -> Ledger:
    """So many users, some at a time, while things happen."""
    ledger, items = Ledger(), [f"i{name}" for name in offline.world().name.tolist()]
    visits = (partial(Shopper(number, items, stage, ledger, SEED).browse, rounds) for number in range(users))
    try:
        await called(visits, users, [partial(happen, stage) for happen in happens])
    finally:
        stage.hang_up()
    return ledger


# ---- what happens


async def swap_bundle(stage: Stage) -> None:
    versions.point(stage.home, SECOND)


async def swap_back(stage: Stage) -> None:
    versions.point(stage.home, FIRST)


def swap_catalogue(version: str, every: int) -> Callable[[Stage], Awaitable[None]]:
    async def swap(stage: Stage) -> None:
        await _beside(offline.merging(stage.home / version, every, stage.folder / f"items-{every}.parquet"))

    return swap


async def drain(stage: Stage) -> None:
    await _beside(offline.draining(stage.journal, stage.log))


async def _beside(command: Sequence[object]) -> None:
    """Runs a command while callers go on."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *map(str, command)), cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, words = await process.communicate()
    assert process.returncode == 0, f"{command}: {words.decode()[-800:]}"


async def kill_a_worker(stage: Stage) -> None:
    stage.kill_a_worker()


async def kill_an_instance(stage: Stage) -> None:
    instance = stage.instances[1]
    await asyncio.to_thread(instance.kill)
    instance.start()
    await asyncio.to_thread(instance.ready)


async def restart_the_store(stage: Stage) -> None:
    stage.store.kill()
    await asyncio.sleep(0.5)  # callers meet a store that is gone
    stage.store.start()


SWAPS: Happens = (swap_catalogue(FIRST, 5), swap_bundle, drain, swap_catalogue(SECOND, 7), swap_back)
KILLS: Happens = (kill_a_worker, restart_the_store, kill_an_instance, drain, kill_a_worker, restart_the_store)

# ---- what is judged


class LoopJudged(Judged):
    """What holds of both runs."""

    def common(self, ledger: Ledger) -> None:
        self.figures |= {"requests": ledger.requests, "tries": ledger.tries, "unread": len(ledger.unread)}
        self.figures |= {"retried": dict(ledger.retried), "degraded": dict(ledger.degraded)}
        self.promise(not ledger.unread, "a ranking sees what another instance acknowledged", ledger.unread[:3])
        self.promise(not ledger.wrong, "/feedback keeps what is sound and names what is not", ledger.wrong[:3])

    def parity(self, proof: Any) -> None:
        """Every row is scored again; those without a history, where nothing was to be rebuilt, from the log alone."""
        self.figures |= {"parity": {name: proof[name] for name in PARITY}}
        skipped = dict(proof["skipped"])
        degraded = skipped.pop("degraded", 0)
        whole = not skipped and proof["rows"] == proof["rows_rebuilt"] + degraded
        self.promise(proof["exit_code"] == 0 and whole, "every row scored again is what was served", proof)


PARITY = ("rows", "rows_rebuilt", "max_abs_diff", "max_abs_diff_rebuilt", "skipped")


def counted(users: int, rounds: int = ROUNDS) -> Judged:
    """Own counts beside the log's, through swaps of bundle and catalogue."""
    judged, begun = LoopJudged("counted"), time.perf_counter()
    with stage() as running:
        ledger = asyncio.run(shop(running, users, rounds, SWAPS))
        running.close()  # whose journals are whole then
        judged.common(ledger)
        judged.promise(not ledger.degraded, "nobody is ranked without a history", ledger.degraded)
        folder, log = running.folder, running.log
        asyncio.run(drain(running))
        counts = offline.prepare(log, offline.base(folder), folder / "data")
        shown, clicked = offline.rows(folder / "data")
        judged.equal("impressions", len(ledger.shown), counts["impressions"])
        judged.equal("clicks", len({told for told in ledger.acknowledged if told.event == "click"}), counts["clicks"])
        judged.equal("joined", len(ledger.clicked), counts["joined"])
        for kind in ("doubled", "sent_again", *LOST):
            judged.equal(kind, ledger.kinds[kind], counts[kind])
        judged.equal("rows that only one side has", set(), shown ^ ledger.shown)
        judged.equal("clicked rows that only one side has", set(), clicked ^ ledger.clicked)
        judged.figures |= {"users": users, "impressions": len(ledger.shown), "joined": len(ledger.clicked)}
        judged.figures |= {kind: ledger.kinds[kind] for kind in ("doubled", "sent_again", *LOST)}
        judged.parity(offline.replay(log, running.home))
    judged.figures["seconds"] = round(time.perf_counter() - begun, 1)
    return judged


def killed(users: int, rounds: int = ROUNDS, kills: Happens = KILLS) -> Judged:
    """Whatever holds events is killed meanwhile; what was acknowledged is in the store and in the log."""
    judged, begun = LoopJudged("killed"), time.perf_counter()
    with stage() as running:
        ledger = asyncio.run(shop(running, users, rounds, kills))
        stored = {f"shopper-{number}": running.stored_clicks(f"shopper-{number}") for number in range(users)}
        running.close()
        judged.common(ledger)
        log = running.log
        asyncio.run(drain(running))
        _nothing_lost(judged, ledger, stored, log)
        lost = len(ledger.shown - offline.shown(log))  # the last flush before each kill
        judged.figures |= {"users": users, "impressions": len(ledger.shown), "lost": lost}
        judged.parity(offline.replay(log, running.home))
    judged.figures["seconds"] = round(time.perf_counter() - begun, 1)
    return judged


def _nothing_lost(judged: Judged, ledger: Ledger, stored: dict[str, set[tuple[str, int]]], log: Path) -> None:
    identity = ["event", "user_id", "object_id", "timestamp", "request_id"]
    logged = set(kept.events(log).select(identity).iter_rows())
    acknowledged, sent = ({tuple(told) for told in some} for some in (ledger.acknowledged, ledger.sent))
    judged.equal("acknowledged events that the log lacks", 0, len(acknowledged - logged))
    judged.equal("events in the log that nobody sent", 0, len(logged - sent))
    clicks = [told for told in ledger.acknowledged if told.event == "click"]
    lost = [told for told in clicks if (told.item_id, told.timestamp) not in stored[told.user_id]]
    judged.equal("acknowledged clicks that the store lacks", 0, len(lost))
    judged.figures |= {"acknowledged": len(acknowledged), "logged": len(logged)}
