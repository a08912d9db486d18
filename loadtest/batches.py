"""What batches cost others: POST /rank beside POST /rank/batch, and whether the batches' users keep their histories.

    python -m loadtest.batches [--quick]

One worker with one scoring thread. One client asks about 100 candidates again and again: for a while alone, and for a
while beside another client, who sends one batch after the other, of 2000 users with 100 clicks and 10 candidates each.
The two take turns. `p99_ratio` is the p99 beside the batches over the p99 alone, each over all rounds. More batches
follow until there were --tries of them. `histories_kept` counts the batches all of whose users were ranked with what
the store holds, at the settings' own RANKER_HISTORY_TIMEOUT_MS. The batches have no deadline here. The last line is
JSON.
"""

import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from loadtest.bench.bundles import CACHE, bundle
from loadtest.bench.caller import MESSAGES, Answer, Connection, message
from loadtest.bench.command import Command, Measured, positive
from loadtest.bench.plot import plot
from loadtest.bench.processes import on, service
from loadtest.bench.turns import take_turns
from loadtest.bench.users import NOW_MS, made_up_users, recent, store
from loadtest.errors import NoRun
from loadtest.table import table
from model.bundle.reading import Bundle
from model.command import run as run_command
from service.settings import Settings

WHOLE = b'"degraded":[]'  # of an answer that was made with all there is
ERROR = b'{"error":'


@dataclass(frozen=True)
class Sizes:
    items: int = 100_000
    users: int = 2000  # of a batch
    clicks: int = 100  # of each
    batch_candidates: int = 10  # of each
    candidates: int = 100  # of a request beside
    rounds: int = 10
    requests: int = 150  # per round
    tries: int = 100  # batches, at least
    warm: int = 50


QUICK = Sizes(items=500, users=40, clicks=30, rounds=2, requests=5, tries=3, warm=3)


class Batch(NamedTuple):
    """One answered batch."""

    seconds: float
    whole: int  # users who were ranked with what the store holds
    errors: int


class Round(NamedTuple):
    """Milliseconds of each request, those that were degraded, and the batches meanwhile."""

    ms: list[float]
    degraded: int
    batches: list[Batch]


class Batches:
    """A client of its own thread, which sends one batch after the other while it is entered."""

    def __init__(self, port: int, sent: bytes):
        self._connection, self._sent = Connection(port), sent
        self._stop, self._failed = threading.Event(), ""
        self.answered: list[Batch] = []

    def ask(self) -> Batch:
        answer = _answered(self._connection.ask(self._sent))
        return Batch(answer.seconds, answer.body.count(WHOLE), answer.body.count(ERROR))

    def __enter__(self) -> "Batches":
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for the batch under way."""
        self._stop.set()
        self._thread.join()
        self.close()

    def close(self) -> None:
        self._connection.socket.close()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.answered.append(self.ask())
        except (NoRun, OSError) as error:
            self._failed = str(error)

    def checked(self) -> list[Batch]:
        """Once it is left. Raises NoRun."""
        if self._failed:
            raise NoRun(self._failed)
        return self.answered


class Single:
    """Asks its messages in turn, on a connection of the round."""

    def __init__(self, port: int, messages: Sequence[bytes]):
        self._port, self._messages, self._next = port, messages, 0

    def round(self, requests: int) -> Round:
        ms, degraded = [], 0
        with Connection(self._port) as connection:
            for _ in range(requests):
                answer = _answered(connection.ask(self._messages[self._next % len(self._messages)]))
                self._next += 1
                ms.append(1000 * answer.seconds)
                degraded += WHOLE not in answer.body
        return Round(ms, degraded, [])


def _answered(answer: Answer) -> Answer:
    if answer.status != 200:
        raise NoRun(f"answered {answer.status}: {answer.body[-200:].decode(errors='replace')}")
    return answer


def _beside(port: int, sent: bytes, single: Single, requests: int) -> Round:
    with Batches(port, sent) as batches:
        time.sleep(0.05)  # the first is under way
        ms, degraded, _ = single.round(requests)
    return Round(ms, degraded, batches.checked())


def measure(one: Bundle, sizes: Sizes) -> Measured:
    """Raises NoRun."""
    rng = np.random.default_rng(11)
    users = [recent(user, NOW_MS) for user in made_up_users(sizes.users, sizes.items, rng, sizes.clicks)]

    def request(user: int, candidates: int) -> dict[str, Any]:
        return {"user_id": f"u{user}", "candidates": [f"i{n}" for n in rng.integers(sizes.items, size=candidates)]}

    batch = message("/rank/batch", [request(user, sizes.batch_candidates) for user in range(sizes.users)])
    singles = [message("/rank", request(n % sizes.users, sizes.candidates)) for n in range(MESSAGES)]
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    own, others = ({max(cores)}, cores - {max(cores)}) if len(cores) > 1 else (None, None)
    settings: dict[str, Any] = {
        "history_timeout_ms": Settings.model_fields["history_timeout_ms"].default,
        "batch_timeout_ms": 0,
        "timeout_ms": 0,
        "max_batch_requests": sizes.users,
        "max_batch_candidates": sizes.users * sizes.batch_candidates,
    }
    with ExitStack() as stack:
        stack.enter_context(on(others))
        url = stack.enter_context(store(users))
        running = stack.enter_context(
            service(cpus=own, bundle=one.folder, redis_url=url, workers=1, score_threads=1, **settings)
        )
        single = Single(running.port, singles)
        single.round(sizes.warm)
        turns: dict[str, Callable[[], Round]] = {
            "alone": partial(single.round, sizes.requests),
            "beside": partial(_beside, running.port, batch, single, sizes.requests),
        }
        rounds = take_turns("others beside batches", sizes.rounds, turns)
        answered = [batch for one in rounds["beside"] for batch in one.batches]
        more = Batches(running.port, batch)
        stack.callback(more.close)
        while len(answered) < sizes.tries:
            answered.append(more.ask())
    return _measured(rounds["alone"], rounds["beside"], answered, sizes)


def _measured(alone: Sequence[Round], beside: Sequence[Round], batches: Sequence[Batch], sizes: Sizes) -> Measured:
    if errors := sum(batch.errors for batch in batches):
        raise NoRun(f"{errors} requests of the batches got an error")
    ms = {name: [time for one in rounds for time in one.ms] for name, rounds in (("alone", alone), ("beside", beside))}
    quantiles = {name: {f"p{q}": float(np.percentile(times, q)) for q in (50, 90, 99)} for name, times in ms.items()}
    kept = sum(batch.whole == sizes.users for batch in batches)
    figures = {
        "p99_ratio": quantiles["beside"]["p99"] / quantiles["alone"]["p99"],
        "p50_ratio": quantiles["beside"]["p50"] / quantiles["alone"]["p50"],
        "tries": len(batches),
        "histories_kept": kept,
        "users_kept_share": sum(batch.whole for batch in batches) / (len(batches) * sizes.users),
        "batch_s": statistics.median(batch.seconds for batch in batches),
        "ms": quantiles,
        "worst_ms": {name: max(times) for name, times in ms.items()},
        "degraded": {"alone": sum(one.degraded for one in alone), "beside": sum(one.degraded for one in beside)},
        "requests": len(ms["alone"]),
    }
    rows = {name: [*quantiles[name].values(), max(times)] for name, times in ms.items()}
    lines = [
        table("POST /rank, ms", ["p50", "p90", "p99", "worst"], rows),
        f"p99 beside batches over alone: {figures['p99_ratio']:.2f}",
        f"{kept} of {len(batches)} batches of {sizes.users} users kept all histories; one took "
        f"{figures['batch_s']:.2f} s (median)",
    ]
    return Measured(figures, "\n".join(lines), plot({"POST /rank, ms": quantiles}, "quantile"))


def main(arguments: Sequence[str] | None = None) -> int:
    command = Command("batches", __doc__, Sizes(), QUICK, CACHE)
    for name in ("tries", "candidates"):
        command.parser.add_argument(f"--{name}", type=positive, help=f"(default: {getattr(Sizes(), name)})")
    return command.run(arguments, lambda args, sizes: measure(bundle(args.cache, items=sizes.items), sizes))


if __name__ == "__main__":
    run_command(main, "batches")
