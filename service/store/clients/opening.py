"""A store's URL -> a client of redis-py, not connected yet."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, Protocol

import redis
from redis.asyncio import Connection, ConnectionPool, Redis, UnixDomainSocketConnection
from redis.asyncio.connection import RedisSSLContext, SSLConnection
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.exceptions import RedisError
from redis.retry import Retry

from service.store.clients.cluster import Cluster, Node
from service.store.clients.pools import (
    CONNECT_S,
    TLS,
    Managed,
    ManagedTLS,
    MasterPool,
    Pool,
    Sentinels,
    once,
)
from service.store.clients.url import CLUSTER, SENTINEL, SINGLE, SOCKET, StoreURL, parsed

_WIRE: dict[str, Any] = {"protocol": 2, "driver_info": None}  # no handshake precedes the first command, but AUTH


_MEANT = {"standalone": "a single server", "cluster": "a node of a cluster", "sentinel": "a sentinel"}


class Client(Protocol):
    """What a store is read through: redis.asyncio.Redis, or a Cluster."""

    def pipeline(self, transaction: bool = True) -> Any: ...

    def ping(self) -> Any: ...

    async def aclose(self) -> None: ...


def address(url: str) -> str:
    """Where a store's URL points, fit for messages. Raises ValueError for a URL that cannot be used."""
    return parsed(url).address


def check(url: str) -> None:
    """Raises ValueError for a URL that cannot be used, or certificates that cannot be read."""
    _context(parsed(url))


def opened(url: str, connections: int) -> Client:
    """A client whose reads the caller bounds in time, as `asyncio.timeout` does. Raises ValueError, as `check`.

    Who finds all `connections` taken waits for one; of a cluster, each node has so many.
    """
    store = parsed(url)
    context = _context(store)
    tls = {"context": context} if context else {}
    kind = TLS if context else Connection
    bounded = {
        **_WIRE,
        **store.connection,
        "max_connections": connections,
        "retry": once(),
        "socket_timeout": None,  # asyncio.timeout does it better: for the read as a whole, and at half the cost
        "socket_connect_timeout": CONNECT_S,
    }
    if store.kind == SOCKET:
        pool = Pool(connection_class=UnixDomainSocketConnection, path=store.path, db=store.db, **bounded)
        return Redis.from_pool(pool)
    if store.kind == SINGLE:
        [(host, port)] = store.hosts
        return Redis.from_pool(Pool(connection_class=kind, host=host, port=port, db=store.db, **bounded, **tls))
    if store.kind == SENTINEL:
        sentinels = [_questions(store, context, store.sentinel, host=host, port=port) for host, port in store.hosts]
        managed = ManagedTLS if context else Managed
        return Redis.from_pool(
            MasterPool(  # type: ignore[no-untyped-call]
                service_name=store.master,
                sentinel_manager=Sentinels(sentinels),
                connection_class=managed,
                db=store.db,
                **bounded,
                **tls,
            )
        )

    def client_of(node: Node) -> Redis:
        return Redis.from_pool(Pool(connection_class=kind, host=node[0], port=node[1], **bounded, **tls))

    def asking(node: Node) -> Redis:
        return _questions(store, context, store.connection, host=node[0], port=node[1])

    return Cluster(store.hosts, client_of, asking)


def opened_sync(url: str, timeout_s: float) -> Any:
    """redis-py's own synchronous client, a context manager; `timeout_s` bounds each reply.

    Raises ValueError, as `check`, and redis.RedisError where a cluster does not answer, which is asked at once.
    """
    store = parsed(url)
    check(url)
    options = {**_WIRE, **store.connection, "socket_timeout": timeout_s}
    tls = {"ssl": True, **store.tls} if store.by_tls else {}
    if store.kind == SOCKET:
        return redis.Redis(unix_socket_path=store.path, db=store.db, **options)
    if store.kind == SINGLE:
        [(host, port)] = store.hosts
        return redis.Redis(host=host, port=port, db=store.db, **options, **tls)
    if store.kind == SENTINEL:
        at_sentinels = {**_WIRE, "socket_timeout": CONNECT_S, "socket_connect_timeout": CONNECT_S, **store.sentinel}
        asked = {**at_sentinels, **tls, "retry": Retry(NoBackoff(), 0)}
        manager = redis.Sentinel(list(store.hosts), sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
        return manager.master_for(store.master, db=store.db, **options, **tls)  # type: ignore[no-untyped-call]
    try:
        nodes = [ClusterNode(*host) for host in store.hosts]  # type: ignore[no-untyped-call]
        return redis.RedisCluster(startup_nodes=nodes, **options, **tls)
    except redis.RedisClusterException as error:  # which is no RedisError
        raise redis.ConnectionError(f"the store at {store.address}: {error}") from error


async def advice(url: str) -> str | None:
    """What to write where the URL names servers as what they are not: a node of a cluster as a server by itself, say.

    None where all is well, and where it cannot be told. Asks each server once, which takes a second at most; never
    raises but ValueError for the URL.
    """
    store = parsed(url)
    meant = {SENTINEL: "sentinel", CLUSTER: "cluster"}.get(store.kind, "standalone")
    login = store.sentinel if store.kind == SENTINEL else store.connection
    for place in [{"path": store.path}] if store.kind == SOCKET else [{"host": h, "port": p} for h, p in store.hosts]:
        client = _questions(store, _context(store), login, **place)
        try:
            async with client, asyncio.timeout(CONNECT_S):
                server = await client.info("server")
        except (RedisError, OSError):  # away, or NOPERM: INFO is often not given to a user
            continue
        mode = server.get("server_mode") or server.get("redis_mode") or meant  # Valkey's name for it, and Redis'
        if mode in _MEANT and mode != meant:
            right = {"sentinel": "redis+sentinel://…/ and the master's name", "cluster": "redis+cluster://"}
            scheme = right.get(mode, "redis://").replace("redis", "rediss" if store.by_tls else "redis", 1)
            return (
                f"the store at {store.address} is named as {_MEANT[meant]}, but is {_MEANT[mode]}: its users cannot "
                f"all be read. To do: begin RANKER_REDIS_URL with {scheme}"
            )
        return None
    return None


def _questions(store: StoreURL, context: RedisSSLContext | None, login: Mapping[str, Any], **place: str | int) -> Redis:
    """A client for a question now and then, with short times of its own: to a sentinel, or about slots."""
    kind = UnixDomainSocketConnection if store.kind == SOCKET else TLS if context else Connection
    bounds: dict[str, Any] = {"retry": once(), "socket_timeout": CONNECT_S, "socket_connect_timeout": CONNECT_S}
    bounds |= place
    if context:
        bounds["context"] = context
    return Redis.from_pool(ConnectionPool(connection_class=kind, **_WIRE, **bounds, **login))


def _context(store: StoreURL) -> RedisSSLContext | None:
    """Certificates, read once. Raises ValueError."""
    if not store.by_tls:
        return None
    try:
        context = SSLConnection(**store.tls).ssl_context
        context.get()
    except (OSError, ssl.SSLError, RedisError, ValueError) as error:
        names = ", ".join(store.tls) or "the system's certificates"
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ValueError(f"the store's URL: TLS by {names} cannot be set up: {reason}") from None
    return context
