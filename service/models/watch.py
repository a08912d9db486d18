"""In the parent: looks at what RANKER_BUNDLE leads to, and has a newer bundle go live.

It polls, as volumes and ConfigMaps tell nobody that they changed. A bundle that was refused is looked at again when its
files have changed and rest, or at SIGHUP; one that is gone is told of once, and the one that answers goes on.
"""

import asyncio
import logging
from pathlib import Path

from service.models import apart
from service.models.swaps import Refused, Swaps
from service.models.target import Target, state_of, target_of

log = logging.getLogger("ranker")

TRIES = 3  # of a bundle that was refused for no fault of its own


class BundleWatch:
    """Looks every `poll_s` seconds, and when it is told to; 0: only then."""

    def __init__(self, path: Path, poll_s: float, swaps: Swaps):
        self._path, self._poll_s, self._swaps = path, poll_s, swaps
        self._seen: Target = swaps.live
        self._gone = False
        self._refused: tuple[object, ...] | None = None  # the files of the bundle that was refused
        self._resting: tuple[object, ...] | None = None  # as they were at the last look
        self._tries = 0
        self._asked = asyncio.Event()

    def look(self) -> None:
        """Looks at once, also at what was refused."""
        self._asked.set()

    async def run(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._asked.wait(), self._poll_s or None)
            except TimeoutError:
                pass
            asked = self._asked.is_set()
            self._asked.clear()
            await self._look(asked)

    async def _look(self, asked: bool) -> None:
        target = await apart.thread(lambda: target_of(self._path))
        if target.stamp is None:
            if not self._gone or asked:
                log.error(
                    "%s leads to no bundle; the one that answers goes on: %s", self._path, self._swaps.live.folder
                )
            self._gone = True
            return
        self._gone = False
        if target == self._swaps.live:
            if asked:
                log.info("SIGHUP: %s leads to the bundle that answers; nothing to do", self._path)
            self._seen, self._refused = target, None
            return
        if target != self._seen:
            self._seen, self._tries = target, 0
            await self._take(target, f"{self._path} leads to it now")
        elif asked:
            await self._take(target, f"SIGHUP, and {self._path} leads to it")
        elif self._refused is not None and await self._mended(target):
            await self._take(target, "its files have changed")

    async def _mended(self, target: Target) -> bool:
        """Whether files of the one that was refused have changed since, and rest now."""
        state = await apart.thread(lambda: state_of(target.folder))
        rests, self._resting = state == self._resting, state
        return rests and state != self._refused

    async def _take(self, target: Target, why: str) -> None:
        state = await apart.thread(lambda: state_of(target.folder))
        try:
            await self._swaps.swap(target.folder, why)
            self._refused = None
        except Refused as error:
            self._tries += 1
            self._refused = () if error.again and self._tries < TRIES else state
            self._resting = state
