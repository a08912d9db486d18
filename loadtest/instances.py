"""Do several instances answer as one? Two behind HAProxy, on a Redis Cluster that fails over, renewed under load.

    python -m loadtest.instances [--rate 60] [--processes 2] [--steady-s 80] [--act-s 60] [--quick]

Callers come in an open loop (Poisson) from several generator processes. What each request must be scored is asked of
both instances beforehand, of users whose histories show in their scores: an answer with other items or scores is
`crossed`. `lost` is what nobody answered, `failed` all else that is no right answer (429 and 504 too). Acts, each under
load: steady; a primary gets SIGKILL and its replica takes over; a bundle, then a catalogue is published; each instance
in turn gets SIGTERM, drains, ends and is started anew. Load goes on until an act is over, in runs a moment apart.
HAProxy is that of deploy/haproxy, by other names and ports.

After the steady act, Prometheus' recorded quantiles (deploy/prometheus/rules.yml, evaluated every two seconds) stand
beside the load test's, less the way there and back as in loadtest.ruler: the total in each answer's Server-Timing.
Services and their stores have all cores but the one of the load.

Exit code 1: something was lost, crossed or failed, a recorded quantile below 160 ms is more than 5 % off, or the
instances counted other than was sent in the steady act; `unmet` says which. The last line is JSON.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from loadtest.bench.command import Command, Measured, positive
from loadtest.bench.processes import on
from loadtest.errors import NoRun
from loadtest.generator import plan
from loadtest.generator.answers import TOLERANCE, Log
from loadtest.generator.budgets import Budget
from loadtest.generator.plan import Body
from loadtest.generator.send import new_loop
from loadtest.machine import allow_connections
from loadtest.rolling.balancer import deployed
from loadtest.rolling.cluster import Cluster, cluster
from loadtest.rolling.findings import SHARES, Findings, Steady, counted
from loadtest.rolling.fleet import Fleet
from loadtest.rolling.known import draw, known, made_up_users, told_apart
from loadtest.rolling.load import Load
from loadtest.rolling.prometheus import EVERY_S, Prometheus, prometheus
from loadtest.rolling.stream import address
from model.command import run as run_command
from service.loading.load import load_users

RECORDED = 'job_route:ranker_request_duration_seconds:{}_rate5m{{route="/rank"}}'
MOST_STEADY_S = 240  # what is recorded looks five minutes back: at the whole of the steady act, and at nothing before
LOOK_S = 0.5
KEEP, TTL_S = 100, 86_400
Act = Callable[[], Awaitable[dict[str, float]]]


@dataclass(frozen=True)
class Sizes:
    rate: int = 60  # requests per second
    processes: int = 2  # that generate
    users: int = 60
    bodies: int = 240
    candidates: int = 100
    warm_s: int = 10
    steady_s: int = 80
    act_s: int = 60  # of load beside each other act


QUICK = Sizes(rate=25, users=10, bodies=20, candidates=20, warm_s=3, steady_s=5, act_s=10)


def budget(sizes: Sizes, seconds: int) -> Budget:
    """So many seconds of load; it judges nothing."""
    named: dict[str, Any] = {"warmup_s": 0, "wait_s": 15, "processes": sizes.processes}
    return Budget("instances", sizes.rate, seconds, sizes.candidates, p50_ms=1e3, p99_ms=1e3, errors=0, **named)


class Course:
    """All acts, one after another. Use it within one running loop, with nobody asking before."""

    def __init__(self, sizes: Sizes, fleet: Fleet, load: Load, watching: Prometheus):
        self._sizes, self._fleet, self._load, self._watching = sizes, fleet, load, watching
        self._logs: dict[str, list[Log]] = {}
        self._times_s: dict[str, float] = {}

    async def run(self, once: Sequence[Body]) -> Findings:
        """`once`: a request of each user. Raises NoRun."""
        before = await self._fleet.asked()
        steady = await self._load.run(budget(self._sizes, self._sizes.steady_s), "steady")
        recorded_ms = await self._recorded()
        asked = [later - sooner for sooner, later in zip(before, await self._fleet.asked(), strict=True)]
        await self._under_load("failover", partial(self._fleet.fail_over, once))
        await self._under_load("publishing", self._fleet.publish)
        await self._under_load("renewal", self._fleet.renew)
        acts = {name: counted(logs) for name, logs in ({"steady": [steady]} | self._logs).items()}
        return Findings(acts, Steady.of(steady, recorded_ms, asked), self._times_s)

    async def _under_load(self, name: str, act: Act) -> None:
        async def timed() -> None:
            self._times_s |= await act()

        self._logs[name] = await self._load.beside(budget(self._sizes, self._sizes.act_s), name, timed)

    async def _recorded(self) -> list[float]:
        """Milliseconds at SHARES, evaluated after all instances were scraped with all counts of the run just over."""
        counted_by = time.time() + EVERY_S
        while (scraped := await asyncio.to_thread(self._watching.scraped, len(self._fleet.ports)) or 0) < counted_by:
            await asyncio.sleep(LOOK_S)
        recorded_ms = []
        for share in SHARES:
            series = RECORDED.format(share)
            while (sample := await asyncio.to_thread(self._watching.newest, series)) is None or sample.at <= scraped:
                await asyncio.sleep(LOOK_S)
            recorded_ms.append(1000 * sample.value)
        return recorded_ms


async def see(sizes: Sizes, store: Cluster, folder: Path, cpus: set[int]) -> tuple[Findings, float]:
    """What came of the acts, and how far apart the scores of two users are at least. Raises NoRun."""
    rng = plan.generator(1, "instances")
    async with AsyncExitStack() as stack:
        fleet = Fleet(store, folder, cpus, stack)
        await fleet.start()
        items = await fleet.items()
        users = made_up_users(sizes.users, items, time.time_ns() // 1_000_000, rng)
        load_users([orjson.dumps(user) for user in users], store.url, keep=KEEP, ttl_s=TTL_S)
        alike = [{"user_id": user["user_id"], "candidates": items[: sizes.candidates]} for user in users]
        apart = told_apart(await known(fleet.clients[:1], alike))
        if apart < 10 * TOLERANCE:
            raise NoRun(f"two users' scores are {apart:g} apart: a crossed answer would not show")
        bodies = await known(fleet.clients, draw(users, items, sizes.candidates, sizes.bodies, rng))
        front = stack.enter_context(deployed(list(zip(fleet.ports, fleet.admin_ports, strict=True)), cpus))
        load = Load(address(front), bodies, rng)
        await load.run(budget(sizes, sizes.warm_s), "warm")
        # Scraped from now on: what came before is in no rate.
        watching = stack.enter_context(prometheus([f"127.0.0.1:{port}" for port in fleet.admin_ports], cpus))
        return await Course(sizes, fleet, load, watching).run(bodies[: sizes.users]), apart


def measure(sizes: Sizes) -> Measured:
    """Raises NoRun."""
    if sizes.steady_s > MOST_STEADY_S:
        raise NoRun(f"--steady-s {sizes.steady_s}; at most {MOST_STEADY_S}: what is recorded looks five minutes back")
    allow_connections()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        raise NoRun(f"{len(cores)} core; two are needed, one for the services and one for their load")
    cpus = set(cores[1:])
    with (
        on({cores[0]}),
        TemporaryDirectory() as folder,
        cluster(cpus) as store,
        asyncio.Runner(loop_factory=new_loop) as runner,
    ):
        findings, apart = runner.run(see(sizes, store, Path(folder), cpus))
    figures = findings.figures() | {"told_apart": apart, "processes": sizes.processes, "rate": sizes.rate}
    return Measured(figures, findings.show())


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("instances", __doc__, Sizes(), QUICK, plots=False)
    add = command.parser.add_argument
    add("--rate", type=positive, help="requests per second (default 60)")
    add("--processes", type=positive, help="that generate (default 2)")
    add("--steady-s", type=positive, help=f"of the steady act, at most {MOST_STEADY_S} (default 80)")
    add("--act-s", type=positive, help="of load beside each other act, at least (default 60)")
    return command.run(arguments, lambda args, sizes: measure(sizes))


if __name__ == "__main__":
    run_command(main, "instances")
