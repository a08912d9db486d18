"""Connections: redis-py's pools and connections, with what a read of few milliseconds needs of them.

Who finds no connection free waits for one. Making a connection goes on when the read that began it is given up, and
the next read has it: where a handshake takes longer than a read may (TLS, a sentinel that is down, a far network), no
read would ever come through otherwise.
"""

import asyncio
from typing import Any

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.connection import AbstractConnection, RedisSSLContext
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedConnection
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError

from service.store.clients.url import written

CONNECT_S = 1.0  # to connect, of which a read waits for no more than it may take; the kernel's first retry is later


def once() -> Retry:
    """redis-py's own default waits and repeats up to ten times; a read has no time for that."""
    return Retry(NoBackoff(), 0)


def seen(task: "asyncio.Task[Any]") -> None:
    """Its failure is told by the next read, which tries again; asyncio need not complain of it."""
    if not task.cancelled():
        task.exception()


class TLS(SSLConnection):
    """A connection by TLS. redis-py would read the certificates from disk for each, 20 ms on the event loop."""

    def __init__(self, *, context: RedisSSLContext, **options: Any):
        super().__init__(**options)
        self.ssl_context = context


class Managed(SentinelManagedConnection, Connection):
    """A connection to whatever server is the master."""


class ManagedTLS(Managed, TLS):
    """The same by TLS."""


class Pool(BlockingConnectionPool):
    """Connections to one server; `max_connections` at most, those under way included."""

    def __init__(self, **options: Any):
        super().__init__(timeout=None, **options)  # the caller bounds the wait, as the rest of its read
        self._left: dict[AbstractConnection, asyncio.Task[None]] = {}  # being made, their reads given up
        self._finishing: set[asyncio.Task[None]] = set()

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        if connection.is_connected:
            try:
                if not await connection.can_read():  # neither closed by the server nor an answer that nobody read
                    return
            except (RedisError, OSError):
                pass
        making = asyncio.create_task(self._make(connection))
        making.add_done_callback(seen)
        try:
            await asyncio.shield(making)
        except asyncio.CancelledError:
            if not making.done():
                self._left[connection] = making
                finishing = asyncio.create_task(self._finish(connection))
                self._finishing.add(finishing)
                finishing.add_done_callback(self._finishing.discard)
            raise

    async def _make(self, connection: AbstractConnection) -> None:
        async with asyncio.timeout(self._making_s()):  # redis-py bounds the connect, not an AUTH that nobody answers
            await super().ensure_connection(connection)

    def _making_s(self) -> float:
        """Seconds in which a connection is made, or not at all."""
        return CONNECT_S

    async def _finish(self, connection: AbstractConnection) -> None:
        await asyncio.wait([self._left[connection]])
        del self._left[connection]
        await self.release(connection)

    async def release(self, connection: AbstractConnection) -> None:
        if connection not in self._left:  # else nobody may have it before it is made
            await super().release(connection)

    async def aclose(self) -> None:
        for making in self._left.values():
            making.cancel()
        await asyncio.gather(*self._finishing)
        await super().aclose()


class Sentinels(Sentinel):
    """Those who know which server is the master."""

    def __init__(self, clients: list[Redis]):
        super().__init__([])  # type: ignore[no-untyped-call]
        self.sentinels = clients

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """As redis-py's, with a message for people; who knew is asked first the next time."""
        troubles, cause = [], None
        for sentinel in list(self.sentinels):
            place = sentinel.connection_pool.connection_kwargs
            try:
                masters: dict[str, Any] = await sentinel.sentinel_masters()  # type: ignore[assignment]
            except (RedisError, OSError) as error:
                troubles.append(f"{written(place['host'], place['port'])}: {error}")
                cause = error
                continue
            state = masters.get(service_name)
            if state and self.check_master_state(state, service_name):
                self.sentinels.sort(key=lambda other: other is not sentinel)
                return state["ip"], state["port"]
            known = "is down" if state else f"is none of its masters ({', '.join(sorted(masters)) or 'it has none'})"
            troubles.append(f"{written(place['host'], place['port'])}: {service_name} {known}")
        raise ConnectionError("; ".join(troubles)) from cause


class MasterPool(SentinelConnectionPool, Pool):
    """Connections to the master; after a failover they are made anew, to the new one."""

    _search: "asyncio.Task[tuple[str, int]] | None" = None

    def _making_s(self) -> float:
        return CONNECT_S * (1 + 2 * len(self.sentinel_manager.sentinels))  # each is connected to, and asked

    async def get_master_address(self) -> tuple[str, int]:
        if self._search is None or self._search.done():  # one search for all connections that are being made
            self._search = asyncio.create_task(super().get_master_address())  # type: ignore[no-untyped-call]
            self._search.add_done_callback(seen)
        return await asyncio.shield(self._search)

    async def release(self, connection: AbstractConnection) -> None:
        if isinstance(connection, Managed) and (connection.host, connection.port) != self.master_address:
            connection.mark_for_reconnect()  # type: ignore[no-untyped-call]  # a failover passed while it was in use
        await super().release(connection)

    async def aclose(self) -> None:
        await super().aclose()
        if self._search is not None:
            self._search.cancel()
            await asyncio.gather(self._search, return_exceptions=True)
        await self.sentinel_manager.aclose()
