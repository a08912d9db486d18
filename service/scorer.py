"""Encoded requests → scores, off the event loop."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from model.bundle import Bundle
from model.features.encode import Inputs

WARM_CANDIDATES = (1, 100, 500)


class Scorer:
    """One bundle and one onnxruntime session; `threads` requests are scored at once, each on one core.

    `run` releases the GIL, so threads serve, and one session's memory does for all of them.
    """

    def __init__(self, bundle: Bundle, threads: int):
        self.bundle = bundle
        self.encoder = bundle.encoder
        self.catalog = bundle.catalog
        self._session = bundle.session()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="score")

    async def score(self, inputs: Inputs, stages: dict[str, float]) -> npt.NDArray[np.float32]:
        """Scores (C,) of one request

        Writes the seconds spent waiting (`queue`) and computing (`score`) into `stages`.
        """
        asked = time.perf_counter()

        def work() -> npt.NDArray[np.float32]:
            begun = time.perf_counter()
            scores: npt.NDArray[np.float32] = self.bundle.score(self._session, inputs)[0]
            stages["queue"], stages["score"] = begun - asked, time.perf_counter() - begun
            return scores

        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def warm(self) -> None:
        """Answers the golden requests, which also proves the bundle, then requests of usual sizes.

        Raises BundleError.
        """
        self.bundle.replay_golden(self._session)
        request: dict[str, Any] = self.bundle.golden()[0]
        for count in WARM_CANDIDATES:
            candidates = (request["candidates"] * count)[:count]
            self.bundle.score(self._session, self.bundle.encode_golden(request | {"candidates": candidates}))

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
