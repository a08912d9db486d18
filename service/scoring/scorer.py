"""Encoded requests → scores, off the event loop.

Why it is as it is (model/LOG.md, 2026-11-21, scoring at the machine's limit): a run has one thread, since two runs
side by side on two cores do more than one run on both; a long list is cut where threads are idle, and the pieces are
run side by side; short lists that wait for a thread are joined (lanes.py). Nothing ever waits to be joined.
"""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from model.features.batch import candidates, pieces, stacked
from model.features.encode import Inputs
from service.call import Call
from service.scoring.lanes import Graph, Lanes, Run, Scores

MOST = 1000  # candidates of one run: more need memory, and are no faster each
WORTH_CUTTING = 125  # candidates of a piece at least: below, each pays too much for the user's half and the operators
BULK_MOST = 250  # of a batch's run: single requests wait for one to end


class Scorer:
    """The threads that run graphs: `threads` runs at once, each on one core.

    A run releases the GIL, so threads serve, and one session's memory does for all of them.
    """

    def __init__(self, threads: int):
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="score")
        self._lock = threading.Lock()
        self._lanes = Lanes()
        self._running = 0

    async def score(self, graph: Graph, inputs: Inputs, call: Call) -> Scores:
        """Scores (C,) of one request; the seconds spent waiting (`queue`) and computing (`score`) go into its stages.

        Raises DeadlineExceeded or ClientGone where a run would have been begun in vain.
        """
        cuts = self._cuts(candidates(inputs))
        if cuts == 1:
            [scores_1C] = await self._scored([Run(graph, inputs, call)], call)
            scores: Scores = scores_1C[0]
            return scores
        runs = [Run(graph, piece, call) for piece in pieces(inputs, cuts)]
        scores = np.concatenate(await self._scored(runs, call), axis=1)[0]
        return scores

    async def score_many(self, graph: Graph, requests: Sequence[Inputs], call: Call) -> list[Scores]:
        """Scores of a batch's requests, (C,) each: as many as fit in one run of the graph together; raises as `score`.

        Its stages are added to those that the call has: a batch may come in pieces.
        """
        order = sorted(range(len(requests)), key=lambda at: candidates(requests[at]))
        together: list[list[int]] = []
        for at in order:  # ascending, so that a run is as wide as the one that comes last
            if together and (len(together[-1]) + 1) * candidates(requests[at]) <= BULK_MOST:
                together[-1].append(at)
            else:
                together.append([at])
        inputs: list[Inputs] = []
        for ats in together:
            one = stacked([requests[at] for at in ats]) if len(ats) > 1 else requests[ats[0]]
            inputs += pieces(one, -(-candidates(one) // BULK_MOST)) if candidates(one) > BULK_MOST else [one]
        scored = iter(await self._scored([Run(graph, one, call) for one in inputs], call, bulk=True))
        scores: list[Scores] = [np.zeros(0, np.float32)] * len(requests)
        for ats in together:
            count = candidates(requests[ats[-1]])
            scores_UC = next(scored)
            while scores_UC.shape[1] < count:  # one request that was cut
                scores_UC = np.concatenate([scores_UC, next(scored)], axis=1)
            for row, at in enumerate(ats):
                scores[at] = scores_UC[row, : candidates(requests[at])]
        return scores

    async def run(self, graph: Graph, inputs: Inputs, call: Call, bulk: bool = False) -> Scores:
        """What a graph puts out, (U, C) or (U, C, …), in one run; raises and counts its time as `score`."""
        [output] = await self._scored([Run(graph, inputs, call)], call, bulk)
        return output

    def waiting(self) -> tuple[int, float]:
        """Candidates that wait for a thread, and for how many seconds the first of them has."""
        return self._lanes.waiting()

    def _cuts(self, count: int) -> int:
        idle = self._threads - self._running - len(self._lanes)
        return max(1, -(-count // MOST), min(idle, count // WORTH_CUTTING))

    async def _scored(self, runs: Sequence[Run], call: Call, bulk: bool = False) -> list[Scores]:
        queued = time.perf_counter()
        self._lanes.add(runs, bulk)
        for _ in runs:
            self._pool.submit(self._work)
        scores = [await runs[0].scores] if len(runs) == 1 else await asyncio.gather(*(run.scores for run in runs))
        begun, ended = min(run.begun for run in runs), max(run.ended for run in runs)
        call.spent("queue", begun - queued)
        call.spent("score", ended - begun)
        return scores

    def _work(self) -> None:
        """In a thread: the run that waits longest, and short ones behind it."""
        taken = self._lanes.next()
        if not taken:  # joined to another, or in vain
            return
        with self._lock:
            self._running += 1
        begun = time.perf_counter()
        for run in taken:
            run.begun = begun
        try:
            self._answer(taken)
        finally:
            with self._lock:
                self._running -= 1

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
