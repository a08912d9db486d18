"""In the parent: what a caller of POST /admin/model wants of all workers, and what comes of it."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model.bundle import versions
from model.bundle.errors import BundleError
from service.errors import BundleRefused, Draining, NothingBefore, RankerError, SwapUnderWay
from service.models import apart
from service.models.swaps import Refused, Swapped, Swaps
from service.models.target import home_of, target_of
from service.process.control import Order, Result

log = logging.getLogger("ranker")

INSTALL = "import sys; from service.models.installing.place import main; main(sys.argv[1:])"


STOPS = "this instance stops and takes no other bundle; nothing was done"


class ModelOrders:
    """`path` is RANKER_BUNDLE: where it is a folder with `current`, that link follows what was ordered."""

    def __init__(self, path: Path, swaps: Swaps):
        self._path, self._swaps = path, swaps
        self._under_way: set[asyncio.Task[None]] = set()
        self._ended = False

    def end(self) -> None:
        """The service stops. Who waits is told so now, and not kept for as long as the grace lasts."""
        self._ended = True
        if not self._swaps.switching:  # else it is as good as done
            for task in self._under_way:
                task.cancel()

    def take(self, order: Order, answer: Callable[[Result], None]) -> None:
        """Does not wait; `answer` gets the result when there is one, be it an error's kind and message."""
        task = asyncio.create_task(self._answer(order, answer))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _answer(self, order: Order, answer: Callable[[Result], None]) -> None:
        try:
            if self._ended:
                raise Draining(STOPS)
            if self._swaps.busy or len(self._under_way) > 1:
                raise SwapUnderWay("another swap is under way; GET /model tells when it is over")
            body = await self._done(order.what)
        except asyncio.CancelledError:
            answer(_refusal(order, Draining(STOPS)))
            raise
        except RankerError as error:
            answer(_refusal(order, error))
        else:
            answer(Result(order.number, 200, body))

    async def _done(self, what: dict[str, Any]) -> dict[str, Any]:
        if what.get("rollback"):
            folder = await apart.thread(self._before)
            why = "POST /admin/model asked to go back"
        else:
            folder = await self._named(str(what["bundle"]), what.get("sha256"))
            why = "POST /admin/model named it"
        if target_of(folder) == self._swaps.live:
            raise BundleRefused(f"{folder} answers already; nothing was done")
        try:
            swapped = await self._swaps.swap(folder, why)
        except Refused as error:
            raise BundleRefused(f"{error}; the one before goes on") from None
        return await apart.thread(lambda: self._told(swapped))

    def _before(self) -> Path:
        """Raises NothingBefore."""
        if self._swaps.before is not None:
            return self._swaps.before
        home = home_of(self._path)
        if home is not None and (version := versions.previous(home)) is not None:
            return (home / version).resolve()
        raise NothingBefore("no bundle answered before this one, and no `previous` stands beside `current`")

    async def _named(self, source: str, sha256: str | None) -> Path:
        """The bundle's folder; what is no folder, or has a sha256 to compare, is installed first."""
        if sha256 is None and await apart.thread(Path(source).is_dir):
            return (await apart.thread(lambda: target_of(Path(source)))).folder
        home = home_of(self._path)
        if home is None:
            raise BundleRefused(
                f"{source} has to be installed, and RANKER_BUNDLE={self._path} is a bundle itself: let it name the "
                "folder that holds versions and `current`"
            )
        try:
            return Path((await apart.process(INSTALL, source, str(home.resolve()), sha256 or ""))["folder"])
        except BundleError as error:
            raise BundleRefused(str(error)) from None

    def _told(self, swapped: Swapped) -> dict[str, Any]:
        """What the caller is told; `current` follows where it can, or the next start would undo the order."""
        told: dict[str, Any] = asdict(swapped)
        folder, home = Path(swapped.folder), home_of(self._path)
        note = f"RANKER_BUNDLE={self._path} leads elsewhere: the service starts with that next time"
        if home is not None and folder.parent == home.resolve():
            try:
                versions.point(home, folder.name)
                note = ""
            except OSError as error:
                note = f"`current` could not follow ({error.strerror}): the service starts with another next time"
        elif target_of(self._path).folder == folder:
            note = ""
        if note:
            log.warning("bundle %s: %s", folder, note)
        return told | {"note": note or None}


def _refusal(order: Order, error: RankerError) -> Result:
    return Result(order.number, error.status, {"kind": error.kind, "message": str(error)})
