"""Work that would hold the event loop is cut into slices, and between two of them other requests get their turn."""

import asyncio
import time

SLICE_S = 0.0005  # of such work in one round of the loop, and what one step of it takes longer


class Turns:
    """Of one worker: whoever has long work to do on the loop asks for a turn before each small step of it.

    However many work so at once, all have one slice in a round of the loop: a short request waits for one slice in
    each of its steps, not for one of everybody's.
    """

    def __init__(self) -> None:
        self._one = asyncio.Lock()  # first come, first served
        self._begun = 0.0  # when the slice began
        self.store = asyncio.Lock()  # held while users of a batch are read: unpacking them is such a step too

    async def next(self) -> None:
        """Returns at once within a slice, else after a round of the loop, when it is the caller's turn."""
        if time.perf_counter() - self._begun < SLICE_S:
            return
        async with self._one:
            await asyncio.sleep(0)
            self._begun = time.perf_counter()
