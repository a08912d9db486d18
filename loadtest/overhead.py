"""What a request costs beside scoring: POST /rank over loopback against bare `session.run` on the same feed.

    python -m loadtest.overhead [--quick]

One client on one keep-alive connection asks one worker with one scoring thread, as the bare session has one; users have
20 clicks in a real store. Every request is answered twice, by the service and by a session in this process, one right
after the other; medians are told, for 10 to 1000 candidates. `rest` is what the service does between its four stages:
reading the request, and handing it to the scoring thread; `outside` is the client's time without the service's: the
kernel, the HTTP server, and the answer's writing.

Candidates a second and core, in fp32 and int8, on the trained bundle (loadtest/bench/trained.py), since int8 is served
only where its gate lets it: the service with one worker and one scoring thread has a core to itself (store and client
are on others), and 1, 2 and 4 clients ask about 500 candidates each as fast as they are answered. The best rate counts
whose p99 is within 20 ms. The last line is JSON.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from loadtest.bench import trained
from loadtest.bench.bundles import bundle as made_up
from loadtest.bench.caller import (
    MESSAGES,
    STAGES,
    Caller,
    Person,
    Ranked,
    closed_loop,
    draw,
    rank_message,
    recent_users,
)
from loadtest.bench.command import command, new_parser, parse
from loadtest.bench.processes import on, service, store
from loadtest.bench.turns import p50, ratio, take_turns
from model.bundle.layout import BundleError
from model.bundle.reading import Bundle
from model.features.behaviour import Behaviour
from model.prepared.loader import Prepared

COUNTS = (10, 50, 100, 500, 1000)
MOST_P99_MS = 20.0
CLIENTS = (1, 2, 4)
CANDIDATES = 500  # a request, where candidates a second are counted
Pair = tuple[float, Ranked]  # bare milliseconds, and the service's answer to the same request


@dataclass(frozen=True)
class Sizes:
    items: int = 100_000
    rounds: int = 15
    pairs: int = 20  # a round, of each count
    warm: int = 50
    seconds: float = 2.0  # of each closed loop
    loops: int = 3  # rounds of them


QUICK = Sizes(items=500, rounds=2, pairs=3, warm=3, seconds=0.2, loops=1)


class Side:
    """One count of candidates: the same requests as messages and as feeds."""

    def __init__(self, bundle: Bundle, port: int, people: Sequence[Person], candidates: int, items: int, sizes: Sizes):
        rng = np.random.default_rng(candidates)
        asked = draw(items, candidates, MESSAGES, rng)
        self._session = bundle.session()
        self._feeds = [self._feed(bundle, people[user], ids) for user, ids in asked]
        self._caller = Caller(port, [rank_message(people[user]["user_id"], ids) for user, ids in asked])
        self._next, self._pairs = 1, sizes.pairs  # the caller has asked the first
        self.round(sizes.warm)

    def _feed(self, bundle: Bundle, person: Person, candidates: list[str]) -> dict[str, Any]:
        behaviours = [Behaviour(*behaviour) for behaviour in person["behaviours"]]
        now = time.time_ns() // 1_000_000
        encoded = bundle.encoder.encode(person["user_id"], person["user"], behaviours, candidates, now, bundle.catalog)
        return {node.name: encoded.inputs[node.name] for node in self._session.get_inputs()}

    def round(self, pairs: int | None = None) -> list[Pair]:
        found = []
        for _ in range(pairs or self._pairs):
            feed = self._feeds[self._next % len(self._feeds)]
            self._next += 1
            if self._next % 2:  # neither always finds the caches as the other left them
                bare_ms, ranked = self._bare(feed), self._caller.ask()
            else:
                ranked, bare_ms = self._caller.ask(), self._bare(feed)
            found.append((bare_ms, ranked))
        return found

    def _bare(self, feed: dict[str, Any]) -> float:
        begun = time.perf_counter()
        self._session.run(["score"], feed)
        return 1000 * (time.perf_counter() - begun)

    def close(self) -> None:
        self._caller.close()


def compare(bundle: Bundle, items: int, people: Sequence[Person], sizes: Sizes) -> dict[int, dict[str, float]]:
    """Milliseconds of each count: bare, rank, their ratio, the stages, and what is between and outside them."""
    with ExitStack() as stack:
        url = stack.enter_context(store(people))
        running = stack.enter_context(service(bundle.folder, url, workers=1, score_threads=1, precision="fp32"))
        sides = {}
        for count in COUNTS:
            sides[count] = Side(bundle, running.port, people, count, items, sizes)
            stack.callback(sides[count].close)
        turns = {f"{count} candidates": side.round for count, side in sides.items()}
        found = take_turns("/rank and bare scoring", sizes.rounds, turns)
    return {count: _figures(found[f"{count} candidates"]) for count in COUNTS}


def _figures(rounds: Sequence[Sequence[Pair]]) -> dict[str, float]:
    ranked = [answer for one in rounds for _, answer in one]
    bare = [[ms for ms, _ in one] for one in rounds]
    client = [[answer.client for _, answer in one] for one in rounds]
    stages = {name: statistics.median(answer.stages[name] for answer in ranked) for name in STAGES}
    four = [sum(answer.stages[name] for name in STAGES if name != "total") for answer in ranked]
    return {
        "bare": p50(bare),
        "rank": p50(client),
        "ratio": ratio(client, bare),
        **stages,
        "rest": statistics.median(a.stages["total"] - spent for a, spent in zip(ranked, four, strict=True)),
        "outside": statistics.median(a.client - a.stages["total"] for a in ranked),
        "not_scoring": statistics.median(a.client - a.stages["score"] for a in ranked),
    }


def throughput(
    bundle: Bundle, data: Prepared, precisions: Sequence[str], sizes: Sizes
) -> dict[str, dict[int, dict[str, float]]]:
    """Candidates a second and p99 by precision and by number of clients, the service alone on one core."""
    requests = trained.requests(bundle, data, MESSAGES, CANDIDATES, seed=7)
    asked = [rank_message(one["user_id"], one["candidates"]) for one in requests]
    people = list({one["user_id"]: _as_of_now(one) for one in requests}.values())
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    own, others = ({max(cores)}, cores - {max(cores)}) if len(cores) > 1 else (None, None)
    with ExitStack() as stack:
        stack.enter_context(on(others))
        url = stack.enter_context(store(people))
        turns: dict[str, Callable[[], tuple[list[float], float]]] = {}
        for precision in precisions:
            running = stack.enter_context(
                service(bundle.folder, url, own, workers=1, score_threads=1, precision=precision)
            )
            closed_loop(running.port, asked, 1, sizes.seconds / 2)  # warm
            for clients in CLIENTS:
                turns[f"{precision} {clients}"] = partial(closed_loop, running.port, asked, clients, sizes.seconds)
        found = take_turns("candidates a second", sizes.loops, turns)
    made: dict[str, dict[int, dict[str, float]]] = {precision: {} for precision in precisions}
    for name, rounds in found.items():
        precision, number = name.split(" ")
        times_ms = [1000 * seconds for times, _ in rounds for seconds in times]
        made[precision][int(number)] = {
            "candidates_per_s": CANDIDATES * statistics.median(rate for _, rate in rounds),
            "p99_ms": float(np.percentile(times_ms, 99)),
        }
    return made


def _as_of_now(request: Mapping[str, Any]) -> Person:
    """A recorded request's user, as old as then: the service ranks by its own clock."""
    shift_ms = time.time_ns() // 1_000_000 - request["now"]
    behaviours = [[*what, when + shift_ms] for *what, when in request["behaviours"]]
    return {"user_id": request["user_id"], "user": request["profile"], "behaviours": behaviours}


def best(by_clients: Mapping[int, Mapping[str, float]]) -> float | None:
    """The largest rate with its p99 within MOST_P99_MS."""
    return max((f["candidates_per_s"] for f in by_clients.values() if f["p99_ms"] <= MOST_P99_MS), default=None)


def measure(bundle: Bundle, learnt: Bundle, data: Prepared, sizes: Sizes) -> tuple[dict[str, Any], str, Figure]:
    """`learnt` is the trained bundle, of that data set. Raises NoRun."""
    people = recent_users(sizes.items, np.random.default_rng(5))
    by_count = compare(bundle, sizes.items, people, sizes)
    precisions, notes = ["fp32"], []
    try:
        learnt.int8_session()
        precisions.append("int8")
    except BundleError as error:
        notes.append(f"no int8 figure: {error}")
    rates = throughput(learnt, data, precisions, sizes)
    for precision in precisions:
        if best(rates[precision]) is None:
            notes.append(f"{precision}: no number of clients had its p99 within {MOST_P99_MS} ms")
    figures = {
        "rank_over_scoring_500": by_count[500]["ratio"],
        "not_scoring_ms_100": by_count[100]["not_scoring"],
        "candidates_per_s_core": best(rates["int8"]) if "int8" in rates else None,
        "candidates_per_s_core_fp32": best(rates["fp32"]),
        "note": "; ".join(notes) or None,
        "bundle": f"{bundle.name}/{bundle.version}",
        "trained_bundle": f"{learnt.name}/{learnt.version}",
        "ms": by_count,
        "closed_loop": rates,
    }
    return figures, table(figures), plot(by_count)


def table(figures: Mapping[str, Any]) -> str:
    """For people."""
    columns = ("bare", "rank", "ratio", "history", "encode", "score", "sort", "rest", "total", "outside")
    lines = ["p50, ms     " + "".join(f"{name:>9}" for name in columns)]
    for count, found in figures["ms"].items():
        lines.append(f"{count:>5} cand. " + "".join(f"{found[name]:>9.2f}" for name in columns))
    for graph, by_clients in figures["closed_loop"].items():
        for clients, found in by_clients.items():
            lines.append(
                f"{graph}, {clients} clients, one core: {found['candidates_per_s']:,.0f} candidates/s, "
                f"p99 {found['p99_ms']:.1f} ms"
            )
    return "\n".join(lines + ([figures["note"]] if figures["note"] else []))


def plot(by_count: Mapping[int, Mapping[str, float]]) -> Figure:
    figure = Figure((7, 4.5), layout="constrained")
    axes = figure.subplots()
    counts = list(by_count)
    axes.plot(counts, [by_count[c]["rank"] for c in counts], "o-", color="#d5404f", label="POST /rank, p50")
    axes.plot(counts, [by_count[c]["bare"] for c in counts], "s-", color="#2f80d0", label="bare session.run")
    axes.fill_between(
        counts, [by_count[c]["bare"] for c in counts], [by_count[c]["rank"] for c in counts], color="#d5404f", alpha=0.1
    )
    axes.set(xlabel="candidates", ylabel="ms", ylim=(0, None), xlim=(0, None), title="A request beside its scoring")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser("overhead", __doc__ or "")
    trained.arguments(parser)
    given = parse(parser, arguments)
    trained.check(parser, given)
    sizes = QUICK if given.quick else Sizes()
    sizes = replace(sizes, rounds=given.rounds or sizes.rounds)

    def work() -> tuple[dict[str, Any], str, Figure]:
        return measure(made_up(given.cache, items=sizes.items), *trained.chosen(given, trained.CACHE), sizes)

    return command("overhead", given.out, work)


if __name__ == "__main__":
    sys.exit(main())
