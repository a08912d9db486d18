"""Runs of the graph that wait for a thread, and which is next.

Single requests come before batches, which get every BULK_TURN-th run where both wait: a batch is in no such hurry, and
must not starve. Within a lane the one that waits longest is next. Short lists behind each other are joined into one
run, which takes less than theirs one by one. A run whose caller has gone or whose deadline has passed is not begun.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from model.features.batch import candidates
from model.features.encode import Inputs
from service.call import Call
from service.errors import RankerError

Scores = npt.NDArray[np.float32]
Graph = Callable[[Inputs], Scores]  # encoded requests → scores (U, C); two that are equal may run joined inputs

BULK_TURN = 4  # runs of single requests to one of a batch, where both wait
SHORT, JOINED = 25, 250  # a list that may be joined to others, and the candidates of such a run


class Run:
    """One run of the graph to come: inputs, for which call, and where its scores (U, C) go."""

    def __init__(self, graph: Graph, inputs: Inputs, call: Call):
        self.graph, self.inputs, self.call = graph, inputs, call
        self.rows = len(inputs["item"]) * candidates(inputs)
        self.loop = asyncio.get_running_loop()
        self.scores: asyncio.Future[Scores] = self.loop.create_future()
        self.waiting_since = time.perf_counter()
        self.begun = self.ended = 0.0

    def answer(self, outcome: Scores | Exception) -> None:
        """From a thread of the pool; who asked may have gone."""
        self.ended = time.perf_counter()
        self.loop.call_soon_threadsafe(self._set, outcome)

    def wanted(self) -> bool:
        """Whether somebody still waits for it; who asked is told where it is too late."""
        if self.scores.cancelled():
            return False
        try:
            self.call.check("score")
        except RankerError as error:
            self.answer(error)
            return False
        return True

    def _set(self, outcome: Scores | Exception) -> None:
        if self.scores.done():
            return
        if isinstance(outcome, Exception):
            self.scores.set_exception(outcome)
        else:
            self.scores.set_result(outcome)


class Lanes:
    """Safe with several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._single: deque[Run] = deque()
        self._bulk: deque[Run] = deque()
        self._singles = 0  # runs since the last one of a batch

    def __len__(self) -> int:
        return len(self._single) + len(self._bulk)

    def add(self, runs: Sequence[Run], bulk: bool) -> None:
        with self._lock:
            (self._bulk if bulk else self._single).extend(runs)

    def next(self) -> list[Run]:
        """Takes what is run together next; nothing where nothing waits."""
        with self._lock:
            if self._bulk and (not self._single or self._singles >= BULK_TURN):
                self._singles = 0
                return self._first(self._bulk)
            self._singles += 1
            return self._first(self._single)

    def waiting(self) -> tuple[int, float]:
        """Candidates that wait, and for how many seconds the first of them has."""
        with self._lock:
            runs = [*self._single, *self._bulk]
        now = time.perf_counter()
        return sum(run.rows for run in runs), max((now - run.waiting_since for run in runs), default=0.0)

    def _first(self, lane: deque[Run]) -> list[Run]:
        taken: list[Run] = []
        while lane:
            run = lane[0]
            if taken and (run.rows > SHORT or taken[0].rows > SHORT or (len(taken) + 1) * SHORT > JOINED):
                break
            if taken and run.graph != taken[0].graph:
                break
            lane.popleft()
            if run.wanted():
                taken.append(run)
        return taken
