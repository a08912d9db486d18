"""Encoded requests → scores, off the event loop.

Why it is as it is (model/LOG.md, 2026-11-21, scoring at the machine's limit): a run has one thread, since two runs
side by side on two cores do more than one run on both; a long list is cut where threads are idle, and the pieces are
run side by side; short lists that wait for a thread are joined into one run, which takes less than theirs one by one.
Nothing ever waits to be joined.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from model.features.batch import candidates, pieces, stacked
from model.features.encode import Inputs

Scores = npt.NDArray[np.float32]
Graph = Callable[[Inputs], Scores]  # encoded requests → scores (U, C); two that are equal may run joined inputs

MOST = 1000  # candidates of one run: more need memory, and are no faster each
WORTH_CUTTING = 125  # candidates of a piece at least: below, each pays too much for the user's half and the operators
SHORT, JOINED = 25, 250  # a list that may be joined to others, and the candidates of such a run


class Run:
    """One run of the graph to come: inputs, and where its scores (U, C) go."""

    def __init__(self, graph: Graph, inputs: Inputs):
        self.graph, self.inputs = graph, inputs
        self.rows = len(inputs["item"]) * candidates(inputs)
        self.loop = asyncio.get_running_loop()
        self.scores: asyncio.Future[Scores] = self.loop.create_future()
        self.waiting_since = time.perf_counter()
        self.begun = self.ended = 0.0

    def answer(self, outcome: Scores | Exception) -> None:
        """From a thread of the pool; who asked may have gone."""
        self.ended = time.perf_counter()
        self.loop.call_soon_threadsafe(self._set, outcome)

    def _set(self, outcome: Scores | Exception) -> None:
        if self.scores.done():
            return
        if isinstance(outcome, Exception):
            self.scores.set_exception(outcome)
        else:
            self.scores.set_result(outcome)


class Scorer:
    """The threads that run graphs: `threads` runs at once, each on one core.

    A run releases the GIL, so threads serve, and one session's memory does for all of them.
    """

    def __init__(self, threads: int):
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="score")
        self._lock = threading.Lock()
        self._waiting: deque[Run] = deque()
        self._running = 0

    async def score(self, graph: Graph, inputs: Inputs, stages: dict[str, float]) -> Scores:
        """Scores (C,) of one request; the seconds spent waiting (`queue`) and computing (`score`) go into `stages`."""
        cuts = self._cuts(candidates(inputs))
        if cuts == 1:
            [scores_1C] = await self._scored([Run(graph, inputs)], stages)
            scores: Scores = scores_1C[0]
            return scores
        runs = [Run(graph, piece) for piece in pieces(inputs, cuts)]
        scores = np.concatenate(await self._scored(runs, stages), axis=1)[0]
        return scores

    async def score_many(self, graph: Graph, requests: Sequence[Inputs], stages: dict[str, float]) -> list[Scores]:
        """Scores of several requests, (C,) each: as many as fit in one run of the graph together."""
        order = sorted(range(len(requests)), key=lambda at: candidates(requests[at]))
        together: list[list[int]] = []
        for at in order:  # ascending, so that a run is as wide as the one that comes last
            if together and (len(together[-1]) + 1) * candidates(requests[at]) <= MOST:
                together[-1].append(at)
            else:
                together.append([at])
        inputs = [stacked([requests[at] for at in run]) if len(run) > 1 else requests[run[0]] for run in together]
        runs = [Run(graph, one) for one in inputs]
        scores: list[Scores] = [np.zeros(0, np.float32)] * len(requests)
        for run, scores_UC in zip(together, await self._scored(runs, stages), strict=True):
            for row, at in enumerate(run):
                scores[at] = scores_UC[row, : candidates(requests[at])]
        return scores

    def waiting(self) -> tuple[int, float]:
        """Candidates that wait for a thread, and for how many seconds the first of them has."""
        with self._lock:
            runs = list(self._waiting)
        return sum(run.rows for run in runs), time.perf_counter() - runs[0].waiting_since if runs else 0.0

    def _cuts(self, count: int) -> int:
        idle = self._threads - self._running - len(self._waiting)
        return max(1, -(-count // MOST), min(idle, count // WORTH_CUTTING))

    async def _scored(self, runs: Sequence[Run], stages: dict[str, float]) -> list[Scores]:
        queued = time.perf_counter()
        self._waiting.extend(runs)
        for _ in runs:
            self._pool.submit(self._work)
        scores = [await runs[0].scores] if len(runs) == 1 else await asyncio.gather(*(run.scores for run in runs))
        begun, ended = min(run.begun for run in runs), max(run.ended for run in runs)
        stages["queue"], stages["score"] = begun - queued, ended - begun
        return scores

    def _work(self) -> None:
        """In a thread: the run that waits longest, and short ones behind it."""
        with self._lock:
            taken = self._next()
            self._running += bool(taken)
        if not taken:  # joined to another
            return
        begun = time.perf_counter()
        for run in taken:
            run.begun = begun
        try:
            self._answer(taken)
        finally:
            with self._lock:
                self._running -= 1

    def _next(self) -> list[Run]:
        taken: list[Run] = []
        while self._waiting:
            run = self._waiting[0]
            if taken and (run.rows > SHORT or taken[0].rows > SHORT or (len(taken) + 1) * SHORT > JOINED):
                break
            if taken and run.graph != taken[0].graph:
                break
            self._waiting.popleft()
            if not run.scores.cancelled():  # who asked has not gone
                taken.append(run)
        return taken

    def _answer(self, taken: Sequence[Run]) -> None:
        try:
            inputs = taken[0].inputs if len(taken) == 1 else stacked([run.inputs for run in taken])
            scores_UC = taken[0].graph(inputs)
        except Exception as error:  # whatever it is belongs to who asked
            if len(taken) == 1:
                taken[0].answer(error)
            else:  # to one of them
                for run in taken:
                    self._answer([run])
            return
        at = 0
        for run in taken:
            users, count = run.inputs["item"].shape[:2]
            run.answer(scores_UC[at : at + users, :count])
            at += users

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
