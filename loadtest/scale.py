"""What more items cost online: time, start and memory of BST's service with 10 thousand to 10 million items.

    python -m loadtest.scale [--items 10000 100000 1000000 10000000] [--tables int8] [--quick]

- POST /rank with 500 candidates drawn uniformly over all items, the worst case for caches; a service for each size
  runs, and all are asked in turn. Before that each is asked about so many items that most pages of its tables are
  mapped.
- From the process' start to /health/ready's 200, the bundle's files being in the page cache; its hashes are compared.
- Memory of the process tree (PSS) with one worker and with two, after each worker has answered the same requests: what
  the second one adds, as a share of the first.
- With --tables all this of bundles whose tables of 10,000 rows or more are stored in fp16 or int8.

The first bundle of ten million items takes minutes and 2.5 GB of disk to make. The last line is JSON.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from loadtest.bench.bundles import CACHE, TABLE_FORMS, bundle
from loadtest.bench.caller import MESSAGES, MIB, Caller, Connection, checked, connect_each, rank_messages
from loadtest.bench.command import Command, Measured, positive
from loadtest.bench.plot import plot
from loadtest.bench.processes import pss, service
from loadtest.bench.turns import p50, ratio, take_turns
from loadtest.bench.users import recent_users, store
from loadtest.table import table
from model.command import run as run_command

CANDIDATES = 500
LARGE = 5_000  # candidates of the requests that warm up: as many as the service takes


@dataclass(frozen=True)
class Sizes:
    items: Sequence[int] = (10_000, 100_000, 1_000_000, 10_000_000)
    rounds: int = 15
    requests: int = 20  # per round, of each size
    untimed: int = 2  # before them: another size's service has had the caches
    warm: int = 60  # requests of LARGE candidates; pages are mapped 16 at a time, so they reach nearly all
    starts: int = 3
    tables: str = "fp32"


QUICK = Sizes(items=(20, 500), rounds=2, requests=2, untimed=1, warm=2, starts=1)


class Sized:
    """A bundle of that many items, with users and requests of its own."""

    def __init__(self, cache: Path, items: int, sizes: Sizes):
        # Not kept open: pages mapped here too would halve their PSS.
        self.folder = bundle(cache, items=items, tables=sizes.tables).folder
        rng = np.random.default_rng(items)
        self.users = recent_users(items, rng)
        self.warming = rank_messages(items, LARGE, sizes.warm, rng)
        self.messages = rank_messages(items, CANDIDATES, MESSAGES, rng)

    def warm(self, connections: Sequence[Connection]) -> None:
        """Asks each connection, so each worker, the same requests, and closes it. Raises NoRun."""
        with ExitStack() as stack:
            for connection in connections:
                stack.enter_context(connection)
            for message in (*self.warming, *self.messages):
                for connection in connections:  # in turn: the service hangs up on one that waits
                    checked(connection.ask(message))


def response_times(sized: Mapping[int, Sized], sizes: Sizes) -> dict[int, list[list[float]]]:
    """Milliseconds of POST /rank by number of items, round by round."""
    turns: dict[str, Callable[[], list[float]]] = {}
    with ExitStack() as stack:
        for items, one in sized.items():
            url = stack.enter_context(store(one.users))
            running = stack.enter_context(service(bundle=one.folder, redis_url=url, workers=1))
            one.warm([Connection(running.port)])
            caller = Caller(running.port, one.messages)
            stack.callback(caller.close)
            turns[str(items)] = partial(caller.several, sizes.requests, sizes.untimed)
        times_ms = take_turns("/rank by number of items", sizes.rounds, turns)
    return {int(items): rounds for items, rounds in times_ms.items()}


def ready_s(one: Sized, starts: int) -> float:
    """Median seconds from start to ready, the bundle's files having been read before."""
    for path in one.folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(16 * MIB):
                    pass
    seconds = []
    with store(one.users) as url:
        for _ in tqdm(range(starts), desc="starts", delay=1, leave=False):
            with service(bundle=one.folder, redis_url=url, workers=1) as running:
                seconds.append(running.ready_s)
    return statistics.median(seconds)


def memory_mib(one: Sized, workers: int) -> float:
    """MiB (PSS) of the process tree with so many workers. Raises NoRun."""
    with (
        store(one.users) as url,
        service(bundle=one.folder, redis_url=url, workers=workers, score_threads=1) as running,
    ):
        one.warm(connect_each(running, workers))
        return pss(running.pid) / MIB


def measure(cache: Path, sizes: Sizes) -> Measured:
    """Raises NoRun."""
    sized = {items: Sized(cache, items, sizes) for items in sorted(set(sizes.items))}
    times_ms = response_times(sized, sizes)
    small, large = min(sized), max(sized)
    columns: dict[str, dict[int, float]] = {
        "p50_ms": {items: p50(rounds) for items, rounds in times_ms.items()},
        "p50_over_smallest": {items: ratio(rounds, times_ms[small]) for items, rounds in times_ms.items()},
        "ready_s": {items: ready_s(one, sizes.starts) for items, one in sized.items()},
        "pss_mib_one_worker": {items: memory_mib(one, 1) for items, one in sized.items()},
        "pss_mib_two_workers": {items: memory_mib(one, 2) for items, one in sized.items()},
    }
    one, two = columns["pss_mib_one_worker"], columns["pss_mib_two_workers"]
    quick = sizes.items == QUICK.items  # then the line's keys stand for the sizes that were run
    comparable = quick or (small, large) == (10_000, 10_000_000)
    figures: dict[str, Any] = {
        "items": list(sized),
        "tables": sizes.tables,
        **columns,
        "p50_ratio_10m_over_10k": columns["p50_over_smallest"][large] if comparable else None,
        "ready_s_10m": columns["ready_s"][large] if quick or large == 10_000_000 else None,
        "second_worker_memory_share": two[large] / one[large] - 1,
    }
    head = ("p50, ms", "ratio", "ready, s", "1 worker, MiB", "2 workers, MiB")
    rows = {f"{items:,}": [of[items] for of in columns.values()] for items in sized}
    more = f"a second worker adds {figures['second_worker_memory_share']:.0%} of the first's memory"
    panels = {
        "POST /rank, 500 candidates, p50, ms": {"p50": columns["p50_ms"]},
        "Memory of the service, MiB (PSS)": {"one worker": one, "two workers": two},
    }
    return Measured(figures, f"{table('items', head, rows)}\n{more}", plot(panels, "items", "x"))


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("scale", __doc__, Sizes(), QUICK, CACHE)
    command.parser.add_argument("--items", nargs="+", type=positive, help="sizes of the bundles")
    command.parser.add_argument("--tables", choices=TABLE_FORMS, help="what long tables are stored in (fp32)")
    return command.run(arguments, lambda args, sizes: measure(args.cache, sizes))


if __name__ == "__main__":
    run_command(main, "scale")
