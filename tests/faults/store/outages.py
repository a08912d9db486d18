"""Faults of the store and of the way to it: what is done, which answers are allowed, what callers pay meanwhile."""

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from statistics import median
from typing import Literal

from tests.faults.held import Held
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
from tests.faults.store.server import PASSWORD
from tests.faults.users import CACHED, ERROR, OPEN, REASONS, TIMEOUT
from tests.faults.world import RECOVER_S, World

ONSET, ONSETS, ONSET_S = 40, 20, 6.0  # requests in which the service may find out, so many times, for at most so long
MOST_S = 20.0  # of a fault's load, where requests are slow
FREE_MS = 1.0  # what a request pays for a dead store, p50
PROBES, PROBES_PER_S = 5, 10  # connections and reads that a dead store may still get
STRAY = 0.01  # share of answers that a busy machine may degrade where none should be
LOG_LINES = 40


@dataclass(frozen=True)
class Outage:
    """A fault of the store. Its load is `size` requests of ordinary and of unread users, while it lasts.

    `history` says whether it is there meanwhile. Where it is lost every answer is degraded; `cause` is then the reason
    that users get whom nothing remembers, until the breaker opens; with `opens` it must.
    """

    name: str
    does: str
    begin: Callable[[World], None]
    end: Callable[[World], None]
    history: Literal["kept", "lost", "either"] = "lost"
    cause: Collection[str] = (ERROR,)
    opens: bool = False
    short: bool = False
    size: int = 600

    @property
    def promises(self) -> str:
        if self.history == "kept":
            return "200 with history"
        if self.history == "either":
            return "200 with history, or degraded; never another user's"
        rest = f"; once the breaker is open < {FREE_MS:.0f} ms for it, and no new connections" if self.opens else ""
        return f"200, degraded ({', '.join([*self.cause, OPEN, CACHED])}){rest}; undegraded again soon after"

    async def run(self, world: World, held: Held, size: int) -> None:
        before = await world.recovered(held)
        held.promise(before < RECOVER_S, "a healthy store before the fault begins", f"still degraded after {before} s")
        recent = world.users.ordinary[:5]
        for user_id in recent:
            await world.ask_once(held, user_id)
        failed = await world.counted("ranker_requests_total", outcome="failed")
        reasons = {reason: await world.counted("ranker_degraded_total", reason=reason) for reason in REASONS}
        told, counted = len(world.service.output), held.degraded.copy()
        self.begin(world)
        try:
            await self._meanwhile(world, held, size, recent)
        finally:
            self.end(world)
        for reason in REASONS:
            seen = await world.counted("ranker_degraded_total", reason=reason) - reasons[reason]
            answers = held.degraded[reason] - counted[reason]
            held.promise(
                seen >= answers if held.lost else seen == answers,
                f"ranker_degraded_total counts answers with {reason}",
                f"{seen:.0f} counted, {answers} answered",
            )
        held.figures["recovered_s"] = await world.recovered(held)
        held.promise(
            held.figures["recovered_s"] < RECOVER_S,
            "history again within about a second after the fault",
            f"none after {held.figures['recovered_s']:.1f} s",
        )
        seen = await world.counted("ranker_requests_total", outcome="failed") - failed
        held.promise(not seen, "no request counted as failed", f"{seen:.0f} are")
        self._log(held, world.service.output[told:])
        held.promise_answers()
        if held.wrong:  # what is remembered may be wrong too: the next fault is not to pay for it
            await world.ask_many(Held(self.name), 10 * len(world.users.ordinary))

    async def _meanwhile(self, world: World, held: Held, size: int, recent: list[str]) -> None:
        unread = world.users.unread_of(self.name)
        mixed = [*world.users.ordinary, *unread * 4] if self.history == "lost" else world.users.ordinary
        answered, degraded = held.answered, sum(held.degraded.values())
        onset = Held(self.name)
        begun = time.perf_counter()
        for _ in range(ONSETS if self.opens else 1):
            await world.ask_many(onset, ONSET, users=unread if self.history == "lost" else mixed)
            if onset.degraded[OPEN] or time.perf_counter() - begun > ONSET_S:
                break
        held.add(onset)
        if self.history == "lost":
            held.promise(
                any(onset.degraded[reason] for reason in self.cause),
                f"the cause is named at first: {' or '.join(self.cause)}",
                dict(onset.degraded),
            )
        begun, accepted, asked = time.perf_counter(), world.proxy.accepted, world.proxy.asked
        rest = Held(self.name)
        ends = asyncio.Event()
        asyncio.get_running_loop().call_later(MOST_S, ends.set)
        await world.ask_many(rest, max(0, size - ONSET), users=mixed, until=ends)
        seconds = time.perf_counter() - begun
        connections, reads = world.proxy.accepted - accepted, world.proxy.asked - asked
        held.figures |= {"connections": connections, "reads": reads}
        held.add(rest)
        if self.history == "lost":
            without = held.answered - answered - (sum(held.degraded.values()) - degraded)
            held.promise(not without, "every answer says that it lacks the store", f"{without} do not")
            remembered = [await world.ask_once(held, user_id) for user_id in recent]
            held.promise(
                all(reasons == [CACHED] for reasons in remembered),
                f"who was read moments ago is remembered: {CACHED}",
                remembered,
            )
        elif self.history == "kept":
            stray = sum(held.degraded.values()) - degraded
            held.promise(stray <= STRAY * rest.sent, "answers have their history", f"{stray} are degraded")
        if self.opens and rest.store_ms:
            paid, allowed = median(rest.store_ms), PROBES + PROBES_PER_S * seconds
            held.figures["open_store_p50_ms"] = paid
            held.promise(paid < FREE_MS, f"under {FREE_MS:.0f} ms for a dead store", f"{paid:.2f} ms at p50")
            held.promise(rest.degraded[OPEN], f"the breaker opens: {OPEN}", dict(rest.degraded))
            text = f"at most {PROBES} and {PROBES_PER_S} per second"
            held.promise(
                connections <= allowed,
                f"{text} new connections",
                f"{connections} in {seconds:.1f} s, {rest.sent} asked",
            )
            held.promise(reads <= allowed, f"{text} reads", f"{reads} in {seconds:.1f} s, {rest.sent} asked")

    def _log(self, held: Held, log: str) -> None:
        lines = log.splitlines()
        held.promise("Traceback" not in log, "no traceback in the log", _line(lines, "Traceback"))
        held.promise(PASSWORD not in log, "no password in the log", _line(lines, PASSWORD).replace(PASSWORD, "…"))
        held.promise(len(lines) <= LOG_LINES, f"at most {LOG_LINES} lines of log", f"{len(lines)}: {lines[:3]}")


def _line(lines: list[str], text: str) -> str:
    return next((line for line in lines if text in line), "")


def _proxied(name: str, does: str, way: Callable[[], Way], **more: object) -> Outage:
    return Outage(name, does, lambda world: world.proxy.become(way()), World.honest, **more)  # type: ignore[arg-type]


def _says(name: str, reply: bytes, **more: object) -> Outage:
    return _proxied(name, f"every command is answered by {reply[:40]!r}", lambda: Says(reply), **more)


LATE = [
    _proxied("late by 5 ms", "each reply 5 ms later", lambda: Late(0.005), history="kept", short=True),
    _proxied("late by 50 ms", "each reply 50 ms later", lambda: Late(0.05), history="kept"),
    _proxied("late by 500 ms", "each reply 500 ms later", lambda: Late(0.5), cause=(TIMEOUT,), opens=True),
    _proxied("slow drip", "replies byte by byte, 10 ms apart", lambda: Drips(0.01), cause=(TIMEOUT,), opens=True),
    _proxied("half a reply", "half of each reply, then silence", HalfAReply, cause=(TIMEOUT,), opens=True, short=True),
    _proxied(
        "black hole", "connections are taken, nothing is answered", Hole, cause=(TIMEOUT,), opens=True, short=True
    ),
]
RESETS = [
    _proxied("refused", "nobody listens", Refuses, opens=True),
    _proxied("reset at once", "each connection is reset when it is taken", ResetsAtOnce, opens=True),
    _proxied("reset when asked", "each request is taken, then reset", ResetsWhenAsked, opens=True, short=True),
    _proxied("reset mid-reply", "a reset after half of each reply", ResetsMidReply, opens=True),
]
REPLIES = [
    _says("LOADING", b"-LOADING Redis is loading the dataset in memory\r\n"),
    _says("MOVED", b"-MOVED 3999 127.0.0.1:1\r\n"),
    _says("ASK", b"-ASK 3999 127.0.0.1:1\r\n"),
    _says("CLUSTERDOWN", b"-CLUSTERDOWN The cluster is down\r\n"),
    _says("MASTERDOWN", b"-MASTERDOWN Link with MASTER is down\r\n"),
    _says("BUSY", b"-BUSY Redis is busy running a script\r\n"),
    _says("NOPERM", b"-NOPERM this user has no permissions to run this command\r\n"),
    _says("an error without a word", b"-\r\n"),
    _says("an integer", b":1\r\n"),
    _says("a status", b"+OK\r\n", short=True),
    _says("a nil", b"$-1\r\n"),
    _says("a nil array", b"*-1\r\n"),
    _says("text", b"$5\r\nhello\r\n"),
    _says("lists in lists", b"*1\r\n*2\r\n+a\r\n+b\r\n"),
    _says("lists too deep", b"*1\r\n" * 100, cause=(TIMEOUT, ERROR)),
    _says("an unknown type", b"?what\r\n"),
    _says("a length that is no number", b"$x\r\n"),
    _says("a length below nil", b"$-7\r\n"),
    _says("a length beyond all bounds", b"$99999999999999999999\r\n"),
    _says("more promised than comes", b"*1000\r\n+a\r\n", cause=(TIMEOUT, ERROR)),
    _says("types of RESP3", b"%1\r\n+a\r\n#t\r\n"),
    _says("a push message", b">2\r\n+message\r\n+a\r\n", cause=(TIMEOUT, ERROR)),
    _says("another protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n", short=True),
    _says("zeros", b"\0" * 64),
    _proxied(
        "one reply too many",
        "each reply, and an empty list after it",
        lambda: SaysMore(b"*0\r\n"),
        history="either",
        short=True,
    ),
]
SERVER = [
    Outage(
        "killed",
        "the server is killed by SIGKILL and comes back",
        lambda world: world.store.kill(),
        lambda world: world.store.start(),
        cause=(ERROR,),
        opens=True,
        short=True,
    ),
    Outage(
        "frozen",
        "the server is stopped by SIGSTOP",
        lambda world: world.store.freeze(),
        lambda world: world.store.thaw(),
        cause=(TIMEOUT,),
        opens=True,
    ),
    Outage(
        "out of memory",
        "maxmemory is reached, nothing may be evicted: reads go on",
        lambda world: world.store.fill(),
        lambda world: world.store.drain(),
        history="kept",
        short=True,
    ),
    Outage(
        "wrong password",
        "the password is changed and connections are cut",
        lambda world: world.store.lock(),
        lambda world: world.store.unlock(),
        opens=True,
    ),
]
OUTAGES = [*LATE, *RESETS, *REPLIES, *SERVER]
