"""Does anybody notice a release? Rolling restarts under load: on one host, and of two instances behind a balancer.

    python -m loadtest.restarts [--restarts N] [--rate 100] [--workers 2] [--quick]

- handover: a successor takes the listening socket over by RANKER_HANDOVER, while the service before it drains and ends
- balancer: HAProxy asks /health/ready of two instances; each in turn gets SIGTERM, drains, ends, and is started anew

Callers come in an open loop (Poisson) and on the demo bundle: half of the rate on connections kept, half on a new one
for each request. A request fails that gets no 200: refused, reset, unanswered, or any other status. p99 counts from
when a request was due, of what is asked during restarts and of all else. Services have all cores but the one of the
load. Without haproxy, failed_balancer is null. The last line is JSON.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loadtest.bench.command import Command, Measured, positive
from loadtest.bench.processes import free_port, on
from loadtest.errors import NoRun
from loadtest.generator import plan
from loadtest.generator.budgets import Budget
from loadtest.generator.client import Client
from loadtest.generator.plan import Body
from loadtest.generator.send import new_loop
from loadtest.generator.target import Target
from loadtest.machine import allow_connections
from loadtest.rolling.balancer import SEES_S, balancer, installed
from loadtest.rolling.instances import Instance
from loadtest.rolling.stream import Anew, Stream, address, summary
from loadtest.table import table
from model.command import run as run_command

CANDIDATES, BODIES = 100, 500
KEPT, NEW = "kept", "new"  # connections


@dataclass(frozen=True)
class Sizes:
    restarts: int = 5  # of each instance
    rate: int = 100  # requests per second
    workers: int = 2
    steady_s: float = 10.0  # before each restart, and after the last
    drain_s: float = 5.0


QUICK = Sizes(restarts=1, rate=40, workers=1, steady_s=1.0, drain_s=1.0)
Spans = list[tuple[float, float]]


class Course:
    """One way of restarting, under both kinds of callers."""

    def __init__(self, sizes: Sizes, cpus: set[int], stack: AsyncExitStack):
        self._sizes, self._cpus, self._stack = sizes, cpus, stack
        self.spans: Spans = []
        self._streams: dict[str, Stream] = {}

    async def start(self, port: int, **settings: object) -> Instance:
        own = {"workers": self._sizes.workers, "drain_s": self._sizes.drain_s, "timeout_ms": 10_000}
        own |= {"history_timeout_ms": 1_000, "shutdown_grace_s": int(self._sizes.drain_s) + 10}
        instance = await Instance.start(port, self._cpus, own | settings)
        self._stack.push_async_callback(instance.kill)
        return instance

    async def under_load(self, port: int, restarts: Callable[[], Awaitable[None]]) -> dict[str, Any]:
        """What callers at this port met. Raises NoRun."""
        rng, bodies = plan.generator(1, "restarts"), await _bodies(port)
        for name, kind in ((KEPT, Client), (NEW, Anew)):
            client = kind(address(port))
            self._stack.push_async_callback(client.close)
            self._streams[name] = Stream(client, self._sizes.rate / 2, bodies, rng)
        running = [asyncio.create_task(stream.run()) for stream in self._streams.values()]
        try:
            for _ in range(self._sizes.restarts):
                await asyncio.sleep(self._sizes.steady_s)
                await restarts()
            await asyncio.sleep(self._sizes.steady_s)
        finally:
            for stream in self._streams.values():
                stream.end()
            await asyncio.gather(*running)
        return {name: summary(stream.heard, self.spans) for name, stream in self._streams.items()}


async def handover(sizes: Sizes, cpus: set[int]) -> dict[str, Any]:
    """Raises NoRun."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        course, port = Course(sizes, cpus, stack), free_port()
        named = {"handover": Path(folder) / "handover.sock"}
        serving = await course.start(port, **named)
        await serving.ready()
        clock = asyncio.get_running_loop().time

        async def restart() -> None:
            nonlocal serving
            begun, before = clock(), serving
            serving = await course.start(port, **named)
            await before.ended()  # it ends when its successor answers, and not before
            course.spans.append((begun, clock()))

        return await course.under_load(port, restart)


async def behind_a_balancer(sizes: Sizes, cpus: set[int]) -> dict[str, Any]:
    """Raises NoRun."""
    async with AsyncExitStack() as stack:
        course, ports = Course(sizes, cpus, stack), [free_port(), free_port()]
        instances = [await course.start(port) for port in ports]
        for instance in instances:
            await instance.ready()
        front = stack.enter_context(balancer(ports, cpus))
        await asyncio.sleep(SEES_S)
        clock = asyncio.get_running_loop().time

        async def restart() -> None:
            begun = clock()
            for number, port in enumerate(ports):
                instances[number].terminate()
                await instances[number].ended()
                instances[number] = await course.start(port)
                await instances[number].ready()
                await asyncio.sleep(SEES_S)
            course.spans.append((begun, clock()))

        return await course.under_load(front, restart)


async def _bodies(port: int) -> Sequence[Body]:
    budget = Budget("restarts", 1, 1, CANDIDATES, p50_ms=1e3, p99_ms=1e3, errors=0, warmup_s=0)
    target = Target(address(port), None)
    try:
        await target.reach([])
        return target.bodies(budget, BODIES, plan.generator(1, "restarts"))
    finally:
        await target.close()


def measure(sizes: Sizes) -> Measured:
    """Raises NoRun."""
    allow_connections()
    cores = sorted(_cores())
    if len(cores) < 2:
        raise NoRun(f"{len(cores)} core; two are needed, one for the services and one for their load")
    note = None if installed() else "haproxy is not installed (Debian: apt install haproxy): nothing behind a balancer"
    with on({cores[0]}), asyncio.Runner(loop_factory=new_loop) as runner:
        seen = {"handover": runner.run(handover(sizes, set(cores[1:])))}
        if note is None:
            seen["balancer"] = runner.run(behind_a_balancer(sizes, set(cores[1:])))
    rows = {f"{way}, {kind}": list(of.values()) for way, kinds in seen.items() for kind, of in kinds.items()}
    head = [name.replace("_", " ") for name in next(iter(seen["handover"].values()))]
    shown = {name: [str(cell) if isinstance(cell, dict) else cell for cell in row] for name, row in rows.items()}
    figures = {
        "failed_handover": _sum(seen["handover"], "failed"),
        "failed_balancer": _sum(seen["balancer"], "failed") if "balancer" in seen else None,
        "sent": sum(_sum(kinds, "sent") for kinds in seen.values()),
        "restarts": sizes.restarts,
        **seen,
        "note": note,
    }
    return Measured(figures, "\n".join(filter(None, [table("callers", head, shown), note])))


def _sum(kinds: dict[str, dict[str, Any]], name: str) -> int:
    return sum(of[name] for of in kinds.values())


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("restarts", __doc__, Sizes(), QUICK, plots=False)
    add = command.parser.add_argument
    add("--restarts", type=positive, help="of each instance (default 5)")
    add("--rate", type=positive, help="requests per second (default 100)")
    add("--workers", type=positive, help="of each instance (default 2)")
    return command.run(arguments, lambda args, sizes: measure(sizes))


if __name__ == "__main__":
    run_command(main, "restarts")
