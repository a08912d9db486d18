"""What each network costs online: its POST /rank beside Wide & Deep's, every one served at the paper's sizes.

    python -m loadtest.networks [--networks bst wdl …] [--quick]

A service for each network runs, all ask the same requests in turn (users with 20 clicks, 500 and 100 candidates), one
client at a time; told are medians and, as in BST's Table 4 (20 ms against WDL's 13 ms: 1.54 times), ratios to WDL.
The last line is JSON.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from loadtest.bench.bundles import bundle as made_up
from loadtest.bench.caller import MESSAGES, Caller, messages, recent_users
from loadtest.bench.command import command, new_parser, parse
from loadtest.bench.processes import service, store
from loadtest.bench.turns import p50, ratio, take_turns
from model import networks
from model.bundle.reading import Bundle

BASE = "wdl"
PAPER = {"bst": 20 / 13, "din": 16 / 13}  # Table 4's average response times over WDL's
COUNTS = (100, 500)


@dataclass(frozen=True)
class Sizes:
    items: int = 100_000
    rounds: int = 15
    requests: int = 10  # a round, of each network and count
    untimed: int = 2  # before them: another network's service has had the caches
    warm: int = 50


QUICK = Sizes(items=500, rounds=2, requests=2, untimed=1, warm=2)


def compare(bundles: Mapping[str, Bundle], sizes: Sizes) -> dict[int, dict[str, dict[str, float]]]:
    """By count of candidates and network: p50 in milliseconds, and the ratio to WDL's."""
    rng = np.random.default_rng(3)
    people = recent_users(sizes.items, rng)
    asked = {count: messages(sizes.items, count, MESSAGES, rng) for count in COUNTS}
    turns: dict[str, Callable[[], list[float]]] = {}
    with ExitStack() as stack:
        url = stack.enter_context(store(people))
        for network, bundle in bundles.items():
            running = stack.enter_context(service(bundle.folder, url, workers=1, score_threads=1))
            for count in COUNTS:
                caller = Caller(running.port, asked[count])
                stack.callback(caller.close)
                caller.several(sizes.warm)
                turns[f"{network} {count}"] = partial(caller.several, sizes.requests, sizes.untimed)
        found = take_turns("networks", sizes.rounds, turns)
    return {
        count: {
            network: {
                "p50_ms": p50(found[f"{network} {count}"]),
                "over_wdl": ratio(found[f"{network} {count}"], found[f"{BASE} {count}"]),
            }
            for network in bundles
        }
        for count in COUNTS
    }


def measure(bundles: Mapping[str, Bundle], sizes: Sizes) -> tuple[dict[str, Any], str, Figure]:
    by_count = compare(bundles, sizes)
    figures: dict[str, Any] = {}
    for count, found in by_count.items():
        figures[f"over_wdl_{count}"] = {network: one["over_wdl"] for network, one in found.items()}
        figures[f"p50_ms_{count}"] = {network: one["p50_ms"] for network, one in found.items()}
    return figures, table(by_count), plot(by_count[500])


def table(by_count: Mapping[int, Mapping[str, Mapping[str, float]]]) -> str:
    """For people."""
    lines = [f"{'POST /rank':<20}" + "".join(f"{f'{c} cand., ms':>16}{'over WDL':>10}" for c in by_count)]
    for network in by_count[500]:
        cells = [f"{found[network]['p50_ms']:>16.2f}{found[network]['over_wdl']:>10.2f}" for found in by_count.values()]
        lines.append(f"{network:<20}" + "".join(cells))
    return "\n".join(lines)


def plot(found: Mapping[str, Mapping[str, float]]) -> Figure:
    figure = Figure((7, 4.5), layout="constrained")
    axes = figure.subplots()
    names = sorted(found, key=lambda network: found[network]["over_wdl"])
    axes.barh(names, [found[name]["over_wdl"] for name in names], color="#2f80d0", height=0.6)
    for at, name in enumerate(names):
        if name in PAPER:
            paper = PAPER[name]
            axes.plot([paper, paper], [at - 0.45, at + 0.45], color="#d5404f", linewidth=2)
            axes.annotate(f"paper {paper:.2f}", (paper, at), (4, 0), textcoords="offset points", va="center")
    axes.axvline(1, color="black", linewidth=0.8)
    most = max(*PAPER.values(), *(one["over_wdl"] for one in found.values()))
    axes.set(
        xlim=(0, 1.2 * most),
        xlabel="p50 of POST /rank with 500 candidates, over WDL's",
        title="What a network costs online",
    )
    axes.grid(alpha=0.3, axis="x")
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser("networks", __doc__ or "")
    parser.add_argument(
        "--networks", nargs="+", choices=networks.names(), default=networks.names(), help="beside wdl (default: all)"
    )
    given = parse(parser, arguments)
    sizes = QUICK if given.quick else Sizes()
    sizes = replace(sizes, rounds=given.rounds or sizes.rounds)
    names = dict.fromkeys([BASE, *given.networks])

    def work() -> tuple[dict[str, Any], str, Figure]:
        return measure({name: made_up(given.cache, name, sizes.items) for name in names}, sizes)

    return command("networks", given.out, work)


if __name__ == "__main__":
    sys.exit(main())
