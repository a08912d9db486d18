"""What the store keeps of an experiment: of each user what was shown and clicked, and by variant the sums over users.

Keys, in BUCKETS parts by user so that a cluster's nodes share them, `<e>` the experiment, `<b>` the part:

    {rx:<e>:<b>}:users        hash: a user's hash -> "variant shown clicked", of several variants with ; between
    {rx:<e>:<b>}:sums         hash: <variant>:users, :x (items shown), :y (clicks), :xx, :xy, :yy (sums over users of
                              products); `mixed`: users with several variants; what else a worker counted
    {rx:<e>:<b>}:clicked:<d>  set: clicks counted of impressions of day d, so that each counts once
    {rx:<e>:<b>}:seen         hash: a worker -> the number of the last parcel that was taken from it
    {rx:<e>}:caught           hash: a variant that was taken out -> since when, and why
    {rx:<e>}:since            hash: `shares …` by which users were drawn, or `model <variant> …` that answered -> since
                              when (ms)

One script does all of a parcel's part in a bucket or nothing: no script is taken back, so its first writes change
nothing, and fail where memory is full or an ACL forbids them. A parcel that comes again, since nobody knows whether it
arrived, is known by its number. Servers are asked for the script by its hash, and get the whole where they do not know
it: after a start, or as another node of a cluster.
"""

import asyncio
import builtins
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import xxhash
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from service.store import clients
from service.store.history import StoreTimedOut, StoreUnavailable

BUCKETS = 64
DAY_MS = 86_400_000
TTL_MS = 90 * DAY_MS  # after the last write

_TAKE = """\
local sums, users, seen, clicked = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local ttl, clicked_ttl, worker, number = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
redis.call('HINCRBY', sums, 'mixed', 0)
redis.call('PEXPIRE', sums, ttl)
if worker ~= '' then
  if redis.call('HGET', seen, worker) == number then return {} end
  redis.call('HSET', seen, worker, number)
  redis.call('PEXPIRE', seen, ttl)
end
local new = {}
for at = 5, #ARGV, 4 do
  local variant, user, dx, click = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3]
  if variant == '' then
    redis.call('HINCRBY', sums, user, dx)
  else
    local dy = 0
    if click ~= '' then
      dy = redis.call('SADD', clicked, click)
      new[#new + 1] = dy
    end
    if dx + dy > 0 then
      local x, y, others = 0, 0, {}
      local was = redis.call('HGET', users, user)
      for name, shown, clicks in string.gmatch(was or '', '([^ ;]+) (%d+) (%d+)') do
        if name == variant then x, y = tonumber(shown), tonumber(clicks)
        else others[#others + 1] = name .. ' ' .. shown .. ' ' .. clicks end
      end
      if x + y == 0 then
        redis.call('HINCRBY', sums, variant .. ':users', 1)
        if #others == 1 then redis.call('HINCRBY', sums, 'mixed', 1) end
      end
      others[#others + 1] = string.format('%s %d %d', variant, x + dx, y + dy)
      redis.call('HSET', users, user, table.concat(others, ';'))
      local function add(what, n) if n ~= 0 then redis.call('HINCRBY', sums, variant .. what, n) end end
      add(':x', dx)
      add(':y', dy)
      add(':xx', dx * (2 * x + dx))
      add(':xy', (x + dx) * (y + dy) - x * y)
      add(':yy', dy * (2 * y + dy))
    end
  end
end
redis.call('PEXPIRE', sums, ttl)
redis.call('PEXPIRE', users, ttl)
redis.call('PEXPIRE', clicked, clicked_ttl)
return new
"""
_SHA = hashlib.sha1(_TAKE.encode(), usedforsecurity=False).hexdigest()


class Shown(NamedTuple):
    """So many items more were shown to a user by a variant."""

    variant: str
    user_id: str
    items: int


class Clicked(NamedTuple):
    """One item that a variant showed was clicked: `what` tells it from other clicks of its day (since 1970)."""

    variant: str
    user_id: str
    what: str
    day: int


class Parcel(NamedTuple):
    """What one worker counted. It may be sent again: `worker` and `number` tell it from others."""

    worker: str
    number: int
    shown: Sequence[Shown]
    figures: Mapping[str, int]  # sums by name, that are no users'
    since: Mapping[str, int]  # by which shares users were drawn and which models answered so far, and since when (ms)


class Standing(NamedTuple):
    """What all workers go by."""

    caught: dict[str, str]  # the variants that were taken out, and why
    since: dict[str, int]  # as parcels had it, of any worker


class Ledger:
    """One experiment in the store that a URL names, through a few connections of its own. Raises ValueError."""

    def __init__(self, url: str, experiment: str, timeout_s: float, clicked_ttl_s: float):
        self._client = clients.opened(url, connections=4)
        self._where = clients.address(url)
        self._of = experiment
        self._timeout_s = timeout_s
        self.keep_clicks(clicked_ttl_s)

    def keep_clicks(self, seconds: float) -> None:
        """How long those of a day are known, after the last of them."""
        self._clicked_ttl_ms = int(seconds * 1000)

    async def add(self, parcel: Parcel) -> None:
        """Raises StoreUnavailable; the same may then be sent again."""
        parts: dict[int, list[str | int]] = {}
        for variant, user_id, items in parcel.shown:
            bucket, user = self._user(user_id)
            parts.setdefault(bucket, []).extend((variant, user, items, ""))
        if parcel.figures:
            own = parts.setdefault(self._user(parcel.worker)[0], [])
            for name, count in parcel.figures.items():
                own.extend(("", name, count, ""))
        commands = clients.Commands()
        for bucket, arguments in parts.items():
            self._queue(commands, bucket, 0, parcel.worker, parcel.number, arguments)
        for what, since in parcel.since.items():
            commands.execute_command("HSETNX", self._since, what, since)
        for key in (self._since, self._caught):  # as long as the counts
            commands.execute_command("PEXPIRE", key, TTL_MS)
        self._raise(await self._told(commands))

    async def click(self, clicks: Sequence[Clicked]) -> list[bool]:
        """Of each whether it counts: not where it did before. Raises StoreUnavailable; all may then be sent again."""
        places: dict[tuple[int, int], list[int]] = {}
        users = [self._user(one.user_id) for one in clicks]
        for at, one in enumerate(clicks):
            places.setdefault((users[at][0], one.day), []).append(at)
        commands = clients.Commands()
        for (bucket, day), ats in places.items():
            arguments: list[str | int] = []
            for at in ats:
                arguments.extend((clicks[at].variant, users[at][1], 0, clicks[at].what))
            self._queue(commands, bucket, day, "", 0, arguments)
        replies = await self._told(commands)
        self._raise(replies)
        counted = [False] * len(clicks)
        for ats, new in zip(places.values(), replies, strict=True):
            for at, one in zip(ats, new, strict=True):
                counted[at] = bool(one)
        return counted

    async def totals(self) -> Counter[str]:
        """All sums. Raises StoreUnavailable."""
        commands = clients.Commands()
        for bucket in range(BUCKETS):
            commands.execute_command("HGETALL", self._key(bucket, "sums"))
        replies = await self._told(commands)
        self._raise(replies)
        totals: Counter[str] = Counter()
        for reply in replies:
            for name, count in _pairs(reply):
                totals[name.decode()] += int(count)
        return totals

    async def standing(self) -> Standing:
        """Raises StoreUnavailable."""
        replies = await self._told(clients.Commands([("HGETALL", self._caught), ("HGETALL", self._since)]))
        self._raise(replies)
        caught, since = map(_pairs, replies)
        return Standing(
            {variant.decode(): why.decode() for variant, why in caught},
            {what.decode(): int(when) for what, when in since},
        )

    async def catch(self, variant: str, why: str) -> None:
        """Takes it out, everywhere, until it is let in. Raises StoreUnavailable."""
        self._raise(await self._told(clients.Commands([("HSETNX", self._caught, variant, why)])))

    async def let_in(self, variant: str) -> bool:
        """Whether it had been taken out. Raises StoreUnavailable."""
        replies = await self._told(clients.Commands([("HDEL", self._caught, variant)]))
        self._raise(replies)
        return bool(replies[0])

    async def close(self) -> None:
        await self._client.aclose()

    @property
    def _caught(self) -> str:
        return f"{{rx:{self._of}}}:caught"

    @property
    def _since(self) -> str:
        return f"{{rx:{self._of}}}:since"

    def _key(self, bucket: int, what: str) -> str:
        return f"{{rx:{self._of}:{bucket}}}:{what}"

    def _user(self, user_id: str) -> tuple[int, str]:
        digest = xxhash.xxh3_128_hexdigest(f"{self._of}\n{user_id}".encode(errors="surrogatepass"))
        return int(digest[:8], 16) % BUCKETS, digest[8:24]

    def _queue(
        self, commands: clients.Commands, bucket: int, day: int, worker: str, number: int, arguments: list[str | int]
    ) -> None:
        keys = [self._key(bucket, what) for what in ("sums", "users", "seen", f"clicked:{day}")]
        commands.execute_command(
            "EVALSHA", _SHA, len(keys), *keys, TTL_MS, self._clicked_ttl_ms, worker, number, *arguments
        )

    async def _told(self, commands: clients.Commands) -> list[Any]:
        try:
            async with asyncio.timeout(self._timeout_s):
                replies = await clients.exchanged(self._client, commands)
                unknown = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
                if unknown:
                    whole = clients.Commands(("EVAL", _TAKE, *commands[at][2:]) for at in unknown)
                    for at, reply in zip(unknown, await clients.exchanged(self._client, whole), strict=True):
                        replies[at] = reply
                return replies
        except (TimeoutError, builtins.TimeoutError) as error:
            raise StoreTimedOut(f"the store at {self._where}: no answer within {self._timeout_s:g} s") from error
        except (RedisError, RedisClusterException, OSError) as error:
            raise StoreUnavailable(f"the store at {self._where}: {error}") from error

    def _raise(self, replies: Sequence[Any]) -> None:
        for reply in replies:
            if isinstance(reply, Exception):
                raise StoreUnavailable(f"the store at {self._where}: {reply}") from reply


def _pairs(reply: Any) -> Iterable[tuple[bytes, bytes]]:
    """Of a hash: a cluster's client makes a dict of it."""
    return reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
