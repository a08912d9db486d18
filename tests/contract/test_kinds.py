"""Kinds of stores: who gets in, and what becomes of reads while servers change places."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest
import redis
from redis.crc import key_slot

from model.features.behaviour import Behaviour
from service.loading.load import load_users
from service.store import clients
from service.store.history import Stored, StoreTimedOut, StoreUnavailable
from service.store.redis import RedisHistory
from tests.processes import PATIENCE_S
from tests.servers import PASSWORD, Secured, Sharded, Watched, healthy
from tests.stores import black_hole_url, dead_url, emptied, read_one, write

USERS = [f"u{n}" for n in range(48)]
READERS = 6
NOW_MS = 1_511_544_070_000


def known(user_id: str) -> Stored:
    """What the tests put into the store of a user; no other has the same."""
    n = USERS.index(user_id)
    return Stored({"name": user_id}, [Behaviour("click", "item", f"i{n}", NOW_MS + n)], 0)


@asynccontextmanager
async def opened(url: str, timeout_ms: int = 2000, connections: int = 4) -> AsyncIterator[RedisHistory]:
    history = RedisHistory(url, keep=100, ttl_s=1000, timeout_ms=timeout_ms, connections=connections)
    try:
        yield history
    finally:
        await history.close()


async def filled(history: RedisHistory) -> None:
    for user_id in USERS:
        await history.write(user_id, known(user_id).behaviours, known(user_id).profile)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():
            await asyncio.sleep(0.02)


class Readers:
    """Reads of random users that go on beside whatever happens inside the context."""

    def __init__(self, history: RedisHistory):
        self._history = history
        self.answered, self.unavailable, self.wrong = 0, 0, list[object]()

    async def __aenter__(self) -> "Readers":
        self._tasks = [asyncio.create_task(self._read()) for _ in range(READERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self) -> None:
        while True:
            user_id = random.choice(USERS)
            if random.random() < 0.2:  # as where a caller hangs up
                reading = asyncio.create_task(self.read(user_id))
                try:
                    await asyncio.sleep(random.random() / 1000)
                finally:  # also where the readers end: nobody reads from a store that is closed
                    reading.cancel()
                    await asyncio.wait([reading])
            else:
                await self.read(user_id)
            await asyncio.sleep(0.001)

    async def read(self, user_id: str) -> bool:
        try:
            stored = await read_one(self._history, user_id, None)
        except StoreUnavailable:
            self.unavailable += 1
            return False
        self.answered += 1
        if stored != known(user_id):
            self.wrong.append((user_id, stored))
        return True

    async def all_answered(self) -> bool:
        return all([await self.read(user_id) for user_id in USERS])

    async def more(self, count: int = 100) -> None:
        """Returns when that many more are answered."""
        before = self.answered

        async def have() -> bool:
            return self.answered >= before + count

        await until(have)


@pytest.fixture
def secured(running_store) -> Secured:
    return running_store("tls")


@pytest.fixture
def watched(running_store) -> Watched:
    store = running_store("sentinel")
    emptied(store.url)
    return store


@pytest.fixture
def sharded(running_store) -> Sharded:
    store = running_store("cluster")
    emptied(store.url)
    return store


def test_what_is_loaded_is_read(store_url):
    async def scenario():
        async with opened(store_url) as history:
            assert await read_one(history, "u7", None) == known("u7")
            assert await read_one(history, "u8", None) == known("u8")

    line = '{"user_id": "u%d", "user": {"name": "u%d"}, "behaviours": [["click", "item", "i%d", %d]]}'
    loaded = load_users([line % (n, n, n, NOW_MS + n) for n in (7, 8)], store_url, keep=100, ttl_s=1000)
    assert (loaded.users, loaded.behaviours) == (2, 2)
    assert loaded.bytes_per_user and loaded.bytes_per_user > 50
    asyncio.run(scenario())


def test_what_is_no_such_store_is_told_with_what_to_write(secured, watched, sharded, valkey_url):
    at = [f"127.0.0.1:{server.port}" for server in (sharded.nodes[0], watched.sentinel, watched.servers[0])]
    to_write = {
        f"redis://{at[0]}": "is a node of a cluster: its users cannot all be read. To do: begin RANKER_REDIS_URL with "
        "redis+cluster://",
        f"redis://:watch@{at[1]}": "redis+sentinel://…/ and the master's name",
        f"redis+cluster://:hush@{at[2]}": "redis://",
        f"redis+sentinel://{at[0]}/mymaster": "redis+cluster://",
    }
    for url, words in to_write.items():
        said = asyncio.run(clients.advice(url))
        assert said and words in said and "hush" not in said and "watch" not in said
    with dead_url() as dead:
        for url in (secured.url, watched.url, sharded.url, valkey_url, dead, f"redis://:wrong@{at[2]}"):
            assert asyncio.run(clients.advice(url)) is None


def test_tls_takes_no_stranger_and_no_other_host(secured):
    login, _, options = secured.url.partition("?")
    host = f"127.0.0.1:{secured.server.port}"
    bad = {
        login: "certificate verify failed",  # not among the system's authorities
        f"{login}?ssl_ca_certs={secured.files.authority}": "",  # without a certificate of ours
        secured.url.replace("127.0.0.1", "127.0.0.2"): "127.0.0.2",
        secured.url.replace("rediss://ranker:", "rediss://ranker:wrong"): "invalid username-password",
        f"redis://{host}": "",
    }

    async def scenario():
        for url, words in bad.items():
            async with opened(url) as history:
                with pytest.raises(StoreUnavailable) as refused:
                    await read_one(history, "u1", None)
                assert words in str(refused.value) and "h%" not in str(refused.value)
        unnamed = options + "&ssl_check_hostname=false"
        async with opened(f"{login}?{unnamed}".replace("127.0.0.1", "localhost")) as history:
            assert await read_one(history, "nobody", None) == Stored({}, [], 0)

    assert PASSWORD not in secured.url
    asyncio.run(scenario())


def test_a_user_who_may_only_read_users_reads_them(secured):
    write(secured.url, "u1", known("u1").behaviours, known("u1").profile)
    with clients.opened_sync(secured.url, 10) as admin:
        admin.acl_setuser("reader", enabled=True, passwords=["+read"], keys=["u:*", "{u:*"], categories=["+@read"])

    async def scenario():
        async with opened(secured.url.replace(f"ranker:{quote(PASSWORD, safe='')}", "reader:read")) as history:
            assert await read_one(history, "u1", None) == known("u1")
            with pytest.raises(StoreUnavailable, match="permissions"):
                await history.write("u1", [], {"name": "x"})

    asyncio.run(scenario())


def test_a_connection_is_made_though_the_read_that_began_it_is_given_up(secured):
    """Where a handshake takes longer than a read may, no read would come through otherwise."""

    async def scenario():
        with clients.opened_sync(secured.url, 30) as admin:
            before = admin.info("stats")["total_connections_received"]
            async with opened(secured.url, timeout_ms=100, connections=3) as history:
                secured.server.freeze()
                try:
                    for _ in range(2):
                        with pytest.raises(StoreTimedOut):
                            await read_one(history, "u1", None)
                finally:
                    secured.server.thaw()

                async def answers() -> bool:
                    try:
                        return bool(await read_one(history, "u1", None))
                    except StoreUnavailable:
                        return False

                await until(answers)
                for _ in range(5):
                    assert await answers()
            assert admin.info("stats")["total_connections_received"] - before <= 3

    asyncio.run(scenario())


def test_a_dead_master_costs_reads_until_the_sentinel_names_the_new_one(watched):
    async def scenario():
        async with opened(watched.url) as history:
            await filled(history)
            old = watched.master()
            [master] = [server for server in watched.servers if server.port == old]
            async with Readers(history) as readers:
                await readers.more()
                await asyncio.to_thread(master.kill)
                await until(readers.all_answered)
                assert watched.master() != old
                await asyncio.to_thread(master.start)
                await readers.more()
            assert readers.wrong == []
            assert readers.unavailable

    asyncio.run(scenario())


def test_one_sentinel_of_several_is_enough_and_a_wrong_one_is_told(watched):
    async def answered(url: str) -> StoreUnavailable | None:
        async with opened(url, timeout_ms=5000) as history:
            try:
                assert await read_one(history, "nobody", None) == Stored({}, [], 0)
            except StoreUnavailable as error:
                return error
        return None

    with dead_url() as dead, black_hole_url() as hole:
        hosts = f"{dead.removeprefix('redis://')},{hole.removeprefix('redis://')},"
        assert asyncio.run(answered(watched.url.replace("@", f"@{hosts}"))) is None
        nobody = asyncio.run(answered(f"redis+sentinel://{dead.removeprefix('redis://')}/mymaster"))
        assert dead.removeprefix("redis://") in str(nobody)
    assert "mine is none of its masters (mymaster)" in str(
        asyncio.run(answered(watched.url.replace("/mymaster", "/mine")))
    )
    stranger = asyncio.run(answered(watched.url.replace("=watch", "=hush2")))
    assert "invalid username-password" in str(stranger) and "hush2" not in str(stranger)


def test_a_slot_that_moves_while_it_is_read_shows_nobody_another_user_or_an_empty_history(sharded):
    user_id = "u5"
    slot = key_slot(f"u:{user_id}".encode())
    source = sharded.owner(slot)
    target = (source + 1) % 3

    def moved(source: int, target: int, between: Callable[[], None]) -> None:
        ports, ids = [node.port for node in sharded.nodes], sharded.ids
        with sharded.nodes[source].admin() as old, sharded.nodes[target].admin() as new:
            new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
            old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
            between()
            while keys := old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1):
                old.execute_command("MIGRATE", "127.0.0.1", ports[target], keys[0], 0, 5000)
                between()
            for node in (new, old):
                node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
            between()

    async def scenario():
        async with opened(sharded.url) as history:
            await filled(history)
            async with Readers(history) as readers:

                async def looked() -> None:
                    before = readers.answered
                    for _ in range(10):
                        await readers.read(user_id)
                    assert readers.answered >= before + 10

                loop = asyncio.get_running_loop()

                def between() -> None:
                    asyncio.run_coroutine_threadsafe(looked(), loop).result(PATIENCE_S)

                for way in ((source, target), (target, source)):
                    await asyncio.to_thread(moved, *way, between)
                    await until(readers.all_answered)
            assert readers.wrong == []
            assert readers.unavailable == 0  # ASK and MOVED are followed

    asyncio.run(scenario())


def test_a_failover_in_a_cluster_is_followed(sharded):
    async def scenario():
        async with opened(sharded.url) as history:
            await filled(history)
            first, replica = sharded.nodes[0], sharded.nodes[3]
            async with Readers(history) as readers:
                await readers.more()
                with replica.admin() as node:
                    node.execute_command("CLUSTER", "FAILOVER")
                await until(as_async(lambda: sharded.owner(0) == 3))
                await until(readers.all_answered)

                await asyncio.to_thread(replica.kill)  # which is the primary now
                with first.admin() as node:
                    node.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
                await until(readers.all_answered)
                assert sharded.owner(0) == 0
                assert readers.wrong == []
                await asyncio.to_thread(replica.start)
                await until(as_async(lambda: healthy(sharded)))

    asyncio.run(scenario())


def test_a_node_that_hangs_costs_its_own_users_alone(sharded):
    async def scenario():
        async with opened(sharded.url, timeout_ms=300) as history:
            await filled(history)
            of_node = {user_id: sharded.owner(key_slot(f"u:{user_id}".encode())) for user_id in USERS}
            readers = Readers(history)
            sharded.nodes[1].freeze()
            try:
                for user_id in USERS[:12]:
                    assert await readers.read(user_id) == (of_node[user_id] != 1)
            finally:
                sharded.nodes[1].thaw()
            await until(readers.all_answered)
            assert readers.wrong == []

    asyncio.run(scenario())


def test_a_cluster_of_which_no_node_answers_says_so_at_once():
    async def scenario():
        with dead_url() as one, dead_url() as other:
            hosts = [url.removeprefix("redis://") for url in (one, other)]
            async with opened(f"redis+cluster://ada:hush@{','.join(hosts)}") as history:
                with pytest.raises(StoreUnavailable) as refused:
                    await read_one(history, "u1", None)
            assert all(host in str(refused.value) for host in hosts) and "hush" not in str(refused.value)

    asyncio.run(scenario())
    with dead_url() as url, pytest.raises(redis.RedisError):
        load_users(['{"user_id": "u1"}'], url.replace("redis://", "redis+cluster://"), keep=1, ttl_s=1)


def as_async(holds: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        return await asyncio.to_thread(holds)

    return asked
