"""What callers get while the store fails: real servers behind a proxy, and servers that answer what no store should."""

import asyncio
import logging
import os
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest
import redis
import uvloop

from model.features.behaviour import Behaviour
from model.features.wanted import Newest, Wanted
from service.store.embedded import EmbeddedStore
from service.store.fallback.breaker import CLOSED, FAILURES, HALF_OPEN, OPEN, Breaker
from service.store.fallback.counted import Counted
from service.store.fallback.ladder import Ladder
from service.store.fallback.recent import Recent
from service.store.fallback.watch import Watch
from service.store.history import REASONS, Asked, Store, Stored, StoreUnavailable, Write
from service.store.redis import RedisHistory
from service.telemetry.counts import Metrics
from service.telemetry.folder import prepare_folder
from tests.processes import PATIENCE_S
from tests.stores import Proxy, dead_url, write

WANTED = Wanted(("age",), (Newest("click", "item", 20),))
CLICKS = [Behaviour("click", "item", f"i{n}", n) for n in range(1, 4)]
KNOWN = Stored({"age": "30"}, CLICKS, 0)
TIMEOUT_MS = 150


class World:
    """A ladder and its parts."""

    def __init__(self, store: Store, metrics: Metrics, cache_users: int, timeout_s: float):
        self.metrics = metrics
        self.breaker = Breaker(timeout_s, tell=metrics.breaker)
        counted = Counted(store, metrics, timeout_s)
        self.ladder = Ladder(counted, Recent(cache_users, 60), self.breaker, Watch("where"))

    async def read(self, user_id: str = "u", before: int | None = None, timeout_s: float | None = None) -> Stored:
        [stored] = await self.ladder.read([Asked(user_id, before)], WANTED, timeout_s)
        return stored

    async def until(self, holds: Callable[[Stored], object], user_id: str = "u") -> Stored:
        """Reads again and again until an answer is as said."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds(stored := await self.read(user_id)):
            assert time.monotonic() < deadline, stored
            await asyncio.sleep(0.005)
        return stored

    def ops(self, **labels: str) -> int:
        """Round trips counted with these labels."""
        lines = self.metrics.render()[0].decode().splitlines()
        wanted = [f'{name}="{value}"' for name, value in labels.items()]
        named = (line for line in lines if line.startswith("ranker_store_ops_total"))
        return sum(int(float(line.split()[-1])) for line in named if all(part in line for part in wanted))


@asynccontextmanager
async def world_of(
    store: str | Store, cache_users: int = 100, timeout_ms: int = TIMEOUT_MS, connections: int = 4
) -> AsyncIterator[World]:
    if isinstance(store, str):
        store = RedisHistory(store, keep=100, ttl_s=1000, timeout_ms=timeout_ms, connections=connections)
    with prepare_folder(1) as folder:
        metrics = Metrics(folder, {"/rank": ("history",)}, REASONS)
        world = World(store, metrics, cache_users, timeout_ms / 1000)
        try:
            yield world
        finally:
            await world.ladder.close()
            metrics.close()


@contextmanager
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What the log says of the store, as it comes."""
    caplog.set_level(logging.INFO, "ranker.store")
    caplog.clear()
    said: list[str] = []
    yield said
    said += [record.getMessage() for record in caplog.records if record.name == "ranker.store"]


@asynccontextmanager
async def server(answer: Callable[[bytes], bytes | None]) -> AsyncIterator[tuple[str, list[int]]]:
    """URL of a server that answers each packet by `answer`, None resetting the connection; and connections so far."""
    connections: list[int] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        try:
            while data := await reader.read(65536):
                reply = answer(data)
                if reply is None:
                    linger = struct.pack("ii", 1, 0)  # close by a reset
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    break
                writer.write(reply)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()  # or a later test is told of a transport that nobody closed

    def begun(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(connected(reader, writer)))

    tasks: set[asyncio.Task[None]] = set()
    listening = await asyncio.start_server(begun, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}", connections
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Scripted:
    """A store that does what it is told; for what no server can be made to do."""

    def __init__(self, answer: Callable[[Sequence[Asked]], Any]):
        self.answer = answer
        self.reads = 0

    async def read(self, users: Sequence[Asked], wanted: Wanted, timeout_s: float | None = None) -> Any:
        self.reads += 1
        answer = self.answer(users)
        return await answer if isinstance(answer, Awaitable) else answer

    async def ping(self, timeout_s: float | None = None) -> None:
        await self.read([], WANTED)

    async def close(self) -> None: ...


def at_once(coroutine: Any) -> Any:
    """What a coroutine gives that never waits."""
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    return ended.value.value


# ---- what callers get


def test_while_the_store_is_dead_a_read_waits_for_nothing_and_opens_nothing() -> None:
    async def scenario() -> None:
        async with server(lambda data: b"") as (url, connections), world_of(url, connections=64) as world:
            assert (await world.read()).missing == "history:timeout"
            await world.until(lambda stored: stored.missing == "history:open")
            reads, opened = world.ops(op="read"), len(connections)
            for _ in range(5000):
                assert at_once(world.read()).missing == "history:open"
            await asyncio.sleep(0)
            assert world.ops(op="read") == reads and len(connections) <= opened + 1  # one probe's at most

    asyncio.run(scenario())


def test_who_was_read_in_the_last_seconds_is_remembered_and_others_are_empty(valkey_url: str) -> None:
    write(valkey_url, "u", CLICKS, {"age": "30"})

    async def scenario() -> None:
        with Proxy(valkey_url) as proxy:
            async with world_of(proxy.url) as world:
                assert await world.read() == KNOWN
                proxy.hold()
                assert await world.read() == KNOWN._replace(missing="history:cached")
                await world.until(lambda stored: stored.missing == "history:open", "other")
                assert await world.read() == KNOWN._replace(missing="history:cached")
                replayed = await world.read(before=3)
                assert replayed.behaviours == CLICKS[:2] and not replayed.complete
                assert (await world.read("other")).behaviours == []
                proxy.release()

    asyncio.run(scenario())


def test_what_a_replay_read_is_not_remembered(valkey_url: str) -> None:
    async def scenario() -> None:
        async with world_of(Scripted(lambda users: [KNOWN])) as world:
            await world.read(before=10)
            world.breaker.trip()
            assert await world.read() == Stored({}, [], 0, missing="history:open")

    asyncio.run(scenario())


def test_one_users_broken_key_is_that_users_alone_and_opens_nothing() -> None:
    def answer(users: Sequence[Asked]) -> list[Stored | StoreUnavailable]:
        broken = StoreUnavailable("WRONGTYPE")
        broken.__cause__ = redis.ResponseError("WRONGTYPE")
        return [broken if user.user_id == "broken" else KNOWN for user in users]

    async def scenario() -> None:
        async with world_of(Scripted(answer)) as world:
            for _ in range(3 * FAILURES):
                one, other = await world.ladder.read([Asked("broken", None), Asked("u", None)], WANTED)
                assert (one.missing, one.behaviours, other) == ("history:error", [], KNOWN)
                assert (await world.read("broken")).missing == "history:error"
            await asyncio.sleep(0.2)
            await world.read("broken")
            assert world.breaker.state == CLOSED and world.breaker.failures == 0

    asyncio.run(scenario())


# ---- whatever the store does


REPLIES = {
    "numbers": b":1\r\n:2\r\n",
    "texts": b"+OK\r\n+OK\r\n",
    "nothings": b"$-1\r\n*-1\r\n",
    "bulks": b"$3\r\nabc\r\n$3\r\nabc\r\n",
    "an odd list": b"*1\r\n$1\r\na\r\n*1\r\n$1\r\nb\r\n",
    "lists in lists": b"*2\r\n*0\r\n*0\r\n*1\r\n*0\r\n",
    "a map of RESP3": b"%1\r\n+a\r\n+b\r\n%1\r\n+a\r\n+b\r\n",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x16",
    "a negative length": b"$-7\r\n$-7\r\n",
    "a length that is none": b"$x\r\n",
    "a list that is too long": b"*1048576\r\n:1\r\n",
    "bytes": b"\xff\xfe\x00\r\n" * 4,
    "half a reply": b"*2\r\n$3\r\nage\r\n$",
    "more than asked for": b"*0\r\n*0\r\n*0\r\n*0\r\n",
    "nothing": b"",
    "an error": b"-ERR \xff no\r\n" * 2,
    "LOADING": b"-LOADING Redis is loading the dataset in memory\r\n" * 2,
    "MOVED": b"-MOVED 3999 127.0.0.1:6381\r\n" * 2,
    "ASK": b"-ASK 3999 127.0.0.1:6381\r\n" * 2,
    "NOAUTH": b"-NOAUTH Authentication required.\r\n" * 2,
    "NOPERM": b"-NOPERM this user has no permissions\r\n" * 2,
    "OOM": b"-OOM command not allowed\r\n" * 2,
    "too many clients": b"-ERR max number of clients reached\r\n",
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
def test_whatever_a_store_replies_users_are_ranked(reply: bytes) -> None:
    async def scenario() -> None:
        async with server(lambda data: reply) as (url, _), world_of(url, timeout_ms=20) as world:
            for user_id in ("u", "v", "u"):
                assert not (await world.read(user_id)).behaviours
            several = await world.ladder.read([Asked(str(n), None) for n in range(3)], WANTED)
            assert len(several) == 3 and not any(one.behaviours for one in several)

    asyncio.run(scenario())


@pytest.mark.parametrize("reply", [None, b"*2\r\n$3\r\nage\r\n"], ids=["after the accept", "in the middle of a reply"])
def test_a_connection_that_is_reset_costs_history_and_not_the_answer(reply: bytes | None) -> None:
    async def scenario() -> None:
        packets = 0

        def answer(data: bytes) -> bytes | None:
            nonlocal packets
            packets += 1
            return reply if packets % 2 else None

        async with server(answer) as (url, _), world_of(url, timeout_ms=50) as world:
            for _ in range(3):
                assert (await world.read()).missing in REASONS

    asyncio.run(scenario())


ERRORS = [
    RuntimeError("pool is closed"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no text"),
    AttributeError("'str' object has no attribute 'decode'"),
    OSError(24, "Too many open files"),
    ValueError("zip"),
    KeyError("u"),
    RecursionError(),
    MemoryError(),
    redis.AuthenticationError("hush"),
    redis.BusyLoadingError(),
    redis.exceptions.MovedError("3999 127.0.0.1:6381"),
    redis.MaxConnectionsError(),
    TimeoutError(),
    ConnectionResetError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_whatever_a_store_raises_users_are_ranked(error: Exception) -> None:
    async def scenario() -> None:
        def answer(users: Sequence[Asked]) -> Any:
            raise error

        async with world_of(Scripted(answer)) as world:
            await world.ladder.start(WANTED)
            expected = "history:timeout" if isinstance(error, TimeoutError) else "history:error"
            assert await world.read() == Stored({}, [], 0, missing=expected)

    asyncio.run(scenario())


# ---- hanging up


def test_a_caller_who_hangs_up_is_not_kept_and_leaves_no_answer_to_the_next(valkey_url: str) -> None:
    write(valkey_url, "u", CLICKS, {"age": "30"})

    async def scenario() -> None:
        async with world_of(valkey_url, cache_users=0, connections=1, timeout_ms=5000) as world:
            finished = 0
            for steps in range(60):
                reading = asyncio.create_task(world.read())
                for _ in range(steps):
                    await asyncio.sleep(0)
                reading.cancel()
                await asyncio.wait([reading])
                finished += not reading.cancelled()
                assert await world.read("other") == Stored({}, [], 0)
            assert finished < 60 and world.breaker.failures == 0

    asyncio.run(scenario())


def test_a_trial_whose_caller_hangs_up_makes_room_for_another() -> None:
    async def scenario() -> None:
        asked = asyncio.Event()
        world: World

        async def never(users: Sequence[Asked]) -> list[Stored]:
            asked.set()
            await asyncio.sleep(PATIENCE_S)
            return [KNOWN]

        store = Scripted(never)
        async with world_of(store) as world:
            world.breaker.trip()
            world.breaker.probed()
            trial = asyncio.create_task(world.read())
            await asked.wait()
            assert at_once(world.read()).missing == "history:open"
            trial.cancel()
            await asyncio.wait([trial])
            assert trial.cancelled() and world.breaker.state == HALF_OPEN
            store.answer = lambda users: [KNOWN]
            assert await world.read() == KNOWN and world.breaker.state == CLOSED

    asyncio.run(scenario())


# ---- coming back


def test_a_frozen_server_that_goes_on_is_read_again_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(url: str) -> None:
        with redis.Redis.from_url(url) as admin:
            pid = admin.info("server")["process_id"]
        async with world_of(url) as world:
            await world.ladder.start(WANTED)
            assert await world.read() == KNOWN
            os.kill(pid, signal.SIGSTOP)
            try:
                await world.until(lambda stored: stored.missing == "history:open", "other")
                assert world.breaker.state == OPEN
                await asyncio.sleep(0.3)
            finally:
                os.kill(pid, signal.SIGCONT)
            thawed = time.monotonic()
            await world.until(lambda stored: stored == KNOWN)
            print(f"read again after {time.monotonic() - thawed:.3f} s")
            assert time.monotonic() - thawed < 5

    with EmbeddedStore() as store, lines(caplog) as said:
        write(store.url, "u", CLICKS, {"age": "30"})
        asyncio.run(scenario(store.url))
    answers, down, up = said
    assert "answers: PING took" in answers
    assert "does not answer in time" in down and "up again" in up


def test_a_store_that_is_not_there_at_the_start_is_said_and_taken_up_when_it_comes(
    valkey_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(url: str) -> None:
        async with world_of(url) as world:
            await world.ladder.start(WANTED)
            await world.until(lambda stored: stored.missing == "history:open")
            port = int(url.rpartition(":")[2])
            held.close()  # the port is free now
            tasks: set[asyncio.Task[None] | None] = set()

            async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                tasks.add(asyncio.current_task())
                store_reader, store_writer = await asyncio.open_unix_connection(valkey_url.removeprefix("unix://"))
                try:
                    while data := await reader.read(65536):
                        store_writer.write(data)
                        writer.write(await store_reader.read(65536))
                except asyncio.CancelledError:
                    pass
                finally:
                    writer.close()
                    store_writer.close()

            async with await asyncio.start_server(connected, "127.0.0.1", port):
                await world.until(lambda stored: stored == KNOWN)
                for task in tasks:
                    assert task
                    task.cancel()
                await asyncio.gather(*(task for task in tasks if task), return_exceptions=True)

    write(valkey_url, "u", CLICKS, {"age": "30"})
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    with lines(caplog) as said:
        asyncio.run(scenario(f"redis://127.0.0.1:{held.getsockname()[1]}"))
    down, up = said
    assert "refuses connections" in down and "up again" in up


def test_a_store_that_answers_probes_and_nothing_else_costs_one_request_at_a_time() -> None:
    async def scenario() -> None:
        def answer(users: Sequence[Asked]) -> Any:
            return [KNOWN] if users[0].user_id.startswith("probe:") else asyncio.sleep(PATIENCE_S)

        async with world_of(Scripted(answer), timeout_ms=10) as world:
            for _ in range(20):
                await asyncio.gather(*(world.read() for _ in range(10)))
                if world.breaker.state != CLOSED:
                    break
            deadline = time.monotonic() + PATIENCE_S
            while world.breaker.state != HALF_OPEN:  # by a probe; a read would be the trial
                assert time.monotonic() < deadline
                await asyncio.sleep(0.005)
            reads = world.ops(op="read")
            answers = await asyncio.gather(*(world.read() for _ in range(50)))
            assert world.ops(op="read") == reads + 1
            assert sorted({one.missing or "" for one in answers}) == ["history:open", "history:timeout"]

    asyncio.run(scenario())


def test_a_worker_that_is_only_written_to_takes_writes_again_when_the_store_is_back(valkey_url: str) -> None:
    async def scenario() -> None:
        async with world_of(valkey_url) as world:
            calls: list[Callable[[], Awaitable[Any]]] = [
                lambda: world.ladder.write_many([Write("u", CLICKS, {})]),
                lambda: world.ladder.replace("u", {"age": "30"}),
                lambda: world.ladder.known("u"),
                lambda: world.ladder.forget("u"),
            ]
            for call in calls:
                world.breaker.trip()
                with pytest.raises(StoreUnavailable, match="asked again in the background"):
                    await call()
                world.breaker.probed()
                await call()
                assert world.breaker.state == CLOSED

    asyncio.run(scenario())


@pytest.mark.parametrize("reply", [b"+OK\r\n", b":1\r\n", b"$-1\r\n", b"*0\r\n", b"$4\r\nlike\r\n"])
def test_no_reply_but_that_to_a_write_is_taken_for_one(reply: bytes) -> None:
    async def scenario() -> None:
        def answer(data: bytes) -> bytes:
            commands = [line for line in data.split(b"\r\n") if line in (b"ZADD", b"HSET", b"EVAL", b"CLIENT")]
            return reply * max(len(commands), 1)

        async with server(answer) as (url, _):
            store = RedisHistory(url, keep=100, ttl_s=1000, timeout_ms=TIMEOUT_MS, connections=1)
            with pytest.raises(StoreUnavailable, match="a write is answered by"):
                await store.replace("u", {"age": "30"})
            with pytest.raises(StoreUnavailable, match="a write is answered by"):
                await store.forget("u")
            [failure] = await store.write_many([Write("u", CLICKS, {"age": "30"})])
            assert failure is not None and "a write is answered by" in str(failure)
            await store.close()

    asyncio.run(scenario())


def test_a_store_that_refuses_writes_alone_is_told_of_and_read_on(
    valkey_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with world_of(valkey_url) as world:
            assert await world.ladder.write_many([Write("u", CLICKS, {"age": "30"})]) == [None]
            with redis.Redis.from_url(valkey_url) as admin:
                admin.config_set("maxmemory", 1)
                try:
                    for _ in range(2 * FAILURES):
                        [failure] = await world.ladder.write_many([Write("u", CLICKS, {})])
                        assert isinstance(failure, StoreUnavailable)
                    assert (await world.read()).behaviours == CLICKS and world.breaker.state == CLOSED
                finally:
                    admin.config_set("maxmemory", 0)
            for _ in range(40):
                assert await world.ladder.write_many([Write("u", CLICKS, {})]) == [None]

    with lines(caplog) as said:
        asyncio.run(scenario())
    down, up = said
    assert "is failing: it is out of memory" in down and "up again" in up


# ---- what opens it, and what does not


def test_a_caller_with_less_time_than_the_store_may_take_does_not_open_it_for_others() -> None:
    async def scenario() -> None:
        async def slow(users: Sequence[Asked]) -> list[Stored]:
            await asyncio.sleep(0.5)
            return [KNOWN]

        async with world_of(Scripted(slow), timeout_ms=2000) as world:
            for _ in range(10 * FAILURES):
                assert (await world.read(timeout_s=0.001)).missing == "history:timeout"
            assert world.breaker.state == CLOSED and world.breaker.failures == 0
            assert await world.read() == KNOWN

    asyncio.run(scenario())


def test_a_read_without_any_time_left_does_not_begin() -> None:
    async def scenario() -> None:
        store = Scripted(lambda users: [KNOWN])
        async with world_of(store) as world:
            for timeout_s in (0.0, -1.0):
                assert at_once(world.read(timeout_s=timeout_s)).missing == "history:timeout"
            assert store.reads == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_an_answer_that_came_while_our_own_loop_was_late_is_used(loop: Any, valkey_url: str) -> None:
    async def scenario() -> None:
        async with world_of(valkey_url, cache_users=0, timeout_ms=100) as world:
            await world.read()  # the connection is there
            for busy_s in (0.3, 0.11, 0.2):
                reading = asyncio.create_task(world.read())
                await asyncio.sleep(0)  # it is sent
                await asyncio.sleep(0)
                time.sleep(busy_s)  # nothing else runs in this loop meanwhile
                assert await reading == KNOWN
            text = world.metrics.render()[0].decode()
            [total] = [line for line in text.splitlines() if line.startswith("ranker_store_duration_seconds_sum")]
            assert world.ops(op="read", outcome="ok") == 4 and float(total.split()[-1]) < 0.3
            assert world.breaker.failures == 0

    write(valkey_url, "u", CLICKS, {"age": "30"})
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_loop_that_is_late_all_the_time_is_not_the_stores_timeout(loop: Any) -> None:
    async def scenario() -> None:
        async with world_of(Scripted(lambda users: asyncio.sleep(PATIENCE_S)), timeout_ms=60) as world:
            reads = [asyncio.create_task(world.read()) for _ in range(2 * FAILURES)]
            while not all(read.done() for read in reads):
                time.sleep(0.02)
                await asyncio.sleep(0)
            assert {(await read).missing for read in reads} == {"history:timeout"}
            assert world.ops(op="read", outcome="lagged") == len(reads) and world.ops(outcome="timeout") == 0
            assert world.breaker.state == CLOSED and world.breaker.failures == 0

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


# ---- what the log says


def test_who_may_read_and_not_ping_is_answered_at_the_start(valkey_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with world_of(valkey_url.replace("unix://", "unix://reader:secret@")) as world:
            await world.ladder.start(WANTED)
            assert await world.read() == KNOWN

    write(valkey_url, "u", CLICKS, {"age": "30"})
    with redis.Redis.from_url(valkey_url) as admin, lines(caplog) as said:
        admin.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~{u:*", "+@read")
        try:
            asyncio.run(scenario())
        finally:
            admin.execute_command("ACL", "DELUSER", "reader")
    assert len(said) == 1 and "answers" in said[0]


def test_a_wrong_password_is_one_line_that_says_what_to_do_and_not_the_password(
    valkey_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        with Proxy(valkey_url) as proxy:
            async with world_of(proxy.url.replace("redis://", "redis://somebody:hush@")) as world:
                await world.ladder.start(WANTED)
                await world.until(lambda stored: stored.missing == "history:open")
                await asyncio.sleep(0.2)

    with lines(caplog) as said:
        asyncio.run(scenario())
    [line] = said
    assert "refuses user or password" in line and "RANKER_REDIS_URL" in line
    assert "hush" not in caplog.text and "somebody" not in caplog.text


def test_a_dead_host_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(url: str) -> None:
        async with world_of(url) as world:
            await world.ladder.start(WANTED)
            await world.until(lambda stored: stored.missing == "history:open")
            await asyncio.sleep(0.2)

    with dead_url() as url, lines(caplog) as said:
        asyncio.run(scenario(url))
    assert len(said) == 1 and "refuses connections" in said[0]
