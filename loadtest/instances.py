"""Do several instances answer as one? Two behind HAProxy, on a Redis Cluster that fails over, renewed under load.

    python -m loadtest.instances [--rate 60] [--processes 2] [--steady-s 80] [--act-s 40] [--quick]

Callers come in an open loop (Poisson) from several generator processes. What each request must be scored is asked of
both instances beforehand, of users whose histories show in their scores: an answer with other items or scores is
`crossed`. `lost` is what nobody answered, `failed` all else that is no right answer (429 and 504 too). Acts, each under
load: steady; a primary gets SIGKILL and its replica takes over; a bundle, then a catalogue is published; each instance
in turn gets SIGTERM, drains, ends and is started anew. Load goes on until an act is over, in runs a moment apart.

After the steady act, Prometheus' recorded quantiles (deploy/prometheus/rules.yml, evaluated every two seconds) stand
beside the load test's, less the way there and back as in loadtest.ruler: the total in each answer's Server-Timing.

Exit code 1: something was lost, crossed or failed, or a recorded quantile below 160 ms is more than 5 % off; `unmet`
says which. The last line is JSON.
"""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson

from loadtest.bench.command import Command, Measured, positive
from loadtest.bench.processes import on
from loadtest.errors import NoRun
from loadtest.generator import plan
from loadtest.generator.answers import OTHER_ITEMS, OTHER_SCORES, TOLERANCE, Kind, Log
from loadtest.generator.budgets import Budget
from loadtest.generator.plan import Body
from loadtest.generator.send import new_loop
from loadtest.machine import allow_connections
from loadtest.quantiles import carried, needed, quantiles_ms
from loadtest.rolling.balancer import SEES_S, balancer
from loadtest.rolling.cluster import Cluster, cluster
from loadtest.rolling.fleet import Fleet
from loadtest.rolling.known import draw, known, made_up_users, told_apart
from loadtest.rolling.load import Load
from loadtest.rolling.prometheus import EVERY_S, Prometheus, prometheus
from loadtest.rolling.stream import address
from loadtest.table import table
from loadtest.verdict.report import MOST_LATE, late_share, taken_ms
from model.command import run as run_command
from service.loading.load import load_users

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
RECORDED = 'job_route:ranker_request_duration_seconds:{}_rate5m{{route="/rank"}}'
MOST_STEADY_S = 240  # what is recorded looks five minutes back: at the whole of the steady act, and at nothing before
FINE_MS, MOST_OFF = 160.0, 0.05  # up to where the histogram has four buckets to the octave, and how far off is allowed
KEEP, TTL_S = 100, 86_400
COUNTS = ("sent", "answered", "degraded", "lost", "crossed", "failed")
ROWS = {"due": "load test, from due", "send": "load test, from send", "network": "  of it there and back"}
ROWS |= {"inside": "load test, less the way", "recorded": "recorded by Prometheus"}


@dataclass(frozen=True)
class Sizes:
    rate: int = 60  # requests per second
    processes: int = 2  # that generate
    users: int = 60
    bodies: int = 240
    candidates: int = 100
    warm_s: int = 10
    steady_s: int = 80
    act_s: int = 40  # of load beside each other act
    drain_s: float = 5.0


QUICK = Sizes(rate=25, users=10, bodies=20, candidates=20, warm_s=3, steady_s=5, act_s=5, drain_s=1.0)


class Course:
    """All acts, one after another. Use it within one running loop."""

    def __init__(self, sizes: Sizes, fleet: Fleet, load: Load, bodies: Sequence[Body], watching: Prometheus):
        self._sizes, self._fleet, self._load, self._bodies = sizes, fleet, load, bodies
        self._watching = watching
        self.acts: dict[str, list[Log]] = {}
        self.recorded_ms: list[float] = []
        self.times_s: dict[str, float] = {}

    async def run(self) -> None:
        """Raises NoRun."""
        await self._steady()
        once = [self._bodies[number] for number in range(self._sizes.users)]  # of each user
        for name, act in (
            ("failover", lambda: self._fleet.fail_over(once)),
            ("publishing", self._fleet.publish),
            ("renewal", self._fleet.renew),
        ):

            async def acted(act: Any = act) -> None:
                self.times_s |= await act()

            self.acts[name] = await self._load.beside(self._budget(self._sizes.act_s), name, acted)

    async def _steady(self) -> None:
        """What is recorded then counts every request of the act and no other: none came since the scrape before it."""
        await self._load.run(self._budget(self._sizes.warm_s), "warm")
        await self._scraped(time.time())
        self.acts["steady"] = [await self._load.run(self._budget(self._sizes.steady_s), "steady")]
        scraped = await self._scraped(time.time())
        for share in SHARES:
            series = RECORDED.format(share)
            while (sample := await asyncio.to_thread(self._watching.newest, series)) is None or sample.at <= scraped:
                await asyncio.sleep(EVERY_S / 4)
            self.recorded_ms.append(1000 * sample.value)

    async def _scraped(self, since: float) -> float:
        """When all instances had been scraped after `since`, whose counts are in by a period later."""
        while (
            scraped := await asyncio.to_thread(self._watching.scraped, len(self._fleet.ports)) or 0
        ) < since + EVERY_S:
            await asyncio.sleep(EVERY_S / 4)
        return scraped

    def _budget(self, seconds: int) -> Budget:
        rate, processes = self._sizes.rate, self._sizes.processes
        named: dict[str, Any] = {"warmup_s": 0, "wait_s": 15, "processes": processes}
        return Budget("instances", rate, seconds, self._sizes.candidates, p50_ms=1e3, p99_ms=1e3, errors=0, **named)


def counted(logs: Sequence[Log]) -> dict[str, Any]:
    """What became of an act's requests, and their times from when they were due."""
    whys = [why for log in logs for why in log.whys()]
    kinds = np.concatenate([log.kinds for log in logs])
    answered, lost = np.isin(kinds, (Kind.RIGHT, Kind.DEGRADED)), kinds == Kind.UNANSWERED
    crossed = np.array([why in (OTHER_ITEMS, OTHER_SCORES) for why in whys])
    failed = ~(answered | lost | crossed)
    times_s = np.concatenate([(log.answered_s - log.due_s)[log.right] for log in logs])
    p50, p99 = quantiles_ms(times_s) if len(times_s) else (None, None)
    numbers = [len(kinds), *(int(mask.sum()) for mask in (answered, kinds == Kind.DEGRADED, lost, crossed, failed))]
    reasons = {why for why, wrong in zip(whys, (~answered).tolist(), strict=True) if wrong}
    due_s, sent_s = (np.concatenate([getattr(log, name) for log in logs]) for name in ("due_s", "sent_s"))
    late = late_share(due_s, sent_s, p99 or 0)
    more = {"p50_ms": p50, "p99_ms": p99, "late_share": late, "runs": len(logs)}
    return dict(zip(COUNTS, numbers, strict=True)) | more | {"reasons": sorted(reasons)}


def quantiles(log: Log, recorded_ms: Sequence[float]) -> dict[str, list[float]]:
    """By row of the table, milliseconds at SHARES. Raises NoRun where nothing was answered."""
    right, taken, at = log.right, taken_ms(log), list(SHARES.values())
    if "network" not in taken or not right.any() or np.isnan(taken["total"][right]).any():
        raise NoRun("no right answers in the steady act, or some without a Server-Timing")
    return {
        "due": quantiles_ms((log.answered_s - log.due_s)[right], at),
        "send": quantiles_ms((log.answered_s - log.sent_s)[right], at),
        "network": quantiles_ms(taken["network"][right] / 1000, at),
        "inside": quantiles_ms(taken["total"][right] / 1000, at),
        "recorded": list(recorded_ms),
    }


def unmet(acts: Mapping[str, Mapping[str, Any]], by_row: Mapping[str, Sequence[float]], timed: int) -> list[str]:
    """What must be and is not, in words."""
    words = []
    for name, act in acts.items():
        bad = [f"{act[kind]} {kind}" for kind in ("lost", "crossed", "failed") if act[kind]]
        if bad:
            words.append(f"{name}: {', '.join(bad)} of {act['sent']}: {'; '.join(act['reasons'][:3])}")
    for (name, share), inside, recorded in zip(SHARES.items(), by_row["inside"], by_row["recorded"], strict=True):
        if carried(timed, share) and recorded < FINE_MS and not abs(recorded / inside - 1) <= MOST_OFF:
            off = f"{recorded:.2f} ms is recorded, {inside:.2f} ms was seen"
            words.append(f"{name}: {off}: {recorded / inside:.3f}, at most {MOST_OFF:.0%} off is allowed")
    return words


def notes(acts: Mapping[str, Mapping[str, Any]], by_row: Mapping[str, Sequence[float]], timed: int) -> list[str]:
    """What the figures do without."""
    told = [
        f"{name} is not judged: {timed} requests, it takes {needed(share)}"
        for name, share in SHARES.items()
        if not carried(timed, share)
    ]
    told += [
        f"{name} is not judged: {recorded:.0f} ms; buckets are fine below {FINE_MS:.0f} ms"
        for name, recorded in zip(SHARES, by_row["recorded"], strict=True)
        if recorded >= FINE_MS
    ]
    for name, act in acts.items():
        if act["late_share"] > MOST_LATE:
            told.append(
                f"{name}: {act['late_share']:.1%} of the sends left late: the machine is busy, times mean little"
            )
        if act["runs"] > 1:
            told.append(f"{name} took {act['runs']} runs of load, with a moment without between: --act-s makes it one")
    return told


async def see(sizes: Sizes, store: Cluster, folder: Path, cpus: set[int]) -> tuple[Course, float]:
    """The acts, and how far apart the scores of two users are at least. Raises NoRun."""
    rng = plan.generator(1, "instances")
    async with AsyncExitStack() as stack:
        fleet = Fleet(store, folder, cpus, sizes.drain_s, stack)
        await fleet.start()
        items = await fleet.items()
        users = made_up_users(sizes.users, items, time.time_ns() // 1_000_000, rng)
        load_users([orjson.dumps(user) for user in users], store.url, keep=KEEP, ttl_s=TTL_S)
        alike = [{"user_id": user["user_id"], "candidates": items[: sizes.candidates]} for user in users]
        apart = told_apart(await known(fleet.clients[:1], alike))
        if apart < 10 * TOLERANCE:
            raise NoRun(f"two users' scores are {apart:g} apart: a crossed answer would not show")
        bodies = await known(fleet.clients, draw(users, items, sizes.candidates, sizes.bodies, rng))
        front = stack.enter_context(balancer(fleet.ports, cpus))
        watching = stack.enter_context(prometheus([f"127.0.0.1:{port}" for port in fleet.admin_ports], cpus))
        await asyncio.sleep(SEES_S)
        course = Course(sizes, fleet, Load(address(front), bodies, rng), bodies, watching)
        await course.run()
        return course, apart


def measure(sizes: Sizes) -> Measured:
    """Raises NoRun."""
    if sizes.steady_s > MOST_STEADY_S:
        raise NoRun(f"--steady-s {sizes.steady_s}; at most {MOST_STEADY_S}: what is recorded looks five minutes back")
    allow_connections()
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        raise NoRun(f"{len(cores)} core; two are needed, one for the services and one for their load")
    cpus = set(cores[1:])
    with on({cores[0]}), TemporaryDirectory() as folder, cluster(cpus) as store:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            course, apart = runner.run(see(sizes, store, Path(folder), cpus))
    acts = {name: counted(logs) for name, logs in course.acts.items()}
    [steady] = course.acts["steady"]
    timed, by_row = int(steady.right.sum()), quantiles(steady, course.recorded_ms)
    over = [recorded / inside for recorded, inside in zip(by_row["recorded"], by_row["inside"], strict=True)]
    wrong, told = unmet(acts, by_row, timed), notes(acts, by_row, timed)
    figures: dict[str, Any] = {name: sum(act[name] for act in acts.values()) for name in COUNTS}
    figures |= course.times_s | {f"recorded_over_inside_{name}": one for name, one in zip(SHARES, over, strict=True)}
    figures |= {
        f"{row}_{name}_ms": ms for row, all_ms in by_row.items() for name, ms in zip(SHARES, all_ms, strict=True)
    }
    figures |= {"late_share": acts["steady"]["late_share"], "told_apart": apart, "processes": sizes.processes}
    figures |= {"acts": acts, "unmet": wrong, "note": "; ".join(told) or None}
    return Measured(figures, "\n".join([*_tables(acts, by_row, over), *_seconds(course.times_s), *told]))


def _tables(acts: Mapping[str, Mapping[str, Any]], by_row: Mapping[str, list[float]], over: list[float]) -> list[str]:
    head = [*COUNTS, "p50 ms", "p99 ms", "sent late"]
    rows = {
        name: [*(act[key] for key in (*COUNTS, "p50_ms", "p99_ms")), f"{act['late_share']:.1%}"]
        for name, act in acts.items()
    }
    steady = {ROWS[row]: ms for row, ms in by_row.items()} | {"recorded over less the way": over}
    return [table("act", head, rows), table("steady, milliseconds", list(SHARES), steady)]


def _seconds(times_s: Mapping[str, float]) -> list[str]:
    words = {
        "taken_over_s": "from a primary's SIGKILL until its replica had taken over",
        "recovered_s": "from it until both instances had all users' histories again",
        "bundle_live_s": "from service.publish's start until both instances answered with the bundle",
        "catalog_live_s": "from model.catalog's start until both instances had the catalogue",
        "renewed_s": "to stop and start both instances, one after the other",
    }
    return [f"{times_s[name]:.1f} s {what}" for name, what in words.items()]


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("instances", __doc__, Sizes(), QUICK, plots=False)
    add = command.parser.add_argument
    add("--rate", type=positive, help="requests per second (default 60)")
    add("--processes", type=positive, help="that generate (default 2)")
    add("--steady-s", type=positive, help=f"of the steady act, at most {MOST_STEADY_S} (default 80)")
    add("--act-s", type=positive, help="of load beside each other act, at least (default 40)")
    return command.run(arguments, lambda args, sizes: measure(sizes))


if __name__ == "__main__":
    run_command(main, "instances")
