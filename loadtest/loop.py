"""Does the loop close? Simulated users browse what `/rank` shows them, and each evening the model learns from it.

    python -m loadtest.loop [--seeds 3] [--days 5] [--users 400] [--quick] [--out DIR]

A service on a real store answers the users of the simulator's world (model/datasets/simulated.py): a page's candidates
are drawn as the simulator draws exposures, `POST /rank` orders them, the user clicks by the true probabilities, and the
clicks go to `POST /feedback`. Every evening `service.drain`, `model.prepare --dataset service_log --grow`,
`model.train --warm --final`; the service takes the new version over while it runs. On the same users, days, candidates
and luck three others order the pages: chance, clicks so far, and the true probabilities.

A seed is another world with other users. What the log holds must be what was shown and clicked, or the run ends with
an error. The page with the plot is in `--out`; the last line is JSON.
"""

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tqdm import tqdm

from loadtest.bench.command import OUT, Command, Measured, positive
from loadtest.bench.processes import service
from loadtest.errors import NoRun
from loadtest.feed import page, rates, starting
from loadtest.feed.evening import JOURNAL, Evenings, Learnt, live
from loadtest.feed.orders import Chance, Day, Order, Popularity, Served, Truth
from loadtest.feed.rates import LOOP, ORACLE, POPULARITY, RANDOM
from loadtest.feed.visits import Feed
from loadtest.generator.client import Client
from loadtest.rolling.stream import address
from loadtest.table import table
from model.command import run as run_command
from model.datasets import simulated
from service.store.embedded import EmbeddedStore, EmbeddedStoreError

# A busy machine changes no ranking.
SETTINGS: dict[str, Any] = {"bundle_poll_s": 0.5, "history_timeout_ms": 4_000, "timeout_ms": 60_000}


@dataclass(frozen=True)
class Sizes:
    seeds: int = 3
    days: int = 5
    users: int = 400
    pages: float = 3.0  # that a user asks for in a day, on average
    items: int = 500
    pool: int = 60  # candidates that are drawn for a page, repetitions included
    top: int = 10  # that are shown of them
    starting: int = 5_000  # impressions before the first day
    network: str = "bst"
    final: bool = True  # whether the newest days are learnt from, too: trains and exports twice


QUICK = Sizes(
    seeds=1, days=2, users=20, pages=1.0, items=200, pool=20, top=5, starting=1_500, network="wdl", final=False
)


class Course(NamedTuple):
    """What came of a seed."""

    days: dict[str, list[Day]]  # by order
    versions: list[str]  # that served, by day
    unpublished: int  # evenings whose model was below the floor: the one before served on


async def course(sizes: Sizes, seed: int, bar: "tqdm[Any]") -> Course:
    """Raises NoRun."""
    world = simulated.make_world(seed, sizes.items)
    feed = Feed.make(world, sizes.users, sizes.pages, sizes.pool, sizes.top, seed)
    async with AsyncExitStack() as later:
        stack = later.enter_context(ExitStack())
        evenings = Evenings(Path(stack.enter_context(TemporaryDirectory())), sizes.network, seed, sizes.final)
        starting.write(world, sizes.starting, seed, evenings.raw)
        await evenings.begin()
        store = stack.enter_context(EmbeddedStore())
        named = SETTINGS | JOURNAL | {"redis_url": store.url, "bundle": evenings.home, "journal": evenings.journal}
        serving = await asyncio.to_thread(stack.enter_context, service(**named))  # other seeds go on meanwhile
        client = Client(address(serving.port))
        later.push_async_callback(client.close)

        served, popular = Served(feed, client), Popularity(feed)
        orders: dict[str, Order] = {LOOP: served, POPULARITY: popular, RANDOM: Chance(feed), ORACLE: Truth(feed)}
        days: dict[str, list[Day]] = {name: [] for name in orders}
        versions, unpublished = [(evenings.home / "current").resolve().name], 0
        await served.introduce()
        for number in range(1, sizes.days + 1):
            pages = feed.day(number)
            for name, order in orders.items():
                days[name].append(await order.day(pages))
            popular.learn(click.item for click in days[LOOP][-1].clicks)
            if number < sizes.days:
                learnt = await evenings.learn()
                _check(learnt, days[LOOP])
                unpublished += not learnt.published
                versions.append(learnt.version)
                await live(client, learnt.version)
            bar.update()
        return Course(days, versions, unpublished)


def _check(learnt: Learnt, days: Sequence[Day]) -> None:
    """Raises NoRun unless the log is what we saw."""
    shown, clicked = sum(int(day.shown.sum()) for day in days), sum(int(day.clicked.sum()) for day in days)
    if (learnt.impressions, learnt.clicks) != (shown, clicked):
        raise NoRun(
            f"the log holds {learnt.impressions} impressions and {learnt.clicks} clicks, "
            f"{shown} were shown and {clicked} clicked"
        )


async def courses(sizes: Sizes) -> list[Course]:
    """All seeds side by side: while one trains, another one serves. Raises NoRun."""
    bar: tqdm[Any]
    with tqdm(total=sizes.seeds * sizes.days, desc="loop", unit="day", leave=False) as bar:
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(course(sizes, seed, bar)) for seed in range(1, sizes.seeds + 1)]
        except ExceptionGroup as errors:
            error = _first(errors)
            raise NoRun(str(error)) if isinstance(error, NoRun | EmbeddedStoreError) else error from None
    return [task.result() for task in running]


def _first(error: Exception) -> Exception:
    """What ended the tasks of a group, and of groups in it."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def measure(args: argparse.Namespace, sizes: Sizes) -> Measured:
    """Raises NoRun."""
    done = asyncio.run(courses(sizes))
    figures = rates.figures([one.days for one in done], range(1, sizes.seeds + 1))
    figures |= {"users": sizes.users, "versions": [one.versions for one in done]}
    figures |= {"unpublished": sum(one.unpublished for one in done)}
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "loop.html"
    file.write_text(page.html(figures))
    told = [_table(figures), f"page: {file}"]
    if unpublished := figures["unpublished"]:
        told.insert(1, f"on {unpublished} evening(s) the new model was below the floor: the one before served on")
    return Measured(figures | {"page": str(file)}, "\n".join(told))


def _table(figures: Mapping[str, Any]) -> str:
    ctr, above = figures["ctr"], figures["above"]
    head = [*rates.ORDERS, "loop - popularity", "95 %", "loop - random", "95 %"]
    rows = {}
    for at, day in enumerate(figures["days"]):
        row = [f"{ctr[name][at]:.4f}" for name in rates.ORDERS]
        for other in (POPULARITY, RANDOM):
            mean, low, high = above[other][at]
            row += [f"{mean:+.4f}", f"{low:+.4f} to {high:+.4f}"]
        rows[f"day {day}"] = row
    return table("click rate", head, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("loop", __doc__, Sizes(), QUICK, plots=False)
    add = command.parser.add_argument
    add("--seeds", type=positive, help="worlds (default 3)")
    add("--days", type=positive, help="of each; there is an evening between two (default 5)")
    add("--users", type=positive, help="of each (default 400)")
    add("--out", type=Path, default=OUT / "loop", metavar="DIR", help="where loop.html goes")
    return command.run(arguments, measure)


if __name__ == "__main__":
    run_command(main, "loop", "nothing is kept; run it again")
