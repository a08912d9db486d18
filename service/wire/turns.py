"""Work that would hold the event loop is cut into slices, and between two of them other requests get their turn."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

SLICE_S = 0.0003  # of such work in one round of the loop, and what one step of it takes longer
PAUSE_S = 0.003  # after a slice, while a single request is under way


class Turns:
    """Of one worker: whoever has long work to do on the loop asks for a turn before each small step of it.

    However many work so at once, all have one slice in a round of the loop, and a small part of its time while single
    requests are under way: those wait for a slice now and then, and never for one of everybody's.
    """

    def __init__(self) -> None:
        self._one = asyncio.Lock()  # first come, first served
        self._begun = 0.0  # when the slice began
        self._singles = 0
        self.store = asyncio.Lock()  # held while users of a batch are read: unpacking them is such a step too

    @contextmanager
    def single(self) -> Iterator[None]:
        """Around a request that goes before long work."""
        self._singles += 1
        try:
            yield
        finally:
            self._singles -= 1

    async def next(self) -> None:
        """Returns at once within a slice, else when it is the caller's turn: after a round of the loop, or a pause."""
        if time.perf_counter() - self._begun < SLICE_S:
            return
        async with self._one:
            await asyncio.sleep(PAUSE_S if self._singles else 0)
            self._begun = time.perf_counter()
