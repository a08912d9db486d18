"""Service, proxy and store as they run, and what is asked of them: `ask_many` is the load of every fault."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

from prometheus_client.parser import text_string_to_metric_families

from tests.client import Service, serving
from tests.faults.client import Answer, Caller, Lost, post
from tests.faults.held import Held
from tests.faults.serving import resident_bytes, workers_of
from tests.faults.store.proxy import Proxy, Way
from tests.faults.store.server import PASSWORD, RealStore, real_store
from tests.faults.users import Users
from tests.processes import finished

STORE_MS = 250  # the store's time: ample for a busy machine, and far below a late store's 500 ms
REQUEST_MS = 5000  # a request's: what is late is the load's fault, not this suite's subject
RECOVER_S = 5.0  # patience; the figure is reported, and is to be about 1
SETTINGS = {
    "history_timeout_ms": str(STORE_MS),
    "timeout_ms": str(REQUEST_MS),
    "precision": "fp32",  # scores are compared
    "score_threads": "2",
}

Thing = TypeVar("Thing")


class World:
    """What a fault needs: the three processes, the users and the callers."""

    def __init__(self, store: RealStore, proxy: Proxy, service: Service, users: Users):
        self.store, self.proxy, self.service, self.users = store, proxy, service, users
        self.port = int(service.url.rpartition(":")[2])
        self._lasting, self._once = ExitStack(), dict[Callable[[], object], object]()

    def once(self, make: Callable[[], AbstractContextManager[Thing]]) -> Thing:
        """What `make` gives: made when it is first asked for, and there as long as this world is."""
        if make not in self._once:
            self._once[make] = self._lasting.enter_context(make())
        return cast(Thing, self._once[make])

    def close(self) -> None:
        self._lasting.close()

    # ---- load

    async def ask(self, caller: Caller, held: Held, user_id: str, **more: Any) -> list[str] | None:
        """One request to /rank, judged; gives its `degraded`."""
        held.sent += 1
        begun = time.perf_counter()
        try:
            answer = await caller.ask("/rank", self.users.body(user_id, **more))
        except (Lost, OSError) as error:
            held.lose(error)
            return None
        return held.judge(self.users, user_id, answer, time.perf_counter() - begun)

    async def ask_once(self, held: Held, user_id: str, **more: Any) -> list[str] | None:
        """`ask` on a connection of its own."""
        caller = Caller(self.port)
        try:
            return await self.ask(caller, held, user_id, **more)
        finally:
            caller.hang_up()

    async def ask_many(
        self,
        held: Held,
        count: int,
        *,
        callers: int = 8,
        users: Sequence[str] | None = None,
        hang_ups: float = 0.0,
        more: Callable[[random.Random], dict[str, Any]] = lambda draw: {},
        until: asyncio.Event | None = None,
        tell: Callable[[int], None] = lambda asked: None,
    ) -> None:
        """So many requests of random users by so many callers, each of whom waits for its answer before it goes on.

        A share hangs up at a random moment. `more`: fields of a request beside user and candidates. With `until`
        it ends then, if not before.
        """
        ids = users or self.users.ordinary
        left = iter(range(count))

        async def call(seed: int) -> None:
            draw, caller = random.Random(seed), Caller(self.port)
            try:
                for at in left:
                    user_id = draw.choice(ids)
                    if draw.random() < hang_ups:
                        await self._hang_up(caller, held, post("/rank", self.users.body(user_id)), draw)
                    else:
                        await self.ask(caller, held, user_id, **more(draw))
                    tell(at)
                    if until is not None and until.is_set():
                        break
            finally:
                caller.hang_up()

        await asyncio.gather(*(call(seed) for seed in range(callers)))

    async def _hang_up(self, caller: Caller, held: Held, request: bytes, draw: random.Random) -> None:
        held.sent += 1
        held.hung_up += 1
        whole = draw.random() < 0.8
        await caller.send(request if whole else request[: draw.randrange(1, len(request))])
        await asyncio.sleep(draw.choice([0, draw.uniform(0, 0.003), draw.uniform(0, 0.03)]))
        caller.hang_up(by_reset=draw.random() < 0.5)

    async def batch(self, held: Held, user_ids: Sequence[str], **more: Any) -> list[list[str] | None]:
        """One call of /rank/batch, each element counted as a request; gives the `degraded` of each."""
        held.sent += len(user_ids)
        caller = Caller(self.port)
        begun = time.perf_counter()
        try:
            answer = await caller.ask("/rank/batch", [self.users.body(user_id, **more) for user_id in user_ids])
        except (Lost, OSError) as error:
            for _ in user_ids:
                held.lose(error)
            return []
        finally:
            caller.hang_up()
        if answer.status != 200:
            for _ in user_ids:
                held.turned_away(answer)
            return []
        seconds = time.perf_counter() - begun
        pairs = zip(user_ids, answer.json(), strict=True)
        return [held.judge_ranked(self.users, user_id, ranked, seconds) for user_id, ranked in pairs]

    # ---- what the service says

    async def get(self, path: str) -> Answer:
        caller = Caller(self.port)
        try:
            return await caller.get(path)
        finally:
            caller.hang_up()

    async def counted(self, name: str, **labels: str) -> float:
        """Sum of a counter's samples that have these labels."""
        families = text_string_to_metric_families((await self.get("/metrics")).body.decode())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def memory(self) -> int:
        """Bytes resident in the service's workers."""
        return sum(map(resident_bytes, workers_of(self.service)))

    # ---- health

    async def recovered(self, held: Held, *, calm: int = 20) -> float:
        """Seconds until an answer has its history again, and `calm` more after it in a row; RECOVER_S where none has.

        Its requests are counted, and judged like all others.
        """
        begun, first, row = time.perf_counter(), 0.0, 0
        draw, caller = random.Random(1), Caller(self.port)
        try:
            while row <= calm:
                degraded = await self.ask(caller, held, draw.choice(self.users.ordinary))
                now = time.perf_counter() - begun
                if degraded == []:
                    first, row = first if row else now, row + 1
                else:
                    row = 0
                    if now > RECOVER_S:
                        return now
                    await asyncio.sleep(0.01)
            return first
        finally:
            caller.hang_up()

    def honest(self) -> None:
        """The proxy passes everything on again."""
        self.proxy.become(Way())


@contextmanager
def world(users: int = 400, **settings: str) -> Iterator[World]:
    """A service on the demo bundle whose store is a real one behind a proxy, with so many users in it."""
    people = Users(users)
    with real_store() as store, Proxy(store.path) as proxy, TemporaryDirectory() as folder:
        file = Path(folder) / "users.jsonl"
        people.write(file)
        loaded = finished("-m", "service.backfill", "--users", file, "--url", store.url)
        assert loaded.returncode == 0, f"the backfill failed: {loaded.stderr}"
        store.admin.save()
        url = f"redis://:{PASSWORD}@127.0.0.1:{proxy.port}"
        with serving(**(SETTINGS | {"redis_url": url} | settings)) as service:
            made = World(store, proxy, service, people)
            try:
                yield made
            finally:
                made.close()
