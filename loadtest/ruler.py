"""Is what /metrics says what callers see? Its quantiles beside the load test's own, in the same run.

    python -m loadtest.ruler [--workers 4] [--rate 200] [--seconds 60] [--candidates 20] [--quick]

A service of its own on the demo bundle is under Poisson load for as long as its window lasts, and is then asked for
/metrics once. What the load test measures includes the way there and back, which no service can see of itself: each
request's way is its time from send to answer less the total in its Server-Timing. A check shows that this is the
loopback and not a total that is too small: PROBES times per second the same client asks for /health/live, where next to
nothing is computed. The last line is JSON.
"""

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from loadtest.bench.command import Command, Measured, positive
from loadtest.bench.plot import plot
from loadtest.bench.processes import service
from loadtest.errors import NoRun
from loadtest.generator import plan
from loadtest.generator.answers import Log, stages_ms
from loadtest.generator.budgets import Budget
from loadtest.generator.client import Answer, Client, parse_url
from loadtest.generator.replay import Seconds
from loadtest.generator.send import new_loop
from loadtest.generator.target import Target
from loadtest.table import table
from loadtest.verdict.report import late_share, quantiles_ms, taken_ms
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
METRIC = "ranker_response_time_seconds"


@dataclass(frozen=True)
class Sizes:
    workers: int = 4
    rate: int = 200
    seconds: int = 60  # the window's length: all that it holds is measured
    candidates: int = 20
    warmup_s: float = 6  # more than the window may reach back beyond its 60 s


QUICK = Sizes(workers=2, rate=40, seconds=2, warmup_s=0)


class Seen(NamedTuple):
    """One run: the load test's log, the probes' ways, and /metrics' quantiles in seconds, by share."""

    log: Log
    probes_s: Seconds
    metrics_s: dict[float, float]


def scraped_s(text: str) -> dict[float, float]:
    """The quantiles of right answers to POST /rank in a scrape. Raises NoRun where it has none."""
    labels = {"route": "/rank", "stage": "total", "outcome": "ok"}
    quantiles = {
        float(sample.labels["quantile"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == METRIC and "quantile" in sample.labels and labels.items() <= sample.labels.items()
    }
    if not quantiles:
        raise NoRun(f"/metrics has no {METRIC} of POST /rank")
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


def measure(sizes: Sizes) -> Measured:
    """Raises NoRun."""
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
    bars = {title.strip(): dict(zip(SHARES, ms, strict=True)) for title, ms in rows.items()}
    return Measured(
        figures,
        table("milliseconds", list(SHARES), rows | {"/metrics over it": over}),
        plot({"Response times as callers and as the service see them, ms": bars}, "share of the requests"),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("ruler", __doc__, Sizes(), QUICK)
    for name, what in (("workers", "of the service"), ("rate", "requests per second"), ("candidates", "a request")):
        command.parser.add_argument(f"--{name}", type=positive, help=what)
    command.parser.add_argument("--seconds", type=positive, help="measured; the window of /metrics is 60 long")
    return command.run(arguments, lambda _, sizes: measure(sizes))


if __name__ == "__main__":
    run_command(main, "ruler")
