"""What more items cost online: time, start and memory of BST's service with 10 thousand to 10 million items.

    python -m loadtest.scale [--items 10000 100000 1000000 10000000] [--quick]

- POST /rank with 500 candidates drawn uniformly over all items, the worst case for caches; a service for each size
  runs, and all are asked in turn. Before that each is asked about so many items that most pages of its tables are
  mapped.
- From the process' start to /health/ready's 200, the bundle's files being in the page cache; its hashes are compared.
- Memory of the process tree (PSS) with one worker and with two, after each worker has answered the same requests: what
  the second one adds, as a share of the first.

The first bundle of ten million items takes minutes and 2.5 GB of disk to make. The last line is JSON.
"""

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from loadtest.bench.bundles import bundle as made_up
from loadtest.bench.caller import MESSAGES, MIB, Caller, Connection, Person, checked, messages, recent_users
from loadtest.bench.command import command, new_parser, parse, positive
from loadtest.bench.processes import connect_each, pss, service, store
from loadtest.bench.turns import p50, ratio, take_turns

CANDIDATES = 500
LARGE = 5_000  # candidates of the requests that warm up: as many as the service takes


@dataclass(frozen=True)
class Sizes:
    items: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    rounds: int = 15
    requests: int = 20  # a round, of each size
    untimed: int = 2  # before them: another size's service has had the caches
    warm: int = 60  # requests of LARGE candidates; pages are mapped 16 at a time, so they reach nearly all
    starts: int = 3


QUICK = Sizes(items=(20, 500), rounds=2, requests=2, untimed=1, warm=2, starts=1)


class Sized:
    """A bundle of that many items, with users and requests of its own."""

    def __init__(self, cache: Path, items: int, sizes: Sizes):
        self.folder = made_up(cache, items=items).folder  # not kept open: pages mapped here too would halve their PSS
        rng = np.random.default_rng(items)
        self.people: list[Person] = recent_users(items, rng)
        self.warming = messages(items, LARGE, sizes.warm, rng)
        self.asked = messages(items, CANDIDATES, MESSAGES, rng)


def response_times(sized: Mapping[int, Sized], sizes: Sizes) -> dict[int, list[list[float]]]:
    """Milliseconds of POST /rank by number of items, round by round."""
    turns: dict[str, Callable[[], list[float]]] = {}
    with ExitStack() as stack:
        for items, one in sized.items():
            url = stack.enter_context(store(one.people))
            running = stack.enter_context(service(one.folder, url, workers=1))
            warm([Connection(running.port)], one)
            caller = Caller(running.port, one.asked)
            stack.callback(caller.close)
            turns[str(items)] = partial(caller.several, sizes.requests, sizes.untimed)
        found = take_turns("/rank by number of items", sizes.rounds, turns)
    return {int(items): rounds for items, rounds in found.items()}


def warm(connections: Sequence[Connection], one: Sized) -> None:
    """Asks each connection, so each worker, the same requests, and closes it. Raises NoRun."""
    with ExitStack() as stack:
        for connection in connections:
            stack.enter_context(connection)
        for message in (*one.warming, *one.asked):
            for connection in connections:  # in turn: the service hangs up on one that waits
                checked(connection.ask(message))


def ready_s(one: Sized, starts: int) -> float:
    """Median seconds from start to ready, the bundle's files having been read before."""
    for path in one.folder.rglob("*"):
        if path.is_file():
            _read(path)
    found = []
    with store(one.people) as url:
        for _ in tqdm(range(starts), desc="starts", delay=1, leave=False):
            with service(one.folder, url, workers=1) as running:
                found.append(running.ready_s)
    return statistics.median(found)


def _read(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(16 * MIB):
            pass


def memory(one: Sized) -> tuple[int, int]:
    """Bytes (PSS) of the process tree with one worker and with two. Raises NoRun."""
    found = []
    with store(one.people) as url:
        for workers in tqdm((1, 2), desc="memory by workers", delay=1, leave=False):
            with service(one.folder, url, workers=workers, score_threads=1) as running:
                warm(connect_each(running, workers), one)
                found.append(pss(running.pid))
    return found[0], found[1]


def measure(cache: Path, sizes: Sizes) -> tuple[dict[str, Any], str, Figure]:
    sized = {items: Sized(cache, items, sizes) for items in sorted(sizes.items)}
    times = response_times(sized, sizes)
    small, large = min(sized), max(sized)
    figures: dict[str, Any] = {
        "items": list(sized),
        "p50_ms": {items: p50(rounds) for items, rounds in times.items()},
        "p50_over_smallest": {items: ratio(rounds, times[small]) for items, rounds in times.items()},
        "ready_s": {items: ready_s(one, sizes.starts) for items, one in sized.items()},
    }
    by_workers = {items: memory(one) for items, one in sized.items()}
    figures["pss_mib_one_worker"] = {items: one / MIB for items, (one, _) in by_workers.items()}
    figures["pss_mib_two_workers"] = {items: two / MIB for items, (_, two) in by_workers.items()}
    quick = sizes.items == QUICK.items  # then the line's keys stand for the sizes that were run
    whole = quick or large == 10_000_000
    one, two = by_workers[large]
    figures |= {
        "p50_ratio_10m_over_10k": figures["p50_over_smallest"][large] if whole and (quick or small == 10_000) else None,
        "ready_s_10m": figures["ready_s"][large] if whole else None,
        "second_worker_memory_share": (two - one) / one,
    }
    return figures, table(figures), plot(figures)


def table(figures: Mapping[str, Any]) -> str:
    """For people."""
    lines = [f"{'items':>12}{'p50, ms':>10}{'ratio':>8}{'ready, s':>10}{'1 worker, MiB':>15}{'2 workers, MiB':>16}"]
    for items in figures["items"]:
        lines.append(
            f"{items:>12,}{figures['p50_ms'][items]:>10.2f}{figures['p50_over_smallest'][items]:>8.2f}"
            f"{figures['ready_s'][items]:>10.2f}{figures['pss_mib_one_worker'][items]:>15,.0f}"
            f"{figures['pss_mib_two_workers'][items]:>16,.0f}"
        )
    return "\n".join(
        [*lines, f"a second worker adds {figures['second_worker_memory_share']:.0%} of the first's memory"]
    )


def plot(figures: Mapping[str, Any]) -> Figure:
    figure = Figure((9, 4), layout="constrained")
    times, memories = figure.subplots(1, 2)
    items = figures["items"]
    times.plot(items, [figures["p50_ms"][n] for n in items], "o-", color="#d5404f")
    times.set(
        xscale="log",
        ylim=(0, 1.2 * max(figures["p50_ms"].values())),
        xlabel="items",
        ylabel="ms",
        title="POST /rank, 500 candidates, p50",
    )
    for key, label, colour in (
        ("pss_mib_one_worker", "one worker", "#2f80d0"),
        ("pss_mib_two_workers", "two workers", "#1f9a6d"),
    ):
        memories.plot(items, [figures[key][n] for n in items], "o-", color=colour, label=label)
    memories.set(xscale="log", ylim=(0, None), xlabel="items", ylabel="MiB (PSS)", title="Memory of the service")
    memories.legend(frameon=False)
    for axes in (times, memories):
        axes.grid(alpha=0.3)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser("scale", __doc__ or "")
    parser.add_argument("--items", nargs="+", type=positive, help="sizes of the bundles")
    given = parse(parser, arguments)
    sizes = QUICK if given.quick else Sizes()
    items = tuple(dict.fromkeys(given.items or sizes.items))
    sizes = replace(sizes, rounds=given.rounds or sizes.rounds, items=items)
    return command("scale", given.out, lambda: measure(given.cache, sizes))


if __name__ == "__main__":
    sys.exit(main())
