"""Is what /metrics says what callers see? Its quantiles beside the load test's own, in the same run.

    python -m loadtest.ruler [--workers 4] [--rate 200] [--seconds 60] [--candidates 20] [--quick]

Steady: a service of its own on the demo bundle is under Poisson load for as long as its window lasts, and is then asked
for /metrics once. What the load test measures includes the way there and back, which no service can see of itself: each
request's way is its time from send to answer less the total in its Server-Timing. A check shows that this is the
loopback and not a total that is too small: PROBES times per second the same client asks for /health/live, where next to
nothing is computed.

At twice the capacity: one worker on one core is asked for 500 candidates from another core, twice as often as
it answered to callers who wait for it. Of accepted requests, /metrics stands beside the times from send to answer that
the client took by itself. The last line is JSON.
"""

import asyncio
import itertools
import math
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import orjson

from loadtest.bench.command import Command, Measured, positive
from loadtest.bench.plot import plot
from loadtest.bench.processes import Service, bare_environment, on, service, two_cores
from loadtest.errors import NoRun, OneCore
from loadtest.generator import plan
from loadtest.generator.answers import Kind, Log, stages_ms
from loadtest.generator.budgets import Budget
from loadtest.generator.client import Answer, Client, parse_url
from loadtest.generator.plan import Body
from loadtest.generator.replay import Seconds
from loadtest.generator.send import new_loop
from loadtest.generator.target import Target
from loadtest.machine import allow_connections
from loadtest.surge.scrape import RESPONSE_TIME, quantiles_s, scrape
from loadtest.surge.traffic import POOL, Mix, Segment, Traffic
from loadtest.table import table
from loadtest.verdict.report import MOST_LATE, late_share, quantiles_ms, taken_ms
from model.command import run as run_command

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
PROBES = 20.0  # per second
ROWS = {
    "send": "load test, from send",
    "network": "  of it there and back",
    "probe": "  GET /health/live, likewise",
    "inside": "load test, less the way",
    "metrics": "/metrics",
}
CROWDED, TOP = 500, 20  # candidates at twice the capacity, and how many of them are answered
CLIENTS = 4  # that wait for their answers, for the capacity


@dataclass(frozen=True)
class Sizes:
    workers: int = 4
    rate: int = 200
    seconds: int = 60  # the window's length: all that it holds is measured
    candidates: int = 20
    warmup_s: float = 6  # more than the window may reach back beyond its 60 s
    capacity_s: float = 5  # for which the capacity is looked at


QUICK = Sizes(workers=2, rate=40, seconds=2, warmup_s=0, capacity_s=0.5)


class Seen(NamedTuple):
    """One run: the load test's log, the probes' ways, and /metrics' quantiles in seconds, by share."""

    log: Log
    probes_s: Seconds
    metrics_s: dict[float, float]


def scraped_s(text: str) -> dict[float, float]:
    """The quantiles of right answers to POST /rank in a scrape. Raises NoRun where it has none."""
    quantiles = quantiles_s(text, {"route": "/rank", "stage": "total", "outcome": "ok"})
    if not quantiles:
        raise NoRun(f"/metrics has no {RESPONSE_TIME} of POST /rank")
    return quantiles


async def see(url: str, budget: Budget) -> Seen:
    """Raises NoRun."""
    address = parse_url(url)
    target, client = Target(address, None), Client(address)
    try:
        await target.reach([budget])
        await client.reach()
        probing = asyncio.create_task(_probe(client, budget.warmup_s))
        log = await target.run(budget, plan.generator(1, budget.scenario))
        scrape = await client.get("/metrics")
        probing.cancel()
        return Seen(log, np.array(await probing), scraped_s(scrape.content.decode()))
    finally:
        await target.close()
        await client.close()


async def _probe(client: Client, after_s: float) -> list[float]:
    """Seconds there and back of each GET /health/live, until it is cancelled."""
    ways_s: list[float] = []
    message = client.message("GET", "/health/live")

    def answered(begun: float, answer: Answer) -> None:
        ways_s.append(answer.at - begun - stages_ms(None, answer.server_timing).get("total", math.nan) / 1000)

    with suppress(asyncio.CancelledError):
        await asyncio.sleep(after_s)
        while True:
            client.send(message, partial(answered, client.clock()))
            await asyncio.sleep(1 / PROBES)
    return ways_s


def quantiles(seen: Seen, budget: Budget) -> dict[str, list[float]]:
    """By row of the table, milliseconds at SHARES. Raises NoRun where the run is no good."""
    log, measured, at = seen.log, seen.log.due_s >= budget.warmup_s, list(SHARES.values())
    if wrong := [fault for fault in log.faults() if fault]:
        raise NoRun(f"{len(wrong)} of {len(log.due_s)} requests went wrong: {wrong[0]}")
    taken = taken_ms(log)
    if "network" not in taken or np.isnan([*taken["network"], *seen.probes_s]).any() or not len(seen.probes_s):
        raise NoRun("answers without a Server-Timing, or none to /health/live")
    return {
        "send": quantiles_ms((log.answered_s - log.sent_s)[measured], at),
        "network": quantiles_ms(taken["network"][measured] / 1000, at),
        "probe": quantiles_ms(seen.probes_s, at),
        "inside": quantiles_ms(taken["total"][measured] / 1000, at),
        "metrics": [seen.metrics_s[share] * 1000 for share in at],
    }


def steady(sizes: Sizes) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """The steady point's figures, and the rows of its table. Raises NoRun."""
    budget = Budget(
        "ruler", sizes.rate, sizes.seconds, sizes.candidates, p50_ms=1e3, p99_ms=1e3, errors=0, warmup_s=sizes.warmup_s
    )
    with service(workers=sizes.workers) as running, asyncio.Runner(loop_factory=new_loop) as runner:
        seen = runner.run(see(running.url, budget))
    by_row = quantiles(seen, budget)
    over = [metrics / inside for metrics, inside in zip(by_row["metrics"], by_row["inside"], strict=True)]
    figures: dict[str, Any] = {
        "late_share": late_share(seen.log.due_s, seen.log.sent_s, by_row["send"][-1]),
        "requests": int((seen.log.due_s >= budget.warmup_s).sum()),
        "probes": len(seen.probes_s),
    }
    for at, name in enumerate(SHARES):
        figures |= {f"{row}_{name}_ms": ms[at] for row, ms in by_row.items()} | {
            f"metrics_over_inside_{name}": over[at]
        }
    rows = {title: by_row[row] for row, title in ROWS.items()}
    return figures, rows | {"/metrics over it": over}


class Crowd(NamedTuple):
    """The run at twice the capacity: answers per second to callers who wait, the log, and /metrics' quantiles."""

    capacity: float
    log: Log
    metrics_s: dict[float, float]


async def answers_per_s(client: Client, bodies: Sequence[Body], seconds: float) -> float:
    """Right statuses that CLIENTS get who ask again as soon as they are answered. Raises NoRun."""
    asked, answered, begun = itertools.cycle(bodies), 0, client.clock()

    async def ask() -> None:
        nonlocal answered
        while client.clock() < begun + seconds:
            answer = await client.ask("POST", "/rank", next(asked).content)
            answered += answer.status == 200

    await asyncio.gather(*(ask() for _ in range(CLIENTS)))
    if not answered:
        raise NoRun(f"POST /rank gave {CLIENTS} clients no answer in {seconds:g} s")
    return answered / (client.clock() - begun)


async def crowd(running: Service, sizes: Sizes) -> Crowd:
    """Raises NoRun."""
    address = parse_url(running.url)
    target, client, rng = Target(address, None), Client(address), plan.generator(2, "ruler")
    try:
        budget = Budget("ruler", 1, sizes.seconds, CROWDED, p50_ms=1e3, p99_ms=1e3, errors=0)
        await target.reach([budget])
        whole = [orjson.loads(body.content) for body in target.bodies(budget, POOL, rng)]
        bodies = [Body(orjson.dumps(one | {"top_k": TOP}), TOP) for one in whole]  # small answers can all be kept
        await answers_per_s(client, bodies, sizes.capacity_s / 5)  # warm
        capacity = await answers_per_s(client, bodies, sizes.capacity_s)
        segments = [Segment(sizes.warmup_s + sizes.seconds, 2 * capacity)]
        sent = await Traffic(address, bodies, [], rng).send(segments, Mix(), "2 x capacity")
        scraped = await scrape(client)  # before the answers are checked: the window moves on
        sent.finish()
        return Crowd(capacity, sent.singles, scraped_s(scraped))
    finally:
        await target.close()
        await client.close()


def overloaded(sizes: Sizes) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """The figures at twice the capacity, and the rows of their table. Raises NoRun."""
    cpus, own_cpus = two_cores()
    allow_connections()
    with ExitStack() as stack:
        running = stack.enter_context(service(bare_environment(), cpus, workers=1))
        stack.enter_context(on(own_cpus))
        runner = stack.enter_context(asyncio.Runner(loop_factory=new_loop))
        capacity, log, metrics_s = runner.run(crowd(running, sizes))
    measured = log.due_s >= sizes.warmup_s
    accepted = measured & log.of(Kind.RIGHT)  # as outcome="ok" counts them
    if not accepted.any():
        raise NoRun(f"no right answer at twice the capacity: {next(filter(None, log.faults()))}")
    raw = quantiles_ms((log.answered_s - log.sent_s)[accepted], list(SHARES.values()))
    told = [metrics_s[share] * 1000 for share in SHARES.values()]
    over = [ms / by_client for ms, by_client in zip(told, raw, strict=True)]
    late = late_share(log.due_s[measured], log.sent_s[measured], raw[-1])
    figures: dict[str, Any] = {"capacity": capacity, "accepted_2x": int(accepted.sum()), "late_share_2x": late}
    for kind in (Kind.REFUSED, Kind.LATE, Kind.WRONG, Kind.FAILED, Kind.UNANSWERED):
        figures[f"{kind.name.lower()}_2x"] = int((measured & log.of(kind)).sum())
    for at, name in enumerate(SHARES):
        figures |= {f"raw_2x_{name}_ms": raw[at], f"metrics_2x_{name}_ms": told[at]}
        figures |= {f"metrics_over_raw_2x_{name}": over[at]}
    if late > MOST_LATE:
        figures["note"] = f"no good: {late:.1%} of the sends at twice the capacity left late; give the client a core"
    return figures, {"2 x capacity, accepted, from send": raw, "  /metrics": told, "  /metrics over it": over}


def measure(sizes: Sizes) -> Measured:
    """Raises NoRun."""
    figures, rows = steady(sizes)
    try:
        of_crowd, crowded = overloaded(sizes)
    except OneCore as error:
        of_crowd, crowded = {"note": f"no point at twice the capacity: {error}"}, {}
    bars = {
        title: {name.strip(): dict(zip(SHARES, ms, strict=True)) for name, ms in of.items() if "over it" not in name}
        for title, of in (("Steady: as callers and the service see it, ms", rows), ("Twice the capacity, ms", crowded))
        if of
    }
    lines = [table("milliseconds", list(SHARES), rows | crowded), *filter(None, [of_crowd.get("note")])]
    return Measured(figures | of_crowd, "\n".join(lines), plot(bars, "share of the requests"))


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("ruler", __doc__, Sizes(), QUICK)
    for name, what in (("workers", "of the service"), ("rate", "requests per second"), ("candidates", "a request")):
        command.parser.add_argument(f"--{name}", type=positive, help=what)
    command.parser.add_argument("--seconds", type=positive, help="measured; the window of /metrics is 60 long")
    return command.run(arguments, lambda _, sizes: measure(sizes))


if __name__ == "__main__":
    run_command(main, "ruler")
