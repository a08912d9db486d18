"""What an experiment costs a request: p50 of POST /rank with two variants over one model, in turns.

    python -m loadtest.experiments [--rounds N] [--starts N] [--rate 50] [--capacity RATE] [--quick]

Two services on the demo bundle, each with a store of its own, are asked the same requests at a moderate rate, as
loadtest/steady.py does it. One has no experiments.toml; the other's gives half of the users a copy of that bundle, so
graph, weights and files are another model's. Neither journals. The bound is 1.03.

With --capacity (requests per second of 500 candidates, as loadtest/overload.py finds it) p99 with a shadow over p99
without is measured too, at 30 % of it, in an open loop; times count from when a request was due. It takes as many
rounds in all, but of one start, as a p99 needs many. Both services journal and have the two variants; one also scores
the bundle as a shadow, for all users. The bound is 1.1. The last line is JSON.
"""

import asyncio
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from loadtest import steady
from loadtest.bench.command import Command, Measured, positive
from loadtest.bench.turns import take_turns
from loadtest.errors import NoRun
from loadtest.generator.client import Client, parse_url
from loadtest.quantiles import carried
from loadtest.steady import Side, add_sizes, compared, reached, response_times
from loadtest.table import table
from model.command import run as run_command
from service.settings import DEMO_BUNDLE

ONE, TWO = "one", "two"  # variants
WITHOUT, WITH = "without", "with"
LOAD = 0.3  # of the capacity
CANDIDATES = 500  # of a request of that
PATIENCE_S = 30.0  # for a shadow's first scores
PAUSE_S = 0.3  # between two turns: a shadow is done with the turn before
RESAMPLES = 2_000
HALF = """\
salt = "loadtest"
start = 2026-01-01T00:00:00Z
[[variants]]
name = "half"
share = 0.5
[[variants]]
name = "other-half"
share = 0.5
bundle = "{bundle}"
"""
SHADOW = """\
[[shadows]]
name = "shadow"
share = 1.0
bundle = "{bundle}"
"""


@dataclass(frozen=True)
class Sizes(steady.Sizes):
    rounds: int = 32  # of each start
    capacity: int = 0  # requests per second; 0: shadows are not measured


QUICK = Sizes(**vars(steady.QUICK))


def written(folder: Path, name: str, text: str) -> Path:
    """The file, and beside it the bundle that it names."""
    bundle, path = folder / "bundle", folder / name
    if not bundle.exists():
        shutil.copytree(DEMO_BUNDLE, bundle)
    path.write_text(text.format(bundle=bundle))
    return path


def variants(folder: Path, sizes: Sizes) -> Measured:
    """p50 of two variants over one model. Raises NoRun, also where a variant showed nothing."""
    file = written(folder, "experiments.toml", HALF)

    def look(runner: asyncio.Runner, sides: Mapping[str, Side]) -> None:
        told = orjson.loads(runner.run(asked(sides[TWO], "/experiments")))
        idle = [one["name"] for one in told["experiment"]["variants"] if not one["impressions"]]
        if idle:
            raise NoRun(f"variants that showed nothing: {', '.join(idle)}")

    times_ms = response_times({ONE: {}, TWO: {"experiments": file}}, sizes, look)
    return compared(times_ms, ONE, TWO)


async def asked(side: Side, path: str) -> bytes:
    client = Client(parse_url(side.url))
    try:
        await client.reach()
        return (await client.get(path)).content
    finally:
        await client.close()


def shadows(folder: Path, sizes: Sizes) -> tuple[dict[str, Any], str]:
    """p99 with a shadow over p99 without: figures, and a table. Raises NoRun, also where the shadow scored nothing."""
    rate = max(1, round(LOAD * sizes.capacity))
    services: dict[str, dict[str, Any]] = {}
    for name, text in ((WITHOUT, HALF), (WITH, HALF + SHADOW)):
        file = written(folder, f"{name}.toml", text)
        services[name] = {"experiments": file, "journal": folder / f"journal-{name}"}
    with reached(services) as (runner, sides):
        for side in sides.values():
            runner.run(side.turn(CANDIDATES, rate, sizes.warm_s))
        works = {name: partial(_turn, runner, side, rate, sizes) for name, side in sides.items()}
        rounds = take_turns(f"/rank at {rate} requests/s", sizes.starts * sizes.rounds, works)
        scored = runner.run(scored_by_shadow(sides[WITH]))
    if not scored:
        raise NoRun("the shadow has scored nothing")
    p99_ms = {name: p99(of) for name, of in rounds.items()}
    ratio = p99_ms[WITH] / p99_ms[WITHOUT]
    low, high = interval(rounds[WITH], rounds[WITHOUT])
    requests = min(sum(map(len, of)) for of in rounds.values())
    figures = {"shadow_p99_ratio": ratio, "shadow_p99_ratio_low": low, "shadow_p99_ratio_high": high}
    figures |= {f"shadow_{name}_p99_ms": ms for name, ms in p99_ms.items()}
    figures |= {
        "shadow_rate": rate,
        "shadow_requests": requests,
        "shadow_scored": scored,
        "shadow_p99_carried": carried(requests, 0.99),
    }
    head = ("without, ms", "with, ms", "ratio", "low", "high")
    row = {f"{CANDIDATES} candidates": [p99_ms[WITHOUT], p99_ms[WITH], ratio, low, high]}
    return figures, table(f"p99, shadow, {rate} requests/s", head, row)


async def scored_by_shadow(side: Side) -> int:
    """Requests so far; waits for the first, a while."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        found = re.search(rb"^ranker_shadow_requests_total{.*} ([0-9.]+)$", await asked(side, "/metrics"), re.MULTILINE)
        if found and float(found[1]):
            return int(float(found[1]))
        await asyncio.sleep(0.2)
    return 0


def _turn(runner: asyncio.Runner, side: Side, rate: int, sizes: Sizes) -> list[float]:
    time.sleep(PAUSE_S)
    return runner.run(side.turn(CANDIDATES, rate, sizes.turn_s, from_due=True))


def p99(rounds: Sequence[Sequence[float]]) -> float:
    """Of all rounds together: one of them carries no p99."""
    return float(np.quantile(np.concatenate(rounds), 0.99, method="inverted_cdf"))


def interval(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The 95 % interval of the ratio, by a bootstrap over the rounds."""
    drawn = np.random.default_rng(0).integers(len(one), size=(RESAMPLES, len(one)))
    ratios = [p99([one[at] for at in ats]) / p99([other[at] for at in ats]) for ats in drawn]
    low, high = np.quantile(ratios, (0.025, 0.975))
    return float(low), float(high)


def measure(sizes: Sizes) -> Measured:
    """Raises NoRun."""
    with tempfile.TemporaryDirectory() as folder:
        measured = variants(Path(folder), sizes)
        if not sizes.capacity:
            return measured
        figures, lines = shadows(Path(folder), sizes)
    return Measured(measured.figures | figures, f"{measured.table}\n{lines}", measured.figure)


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("experiments", __doc__, Sizes(), QUICK)
    add_sizes(command)
    command.parser.add_argument(
        "--capacity", type=positive, metavar="RATE", help="of the service, at 500 candidates: measures a shadow too"
    )
    return command.run(arguments, lambda args, sizes: measure(sizes))


if __name__ == "__main__":
    run_command(main, "experiments")
