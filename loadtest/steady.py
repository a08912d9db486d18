"""Is the steady state as quick as another checkout's? p50 of POST /rank, the two services taking turns.

    python -m loadtest.steady --before DIR [--after DIR] [--starts N] [--rounds N] [--rate 50] [--quick]

A service from each checkout of this repository (such as a `git worktree`) runs on the demo bundle, with a store of its
own. They are asked the same requests at a moderate rate (Poisson), in turns: A B B A … Where there are two cores, both
services are on one and the load on the other. Both are started anew --starts times, the one first and then the other:
where a process happens to get its memory makes it quicker or slower by a percent for as long as it lives, however many
rounds it is asked for. A ratio is the median of the starts' ratios, after over before; its 95 % interval is a bootstrap
over the starts. The last line is JSON.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from loadtest.bench.command import Command, Measured, checkout, positive
from loadtest.bench.plot import plot
from loadtest.bench.processes import on, service, two_cores
from loadtest.bench.turns import p50, ratio, starting, take_turns
from loadtest.errors import NoRun, OneCore
from loadtest.generator import plan
from loadtest.generator.answers import Kind
from loadtest.generator.budgets import Budget
from loadtest.generator.client import parse_url
from loadtest.generator.plan import Body
from loadtest.generator.send import new_loop
from loadtest.generator.target import Target
from loadtest.peers import ROOT
from loadtest.table import table
from model.command import run as run_command

COUNTS = (100, 500)  # candidates
BEFORE, AFTER = "before", "after"
RESAMPLES = 10_000
BODIES = 500  # different requests
MOST_WRONG = 0.01  # of a turn's answers; above it a side is not steady


@dataclass(frozen=True)
class Sizes:
    starts: int = 10
    rounds: int = 16  # of each start
    rate: int = 50  # requests per second
    turn_s: float = 0.5  # short: a machine beside which others work is slower for seconds at a time
    warm_s: float = 5.0


QUICK = Sizes(starts=1, rounds=2, turn_s=0.3, warm_s=0.3)


def budget(count: int, rate: int, seconds: float) -> Budget:
    return Budget("steady", rate, seconds, count, p50_ms=1e3, p99_ms=1e3, errors=0, warmup_s=0)


class Side:
    """One checkout's service. Use it within one running loop, and close it there."""

    def __init__(self, url: str, name: str):
        self.name, self.url = name, url
        self._target, self._rng = Target(parse_url(url), None), plan.generator(1, name)
        self.bodies: dict[int, Sequence[Body]] = {}
        self.model: tuple[str, str] = ("", "")  # its name and version

    @classmethod
    async def reached(cls, url: str, name: str) -> "Side":
        """Raises NoRun."""
        side = cls(url, name)
        await side._target.reach([])
        if side._target.model:
            model = orjson.loads(side._target.model)
            side.model = model["name"], model["version"]
        for count in COUNTS:
            rng = plan.generator(count, "steady")  # the same requests for all sides
            side.bodies[count] = side._target.bodies(budget(count, 1, 1), BODIES, rng)
        return side

    async def turn(self, count: int, rate: int, seconds: float, from_due: bool = False) -> list[float]:
        """Milliseconds to the answer, from send or from when it was due. Raises NoRun where too many went wrong."""
        at = budget(count, rate, seconds)
        log = await self._target.run(at, self._rng, self.bodies[count], f"{self.name}, {count} candidates")
        right = log.of(Kind.RIGHT)
        if (~right).mean() > MOST_WRONG:
            why = next(why for why in log.whys() if why)
            raise NoRun(f"{(~right).sum()} of {len(right)} requests {self.name} went wrong: {why}")
        begun_s = log.due_s if from_due else log.sent_s
        return [float(ms) for ms in 1000 * (log.answered_s - begun_s)[right]]

    async def close(self) -> None:
        await self._target.close()


def interval(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The 95 % interval of `turns.ratio`, by a bootstrap over what is given, starts or rounds."""
    ratios = np.array([np.median(a) / np.median(b) for a, b in zip(one, other, strict=True)])
    drawn = np.random.default_rng(0).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), (0.025, 0.975))
    return float(low), float(high)


@contextmanager
def reached(services: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[asyncio.Runner, dict[str, Side]]]:
    """A service with each side's settings, all on one core where there are two, the load on the other. Raises NoRun."""
    try:
        cpus, own_cpus = two_cores()
    except OneCore:  # ratios by turns hold on one core too
        cpus, own_cpus = None, None
    with ExitStack() as stack:
        urls = {
            name: stack.enter_context(service(cpus=cpus, workers=1, **settings)).url
            for name, settings in services.items()
        }
        stack.enter_context(on(own_cpus))
        runner = stack.enter_context(asyncio.Runner(loop_factory=new_loop))
        sides = {}
        for name, url in urls.items():
            sides[name] = runner.run(Side.reached(url, name))
            stack.callback(_close, runner, sides[name])
        models = {side.model for side in sides.values()}
        if len(models) > 1:
            raise NoRun(f"the services have different demo bundles, which cannot be compared: {models}")
        yield runner, sides


def in_turns(
    runner: asyncio.Runner, sides: Mapping[str, Side], sizes: Sizes
) -> dict[int, dict[str, list[list[float]]]]:
    """Milliseconds by number of candidates, side and round. Raises NoRun."""
    times_ms = {}
    for count in COUNTS:
        for side in sides.values():
            runner.run(side.turn(count, sizes.rate, sizes.warm_s))
        works = {name: partial(_turn, runner, side, count, sizes) for name, side in sides.items()}
        times_ms[count] = take_turns(f"/rank, {count} candidates", sizes.rounds, works)
    return times_ms


def response_times(
    services: Mapping[str, Mapping[str, Any]],
    sizes: Sizes,
    look: Callable[[asyncio.Runner, Mapping[str, Side]], object] = lambda runner, sides: None,
) -> dict[int, dict[str, list[list[float]]]]:
    """Milliseconds by number of candidates, side and start; `services` are settings by side. Raises NoRun.

    `look` sees each start's services before they end, and may raise NoRun.
    """
    times_ms: dict[int, dict[str, list[list[float]]]] = {count: {name: [] for name in services} for count in COUNTS}
    for number in range(sizes.starts):
        with reached(starting(number, services)) as (runner, sides):
            for count, of in in_turns(runner, sides, sizes).items():
                for name, rounds in of.items():
                    times_ms[count][name].append([*chain(*rounds)])
            look(runner, sides)
    return times_ms


def _turn(runner: asyncio.Runner, side: Side, count: int, sizes: Sizes) -> list[float]:
    return runner.run(side.turn(count, sizes.rate, sizes.turn_s))


def _close(runner: asyncio.Runner, side: Side) -> None:
    runner.run(side.close())


def measure(before: Path, after: Path, sizes: Sizes) -> Measured:
    """Raises NoRun."""
    return compared(response_times({BEFORE: {"checkout": before}, AFTER: {"checkout": after}}, sizes), BEFORE, AFTER)


def compared(times_ms: Mapping[int, Mapping[str, list[list[float]]]], before: str, after: str) -> Measured:
    """The ratios of one side to the other, by number of candidates."""
    figures: dict[str, Any] = {}
    rows = {}
    for count, of in times_ms.items():
        low, high = interval(of[after], of[before])
        figures[f"p50_ratio_{count}"] = ratio(of[after], of[before])
        figures |= {f"p50_ratio_{count}_low": low, f"p50_ratio_{count}_high": high}
        figures |= {f"{name}_p50_ms_{count}": p50(rounds) for name, rounds in of.items()}
        rows[f"{count} candidates"] = [p50(of[before]), p50(of[after]), figures[f"p50_ratio_{count}"], low, high]
    head = (f"{before}, ms", f"{after}, ms", "ratio", "low", "high")
    ratios = {
        f"{count} candidates": {
            number: float(np.median(a) / np.median(b))
            for number, (a, b) in enumerate(zip(of[after], of[before], strict=True), 1)
        }
        for count, of in times_ms.items()
    }
    return Measured(figures, table("p50", head, rows), plot({f"p50 {after} over {before}": ratios}, "start"))


def add_sizes(command: Command) -> None:
    command.parser.add_argument("--starts", type=positive, help="of both services (default 10)")
    command.parser.add_argument("--rate", type=positive, help="requests per second (default 50)")


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("steady", __doc__, Sizes(), QUICK)
    add = command.parser.add_argument
    add("--before", type=checkout, required=True, metavar="DIR", help="a checkout of this repository")
    add("--after", type=checkout, default=ROOT, metavar="DIR", help="another one (default: this)")
    add_sizes(command)
    return command.run(arguments, lambda args, sizes: measure(args.before, args.after, sizes))


if __name__ == "__main__":
    run_command(main, "steady")
