"""The traffic of one window: single requests, batches and callers who hang up, each an open loop by one clock.

Every request is drawn before the clock starts and leaves when it is due. Answers are kept until all streams have ended
and checked after that: a check takes 0.4 ms, which would delay the sends and the answers of the other streams.
"""

import asyncio
import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import orjson

from loadtest.generator.answers import Kind, Log, check
from loadtest.generator.budgets import Budget
from loadtest.generator.client import Address, Answer, Client, Done
from loadtest.generator.plan import Body
from loadtest.generator.progress import Progress
from loadtest.generator.replay import Seconds
from loadtest.generator.send import HEAD_START_S, open_loop
from loadtest.generator.target import Target

GIVE_UP_S = 0.1  # patience of the callers who hang up
POOL = 2_000  # different requests, and a tenth as many batches; they come round again
BATCH, BATCH_CANDIDATES = 10, 50  # requests in a batch, candidates of each
WAIT_S = 5.0  # for answers, after the last send
KEPT_BYTES = 2**30  # of answers in one window: 500 candidates are answered by 20 kB


class Segment(NamedTuple):
    seconds: float
    rate: float  # requests per second, batches and callers who hang up included


@dataclass(frozen=True)
class Mix:
    """Shares of the calls, 0 to 1: batches, and callers who hang up after GIVE_UP_S."""

    batches: float = 0.0
    impatient: float = 0.0


class Batch(NamedTuple):
    """A body for POST /rank/batch, and the requests in it."""

    content: bytes
    bodies: tuple[Body, ...]


class Calls(Log):
    """A log whose answers are checked by `finish`, not when its own stream has ended; batches' answers too."""

    def __init__(self, due_s: Seconds, bodies: Sequence[Body] | Sequence[Batch]):
        self._batches = [body for body in bodies if isinstance(body, Batch)]
        super().__init__(due_s, [body for body in bodies if isinstance(body, Body)], KEPT_BYTES)
        self._end_s = 0.0

    def close(self, end_s: float) -> None:
        self._end_s = end_s

    def finish(self) -> None:
        super().close(self._end_s)

    def _check(self, request: int, answer: Answer) -> None:
        if not self._batches:
            super()._check(request, answer)
            return
        self.kinds[request], self._whys[request] = check_batch(answer, self._batches[request % len(self._batches)])


def check_batch(answer: Answer, batch: Batch) -> tuple[Kind, str]:
    """What an answer to a batch is, and why it is not right or degraded: the worst of its requests' answers."""
    if answer.failure or answer.status != 200:
        whole = check(answer, batch.bodies[0])
        return whole.kind, whole.why
    try:
        answers = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return Kind.WRONG, "not JSON"
    if not isinstance(answers, list) or len(answers) != len(batch.bodies):
        return Kind.WRONG, "not an answer for each request of the batch"
    checks = [
        check(answer._replace(content=orjson.dumps(one)), body) for one, body in zip(answers, batch.bodies, strict=True)
    ]
    worst = max(checks, key=lambda one: one.kind)
    return worst.kind, worst.why


class Impatient(Client):
    """Callers with a connection of their own each, who hang up when they have waited for GIVE_UP_S."""

    def __init__(self, address: Address):
        super().__init__(address)
        self._to, self._leaving = address, set[asyncio.Task[None]]()

    def send(self, message: bytes, done: Done) -> None:
        alone, loop, over = Client(self._to), asyncio.get_running_loop(), False

        def once(answer: Answer) -> None:
            nonlocal over
            if not over:
                over = True
                done(answer)

        def leave() -> None:
            once(Answer(loop.time(), 0, b"", "the caller hung up"))
            leaving = loop.create_task(alone.close())
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

        alone.send(message, once)
        loop.call_later(GIVE_UP_S, leave)

    async def close(self) -> None:
        await super().close()
        while self._leaving:
            await asyncio.sleep(0.01)


class Sent(NamedTuple):
    """The logs of a window's streams, closed once `finish` has checked the answers; a stream may be empty."""

    singles: Calls
    batches: Calls
    impatient: Calls

    def finish(self) -> None:
        for log in self:
            log.finish()


class Traffic:
    """Requests of `candidates` candidates to one service, drawn once for all windows."""

    def __init__(self, address: Address, singles: Sequence[Body], batches: Sequence[Batch], rng: np.random.Generator):
        self.address, self.singles, self._batches, self._rng = address, singles, batches, rng

    @classmethod
    def drawn(cls, target: Target, address: Address, budget: Budget, rng: np.random.Generator) -> "Traffic":
        """Of the ids that the service offers. Raises NoRun."""
        small = target.bodies(replace(budget, candidates=BATCH_CANDIDATES), POOL, rng)
        tens = [tuple(small[at : at + BATCH]) for at in range(0, len(small), BATCH)]
        batches = [Batch(b"[" + b",".join(body.content for body in ten) + b"]", ten) for ten in tens]
        return cls(address, target.bodies(budget, POOL, rng), batches, rng)

    async def send(self, segments: Sequence[Segment], mix: Mix, name: str) -> Sent:
        """Sends the segments one after another without a gap, and leaves the answers unchecked.

        The logs' seconds count from the first segment's begin.
        """
        due_s = self._due_s(segments)
        stream = self._rng.choice(3, len(due_s), p=(1 - mix.batches - mix.impatient, mix.batches, mix.impatient))
        singles = [self.singles[at] for at in self._rng.permutation(len(self.singles))]
        logs = Sent(
            Calls(due_s[stream == 0], singles),
            Calls(due_s[stream == 1], self._batches),
            Calls(due_s[stream == 2], singles),
        )
        clients = (Client(self.address), Client(self.address), Impatient(self.address))
        messages = (
            [clients[0].message("POST", "/rank", body.content) for body in singles],
            [clients[1].message("POST", "/rank/batch", batch.content) for batch in self._batches],
            [clients[2].message("POST", "/rank", body.content) for body in singles],
        )
        progress = Progress(name, len(due_s))
        gc.collect()
        gc.disable()  # kept answers are many and in no cycle: walking them would delay sends
        try:
            start = asyncio.get_running_loop().time() + HEAD_START_S
            await asyncio.gather(
                *(
                    open_loop(client, of_stream, log, WAIT_S, progress, start)
                    for client, of_stream, log in zip(clients, messages, logs, strict=True)
                    if len(log.due_s)
                )
            )
        finally:
            gc.enable()
            progress.close()
            for client in clients:
                await client.close()
        return logs

    def _due_s(self, segments: Sequence[Segment]) -> Seconds:
        """Poisson, at each segment's rate."""
        begin, parts = 0.0, []
        for segment in segments:
            drawn = self._rng.poisson(segment.rate * segment.seconds)
            parts.append(begin + segment.seconds * np.sort(self._rng.random(drawn)))
            begin += segment.seconds
        return np.concatenate(parts)
