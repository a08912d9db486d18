"""What the store knows of a user: a profile and a history, read in one round trip.

The format, version 1. Other programs may read and write it too; text is UTF-8, `<id>` is the user id as text (an
integer in decimal), times are milliseconds since 1970-01-01 UTC. Both keys of a user carry the hash tag `{u:<id>}`, so
that a cluster keeps them on one node, and end in the format's version.

    {u:<id>}:profile:1   hash: feature name -> value. Numbers in decimal, a multi-valued feature as a JSON list; a
                         feature without a value is left out.
    {u:<id>}:history:1   sorted set, a member a behaviour: score = time, member = action|object_type|object_id|time.
                         Action and object type hold no `|`, the object id may. The time is a plain decimal integer,
                         the same as the score (exact up to 2^53), so writing a behaviour again changes nothing and a
                         late one lands in its place. Those of one millisecond stand in the members' byte order.

A write, here of one click by user 42 with 100 behaviours kept for 90 days; the two PEXPIRE follow every write,
whichever half it touches, so that a user is forgotten as a whole, a TTL after the last write:

    ZADD {u:42}:history:1 1511544070000 click|item|2268318|1511544070000
    ZREMRANGEBYRANK {u:42}:history:1 0 -101
    HSET {u:42}:profile:1 age 30 city 110000
    PEXPIRE {u:42}:history:1 7776000000
    PEXPIRE {u:42}:profile:1 7776000000

Every command exists since Redis 6.2. A write that adds no more than 128 - keep behaviours at once leaves the set in
Redis' compact encoding (zset-max-listpack-entries 128, members up to 64 bytes), at less than half the memory.
"""

import asyncio
import builtins
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.exceptions import ConnectionError, InvalidResponse, ResponseError, TimeoutError

from model.features.behaviour import Behaviour

LATEST_EXACT = 2**53  # a sorted set's score is a double
FORMAT = 1  # in every key: a release that writes another format leaves this one's data alone


class StoreUnavailable(Exception):
    """The store did not answer, or answered with an error; the message names where it is, never password or user."""


class StoreTimedOut(StoreUnavailable):
    """The store did not answer in time."""


class Stored(NamedTuple):
    """One user's profile (feature -> text) and behaviours (oldest first); both empty for a user never written.

    `skipped` counts members that are no behaviours, and were left out.
    """

    profile: dict[str, str]
    behaviours: list[Behaviour]
    skipped: int


class History(Protocol):
    """Where users' profiles and behaviours are read from."""

    async def read(self, user_id: str, before: int | None) -> Stored:
        """What is known of a user: of the behaviours the newest that happened strictly before `before` (ms).

        None means a live request: all that the store holds has happened, a click stamped ahead of our clock included.
        Raises StoreUnavailable.
        """
        ...

    async def read_many(self, asked: Sequence[tuple[str, int | None]]) -> list[Stored]:
        """The same of several users, (user id, before) each, in one round trip."""
        ...

    async def close(self) -> None: ...


class Pipeline(Protocol):
    """What queues commands: a pipeline of redis.Redis or of redis.asyncio.Redis."""

    def execute_command(self, *args: Any) -> Any: ...


def address(url: str) -> str:
    """Where a store's URL points, fit for messages. Raises ValueError unless it is redis://, rediss:// or unix://."""
    try:
        parts = parse_url(url)
    except ValueError:  # its message may hold a piece of the password
        raise ValueError("the store's URL must be redis://, rediss:// or unix://, its password %-encoded") from None
    return str(parts.get("path") or f"{parts.get('host', 'localhost')}:{parts.get('port', 6379)}")


def profile_key(user_id: str) -> str:
    return f"{_hash_tag(user_id)}:profile:{FORMAT}"


def history_key(user_id: str) -> str:
    return f"{_hash_tag(user_id)}:history:{FORMAT}"


def _hash_tag(user_id: str) -> str:
    # A cluster hashes what stands between the key's first "{" and the first "}" after it. The "{" is ours and the tag
    # begins with "u:", so it is never empty (an empty one counts as none); a "}" in the id ends it early, but in both
    # keys alike.
    return f"{{u:{user_id}}}"


def pack(behaviour: Behaviour) -> str:
    """The member that stands for a behaviour. Raises ValueError for a `|` in action or object type."""
    action, object_type, object_id, timestamp = behaviour
    if "|" in action or "|" in object_type:
        raise ValueError(f"action {action!r} and object type {object_type!r} given, neither may hold a '|'")
    if abs(timestamp) > LATEST_EXACT:
        raise ValueError(f"time {timestamp} given, at most 2^53 is allowed: a sorted set's score is a double")
    return f"{action}|{object_type}|{object_id}|{timestamp}"


def unpack(member: bytes | str) -> Behaviour:
    """The behaviour of a member; `pack`'s inverse. Raises ValueError for anything that `pack` would not have made."""
    text = member.decode() if isinstance(member, bytes) else member
    action, object_type, rest = text.split("|", 2)
    object_id, bar, time = rest.rpartition("|")
    timestamp = int(time)
    if not bar or str(timestamp) != time or abs(timestamp) > LATEST_EXACT:
        # "+1" or "01" would be a second copy of the behaviour at 1
        raise ValueError(f"{text!r} given, action|object_type|object_id|time is allowed")
    return Behaviour(action, object_type, object_id, timestamp)


def queue_write(
    pipeline: Pipeline,
    user_id: str,
    behaviours: Sequence[Behaviour],
    profile: Mapping[str, str] | None,
    *,
    keep: int,
    ttl_s: int,
) -> None:
    """Queue the commands that add behaviours to a user and set fields of the profile; the other fields stay.

    Of the history the newest `keep` remain; profile and history expire `ttl_s` seconds from now. Raises ValueError,
    before anything is queued, for a behaviour that cannot be packed.
    """
    history, profile_at = history_key(user_id), profile_key(user_id)
    if behaviours:
        scored = [part for behaviour in behaviours for part in (behaviour.timestamp, pack(behaviour))]
        pipeline.execute_command("ZADD", history, *scored)
        pipeline.execute_command("ZREMRANGEBYRANK", history, 0, -(keep + 1))
    if profile:
        pipeline.execute_command("HSET", profile_at, *(part for field in profile.items() for part in field))
    if behaviours or profile:
        pipeline.execute_command("PEXPIRE", history, ttl_s * 1000)
        pipeline.execute_command("PEXPIRE", profile_at, ttl_s * 1000)


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
                timeout=timeout_s,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                protocol=2,  # with this and without driver_info no handshake precedes the first command
                driver_info=None,
            )
        )
        self._keep, self._ttl_s, self._timeout_s = keep, ttl_s, timeout_s

    async def read(self, user_id: str, before: int | None) -> Stored:
        return (await self.read_many([(user_id, before)]))[0]

    async def read_many(self, asked: Sequence[tuple[str, int | None]]) -> list[Stored]:
        pipeline = self._redis.pipeline(transaction=False)
        at_most = ("BYSCORE", "REV", "LIMIT", 0, self._keep)
        for user_id, before in asked:
            pipeline.execute_command("HGETALL", profile_key(user_id))
            newest = "+inf" if before is None else f"({before}"
            pipeline.execute_command("ZRANGE", history_key(user_id), newest, "-inf", *at_most)
        replies = await self._execute(pipeline)
        pairs = zip(replies[::2], replies[1::2], asked, strict=True)
        return [_stored(fields, members, before) for fields, members, (_, before) in pairs]

    async def write(self, user_id: str, behaviours: Sequence[Behaviour], profile: Mapping[str, str] | None) -> None:
        """Add behaviours and set fields of the profile (`queue_write`), in one round trip.

        Raises StoreUnavailable; what was written before the failure stays, and writing all of it again does no harm.
        """
        pipeline = self._redis.pipeline(transaction=False)
        queue_write(pipeline, user_id, behaviours, profile, keep=self._keep, ttl_s=self._ttl_s)
        await self._execute(pipeline)

    async def close(self) -> None:
        await self._redis.aclose()

    async def _execute(self, pipeline: Any) -> list[Any]:
        try:
            # with raise_on_error redis-py would put the command, and so the user's id, into the message
            async with asyncio.timeout(self._timeout_s):  # the whole of it; a cut-off command closes its connection
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
