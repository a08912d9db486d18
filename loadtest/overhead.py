"""What a request costs beside scoring: POST /rank over loopback against bare `session.run` on the same feed.

    python -m loadtest.overhead [--quick] [--derived]

One client on one keep-alive connection asks one worker with one scoring thread, as the bare session has one. Users have
20 clicks in a real store. Every request is answered twice, by the service and by a session in this process, one right
after the other; figures are medians, for 10 to 1000 candidates. `rest` is the service's time between its four stages:
reading the request, and handing it to the scoring thread. `outside` is the client's time without the service's: the
kernel, the HTTP server, and the answer's writing.

Candidates per second of one core are measured in fp32 and int8 on the trained bundle (loadtest/bench/trained.py), since
int8 is served only where its gate lets it. The service with one worker and one scoring thread has a core to itself;
store and client are on others. 1, 2 and 4 clients ask about 500 candidates each as fast as they are answered. The best
rate with a p99 within 20 ms counts. The last line is JSON.

With --derived only this is measured: what match and statistic features add to a request. Two services, whose bundles
have the same features but for five matches over 100 behaviours, two cooccurrences and five statistics, answer the same
requests in turn.
Both are started anew --starts times, and the ratio's interval is over these, as in loadtest/steady.py.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from loadtest.bench import trained
from loadtest.bench.bundles import CACHE
from loadtest.bench.bundles import bundle as untrained
from loadtest.bench.caller import MESSAGES, STAGES, Caller, Ranked, closed_loop, draw, rank_message
from loadtest.bench.command import Command, Measured, positive
from loadtest.bench.derived import MATCHED
from loadtest.bench.plot import plot
from loadtest.bench.processes import on, service
from loadtest.bench.turns import p50, ratio, starting, take_turns
from loadtest.bench.users import User, recent, recent_users, store
from loadtest.steady import interval
from loadtest.table import table
from model.bundle.layout import BundleError
from model.bundle.reading import Bundle
from model.command import run as run_command
from model.features.behaviour import Behaviour
from model.prepared.loader import Prepared

COUNTS = (10, 50, 100, 500, 1000)
MOST_P99_MS = 20.0
CLIENTS = (1, 2, 4)
DERIVED_COUNTS = (100, 500)
ENDS = ("", "_low", "_high")  # of a ratio's figures
CANDIDATES = 500  # per request, where candidates per second are counted
Pair = tuple[float, Ranked]  # bare milliseconds, and the service's answer to the same request


@dataclass(frozen=True)
class Sizes:
    items: int = 100_000
    rounds: int = 15
    pairs: int = 20  # per round, of each count
    warm: int = 50
    seconds: float = 2.0  # of each closed loop
    loops: int = 3  # rounds of them
    starts: int = 8  # of services with and without derived features


QUICK = Sizes(items=500, rounds=2, pairs=3, warm=3, seconds=0.2, loops=1, starts=1)


class Side:
    """One count of candidates: the same requests as messages and as feeds."""

    def __init__(self, bundle: Bundle, port: int, users: Sequence[User], candidates: int, sizes: Sizes):
        requests = draw(sizes.items, candidates, MESSAGES, np.random.default_rng(candidates))
        self._session = bundle.session()
        self._feeds = [self._feed(bundle, users[number], ids) for number, ids in requests]
        self._caller = Caller(port, [rank_message(users[number]["user_id"], ids) for number, ids in requests])
        self._next, self._pairs = 1, sizes.pairs  # the caller has asked the first
        self.round(sizes.warm)

    def _feed(self, bundle: Bundle, user: User, candidates: list[str]) -> dict[str, Any]:
        behaviours = [Behaviour(*behaviour) for behaviour in user["behaviours"]]
        now = time.time_ns() // 1_000_000
        encoded = bundle.encoder.encode(user["user_id"], user["user"], behaviours, candidates, now, bundle.catalog)
        return {node.name: encoded.inputs[node.name] for node in self._session.get_inputs()}

    def round(self, pairs: int | None = None) -> list[Pair]:
        answered = []
        for _ in range(pairs or self._pairs):
            feed = self._feeds[self._next % len(self._feeds)]
            self._next += 1
            if self._next % 2:  # neither always finds the caches as the other left them
                bare_ms, ranked = self._bare(feed), self._caller.ask()
            else:
                ranked, bare_ms = self._caller.ask(), self._bare(feed)
            answered.append((bare_ms, ranked))
        return answered

    def _bare(self, feed: dict[str, Any]) -> float:
        begun = time.perf_counter()
        self._session.run(["score"], feed)
        return 1000 * (time.perf_counter() - begun)

    def close(self) -> None:
        self._caller.close()


def beside_scoring(bundle: Bundle, sizes: Sizes) -> dict[int, dict[str, float]]:
    """Milliseconds of each count: bare, rank, their ratio, the stages, and what is between and outside them."""
    users = recent_users(sizes.items, np.random.default_rng(5))
    with ExitStack() as stack:
        url = stack.enter_context(store(users))
        settings: dict[str, Any] = {"workers": 1, "score_threads": 1, "precision": "fp32"}
        running = stack.enter_context(service(bundle=bundle.folder, redis_url=url, **settings))
        turns = {}
        for count in COUNTS:
            side = Side(bundle, running.port, users, count, sizes)
            stack.callback(side.close)
            turns[f"{count} candidates"] = side.round
        pairs = take_turns("/rank and bare scoring", sizes.rounds, turns)
    return {count: _figures(pairs[f"{count} candidates"]) for count in COUNTS}


def with_derived(plain: Bundle, derived: Bundle, sizes: Sizes) -> Measured:
    """A request's p50 with the derived features and without, and how many times as long it takes with them."""
    pairs: dict[str, list[list[Pair]]] = {}  # by side and start
    for number in range(sizes.starts):
        for side, rounds in _of_one_start(starting(number, {"without": plain, "with": derived}), sizes).items():
            pairs.setdefault(side, []).append([*chain(*rounds)])
    figures: dict[str, Any] = {}
    rows: dict[str, list[float]] = {}
    for count in DERIVED_COUNTS:
        one, other = (pairs[f"{name} {count}"] for name in ("without", "with"))
        of = [_figures(one), _figures(other)]
        ms = [[[answer.client for _, answer in start] for start in starts] for starts in (other, one)]
        of_ratio = [ratio(*ms), *interval(*ms)]
        figures |= {f"rank_with_over_without_{count}{end}": x for end, x in zip(ENDS, of_ratio, strict=True)}
        figures[f"encode_more_ms_{count}"] = of[1]["encode"] - of[0]["encode"]
        rows[f"{count} candidates"] = [*(f["rank"] for f in of), *of_ratio, *(f["encode"] for f in of)]
    head = ["without", "with", "ratio", "low", "high", "encode without", "encode with"]
    lines = {head[at]: {count: rows[f"{count} candidates"][at] for count in DERIVED_COUNTS} for at in (0, 1)}
    return Measured(figures, table("/rank p50, ms", head, rows), plot({"POST /rank, p50, ms": lines}, "candidates"))


def _of_one_start(bundles: Mapping[str, Bundle], sizes: Sizes) -> dict[str, list[list[Pair]]]:
    """Each side's answers by round; a side is one of these bundles and a number of candidates."""
    users = recent_users(sizes.items, np.random.default_rng(5), MATCHED)
    with ExitStack() as stack:
        url = stack.enter_context(store(users))
        settings: dict[str, Any] = {"workers": 1, "score_threads": 1, "precision": "fp32"}
        turns = {}
        for name, bundle in bundles.items():
            running = stack.enter_context(service(bundle=bundle.folder, redis_url=url, **settings))
            for count in DERIVED_COUNTS:
                side = Side(bundle, running.port, users, count, sizes)
                stack.callback(side.close)
                turns[f"{name} {count}"] = side.round
        return take_turns("/rank with and without derived features", sizes.rounds, turns)


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
    """Candidates per second and p99 by precision and by number of clients, the service alone on one core."""
    requests = trained.requests(bundle, data, MESSAGES, CANDIDATES, seed=7)
    messages = [rank_message(one["user_id"], one["candidates"]) for one in requests]
    users = [
        recent({"user_id": one["user_id"], "user": one["profile"], "behaviours": one["behaviours"]}, one["now"])
        for one in {one["user_id"]: one for one in requests}.values()
    ]
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    own, others = ({max(cores)}, cores - {max(cores)}) if len(cores) > 1 else (None, None)
    with ExitStack() as stack:
        stack.enter_context(on(others))
        url = stack.enter_context(store(users))
        turns: dict[str, Callable[[], tuple[list[float], float]]] = {}
        for precision in precisions:
            settings: dict[str, Any] = {"workers": 1, "score_threads": 1, "precision": precision}
            running = stack.enter_context(service(cpus=own, bundle=bundle.folder, redis_url=url, **settings))
            closed_loop(running.port, messages, 1, sizes.seconds / 2)  # warm
            for clients in CLIENTS:
                turns[f"{precision} {clients}"] = partial(closed_loop, running.port, messages, clients, sizes.seconds)
        loops = take_turns("candidates per second", sizes.loops, turns)

    def figures(rounds: Sequence[tuple[list[float], float]]) -> dict[str, float]:
        return {
            "candidates_per_s": CANDIDATES * statistics.median(rate for _, rate in rounds),
            "p99_ms": 1000 * float(np.percentile([seconds for times, _ in rounds for seconds in times], 99)),
        }

    return {name: {clients: figures(loops[f"{name} {clients}"]) for clients in CLIENTS} for name in precisions}


def best(by_clients: Mapping[int, Mapping[str, float]]) -> float | None:
    """The largest rate with its p99 within MOST_P99_MS."""
    return max((f["candidates_per_s"] for f in by_clients.values() if f["p99_ms"] <= MOST_P99_MS), default=None)


def measure(bundle: Bundle, learnt: Bundle, data: Prepared, sizes: Sizes) -> Measured:
    """`learnt` is the trained bundle, of that data set. Raises NoRun."""
    by_count = beside_scoring(bundle, sizes)
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
    head = [name for name in by_count[500] if name != "not_scoring"]
    by_stage = {f"{count} candidates": [of[name] for name in head] for count, of in by_count.items()}
    by_clients = {
        f"{graph}, clients: {clients}": [round(of["candidates_per_s"]), of["p99_ms"]]
        for graph, rows in rates.items()
        for clients, of in rows.items()
    }
    tables = [table("p50, ms", head, by_stage), table("one core", ["candidates/s", "p99, ms"], by_clients), *notes]
    lines = {
        title: {count: of[name] for count, of in by_count.items()}
        for name, title in (("bare", "bare session.run"), ("rank", "POST /rank"))
    }
    return Measured(figures, "\n".join(tables), plot({"A request beside its scoring, p50, ms": lines}, "candidates"))


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("overhead", __doc__, Sizes(), QUICK, CACHE)
    trained.add_options(command.parser)
    command.parser.add_argument("--starts", type=positive, help="of both services, with --derived (default 8)")
    command.parser.add_argument("--derived", action="store_true", help="what match and statistic features add, alone")

    def work(args: Any, sizes: Sizes) -> Measured:
        if args.derived:
            with_, without = (untrained(args.cache, items=sizes.items, derived=derived) for derived in (True, False))
            return with_derived(without, with_, sizes)
        learnt, data = trained.choose(args, trained.CACHE)
        return measure(untrained(args.cache, items=sizes.items), learnt, data, sizes)

    return command.run(arguments, work)


if __name__ == "__main__":
    run_command(main, "overhead")
