"""Faults that chance thinks up: any bytes in any key of a user, any request by the documentation or against it."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.client import Answer, Caller
from tests.faults.held import Held, LeftOut
from tests.faults.users import BROKEN, CACHED, ERROR
from tests.faults.world import RECOVER_S, World

SHARE = 10  # so many requests of another fault's load for an example
NO_BEHAVIOUR = st.binary(min_size=1, max_size=40).map(lambda junk: junk.replace(b"|", b"_"))


@dataclass(frozen=True)
class Fuzzed:
    """`load` sends examples drawn at random; a failing one is in the message, shrunk."""

    name: str
    does: str
    promises: str
    load: Callable[[World, Held, int], Awaitable[None]]
    size: int = 3_000
    short: bool = True

    async def run(self, world: World, held: Held, size: int) -> None:
        before = await world.recovered(held)
        held.promise(before < RECOVER_S, "a healthy store before the fault begins", f"still degraded after {before} s")
        failed, told = await world.counted("ranker_requests_total", outcome="failed"), len(world.service.output)
        await self.load(world, held, max(5, size // SHARE))
        counted = await world.counted("ranker_requests_total", outcome="failed") - failed
        held.promise(not counted, "no request is counted as failed", f"{counted:.0f} are")
        log = world.service.output[told:]
        held.promise("Traceback" not in log, "no traceback in the log", f"{log.count('Traceback')}")
        # 404: a user of whom nothing is known; 409: an order to go back, where there is no bundle before
        held.promise_answers(refused=(400, 404, 409, 413, 422), valid=False)


def _drawn(examples: int) -> Callable[[Any], Any]:
    """Hypothesis' settings of every fuzz here: the same examples in each run, none kept on disk."""
    checks = list(HealthCheck)
    return settings(max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=checks)


async def damaged(world: World, held: Held, examples: int) -> None:
    """Junk in every key of a user: more members, fields and bytes, or another type altogether."""
    loop, admin = asyncio.get_running_loop(), world.store.admin
    keys = world.store.keys_of(BROKEN)
    assert keys, "the broken user was never written"
    saved = {key: admin.dump(key) for key in keys}
    types = {key: admin.type(key) for key in keys}

    def restore() -> None:
        for key, value in saved.items():
            admin.restore(key, 0, value, replace=True)

    def ask() -> Any:
        held.sent += 1
        asking = asyncio.run_coroutine_threadsafe(_raw(world, BROKEN), loop)
        return asking.result(60)

    def check(damage: str, allowed: tuple[tuple[str, ...], ...]) -> None:
        """The answer is right for what `degraded` says, and that is one of `allowed`."""
        answer = ask()
        degraded = held.judge(world.users, BROKEN, answer, 0.0)
        told = answer.body[:300].decode(errors="replace")
        assert degraded is not None and tuple(degraded) in allowed, f"{damage}: {answer.status} {told}"

    @_drawn(examples)
    @given(st.sampled_from(keys), st.lists(NO_BEHAVIOUR, min_size=1, max_size=30), st.floats(-(2.0**53), 2.0**53))
    def more(key: bytes, junk: list[bytes], score: float) -> None:
        restore()
        if types[key] == b"zset":
            admin.zadd(key, dict.fromkeys(junk, score))
        elif types[key] == b"hash":
            admin.hset(key, mapping={b"junk-" + one: one for one in junk})
        elif types[key] == b"list":
            admin.rpush(key, *junk)
        elif types[key] == b"set":
            admin.sadd(key, *junk)
        elif types[key] == b"stream":
            admin.xadd(key, {b"junk": junk[0]})
        else:
            return
        check(f"{junk} added to {key!r}, a {types[key].decode()}", ((),))  # exactly as without the junk

    @_drawn(examples)
    @given(st.sampled_from(keys), st.binary(max_size=200))
    def instead(key: bytes, junk: bytes) -> None:
        restore()
        admin.set(key, junk)
        if types[key] == b"string":  # what the bytes mean is the format's: it must be ranked, that is all
            answer = ask()
            held.answered += answer.status == 200
            ranked = answer.json()
            fine = answer.status == 200 and all(math.isfinite(item["score"]) for item in ranked["items"])
            assert fine, f"{junk!r} in {key!r}: {answer.status} {ranked}"
        else:
            allowed = ((), (ERROR,), (CACHED,))  # the first only where no read needs the key: scores are compared
            check(f"{junk!r} in place of {key!r}, a {types[key].decode()}", allowed)

    @_drawn(examples)
    @given(st.binary(max_size=50), st.sampled_from([b"age", b"gender", b"city", b"os"]))
    def values(junk: bytes, field: bytes) -> None:
        restore()
        for key in keys:
            if types[key] == b"hash" and b"profile" in key:
                admin.hset(key, mapping={field: junk})
        answer = ask()
        ranked = answer.json()
        fine = answer.status == 200 and not ranked["degraded"]
        fine = fine and ranked["history_length"] == world.users.whole[BROKEN].history_length
        held.answered += fine
        assert fine, f"{field!r} is {junk!r} in the profile: {answer.status} {ranked}"

    for test in (more, instead, values):
        try:
            await asyncio.to_thread(test)
        except Exception as error:  # an assertion of the test, or hypothesis' own word on it
            held.promise(False, "whatever bytes the store holds, ranked with the right counts", str(error)[:500])
        finally:
            restore()


async def _raw(world: World, user_id: str) -> Any:
    caller = Caller(world.port)
    try:
        return await caller.ask("/rank", world.users.body(user_id))
    finally:
        caller.hang_up()


async def documented(world: World, held: Held, examples: int) -> None:
    """Requests that the OpenAPI document describes, and broken ones, by schemathesis. Raises LeftOut without it."""
    await asyncio.to_thread(_documented, world, held, examples)


def _documented(world: World, held: Held, examples: int) -> None:
    try:
        import requests
        import schemathesis
        from schemathesis import checks
        from schemathesis.generation import GenerationMode
    except ImportError as error:
        raise LeftOut(f"schemathesis is not installed ({error}): pip install -e '.[dev]'") from None
    promised = [  # not: that all which fits the schema is accepted, as a bundle allows its own features alone
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.response_headers_conformance,
    ]
    schema = schemathesis.openapi.from_url(f"{world.service.url}/openapi.json")
    with requests.Session() as session:
        session.trust_env = False  # no proxy of ours on the loopback
        for result in schema.get_all_operations():
            operation = result.ok()

            def ask(case: Any) -> None:
                held.sent += 1
                answer = case.call(base_url=world.service.url, session=session)
                held.answered += answer.status_code == 200
                if answer.status_code != 200:
                    held.turned_away(Answer(answer.status_code, answer.content))
                case.validate_response(answer, checks=promised)

            posts = operation.method.lower() == "post"  # a GET takes nothing that could be wrong
            for mode in GenerationMode if posts else [GenerationMode.POSITIVE]:
                few = examples if posts else 2
                try:
                    _drawn(few)(given(case=operation.as_strategy(generation_mode=mode))(ask))()
                except (Exception, BaseExceptionGroup) as error:  # whatever the checks raise: its text is the finding
                    held.promise(False, f"{operation.label} answers as documented", str(error)[:800])


FUZZED = [
    Fuzzed("damaged data", "any bytes in any key of a user", "ranked; counts and others' answers are right", damaged),
    Fuzzed("any request", "requests by and against the OpenAPI document", "no 5xx; as documented", documented),
]
