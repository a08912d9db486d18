"""The format of the store, version 1.

Other programs may read and write it too; text is UTF-8, `<id>` is the user id as text (an integer in decimal), times
are milliseconds since 1970-01-01 UTC. Both keys of a user carry the hash tag `{u:<id>}`, so that a cluster keeps them
on one node, and end in the format's version.

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

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from model.features.behaviour import Behaviour

LATEST_EXACT = 2**53  # a sorted set's score is a double
FORMAT = 1  # in every key: a release that writes another format leaves this one's data alone


class Pipeline(Protocol):
    """What queues commands: a pipeline of redis.Redis or of redis.asyncio.Redis."""

    def execute_command(self, *args: Any) -> Any: ...


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
