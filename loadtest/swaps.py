"""What a swap costs requests: p99 of POST /rank while bundles go live, beside p99 while none does, in the same run.

    python -m loadtest.swaps [--items 10000000] [--swaps 20] [--rollbacks 5] [--capacity RATE] [--quick]

A service with two workers runs on a bundle of so many items; a second one of that size stands beside it. Requests of
500 candidates come in an open loop (Poisson) at 30 % of the capacity, which is searched where none is given. Turns of
steady traffic and turns with a swap in them alternate: each swap moves `current` (as python -m service.publish does),
each rollback is one POST /admin/model. All turns are as long as the
first swap took, and SETTLE_S more. Times count from when a request was due, and are pooled over all turns of a kind.

`failed` counts requests that got no right answer, in either kind of turn. `rss_growth_mb` is what all processes hold
(PSS) after the last swap less after the second: by then each bundle has been live once. `two_live_mb` is the most they
held at once, less before: seen in the first swap, which is not counted, since the kernel walks gigabytes of page tables
for each look. The last line is JSON.
"""

import asyncio
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from loadtest.bench.bundles import CACHE, bundle
from loadtest.bench.command import Command, Measured, positive
from loadtest.bench.processes import bare_environment, pss, service
from loadtest.bench.users import recent_users, store
from loadtest.errors import NoRun
from loadtest.generator import plan
from loadtest.generator.answers import Kind, Log
from loadtest.generator.budgets import Budget
from loadtest.generator.client import Client, parse_url
from loadtest.generator.plan import Body
from loadtest.generator.send import new_loop
from loadtest.generator.target import Target
from loadtest.machine import allow_connections
from loadtest.table import table
from loadtest.verdict.report import judge
from loadtest.verdict.search import search
from model.bundle import versions
from model.command import run as run_command
from model.files import beside

CANDIDATES, SHARE, WORKERS = 500, 0.3, 2
BUDGET_MS, MOST_RATE, CAPACITY_S = 50.0, 5_000.0, 10.0
SETTLE_S = 2.0  # of a turn, after all workers have switched
LOOK_S, SWAP_S = 0.05, 600.0  # between two looks at /model; of a swap, at most
MIB = 2**20


@dataclass(frozen=True)
class Sizes:
    items: int = 10_000_000
    swaps: int = 20
    rollbacks: int = 5
    capacity: int = 0  # requests per second; 0: searched
    warm_s: float = 20.0
    least_s: float = 5.0  # of a turn


QUICK = Sizes(items=500, swaps=3, rollbacks=1, capacity=60, warm_s=1.0, least_s=1.0)


class Turn(NamedTuple):
    """`swap_s`: until all workers answered with the other bundle; 0 in a steady turn."""

    log: Log
    swap_s: float
    pss_mb: float  # the most that was seen: at its end, or where it was watched


class Turns(NamedTuple):
    """What was seen of one service."""

    capacity: float
    steady: list[Turn]
    swapped: list[Turn]
    two_live_mb: float


class Course:
    """One service and its home of two versions. Use it within one running loop, and close it there."""

    def __init__(self, url: str, pid: int, home: Path, sizes: Sizes):
        self._address, self._pid, self._home, self._sizes = parse_url(url), pid, home, sizes
        self._target, self._client = Target(self._address, None), Client(self._address)
        self._rng = plan.generator(1, "swaps")

    async def reach(self) -> None:
        await self._target.reach([])
        await self._client.reach()
        self._bodies: Sequence[Body] = self._target.bodies(self._budget(1, 1), 500, self._rng)

    def _budget(self, rate: float, seconds: float) -> Budget:
        return Budget("swaps", rate, seconds, CANDIDATES, BUDGET_MS, BUDGET_MS, 0, warmup_s=0)

    async def capacity(self) -> float:
        """Raises NoRun."""
        if self._sizes.capacity:
            return float(self._sizes.capacity)

        async def measure(rate: float) -> Any:
            at = self._budget(rate, CAPACITY_S)
            return judge(at, await self._target.run(at, self._rng, self._bodies, f"{rate:.0f}/s"))

        found = await search(measure, 50.0, MOST_RATE, curve=False)
        if not found.confirmed:
            raise NoRun(f"no capacity: {'; '.join(found.words())}")
        return float(found.confirmed_rate)

    async def steady(self, rate: float, seconds: float) -> Turn:
        at = self._budget(rate, seconds)
        log = await self._target.run(at, self._rng, self._bodies, "steady")
        return Turn(log, 0.0, pss(self._pid) / MIB)

    async def swapping(self, rate: float, seconds: float, rollback: bool = False, watched: bool = False) -> Turn:
        """Traffic for so many seconds, in which a swap begins after a tenth. Raises NoRun where it takes longer.

        `watched`: its memory is looked at all the while, which requests feel.
        """
        at = self._budget(rate, seconds)
        traffic = asyncio.create_task(self._target.run(at, self._rng, self._bodies, "back" if rollback else "swap"))
        await asyncio.sleep(0.1 * seconds)
        begun = self._client.clock()
        await (self._roll_back() if rollback else self._move())
        most = 0.0
        while not await self._all_run(versions.current(self._home)):
            if watched:
                most = max(most, await asyncio.to_thread(pss, self._pid) / MIB)
            if self._client.clock() - begun > SWAP_S:
                raise NoRun(f"no swap within {SWAP_S:g} s; the service's log says why")
            await asyncio.sleep(LOOK_S)
        swap_s = self._client.clock() - begun
        return Turn(await traffic, swap_s, max(most, pss(self._pid) / MIB))

    async def _move(self) -> None:
        now = versions.current(self._home)
        versions.point(self._home, next(v for v in VERSIONS if v != now))

    async def _roll_back(self) -> None:
        answer = await self._client.ask("POST", "/admin/model", b'{"rollback": true}')
        if answer.status != 200:
            raise NoRun(f"a rollback is answered {answer.status}: {answer.content[:200].decode(errors='replace')}")

    async def _all_run(self, version: str | None) -> bool:
        answer = await self._client.get("/model")
        running = [one["version"] for one in orjson.loads(answer.content)["workers"]]
        return len(running) == WORKERS and set(running) == {version}

    async def close(self) -> None:
        await self._target.close()
        await self._client.close()


VERSIONS = ("20260101T000000-a", "20260102T000000-b")


def home_of_two(cache: Path, items: int) -> Path:
    """Two bundles of so many items as versions under one `current`: links to the cache, so nothing is copied."""
    home = cache / f"swaps_{items}"
    made = [bundle(cache, items=items, seed=seed).folder for seed in (1, 2)]
    for version, folder in zip(VERSIONS, made, strict=True):
        if (home / version / "manifest.json").exists():
            continue
        home.mkdir(exist_ok=True)
        with beside(home / version) as partial:
            shutil.copytree(folder, partial, copy_function=lambda a, b: Path(b).hardlink_to(a))
            manifest = orjson.loads((folder / "manifest.json").read_bytes()) | {"version": version}
            (partial / "manifest.json").unlink()  # a hard link: the cache's own must stay what it is
            (partial / "manifest.json").write_bytes(orjson.dumps(manifest))
            partial.rename(home / version)
    versions.point(home, VERSIONS[0])
    return home


async def see(url: str, pid: int, home: Path, sizes: Sizes) -> Turns:
    """Raises NoRun."""
    course = Course(url, pid, home, sizes)
    try:
        await course.reach()
        return await turns(course, sizes)
    finally:
        await course.close()


async def turns(course: Course, sizes: Sizes) -> Turns:
    capacity = await course.capacity()
    rate = SHARE * capacity
    warm = await course.steady(rate, sizes.warm_s)
    first = await course.swapping(rate, sizes.least_s, watched=True)  # not counted: how long one takes, and what memory
    seconds = max(sizes.least_s, 1.1 * (first.swap_s + SETTLE_S))
    steady, swapped = [], []
    kinds = [False] * sizes.swaps + [True] * sizes.rollbacks
    for rollback in kinds:
        steady.append(await course.steady(rate, seconds))
        swapped.append(await course.swapping(rate, seconds, rollback))
    return Turns(capacity, steady, swapped, first.pss_mb - warm.pss_mb)


def p99_ms(turns: Sequence[Turn]) -> float:
    times = [(turn.log.answered_s - turn.log.due_s)[turn.log.right] for turn in turns]
    return float(1000 * np.quantile(np.concatenate(times), 0.99))


def failed(turns: Sequence[Turn]) -> int:
    return sum(int((~turn.log.of(Kind.RIGHT, Kind.DEGRADED)).sum()) for turn in turns)


def measure(cache: Path, sizes: Sizes) -> Measured:
    """Raises NoRun."""
    allow_connections()
    home = home_of_two(cache, sizes.items)
    users = recent_users(sizes.items, np.random.default_rng(sizes.items))
    with ExitStack() as stack:
        url = stack.enter_context(store(users))
        named: dict[str, Any] = {"bundle": home, "workers": WORKERS, "redis_url": url, "bundle_poll_s": 1}
        environment = bare_environment() | {"RANKER_HISTORY_TIMEOUT_MS": "1000", "RANKER_TIMEOUT_MS": "10000"}
        running = stack.enter_context(service(environment, score_threads=1, **named))
        runner = stack.enter_context(asyncio.Runner(loop_factory=new_loop))
        seen = runner.run(see(running.url, running.pid, home, sizes))
    steady, swapped = seen.steady, seen.swapped
    ratio = p99_ms(swapped) / p99_ms(steady)
    figures: dict[str, Any] = {
        "p99_swap_over_steady": ratio,
        "p99_steady_ms": p99_ms(steady),
        "p99_swap_ms": p99_ms(swapped),
        "failed": failed(steady) + failed(swapped),
        "requests": sum(len(turn.log.due_s) for turn in (*steady, *swapped)),
        "swaps": sizes.swaps,
        "rollbacks": sizes.rollbacks,
        "swap_s": float(np.median([turn.swap_s for turn in swapped[: sizes.swaps]])),
        "rollback_s": float(np.median([turn.swap_s for turn in swapped[sizes.swaps :]] or [np.nan])),
        "rss_growth_mb": steady[-1].pss_mb - steady[min(2, len(steady) - 1)].pss_mb,
        "two_live_mb": seen.two_live_mb,
        "items": sizes.items,
        "capacity": seen.capacity,
        "rate": SHARE * seen.capacity,
    }
    rows = {name: [value] for name, value in figures.items()}
    return Measured(figures, table("figure", ["value"], rows))


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("swaps", __doc__, Sizes(), QUICK, CACHE, plots=False)
    add = command.parser.add_argument
    add("--items", type=positive, help="of each of the two bundles (default ten million: 5 GB of disk)")
    add("--swaps", type=positive, help="by moving `current` (default 20)")
    add("--rollbacks", type=positive, help="by POST /admin/model (default 5)")
    add("--capacity", type=positive, help="requests per second; it is searched where none is given")
    return command.run(arguments, lambda args, sizes: measure(args.cache, sizes))


if __name__ == "__main__":
    run_command(main, "swaps")
