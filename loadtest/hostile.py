"""A hostile hour: whether slow, huge, half, hung and garbage callers are felt by the others, and what they cost.

    python -m loadtest.hostile [--minutes 60] [--rate N] [--set NAME=VALUE …] [--quick]

A service of its own on the demo bundle has one core; the callers have another. Normal callers ask at a low steady rate,
in an open loop, all the time. Hostile ones (`loadtest/bench/hostile.py`, a process of its own) come in every second
window: quiet and hostile ones take turns, so that what the machine does otherwise falls on both. Memory and descriptors
of the whole service are read at the end of each window.

The last line is JSON: `p99_hostile_over_quiet`, `rss_growth_mb` (end less the first hostile window's), `failed`,
`kinds` (how the connections of each kind ended).
"""

import argparse
import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from loadtest.bench.command import Command, Measured, positive
from loadtest.bench.processes import Service, bare_environment, descriptors, on, output_of, pss, service, two_cores
from loadtest.errors import NoRun
from loadtest.generator.client import Answer, Client, parse_url
from loadtest.overload import setting
from loadtest.quantiles import carried, quantiles_ms, told
from loadtest.table import table
from model.command import run as run_command

CANDIDATES = 100
SHOWN = 3  # failures that are told
LONGER_S = 3.0  # for which hostile callers stay: memory and descriptors are read while they are there


@dataclass(frozen=True)
class Sizes:
    """`minutes`: of the whole run; `window_s`: one quiet or hostile window; `rate`: normal requests per second."""

    minutes: int = 4
    window_s: float = 20.0
    rate: int = 50


@dataclass(frozen=True)
class Quick(Sizes):
    minutes: int = 0
    window_s: float = 4.0


@dataclass
class Seen:
    """Seconds of normal callers' answers, quiet and hostile; memory and descriptors at the end of each window."""

    seconds: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    failures: Counter[str] = field(default_factory=Counter)
    bytes: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    kinds: dict[str, Counter[str]] = field(default_factory=dict)


async def window(client: Client, message: bytes, sizes: Sizes, seconds: list[float], failures: Counter[str]) -> None:
    """Normal callers for one window, in an open loop; times count from the send: hostile callers share our core."""
    loop = asyncio.get_running_loop()
    begun, count = loop.time(), max(1, round(sizes.window_s * sizes.rate))
    left, all_there = count, asyncio.Event()

    def done_for(sent: float) -> Any:
        def done(answer: Answer) -> None:
            nonlocal left
            seconds.append(answer.at - sent)
            if answer.status != 200:
                failures[answer.failure or f"status {answer.status}"] += 1
            left -= 1
            if not left:
                all_there.set()

        return done

    for number in range(count):
        await asyncio.sleep(begun + number / sizes.rate - loop.time())
        client.send(message, done_for(loop.time()))
    async with asyncio.timeout(60):
        await all_there.wait()


async def see(running: Service, sizes: Sizes) -> Seen:
    """Raises NoRun."""
    seen = Seen()
    client = Client(parse_url(running.url))
    await client.reach()
    samples = json.loads((await client.get("/model")).content)["samples"]
    body = {"user_id": samples["user_ids"][0], "candidates": samples["item_ids"][:CANDIDATES]}
    message = client.message("POST", "/rank", json.dumps(body).encode())
    await window(client, message, sizes, [], Counter())  # warm
    rounds = max(1, round(sizes.minutes * 60 / (2 * sizes.window_s)))
    for number in range(2 * rounds):
        hostile = number % 2
        process = await _callers(running.port, sizes.window_s + LONGER_S) if hostile else None
        try:
            await window(client, message, sizes, seen.seconds[hostile], seen.failures)
            seen.bytes.append(pss(running.pid))
            seen.descriptors.append(descriptors(running.pid))
        finally:
            if process is not None:
                await _ended(process, seen)
    await client.close()
    return seen


async def _callers(port: int, seconds: float) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "loadtest.bench.hostile", str(port), str(seconds)]
    return await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)


async def _ended(process: asyncio.subprocess.Process, seen: Seen) -> None:
    async with asyncio.timeout(30):
        output, _ = await output_of(process)
    if process.returncode:
        raise NoRun(f"the hostile callers ended with exit code {process.returncode}")
    for kind, ends in json.loads(output).items():
        seen.kinds.setdefault(kind, Counter()).update(ends)


def figures_of(seen: Seen, sizes: Sizes) -> dict[str, Any]:
    (quiet_p50, quiet_p99), (hostile_p50, hostile_p99) = (quantiles_ms(np.array(one)) for one in seen.seconds)
    mb = [one / 2**20 for one in seen.bytes]
    hostile_mb = mb[1::2]
    hours = [number * 2 * sizes.window_s / 3600 for number in range(len(hostile_mb))]
    return {
        "p99_hostile_over_quiet": hostile_p99 / quiet_p99,
        "rss_growth_mb": hostile_mb[-1] - hostile_mb[0],
        "failed": sum(seen.failures.values()),
        "failures": dict(seen.failures.most_common(SHOWN)),
        "kinds": {kind: dict(ends) for kind, ends in seen.kinds.items()},
        "requests": sum(map(len, seen.seconds)),
        "quiet_p50_ms": quiet_p50,
        "quiet_p99_ms": quiet_p99,
        "hostile_p50_ms": hostile_p50,
        "hostile_p99_ms": hostile_p99,
        "rss_start_mb": mb[0],
        "rss_end_mb": mb[-1],
        "rss_slope_mb_per_hour": float(np.polyfit(hours, hostile_mb, 1)[0]) if len(hours) > 2 else None,
        "descriptors_start": seen.descriptors[0],
        "descriptors_hostile": max(seen.descriptors[1::2]),
        "p99_carried": all(carried(len(one), 0.99) for one in seen.seconds),
    }


def measure(sizes: Sizes, settings: Mapping[str, Any]) -> Measured:
    theirs, ours = two_cores()
    with service(bare_environment(), cpus=theirs, **settings) as running, on(ours):
        seen = asyncio.run(see(running, sizes))
    figures = figures_of(seen, sizes)
    times = {
        name: [figures[f"{name}_p50_ms"], told(figures[f"{name}_p99_ms"], carried(len(seconds), 0.99))]
        for name, seconds in zip(("quiet", "hostile"), seen.seconds, strict=True)
    }
    ends = {
        kind: [sum(ended.values()), ", ".join(f"{end} {count}" for end, count in ended.most_common())]
        for kind, ended in seen.kinds.items()
    }
    plain = {name: [value] for name, value in figures.items() if isinstance(value, int | float)}
    parts = [table("normal callers", ["p50 ms", "p99 ms"], times), table("hostile", ["connections", "ended"], ends)]
    return Measured(figures, "\n".join([*parts, table("figure", ["value"], plain)]))


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("hostile", __doc__, Sizes(), Quick(), plots=False)
    add = command.parser.add_argument
    add("--minutes", type=positive, help="of the whole run (default 4)")
    add("--rate", type=positive, help="normal requests per second (default 50)")
    add("--set", nargs="+", type=setting, default=[], metavar="NAME=VALUE", help="RANKER_NAME of the service")

    def run(args: argparse.Namespace, sizes: Any) -> Measured:
        return measure(sizes, dict(args.set))

    return command.run(arguments, run)


if __name__ == "__main__":
    run_command(main, "hostile")
