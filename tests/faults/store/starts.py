"""Faults that a service meets when it starts: a store whose name, password or URL is wrong."""

import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.client import Service, serving
from tests.faults.held import Held, LeftOut
from tests.faults.serving import serving_within
from tests.faults.store.proxy import Refuses
from tests.faults.store.server import ANOTHER, PASSWORD
from tests.faults.users import REASONS
from tests.faults.world import RECOVER_S, SETTINGS, World
from tests.processes import wait_until

RESOLVER = "127.9.9.9"  # of the loopback, where nobody else listens
DOWN_S, FEW_LINES = 1.5, 3


@dataclass(frozen=True)
class Beginning:
    """A service that starts with a store it cannot reach: it is ready, answers degraded, and its log says why."""

    name: str
    does: str
    start: Callable[[World], AbstractContextManager[Service]]
    short: bool = False
    size: int = 200
    promises: str = "ready; 200, degraded; the log names the store and the cause, without secrets"

    async def run(self, world: World, held: Held, size: int) -> None:
        failed, output = 0.0, ""
        try:
            with self.start(world) as service:
                own = World(world.store, world.proxy, service, world.users)
                await own.ask_many(held, size)
                failed = await own.counted("ranker_requests_total", outcome="failed")
                output = service.output
        except AssertionError as error:  # of what looks after processes: it had to be killed, say
            held.promise(False, "it starts, and ends soon after SIGTERM", error)
        lacking = sum(held.degraded[reason] for reason in REASONS)
        held.promise(lacking == held.answered, "every answer is degraded", f"{lacking} of {held.answered} are")
        held.promise(not failed, "no request counted as failed", f"{failed:.0f} are")
        lines = _of_the_store(output)
        held.promise(lines, "a line of the log says that the store is away, and why", output[:300])
        held.promise(ANOTHER not in output, "no password in the log", "it is there")
        held.promise("Traceback" not in output, "no traceback in the log", output[:300])
        held.promise_answers()


@dataclass(frozen=True)
class Telling:
    """A service of its own, whose log has room, loses its store once and gets it back."""

    name: str
    does: str
    short: bool = False
    size: int = 200
    promises: str = "the log says that the store went, why, and that it is back; a few lines, without secrets"

    async def run(self, world: World, held: Held, size: int) -> None:
        url = f"redis://:{PASSWORD}@127.0.0.1:{world.proxy.port}"
        with serving(**(SETTINGS | {"redis_url": url})) as service:
            own = World(world.store, world.proxy, service, world.users)
            await own.recovered(held)
            up = len(service.output)
            world.proxy.become(Refuses())
            try:
                begun = time.perf_counter()
                while time.perf_counter() - begun < DOWN_S:
                    await own.ask_many(held, size // 10)
            finally:
                world.honest()
            down = len(service.output)
            await own.recovered(held)
            wait_until(lambda: len(service.output) > down or time.perf_counter() - begun > DOWN_S + RECOVER_S)
            output = service.output
        went, back = (_of_the_store(text) for text in (output[up:down], output[down:]))
        held.promise(0 < len(went) <= FEW_LINES, f"1 to {FEW_LINES} lines that the store went", went)
        held.promise(0 < len(back) <= FEW_LINES, f"1 to {FEW_LINES} lines that it is back", back)
        held.promise(PASSWORD not in output, "no password in the log", "it is there")
        held.promise_answers()


@dataclass(frozen=True)
class Refusal:
    """A store's URL that cannot be meant: the service does not start, and says so in one line."""

    name: str
    does: str
    options: str
    short: bool = False
    size: int = 0
    promises: str = "exit code 1 and a line that names the option"

    async def run(self, world: World, held: Held, size: int) -> None:
        option = self.options.partition("=")[0]
        url = f"redis://:{ANOTHER}@127.0.0.1:{world.proxy.port}/0?{self.options}"
        with serving(**(SETTINGS | {"redis_url": url})) as service:
            wait_until(lambda: service.process.poll() is not None or "curl" in service.output, "neither up nor down")
            code = service.process.poll()
            output = service.output if code is None else (service.ended(), service.output)[1]
        held.promise(code == 1, f"exit code 1 with ?{self.options}", "it runs" if code is None else code)
        held.promise(option in output, f"a line that names {option!r}", output[:300])
        held.promise(ANOTHER not in output, "no password in it", "it is there")


def _of_the_store(log: str) -> list[str]:
    return [line for line in log.splitlines() if "store" in line.lower()]


def _service(url: Callable[[World], str]) -> Callable[[World], AbstractContextManager[Service]]:
    return lambda world: serving(**(SETTINGS | {"redis_url": url(world)}))


@contextmanager
def with_hanging_names(world: World, **settings: str) -> Iterator[Service]:
    """A service whose resolver takes questions and never answers. Raises LeftOut."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver, tempfile.TemporaryDirectory() as folder:
        try:
            resolver.bind((RESOLVER, 53))
        except OSError as error:
            raise LeftOut(f"a resolver of our own needs port 53 of {RESOLVER}: {error.strerror}") from None
        names = Path(folder) / "resolv.conf"
        names.write_text(f"nameserver {RESOLVER}\noptions timeout:1 attempts:1\n")
        away = SETTINGS | {"redis_url": "redis://store.test:6379"}
        with serving_within("--bind", names, "/etc/resolv.conf", **(away | settings)) as service:
            yield service


STARTS: list[Beginning | Refusal | Telling] = [
    Telling("told", "nobody listens for a while"),
    Refusal("unknown option", "?foo=bar in the store's URL", "foo=bar"),
    Refusal("option of another kind", "?decode_responses=true in the store's URL", "decode_responses=true"),
    Beginning(
        "wrong password at start",
        "the URL's password is not the store's",
        _service(lambda world: f"redis://:{ANOTHER}@127.0.0.1:{world.proxy.port}"),
    ),
    Beginning(
        "dead DNS", "the store's host name does not resolve", _service(lambda world: "redis://store.invalid:6379")
    ),
    Beginning("hanging DNS", "the resolver does not answer", with_hanging_names),
]
