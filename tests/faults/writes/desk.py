"""A service that is written to, with its journal, and its store behind a proxy."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.client import Service, serving
from tests.faults.serving import serving_within
from tests.faults.store.proxy import Proxy
from tests.faults.store.server import PASSWORD, RealStore, real_store
from tests.judge.stage import Instance
from tests.servers import free_ports

STORE_MS = 250  # the store's time for a write
JOURNAL = "journal"
SETTINGS = {
    "workers": "2",
    "score_threads": "1",
    "feedback_timeout_ms": str(STORE_MS),
    "history_timeout_ms": str(STORE_MS),
    "timeout_ms": "5000",
    "history_keep": "1000",
    "journal_flush_s": "0.2",
    "journal_rotate_s": "1",
    "journal_rotate_mb": "0.02",
}


class Desk:
    """The processes, and the folders of what they write."""

    def __init__(self, folder: Path, store: RealStore, proxy: Proxy, instance: Instance):
        self.folder, self.store, self.proxy, self.instance = folder, store, proxy, instance
        self._logs = count()

    @property
    def journal(self) -> Path:
        """As the service sees it, who may have mounts of its own."""
        return Path(f"/proc/{self.service.process.pid}/root{self.folder / JOURNAL}")

    @property
    def service(self) -> Service:
        return self.instance.service

    def log(self) -> Path:
        """A folder for a drained log."""
        return self.folder / f"log-{next(self._logs)}"


@contextmanager
def desk(bounds: Callable[[Path], Sequence[object]] | None = None) -> Iterator[Desk]:
    """Its store has every write on the disk before it answers; its journal's files are small and soon closed.

    `bounds`: of `tests.faults.within` for the service, whose journal's folder they are given.
    """
    with TemporaryDirectory(prefix="ranker-faults-") as name, ExitStack() as undo:
        folder = Path(name)
        journal = folder / JOURNAL
        journal.mkdir()
        store = undo.enter_context(real_store(appendonly="yes", appendfsync="always"))
        proxy = undo.enter_context(Proxy(store.path))
        url = f"redis://:{PASSWORD}@127.0.0.1:{proxy.port}"
        own = SETTINGS | {"redis_url": url, "journal": str(journal)}
        begin = serving if bounds is None else partial(serving_within, *bounds(journal))
        instance = Instance(free_ports(1)[0], own, begin)
        undo.callback(instance.close)
        instance.start()
        instance.ready()
        yield Desk(folder, store, proxy, instance)
