"""Is what /metrics says what callers see? Its quantiles beside the load test's own, in the same run.

    python -m loadtest.ruler [--workers 4] [--rate 200] [--seconds 60] [--candidates 20] [--quick]

A service of its own on the demo bundle is under Poisson load for as long as its window lasts, and is then asked for
/metrics once. What the load test measures includes the way there and back, which no service can see of itself: each
request's way is its time from send to answer less the total in its Server-Timing. Whether that is the loopback and not,
say, a total told too small, is seen beside it: PROBES times a second the same client asks for /health/live, where next
to nothing is computed. The last line is JSON.
"""

import asyncio
import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from prometheus_client.parser import text_string_to_metric_families

from loadtest.bench.command import command, new_parser, parse, positive
from loadtest.bench.started import started
from loadtest.errors import NoRun
from loadtest.generator import plan
from loadtest.generator.answers import Log, stages_ms
from loadtest.generator.budgets import Budget
from loadtest.generator.client import Answer, Client, parse_url
from loadtest.generator.send import new_loop
from loadtest.generator.target import Service
from loadtest.verdict.report import Seconds, late_share, quantiles_ms, taken_ms

SHARES = (0.5, 0.9, 0.99)
PROBES = 20.0  # a second
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


def told(text: str) -> dict[float, float]:
    """The quantiles of right answers to POST /rank in a scrape, in seconds."""
    wanted = {"route": "/rank", "stage": "total", "outcome": "ok"}
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == METRIC and "quantile" in sample.labels and wanted.items() <= sample.labels.items():
                found[float(sample.labels["quantile"])] = sample.value
    if not found:
        raise NoRun(f"/metrics has no {METRIC} of POST /rank")
    return found


async def see(url: str, budget: Budget) -> Seen:
    """Raises NoRun."""
    target = parse_url(url)
    service, client = Service(target, None), Client(target)
    try:
        await service.reach([budget])
        await client.reach()
        probing = asyncio.create_task(_probe(client, budget.warmup_s))
        log = await service.run(budget, plan.generator(1, budget.scenario))
        scrape = await client.get("/metrics")
        probing.cancel()
        return Seen(log, np.array(await probing), told(scrape.content.decode()))
    finally:
        await service.close()
        await client.close()


async def _probe(client: Client, after_s: float) -> list[float]:
    """Seconds there and back of each GET /health/live, until it is cancelled."""
    taken: list[float] = []
    message = client.message("GET", "/health/live")

    def answered(begun: float, answer: Answer) -> None:
        taken.append(answer.at - begun - stages_ms(None, answer.server_timing).get("total", math.nan) / 1000)

    with suppress(asyncio.CancelledError):
        await asyncio.sleep(after_s)
        while True:
            client.send(message, partial(answered, client.clock()))
            await asyncio.sleep(1 / PROBES)
    return taken


def quantiles(seen: Seen, budget: Budget) -> dict[str, list[float]]:
    """By row of the table, milliseconds at SHARES. Raises NoRun where the run is no good."""
    log, measured = seen.log, seen.log.due_s >= budget.warmup_s
    if wrong := [fault for fault in log.faults() if fault]:
        raise NoRun(f"{len(wrong)} of {len(log.due_s)} requests went wrong: {wrong[0]}")
    taken = taken_ms(log)
    if "network" not in taken or np.isnan([*taken["network"], *seen.probes_s]).any() or not len(seen.probes_s):
        raise NoRun("answers without a Server-Timing, or none to /health/live")
    return {
        "send": quantiles_ms((log.answered_s - log.sent_s)[measured], SHARES),
        "network": quantiles_ms(taken["network"][measured] / 1000, SHARES),
        "probe": quantiles_ms(seen.probes_s, SHARES),
        "inside": quantiles_ms(taken["total"][measured] / 1000, SHARES),
        "metrics": [seen.metrics_s[share] * 1000 for share in SHARES],
    }


def measure(sizes: Sizes) -> tuple[dict[str, Any], str, Figure]:
    budget = Budget(
        "ruler", sizes.rate, sizes.seconds, sizes.candidates, p50_ms=1e3, p99_ms=1e3, errors=0, warmup_s=sizes.warmup_s
    )
    settings = {"workers": sizes.workers, "history_timeout_ms": 1_000}  # on a busy machine no answer is degraded
    with started(**settings) as url, asyncio.Runner(loop_factory=new_loop) as runner:
        seen = runner.run(see(url, budget))
    found = quantiles(seen, budget)
    over = [told / inside for told, inside in zip(found["metrics"], found["inside"], strict=True)]
    log = seen.log
    figures: dict[str, Any] = {
        "late_share": late_share(log.due_s, log.sent_s, found["send"][-1]),
        "requests": int((log.due_s >= budget.warmup_s).sum()),
        "probes": len(seen.probes_s),
    }
    for at, share in enumerate(SHARES):
        name = f"p{share * 100:g}"
        figures |= {f"{row}_{name}_ms": ms[at] for row, ms in found.items()} | {f"metrics_over_inside_{name}": over[at]}
    return figures, table(found, over), plot(found)


def table(found: dict[str, list[float]], over: Sequence[float]) -> str:
    """For people."""
    lines = [f"{'milliseconds':<26}" + "".join(f"{f'p{share * 100:g}':>9}" for share in SHARES)]
    lines += [f"{said:<26}" + "".join(f"{ms:>9.2f}" for ms in found[row]) for row, said in ROWS.items()]
    return "\n".join([*lines, f"{'/metrics over it':<26}" + "".join(f"{ratio:>9.3f}" for ratio in over)])


def plot(found: dict[str, list[float]]) -> Figure:
    figure = Figure((7, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(ROWS)
    for number, (row, said) in enumerate(ROWS.items()):
        places = np.arange(len(SHARES)) + (number - (len(ROWS) - 1) / 2) * width
        axes.bar_label(axes.bar(places, found[row], width, label=said.strip()), fmt="%.2f", fontsize=7)
    axes.set_xticks(range(len(SHARES)), [f"p{share * 100:g}" for share in SHARES])
    axes.set(ylabel="milliseconds", title="Response times as callers and as the service see them")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3, axis="y")
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser("ruler", __doc__ or "", sides=False)
    for name, what in (("workers", "of the service"), ("rate", "requests a second"), ("candidates", "a request")):
        parser.add_argument(f"--{name}", type=positive, help=what)
    parser.add_argument("--seconds", type=positive, help="measured; the window of /metrics is 60 long")
    given = parse(parser, arguments)
    sizes = QUICK if given.quick else Sizes()
    asked = {name: getattr(given, name) for name in ("workers", "rate", "candidates", "seconds")}
    sizes = replace(sizes, **{name: value for name, value in asked.items() if value})
    return command("ruler", given.out, lambda: measure(sizes))


if __name__ == "__main__":
    sys.exit(main())
