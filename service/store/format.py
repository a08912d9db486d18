"""The format of the store, version 2.

Other programs may read and write it too; text is UTF-8, `<id>` is the user id as text (an integer in decimal), times
are milliseconds since 1970-01-01 UTC. A behaviour's kind is its action and its type of object, `click|item`. All keys
of a user carry the hash tag `{u:<id>}`, so that a cluster keeps them on one node, and their format's version.

    {u:<id>}:profile:1        hash: feature name -> value. Numbers in decimal, a multi-valued feature as a JSON list; a
                              feature without a value is left out. (It has been so since version 1.)
    {u:<id>}:history:2:<kind> sorted set, one of each kind, a member a behaviour: score 0, member = time|object_id.
                              The time has 14 digits, zeros in front, so members stand in the order of time, writing
                              one again changes nothing and a late one lands in its place. Those of one millisecond
                              stand in the order of their ids' bytes. The object id may hold a `|`, a kind only its own.
    {u:<id>}:kinds:2          sorted set, the index: a member a kind. Its score is up to when (ms) that kind has been
                              cut: the time of the newest behaviour that the store no longer holds, 0 where it holds
                              all. The member `*` is for all kinds: what version 1 had cut.
    {u:<id>}:shown:1          sorted set, of impressions that feedback confirmed: members as those of a history. Of the
                              days alone that a `today` may count: it lives three days after the last write, and holds
                              nothing that is three days older than its newest.

A write, here of one click by user 42 with 100 behaviours of each kind kept for 90 days:

    ZADD {u:42}:kinds:2 GT 0 click|item
    ZADD {u:42}:history:2:click|item 0 01511544070000|2268318
    HSET {u:42}:profile:1 age 30 city 110000
    EVAL <RENEW> 3 {u:42}:kinds:2 {u:42}:profile:1 {u:42}:history:1 100 7776000000 click|item

The script RENEW ends every write, whichever half it touches: it moves what version 1 holds, cuts every kind, and lets
all keys expire together, so that a user is forgotten as a whole, a TTL after the last write; with a TTL of 0 at once.
It is told the kinds that were written: who was forgotten between the commands has lost them from the index.
It does all of that or nothing, so writers may come at once or die. Every command exists since Redis 6.2. A write
that adds no more than 128 - keep behaviours of a kind leaves its set in Redis' compact encoding
(zset-max-listpack-entries 128, members up to 64 bytes), at a third of the memory.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from model.features.behaviour import LATEST_MS, Behaviour
from service.store.format1 import history_key as history_key_1

DIGITS = len(str(LATEST_MS))  # of a time
DONE = b"done"  # the last reply to each write: what answers otherwise has not written
CUT_BEFORE = "*"  # in the index, for all kinds; a kind holds a `|`

# Of more than `keep` behaviours those of the last moment stay together, up to twice as many: which of them a network
# would read is a matter of their ids' order, which is the encoder's and not the store's.
RENEW = """\
local kinds, profile, version1 = KEYS[1], KEYS[2], KEYS[3]
local keep, ttl_ms = tonumber(ARGV[1]), ARGV[2]
local user = string.sub(kinds, 1, -8)
local function history(kind) return user .. 'history:2:' .. kind end
local function note(kind, time) redis.call('ZADD', kinds, 'GT', time, kind) end

for at = 3, #ARGV do
  if redis.call('ZCARD', history(ARGV[at])) > 0 then note(ARGV[at], 0) end
end

local old, oldest = redis.call('ZRANGE', version1, 0, -1), nil
for _, member in ipairs(old) do
  local kind, id, time = string.match(member, '^([^|]*|[^|]*)|(.*)|(%d+)$')
  if time and #time <= 14 then
    time = string.rep('0', 14 - #time) .. time
    if not oldest or time < oldest then oldest = time end
    note(kind, 0)
    redis.call('ZADD', history(kind), 0, time .. '|' .. id)
  end
end
if oldest and #old >= math.min(keep, 100) then note('*', oldest) end
if #old > 0 then redis.call('DEL', version1) end

for _, kind in ipairs(redis.call('ZRANGE', kinds, 0, -1)) do
  local key = history(kind)
  local more = redis.call('ZCARD', key) - keep
  if more > 0 then
    local moment = string.sub(redis.call('ZRANGE', key, more, more)[1], 1, 14)
    local older = redis.call('ZLEXCOUNT', key, '-', '(' .. moment)
    local out = math.min(math.max(older, more - keep), more)
    if out > 0 then
      local time = string.match(redis.call('ZRANGE', key, out - 1, out - 1)[1], '^(%d+)|')
      if time then note(kind, time) end
      redis.call('ZREMRANGEBYRANK', key, 0, out - 1)
    end
  end
  redis.call('PEXPIRE', key, ttl_ms)
end
redis.call('PEXPIRE', kinds, ttl_ms)
redis.call('PEXPIRE', profile, ttl_ms)
return 'done'
"""


# What is shown is counted by member, so that an event sent again counts once. A client's clock may be a day ahead, and
# a day has up to 25 hours: what is of today is never older than the newest less three days.
SHOW = """\
local key, keep, ttl_ms, span_ms = KEYS[1], tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
for at = 4, #ARGV do redis.call('ZADD', key, 0, ARGV[at]) end
local newest = tonumber(string.sub(redis.call('ZRANGE', key, -1, -1)[1], 1, 14)) or 0
redis.call('ZREMRANGEBYLEX', key, '-', string.format('(%014d', math.max(0, newest - span_ms)))
redis.call('ZREMRANGEBYRANK', key, 0, -keep - 1)
redis.call('PEXPIRE', key, ttl_ms)
return 'done'
"""
SHOWN_MS = 3 * 86_400_000

# All of a user goes at once: nobody sees a half of it.
FORGET = """\
local kinds, profile, version1, shown = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local user = string.sub(kinds, 1, -8)
for _, kind in ipairs(redis.call('ZRANGE', kinds, 0, -1)) do redis.call('DEL', user .. 'history:2:' .. kind) end
redis.call('DEL', kinds, profile, version1, shown)
return 'done'
"""


class Pipeline(Protocol):
    """What queues commands: a pipeline of redis.Redis or of redis.asyncio.Redis."""

    def execute_command(self, *args: Any) -> Any: ...


def profile_key(user_id: str) -> str:
    return f"{{u:{user_id}}}:profile:1"


# A cluster hashes what stands between a key's first "{" and the first "}" after it. The "{" is ours and the tag begins
# with "u:", so it is never empty (an empty one counts as none); a "}" in the id ends it early, but in all keys alike.
def kinds_key(user_id: str) -> str:
    return f"{{u:{user_id}}}:kinds:2"


def history_key(user_id: str, kind: str) -> str:
    """`kind`: action|object_type, as `kind_of` has it."""
    return f"{{u:{user_id}}}:history:2:{kind}"


def shown_key(user_id: str) -> str:
    return f"{{u:{user_id}}}:shown:1"


def moment(ms: int) -> str:
    """How the members of a moment begin; of what was before 1970 there is none."""
    return f"{max(ms, 0):0{DIGITS}}"


def kind_of(action: str, object_type: str) -> str:
    """Raises ValueError for a `|` in either."""
    if "|" in action or "|" in object_type:
        raise ValueError(f"action {action!r} and object type {object_type!r} given, neither may hold a '|'")
    return f"{action}|{object_type}"


def pack(behaviour: Behaviour) -> tuple[str, str]:
    """A behaviour's kind, and the member that stands for it. Raises ValueError for a `|` in the kind, and a time."""
    action, object_type, object_id, timestamp = behaviour
    if not 0 <= timestamp <= LATEST_MS:
        raise ValueError(f"time {timestamp} given, 0 to {LATEST_MS} (ms) are allowed: it is kept in {DIGITS} digits")
    return kind_of(action, object_type), f"{timestamp:0{DIGITS}}|{object_id}"


def unpack(member: bytes) -> tuple[str, int]:
    """Object id and time of a member. Raises ValueError for anything that `pack` would not have made."""
    time, bar, object_id = member.partition(b"|")
    if len(time) != DIGITS or not time.isdigit() or not bar:
        raise ValueError(f"{member!r} given, a time of {DIGITS} digits, '|' and an object id are allowed")
    return object_id.decode(), int(time)


def newest(behaviours: Iterable[Behaviour], keep: int) -> dict[str, list[str]]:
    """Kind -> the members that are worth sending where `keep` of each are kept, oldest first, each once.

    Those are the newest, all of the last one's millisecond (up to twice `keep`), and one that is older: it will be cut,
    and so the index knows that there was more. Raises ValueError for a behaviour that cannot be packed.
    """
    members: dict[str, set[str]] = {}
    for behaviour in behaviours:
        kind, member = pack(behaviour)
        members.setdefault(kind, set()).add(member)
    return {kind: _cut(sorted(each), keep) for kind, each in members.items()}


def _cut(members: list[str], keep: int) -> list[str]:
    if len(members) <= keep:
        return members
    moment = members[-keep][:DIGITS]
    return members[max(bisect_left(members, moment) - 1, len(members) - 2 * keep - 1, 0) :]


def queue_write(
    pipeline: Pipeline,
    user_id: str,
    behaviours: Sequence[Behaviour],
    profile: Mapping[str, str] | None,
    *,
    keep: int,
    ttl_s: int,
    shown: Sequence[Behaviour] = (),
) -> int:
    """Queue the commands that add behaviours to a user and set fields of the profile; the other fields stay.

    Of each kind the newest `keep` remain, and of impressions (`shown`); the user expires `ttl_s` seconds from now.
    Gives the number of behaviours that are to stay. Raises ValueError, before anything is queued, for a behaviour that
    cannot be packed.
    """
    index, profile_at = kinds_key(user_id), profile_key(user_id)
    kinds = newest(behaviours, keep)
    impressions = sorted({pack(one)[1] for one in shown})[-keep:]
    if impressions:
        lives_ms = min(ttl_s * 1000, SHOWN_MS)
        pipeline.execute_command("EVAL", SHOW, 1, shown_key(user_id), keep, lives_ms, SHOWN_MS, *impressions)
    for kind, members in kinds.items():
        pipeline.execute_command("ZADD", index, "GT", 0, kind)
        pipeline.execute_command("ZADD", history_key(user_id, kind), *(part for one in members for part in (0, one)))
    if profile:
        pipeline.execute_command("HSET", profile_at, *(part for field in profile.items() for part in field))
    if behaviours or profile:
        pipeline.execute_command(
            "EVAL", RENEW, 3, index, profile_at, history_key_1(user_id), keep, ttl_s * 1000, *kinds
        )
    return sum(min(len(members), keep) for members in kinds.values())


def queue_replace(pipeline: Pipeline, user_id: str, profile: Mapping[str, str], *, keep: int, ttl_s: int) -> None:
    """Queue what makes this the profile: fields that it does not name go. The history stays, and lives as long."""
    index, profile_at = kinds_key(user_id), profile_key(user_id)
    keys = (index, profile_at, history_key_1(user_id))
    fields = [part for field in profile.items() for part in field]
    pipeline.execute_command("EVAL", _REPLACE, 3, *keys, keep, ttl_s * 1000, *fields)


_REPLACE = (
    "redis.call('DEL', KEYS[2]) for at = 3, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1]) end\n"
    "local ARGV = {ARGV[1], ARGV[2]}\n" + RENEW  # the rest are no kinds
)


def queue_forget(pipeline: Pipeline, user_id: str) -> None:
    """Queue what removes all keys of a user."""
    keys = (kinds_key(user_id), profile_key(user_id), history_key_1(user_id), shown_key(user_id))
    pipeline.execute_command("EVAL", FORGET, len(keys), *keys)
