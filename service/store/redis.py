"""Profiles and histories in Redis or Valkey."""

import asyncio
import builtins
from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.exceptions import (
    ConnectionError,
    InvalidResponse,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
)

from model.features.behaviour import Behaviour
from model.features.wanted import Wanted
from service.settings import Settings
from service.store.format import history_key, profile_key, queue_write, unpack
from service.store.history import Asked, Stored, StoreTimedOut, StoreUnavailable

DEFAULT_URL = "redis://localhost:6379"


def address(url: str) -> str:
    """Where a store's URL points, fit for messages. Raises ValueError unless it is redis://, rediss:// or unix://."""
    try:
        parts = parse_url(url)
    except ValueError:  # its message may hold a piece of the password
        raise ValueError("the store's URL must be redis://, rediss:// or unix://, its password %-encoded") from None
    return str(parts.get("path") or f"{parts.get('host', 'localhost')}:{parts.get('port', 6379)}")


def opened(settings: Settings) -> "RedisHistory":
    """The store that the settings name; nothing is connected yet."""
    return RedisHistory(
        settings.redis_url or DEFAULT_URL,
        keep=settings.history_keep,
        ttl_s=settings.history_ttl_s,
        timeout_ms=settings.history_timeout_ms,
        connections=settings.history_connections,
    )


class RedisHistory:
    """Profiles and histories in Redis or Valkey; a connection serves one call at a time.

    A call cancelled midway closes its connection: a pending reply left on it would be the next caller's answer.
    """

    def __init__(self, url: str, *, keep: int, ttl_s: int, timeout_ms: int, connections: int) -> None:
        """`url`: redis://, rediss:// or unix://. Nothing is connected yet.

        `timeout_ms` bounds each wait: for one of the `connections`, to connect, to send, for each reply.
        Raises ValueError for a URL that is none of these.
        """
        timeout_s = timeout_ms / 1000
        self._where = address(url)
        self._redis = Redis.from_pool(
            BlockingConnectionPool.from_url(
                url,
                max_connections=connections,
                timeout=None,  # `_execute` bounds the whole of it; a timer per reply would only cost
                socket_timeout=None,
                socket_connect_timeout=max(timeout_s, 1.0),
                protocol=2,  # with this and without driver_info no handshake precedes the first command
                driver_info=None,
            )
        )
        self._keep, self._ttl_s, self._timeout_s = keep, ttl_s, timeout_s

    async def read(
        self, users: Sequence[Asked], wanted: Wanted, timeout_s: float | None = None
    ) -> list[Stored | StoreUnavailable]:
        pipeline = self._redis.pipeline(transaction=False)
        at_most = ("BYSCORE", "REV", "LIMIT", 0, self._keep)
        for user_id, before in users:
            pipeline.execute_command("HGETALL", profile_key(user_id))
            newest = "+inf" if before is None else f"({before}"
            pipeline.execute_command("ZRANGE", history_key(user_id), newest, "-inf", *at_most)
        replies = await self._execute(pipeline, timeout_s)
        pairs = zip(replies[::2], replies[1::2], users, strict=True)
        return [_stored(fields, members, before) for fields, members, (_, before) in pairs]

    async def write(self, user_id: str, behaviours: Sequence[Behaviour], profile: Mapping[str, str] | None) -> None:
        """Add behaviours and set fields of the profile (`queue_write`), in one round trip.

        Raises StoreUnavailable; what was written before the failure stays, and writing all of it again does no harm.
        """
        pipeline = self._redis.pipeline(transaction=False)
        queue_write(pipeline, user_id, behaviours, profile, keep=self._keep, ttl_s=self._ttl_s)
        await self._execute(pipeline)

    async def ping(self, timeout_s: float | None = None) -> None:
        """One PING, answered. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(timeout_s or self._timeout_s):
                await self._redis.ping()
        except (TimeoutError, builtins.TimeoutError) as error:
            raise StoreTimedOut(f"the store at {self._where}: {error}") from error
        except (RedisError, RedisClusterException) as error:
            raise StoreUnavailable(f"the store at {self._where}: {error}") from error

    async def close(self) -> None:
        await self._redis.aclose()

    async def _execute(self, pipeline: Any, timeout_s: float | None = None) -> list[Any]:
        try:
            # with raise_on_error redis-py would put the command, and so the user's id, into the message
            async with asyncio.timeout(
                timeout_s or self._timeout_s
            ):  # the whole of it; a cut-off command closes its connection
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        except (TimeoutError, builtins.TimeoutError) as error:
            raise StoreTimedOut(f"the store at {self._where}: {error}") from error
        except (ConnectionError, ResponseError, InvalidResponse) as error:
            raise StoreUnavailable(f"the store at {self._where}: {error}") from error
        return replies


def _stored(fields: Mapping[bytes, bytes], members: Sequence[bytes], before: int | None) -> Stored:
    behaviours = []
    for member in reversed(members):
        try:
            behaviour = unpack(member)
        except ValueError:
            continue
        if before is None or behaviour.timestamp < before:  # a wrong score must not show a replay its future
            behaviours.append(behaviour)
    behaviours.sort(key=lambda behaviour: behaviour.timestamp)  # stable: ties stay in the members' order
    profile = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
    return Stored(profile, behaviours, len(members) - len(behaviours))
