"""A real store, two instances of the service before it, and callers who do not give up."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from model.bundle.reading import Bundle
from service.settings import DEMO_BUNDLE
from tests.client import Service, serving
from tests.faults.client import Caller, Lost, request
from tests.faults.serving import workers_of
from tests.faults.store.server import RealStore, real_store
from tests.judge.kept import stored_clicks
from tests.processes import wait_until
from tests.servers import free_ports
from tests.versions import three

AGAIN = (429, 503, 504)  # "not now": safe to send again
PAUSE_S, PATIENCE_S = 0.05, 60.0
SETTINGS = {
    "workers": "2",
    "score_threads": "1",
    "precision": "fp32",  # scores are compared
    "history_timeout_ms": "1000",
    "timeout_ms": "20000",  # a busy machine is no reason to fail
    "bundle_poll_s": "0.2",
    "catalog_poll_s": "0.2",
}
JOURNAL = {"journal_rotate_s": "1"}  # files are drained while others are written


class Instance:
    """A service on a port of its own, which can be killed and started again on what it left."""

    def __init__(
        self,
        port: int,
        settings: dict[str, str],
        begin: Callable[..., AbstractContextManager[Service]] = serving,
    ):
        self.port, self._settings, self._begin = port, settings, begin
        self._undo = ExitStack()

    def start(self) -> None:
        """From the main thread; `ready` waits for it."""
        self.service = self._undo.enter_context(self._begin(port=str(self.port), **self._settings))

    def ready(self) -> None:
        wait_until(lambda: "curl" in self.service.output or self.service.process.poll() is not None, self.service)
        assert self.service.process.poll() is None, f"an instance did not start: {self.service}"

    def kill(self) -> None:
        """SIGKILL to the parent; its workers end after it."""
        self.service.kill()
        wait_until(lambda: not self.service.children.pids(), "workers outlive their parent")

    def end(self) -> None:
        """SIGTERM: what is asked is answered, and what is counted is brought home."""
        self.service.children.look()
        self.service.process.terminate()
        self.service.ended()

    def close(self) -> None:
        self._undo.close()


class Instances:
    """Two of the service on ports of their own. `ask` is how shoppers call."""

    def __init__(self, **settings: str):
        self.instances = [Instance(port, SETTINGS | settings) for port in free_ports(2)]
        self._idle: list[list[Caller]] = [[], []]

    def start(self) -> None:
        for instance in self.instances:
            instance.start()
        for instance in self.instances:
            instance.ready()

    def close(self) -> None:
        for instance in self.instances:
            instance.close()

    async def ask(
        self,
        instance: int,
        method: str,
        path: str,
        body: Any,
        retried: Counter[str],
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> Any:
        """The answer, which is 200; whatever else comes is counted in `retried`: what says "not now" is sent again."""
        loop = asyncio.get_running_loop()
        until, message = loop.time() + PATIENCE_S, request(method, path, body, headers)
        while True:
            caller = self._idle[instance].pop() if self._idle[instance] else Caller(self.instances[instance].port)
            try:
                await caller.send(message)
                answer = await caller.receive()
            except (Lost, OSError) as error:
                met = type(error).__name__
                caller.hang_up()
            except asyncio.CancelledError:  # the run ends
                caller.hang_up()
                raise
            else:
                self._idle[instance].append(caller)
                if answer.status == 200:
                    return answer.json()
                met = str(answer.status)
                if answer.status not in AGAIN:
                    told = answer.body[:300].decode(errors="replace")
                    raise AssertionError(f"{method} {path}: {answer.status}: {told}")
            retried[f"{path.split('/')[1]}: {met}"] += 1
            assert loop.time() < until, f"{method} {path}: {met} for {PATIENCE_S:.0f} s"
            await asyncio.sleep(PAUSE_S)

    def hang_up(self) -> None:
        for caller in (caller for idle in self._idle for caller in idle):
            caller.hang_up()
        self._idle = [[], []]

    def kill_a_worker(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(workers_of(self.instances[0].service)[0], signal.SIGKILL)


class Stage(Instances):
    """Two instances with one journal, their store and their home of three versions."""

    def __init__(self, folder: Path, store: RealStore):
        self.folder, self.store = folder, store
        self.home = three(Bundle.open(DEMO_BUNDLE), folder / "home")
        self.journal, self.log = folder / "journal", folder / "log"
        super().__init__(redis_url=store.url, bundle=str(self.home), journal=str(self.journal), **JOURNAL)

    def stored_clicks(self, user_id: str) -> set[tuple[str, int]]:
        return stored_clicks(self.store.admin, user_id)


@contextmanager
def stage() -> Iterator[Stage]:
    """A stage whose store keeps every write on disk before it answers (AOF always); nothing is left of it."""
    with TemporaryDirectory(prefix="ranker-judge-") as folder, ExitStack() as undo:
        store = undo.enter_context(real_store(appendonly="yes", appendfsync="always"))
        made = Stage(Path(folder), store)
        undo.callback(made.close)
        made.start()
        yield made
