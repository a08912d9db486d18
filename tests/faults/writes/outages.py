"""Writes while the store, or the way to it, is at fault: 503 where it cannot take them, and never a false 200."""

from collections.abc import Callable
from typing import Literal

from tests.faults.store.proxy import (
    Drips,
    HalfAReply,
    Hole,
    Late,
    Refuses,
    ResetsAtOnce,
    ResetsMidReply,
    ResetsWhenAsked,
    Says,
    SaysMore,
    Way,
)
from tests.faults.writes.desk import Desk
from tests.faults.writes.load import Load, Writes

PROMISES = {
    "taken": "200, and it is in the store and in the log",
    "refused": "503 with Retry-After; every 200 is in the store and in the log; writes are taken again when it is over",
    "either": "200 or 503; every 200 is in the store and in the log; no answer is another's",
}


def _outage(
    name: str,
    does: str,
    begin: Callable[[Desk], None],
    end: Callable[[Desk], None],
    writes: Literal["taken", "refused", "either"] = "refused",
    reads: bool = False,
    short: bool = False,
) -> Writes:
    """`writes`: what becomes of them meanwhile. `reads`: rankings have their history."""

    async def happens(load: Load, size: int) -> None:
        before = load.held.refused[503]
        begin(load.desk)
        try:
            await load.requests(size)
            if writes == "refused":
                await load.refused()
            if reads:
                degraded = (await load.rank()).json()["degraded"]
                load.held.promise(not degraded, "rankings have their history", degraded)
        finally:
            end(load.desk)
        refused = load.held.refused[503] - before
        load.held.promise(refused or writes != "refused", "503 while it lasts", "none")

    more = "; rankings have their history" if reads else ""
    refused = () if writes == "taken" else (503,)
    return Writes(f"writes: {name}", does, PROMISES[writes] + more, happens, refused, short=short)


def _proxied(name: str, does: str, way: Callable[[], Way], **more: object) -> Writes:
    return _outage(
        name,
        does,
        lambda desk: desk.proxy.become(way()),
        lambda desk: desk.proxy.become(Way()),
        **more,  # type: ignore[arg-type]
    )


def _replica(desk: Desk) -> None:
    desk.store.admin.replicaof("127.0.0.1", "1")


def _primary(desk: Desk) -> None:
    desk.store.admin.replicaof("NO", "ONE")


OUTAGES_OF_WRITES = [
    _proxied("late by 5 ms", "each reply 5 ms later", lambda: Late(0.005), writes="taken"),
    _proxied("late by 50 ms", "each reply 50 ms later", lambda: Late(0.05), writes="taken"),
    _proxied("late by 500 ms", "each reply 500 ms later", lambda: Late(0.5)),
    _proxied("slow drip", "replies byte by byte, 100 ms apart", lambda: Drips(0.1)),
    _proxied("half a reply", "half of each reply, then silence", HalfAReply),
    _proxied("black hole", "connections are taken, nothing is answered", Hole, short=True),
    _proxied("refused", "nobody listens", Refuses),
    _proxied("reset at once", "each connection is reset when it is taken", ResetsAtOnce),
    _proxied("reset when asked", "each request is taken, then reset", ResetsWhenAsked),
    _proxied("reset mid-reply", "a reset after half of each reply: the store has it", ResetsMidReply),
    _proxied("LOADING", "every command is answered by LOADING", lambda: Says(b"-LOADING Redis is loading\r\n")),
    _proxied("another protocol", "replies that are not Redis'", lambda: Says(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
    _proxied("zeros", "replies of zeros", lambda: Says(b"\0" * 64)),
    _proxied("a status", "every command is answered by OK", lambda: Says(b"+OK\r\n")),
    _proxied("an integer", "every command is answered by 1", lambda: Says(b":1\r\n")),
    _proxied("a nil", "every command is answered by nothing", lambda: Says(b"$-1\r\n")),
    _proxied("an empty list", "every command is answered by an empty list", lambda: Says(b"*0\r\n")),
    _proxied(
        "one reply too many", "each reply, and an empty list after it", lambda: SaysMore(b"*0\r\n"), writes="either"
    ),
    _outage("read-only", "the server becomes a replica: READONLY", _replica, _primary, reads=True),
    _outage(
        "out of memory",
        "maxmemory is reached, and nothing may be evicted",
        lambda desk: desk.store.fill(),
        lambda desk: desk.store.drain(),
        reads=True,
    ),
    _outage(
        "frozen",
        "the server is stopped by SIGSTOP",
        lambda desk: desk.store.freeze(),
        lambda desk: desk.store.thaw(),
    ),
    _outage(
        "killed",
        "the server, with appendfsync always, is killed by SIGKILL and comes back",
        lambda desk: desk.store.kill(),
        lambda desk: desk.store.start(),
        short=True,
    ),
]
