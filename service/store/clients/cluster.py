"""A cluster as one client: a pipeline's commands go to the nodes that have their keys, one round trip for all.

redis-py has a cluster client too, redis.asyncio.RedisCluster. For reads of few milliseconds it falls short (8.1; tried
without retries, a slot that moves, a failover and more readers than connections fail): its pipeline never learns of a
failover unless it may wait 0.25 s and repeat; a read that is cut off while the slots are looked up cuts off the
look-up; who finds no connection free is refused; ASKING may leave by another connection than the command it is meant
for; each look-up of the slots closes all connections. Here each node is a plain redis-py client with a pool of ours,
and what is known of the slots is looked up beside the reads.
"""

import asyncio
import random
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, ConnectionError, MovedError, RedisError

from service.store.clients.pools import seen
from service.store.clients.url import written

Node = tuple[str, int]  # host and port
HOPS = 4  # a command is sent on at most so often: MOVED, then ASK, and once more of each
LOOK_S = 0.5  # seconds between two look-ups of the slots, however many reads ask for one


class Slots(NamedTuple):
    """Which node has which slots: range i begins at starts[i] and belongs to owners[i], None where nobody has it."""

    starts: list[int]
    owners: list[Node | None]
    nodes: frozenset[Node]  # replicas too

    def owner(self, slot: int) -> Node | None:
        return self.owners[bisect_right(self.starts, slot) - 1]


NOBODYS = Slots([0], [None], frozenset())
KEY_AT = {"EVAL": 3, "EVALSHA": 3}  # where a command has its first key; the others have it first


class Cluster:
    """The nodes of a cluster; `client_of` opens a client of one, without connecting it."""

    def __init__(self, seeds: Sequence[Node], client_of: Callable[[Node], Redis], asking: Callable[[Node], Redis]):
        """`asking` opens a client for the questions about slots, with short times of its own."""
        self._seeds, self._client_of, self._asking = seeds, client_of, asking
        self._clients: dict[Node, Redis] = {}
        self._slots, self._before = NOBODYS, NOBODYS
        self._looking: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()  # clients that are being closed
        self._looked = -LOOK_S  # when the last look-up ended, by time.monotonic

    def pipeline(self, transaction: bool = False) -> "Pipeline":
        if transaction:
            raise ValueError("no transaction spans the nodes of a cluster")
        return Pipeline(self)

    async def ping(self) -> None:
        """Returns when a node that has slots answers. Raises redis-py's errors."""
        await self.pipeline().execute_command("PING").execute()

    async def aclose(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        clients = list(self._clients.values())
        self._clients.clear()
        await asyncio.gather(*(client.aclose() for client in clients), *self._leaving)

    def client(self, node: Node) -> Redis:
        if node not in self._clients:
            self._clients[node] = self._client_of(node)
        return self._clients[node]

    async def slots(self) -> Slots:
        """What is known of them. Raises ConnectionError where nothing is, and none of the nodes tells."""
        if self._slots is NOBODYS:
            await self._look()
        return self._slots

    def doubt(self) -> None:
        """What is known of the slots may be old: look them up beside the reads, now and then."""
        idle = self._looking is None or self._looking.done()
        if idle and time.monotonic() - self._looked >= LOOK_S:
            self._begin()

    async def _look(self) -> None:
        """The look-up goes on when who waits for it gives up."""
        if self._looking is None or self._looking.done():
            self._begin()
        assert self._looking is not None
        await asyncio.shield(self._looking)

    def _begin(self) -> None:
        self._looking = asyncio.create_task(self._look_up())
        self._looking.add_done_callback(seen)

    async def _look_up(self) -> None:
        troubles, cause = [], None
        known = [node for node in self._slots.nodes if node not in self._seeds]
        try:
            for node in [*random.sample(known, len(known)), *self._seeds]:
                client = self._asking(node)
                try:
                    ranges = await client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]
                    slots = _slots(ranges, node)
                except (RedisError, OSError, ValueError, TypeError, IndexError) as error:
                    troubles.append(f"{written(*node)}: {error}")
                    cause = error
                    continue
                finally:
                    await client.aclose()
                if slots.nodes:
                    return self._take(slots)
                troubles.append(f"{written(*node)}: no node has slots")
        finally:
            self._looked = time.monotonic()
        raise ConnectionError("; ".join(troubles)) from cause

    def _take(self, slots: Slots) -> None:
        self._before, self._slots = self._slots, slots
        for node in set(self._clients) - slots.nodes - self._before.nodes:  # gone for two look-ups: nobody reads there
            gone = asyncio.create_task(self._clients.pop(node).aclose())
            self._leaving.add(gone)
            gone.add_done_callback(self._leaving.discard)


def _slots(ranges: Iterable[Any], asked: Node) -> Slots:
    """The reply to CLUSTER SLOTS: [[first, last, [host, port, …], replicas …], …]."""
    starts: list[int] = []
    owners: list[Node | None] = []
    nodes = set()
    after = 0
    for first, last, *places in sorted(ranges, key=lambda row: row[0]):
        if first > after:
            starts.append(after)
            owners.append(None)
        own = [_node(host, port, asked) for host, port, *_ in places]
        starts.append(first)
        owners.append(own[0])
        nodes.update(own)
        after = last + 1
    return Slots([*starts, after], [*owners, None], frozenset(nodes))


def _node(host: bytes | str | None, port: int, asked: Node) -> Node:
    text = host.decode() if isinstance(host, bytes) else host
    if not text or text == "?":  # it is not told under which name clients reach it: under that which we used
        text = asked[0]
    return text, int(port)


class Pipeline:
    """Commands to several nodes. One without a key, as PING, goes to all, and has the first answer that is no error."""

    def __init__(self, cluster: Cluster):
        self._cluster = cluster
        self._commands: list[tuple[Any, ...]] = []

    def __len__(self) -> int:
        return len(self._commands)

    def execute_command(self, *args: Any, **options: Any) -> "Pipeline":
        self._commands.append(args)
        return self

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Replies in the commands' order. With `raise_on_error` the first that is an error is raised.

        A node that fails is the error of its own commands alone.
        """
        commands, self._commands = self._commands, []
        if not commands:
            return []
        replies: list[Any] = [None] * len(commands)
        waiting: dict[tuple[Node, bool], list[int]] = {}  # (node, whether it must be ASKed) -> commands' numbers
        slots = await self._cluster.slots()
        for number, command in enumerate(commands):
            place = KEY_AT.get(command[0], 1)
            if len(command) <= place:
                replies[number] = await self._anywhere(slots, command)
                continue
            slot = key_slot(str(command[place]).encode())
            if (owner := slots.owner(slot)) is not None:
                waiting.setdefault((owner, False), []).append(number)
            else:
                replies[number] = ConnectionError(f"no node of the cluster has slot {slot}")
                self._cluster.doubt()
        for _ in range(HOPS):
            if not waiting:
                break
            sent = list(waiting.items())
            parts = [self._send(node, asking, [commands[n] for n in numbers]) for (node, asking), numbers in sent]
            waiting = {}
            for ((node, _), numbers), answers in zip(sent, await _all(parts), strict=True):
                for number, answer in zip(numbers, answers, strict=True):
                    replies[number] = answer
                    if isinstance(answer, AskError):  # MovedError is one
                        to = _node(answer.host, answer.port, node)
                        waiting.setdefault((to, not isinstance(answer, MovedError)), []).append(number)
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies

    async def _anywhere(self, slots: Slots, command: tuple[Any, ...]) -> Any:
        nodes = {node for node in slots.owners if node is not None}
        answers = [answer for [answer] in await _all([self._send(node, False, [command]) for node in nodes])]
        return next((answer for answer in answers if not isinstance(answer, Exception)), answers[0])

    async def _send(self, node: Node, asking: bool, commands: list[tuple[Any, ...]]) -> list[Any]:
        pipeline = self._cluster.client(node).pipeline(transaction=False)
        for command in commands:
            if asking:  # holds for the next command of the same connection
                pipeline.execute_command("ASKING")
            pipeline.execute_command(*command)
        try:
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError, ValueError) as error:  # a MOVED that names no node is a ValueError
            self._cluster.doubt()
            return [error] * len(commands)
        if any(isinstance(reply, MovedError | ClusterDownError) for reply in replies):
            self._cluster.doubt()
        return replies[1::2] if asking else replies


async def _all(parts: Sequence[Awaitable[list[Any]]]) -> list[list[Any]]:
    """As gather, without a task of its own for the usual case, one user and so one node."""
    return [await parts[0]] if len(parts) == 1 else list(await asyncio.gather(*parts))
