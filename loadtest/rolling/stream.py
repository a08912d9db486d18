"""Callers in an open loop who go on until they are told to end: on connections kept, or on a new one each time."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from loadtest.generator.answers import SERVED, Kind, check
from loadtest.generator.client import Address, Answer, Client, _Connection
from loadtest.generator.plan import Body
from loadtest.quantiles import quantiles_ms

WAIT_S = 15.0  # for the last answers
CHECKED_EVERY = 20  # answers whose content is looked at; of all others the status


class Anew(Client):
    """A new connection for each request, as callers without a pool have it."""

    def _release(self, connection: _Connection) -> None:
        connection.abort()  # all that was sent and asked for is read


class Heard(NamedTuple):
    """Of one request: seconds of the loop's clock, and why there was no right answer."""

    due: float
    at: float
    failure: str


class Stream:
    """One kind of callers. `heard` holds what is answered so far."""

    def __init__(self, client: Client, rate: float, bodies: Sequence[Body], rng: np.random.Generator):
        self._client, self._rate, self._bodies, self._rng = client, rate, bodies, rng
        self._messages = [client.message("POST", "/rank", body.content) for body in bodies]
        self._sent = 0
        self._ends = asyncio.Event()
        self.heard: list[Heard] = []

    async def run(self) -> None:
        """Sends at random moments (Poisson), each when it is due, until `end`; then waits for the answers."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not self._ends.is_set():
            due += self._rng.exponential(1 / self._rate)
            await asyncio.sleep(max(0.0, due - loop.time()))
            number = self._sent % len(self._messages)
            self._sent += 1
            self._client.send(self._messages[number], partial(self._answered, due, self._sent, self._bodies[number]))
        until = loop.time() + WAIT_S
        while len(self.heard) < self._sent and loop.time() < until:
            await asyncio.sleep(0.01)
        self.heard += [Heard(due, loop.time(), "no answer")] * (self._sent - len(self.heard))

    def end(self) -> None:
        self._ends.set()

    def _answered(self, due: float, number: int, body: Body, answer: Answer) -> None:
        failure = answer.failure or ("" if answer.status == 200 else f"status {answer.status}")
        if not failure and number % CHECKED_EVERY == 0:
            checked = check(answer, body)
            failure = "" if checked.kind in SERVED else f"{Kind(checked.kind).name.lower()}: {checked.why}"
        self.heard.append(Heard(due, answer.at, failure))


def summary(heard: Sequence[Heard], during: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Of one kind of callers; `during` are the spans of restarts, all else is steady."""
    failures = Counter(one.failure for one in heard if one.failure)
    right = [one for one in heard if not one.failure]
    restarting = [any(begin <= one.due < end for begin, end in during) for one in right]
    times_s = np.array([one.at - one.due for one in right])
    within = np.array(restarting, bool)
    p99 = [quantiles_ms(times_s[mask], (0.99,))[0] if mask.any() else None for mask in (~within, within)]
    came = sorted(one.at for one in right)
    gaps = [later - sooner for sooner, later in zip(came, came[1:], strict=False)]
    return {
        "sent": len(heard),
        "failed": sum(failures.values()),
        "not_taken": sum(count for why, count in failures.items() if why.startswith("cannot connect")),
        "resets": sum(count for why, count in failures.items() if "ended before the answer" in why),
        "failures": dict(failures),
        "longest_gap_s": max(gaps, default=None),
        "p99_steady_ms": p99[0],
        "p99_restart_ms": p99[1],
        "p99_restart_over_steady": p99[1] / p99[0] if p99[0] and p99[1] else None,
    }


def address(port: int) -> Address:
    return Address(False, "127.0.0.1", port, f"127.0.0.1:{port}", "")
