"""What each network costs online: its POST /rank beside Wide & Deep's, every one served at the paper's sizes.

    python -m loadtest.networks [--networks bst wdl …] [--lengths 20 100 1000] [--quick]

A service for each network runs, all are asked the same requests in turn (users with 20 clicks, 500 and 100 candidates),
one client at a time. Figures are medians and, as in BST's Table 4 (20 ms against WDL's 13 ms: 1.54 times), ratios to
WDL. With --lengths each network runs once for every T, users have so many clicks, and ratios are to the first T. The
last line is JSON.
"""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from loadtest.bench.bundles import CACHE, bundle
from loadtest.bench.caller import MESSAGES, Caller, rank_messages
from loadtest.bench.command import Command, Measured, positive
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


Times = dict[str, list[list[float]]]  # by "network candidates", round by round


def asked(bundles: Mapping[str, Bundle], sizes: Sizes) -> Times:
    """Milliseconds of POST /rank by bundles that are served side by side, by "name candidates". Raises NoRun."""
    rng = np.random.default_rng(3)
    lengths = sorted({one.schema.history.length for one in bundles.values()})
    users = {length: recent_users(sizes.items, rng, length) for length in lengths}
    messages = {count: rank_messages(sizes.items, count, MESSAGES, rng) for count in COUNTS}
    turns: dict[str, Callable[[], list[float]]] = {}
    with ExitStack() as stack:
        urls = {length: stack.enter_context(store(users[length])) for length in lengths}
        for name, one in bundles.items():
            length = one.schema.history.length
            settings: dict[str, Any] = {"bundle": one.folder, "redis_url": urls[length], "history_keep": length}
            running = stack.enter_context(service(workers=1, score_threads=1, **settings))
            for count in COUNTS:
                caller = Caller(running.port, messages[count], length)
                stack.callback(caller.close)
                caller.several(sizes.warm)
                turns[f"{name} {count}"] = partial(caller.several, sizes.requests, sizes.untimed)
        return take_turns("networks", sizes.rounds, turns)


def measure(bundles: Mapping[str, Bundle], sizes: Sizes) -> Measured:
    """Networks beside WDL. Raises NoRun."""
    times_ms = asked(bundles, sizes)
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


def measure_lengths(bundles: Mapping[str, Mapping[int, Bundle]], sizes: Sizes) -> Measured:
    """Each network beside itself, by T. Raises NoRun."""
    times_ms = asked({f"{name} {t}": one for name, of in bundles.items() for t, one in of.items()}, sizes)
    figures: dict[str, dict[str, dict[int, float]]] = {}
    for count in COUNTS:
        of_count = {name: {t: times_ms[f"{name} {t} {count}"] for t in of} for name, of in bundles.items()}
        figures[f"p50_ms_{count}_by_length"] = {
            name: {t: p50(rounds) for t, rounds in of.items()} for name, of in of_count.items()
        }
        figures[f"over_first_{count}_by_length"] = {
            name: {t: ratio(rounds, next(iter(of.values()))) for t, rounds in of.items()}
            for name, of in of_count.items()
        }
    head = [title for count in COUNTS for title in (f"{count} cand., ms", "over first T")]
    rows = {f"{name}, T = {t}": [of[name][t] for of in figures.values()] for name in bundles for t in bundles[name]}
    figure = plot({"p50 of POST /rank, 500 candidates, ms": figures["p50_ms_500_by_length"]}, "T", log="xy")
    return Measured(dict(figures), table("POST /rank", head, rows), figure)


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("networks", __doc__, Sizes(), QUICK, CACHE)
    command.parser.add_argument(
        "--networks", nargs="+", choices=networks.names(), default=networks.names(), help="beside wdl (default: all)"
    )
    command.parser.add_argument(
        "--lengths", nargs="+", type=positive, metavar="T", help="of histories, up to 1000: the cost of each by T"
    )

    def found(args: Namespace, sizes: Sizes) -> Measured:
        if not args.lengths:
            names = dict.fromkeys([BASE, *args.networks])
            return measure({name: bundle(args.cache, name, sizes.items) for name in names}, sizes)
        made = {
            name: {t: bundle(args.cache, name, sizes.items, length=t) for t in dict.fromkeys(args.lengths)}
            for name in dict.fromkeys(args.networks)
        }
        return measure_lengths(made, sizes)

    return command.run(arguments, found)


if __name__ == "__main__":
    run_command(main, "networks")
