"""What each network costs online: its POST /rank beside Wide & Deep's, every one served at the paper's sizes.

    python -m loadtest.networks [--networks bst wdl …] [--quick]

A service for each network runs, all are asked the same requests in turn (users with 20 clicks, 500 and 100 candidates),
one client at a time. Figures are medians and, as in BST's Table 4 (20 ms against WDL's 13 ms: 1.54 times), ratios to
WDL. The last line is JSON.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np

from loadtest.bench.bundles import CACHE, bundle
from loadtest.bench.caller import MESSAGES, Caller, rank_messages
from loadtest.bench.command import Command, Measured
from loadtest.bench.plot import plot
from loadtest.bench.processes import service
from loadtest.bench.turns import p50, ratio, take_turns
from loadtest.bench.users import recent_users, store
from loadtest.table import table
from model import networks
from model.bundle.reading import Bundle
from model.command import run as run_command

BASE = "wdl"
PAPER = {"bst": 20 / 13, "din": 16 / 13}  # Table 4's average response times over WDL's
COUNTS = (100, 500)


@dataclass(frozen=True)
class Sizes:
    items: int = 100_000
    rounds: int = 15
    requests: int = 10  # per round, of each network and count
    untimed: int = 2  # before them: another network's service has had the caches
    warm: int = 50


QUICK = Sizes(items=500, rounds=2, requests=2, untimed=1, warm=2)


def measure(bundles: Mapping[str, Bundle], sizes: Sizes) -> Measured:
    """Raises NoRun."""
    rng = np.random.default_rng(3)
    users = recent_users(sizes.items, rng)
    messages = {count: rank_messages(sizes.items, count, MESSAGES, rng) for count in COUNTS}
    turns: dict[str, Callable[[], list[float]]] = {}
    with ExitStack() as stack:
        url = stack.enter_context(store(users))
        for network, one in bundles.items():
            running = stack.enter_context(service(bundle=one.folder, redis_url=url, workers=1, score_threads=1))
            for count in COUNTS:
                caller = Caller(running.port, messages[count])
                stack.callback(caller.close)
                caller.several(sizes.warm)
                turns[f"{network} {count}"] = partial(caller.several, sizes.requests, sizes.untimed)
        times_ms = take_turns("networks", sizes.rounds, turns)
    figures: dict[str, dict[str, float]] = {}
    for count in COUNTS:
        base = times_ms[f"{BASE} {count}"]
        figures[f"p50_ms_{count}"] = {network: p50(times_ms[f"{network} {count}"]) for network in bundles}
        figures[f"over_wdl_{count}"] = {network: ratio(times_ms[f"{network} {count}"], base) for network in bundles}
    head = [title for count in COUNTS for title in (f"{count} cand., ms", "over WDL")]
    rows = {network: [of[network] for of in figures.values()] for network in bundles}
    over = figures["over_wdl_500"]
    bars = {"here": over, "the paper": {network: PAPER[network] for network in over if network in PAPER}}
    figure = plot({"p50 of POST /rank, 500 candidates, over WDL's": {k: v for k, v in bars.items() if v}}, "network")
    return Measured(dict(figures), table("POST /rank", head, rows), figure)


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("networks", __doc__, Sizes(), QUICK, CACHE)
    command.parser.add_argument(
        "--networks", nargs="+", choices=networks.names(), default=networks.names(), help="beside wdl (default: all)"
    )
    return command.run(
        arguments,
        lambda args, sizes: measure(
            {name: bundle(args.cache, name, sizes.items) for name in dict.fromkeys([BASE, *args.networks])}, sizes
        ),
    )


if __name__ == "__main__":
    run_command(main, "networks")
