"""In the parent: everything by which another bundle goes live, tied to the workers for as long as they run."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from service.models.check import Checked
from service.models.orders import ModelOrders
from service.models.swaps import Fleet, Swaps
from service.models.watch import BundleWatch
from service.process.control import Line, Order

log = logging.getLogger("ranker")


class Asking(Protocol):
    """A worker that bears an order."""

    line: Line


class Following:
    """`look` is for SIGHUP; `order` for what workers' callers want."""

    def __init__(self, fleet: Fleet, bundle: Checked, path: Path, poll_s: float):
        self.swaps = Swaps(fleet, bundle)
        self.watch = BundleWatch(path, poll_s, self.swaps)
        self.look = self.watch.look
        self._orders = ModelOrders(path, self.swaps)
        self.end = self._orders.end

    def order(self, worker: Asking, order: Order) -> None:
        self._orders.take(order, worker.line.tell)


@asynccontextmanager
async def following(fleet: Fleet, bundle: Checked, path: Path, poll_s: float) -> AsyncIterator[Following]:
    """Inside, `fleet` follows `path`, RANKER_BUNDLE, and what is ordered."""
    live = Following(fleet, bundle, path, poll_s)
    tasks = [asyncio.create_task(work) for work in (live.watch.run(), live.swaps.tend())]

    async def end() -> None:
        await fleet.stops()
        live.end()
        for task in tasks:
            task.cancel()

    ending = asyncio.create_task(end())
    for task in tasks:
        task.add_done_callback(_ended)
    try:
        yield live
    finally:
        for task in (ending, *tasks):
            task.cancel()
        await asyncio.gather(ending, *tasks, return_exceptions=True)


def _ended(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("bundles are not followed any more: start the service again", exc_info=error)
