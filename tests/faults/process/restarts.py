"""A rolling restart on one host: a successor takes the listening socket over under load, by RANKER_HANDOVER."""

import time
from contextlib import ExitStack

from tests.client import serving
from tests.faults.process.own import WORKERS, Ordeal, Own, until
from tests.faults.world import SETTINGS

COME_UP_S = 60.0  # patience with a successor


def _successor(own: Own, **settings: str) -> dict[str, str]:
    """The settings of a service that takes over from `own`'s."""
    again = SETTINGS | {"redis_url": own.store.url, "workers": str(WORKERS), "score_threads": "1"}
    return again | {"port": str(own.port), "handover": own.handover, "drain_s": "1", **settings}


async def rolling(own: Own) -> None:
    """Up to three times: each service hands over to the next, and ends."""
    with ExitStack() as stack:
        service = own.service
        for turn in range(min(own.rounds, 3)):
            begun = time.perf_counter()
            following = stack.enter_context(serving(**_successor(own)))
            await until(lambda old=service: old.process.poll() is not None, "the end of the one before", COME_UP_S)
            own.held.figures["handed_over_s"] = time.perf_counter() - begun
            code = service.process.returncode
            own.held.promise(code == 0, f"exit code 0 of service {turn}", code)
            await own.load.answers(100)
            service = following
        own.held.promise(not own.load.refused_at, "no connection is refused", len(own.load.refused_at))
        own.held.promise(service.process.poll() is None, "the last successor runs", service.output[-300:])
        await own.load.stop()


async def failing_successor(own: Own) -> None:
    """A successor that cannot come up: the one before goes on."""
    with serving(**_successor(own, bundle="/nowhere")) as successor:
        await until(lambda: successor.process.poll() is not None, "the successor's end", COME_UP_S)
        own.held.promise(successor.process.returncode != 0, "the successor's exit code is an error", "0")
    await own.load.answers(100)
    own.held.promise(own.service.process.poll() is None, "the one before goes on", own.service.output[-300:])
    own.held.promise(not own.load.refused_at, "no connection is refused", len(own.load.refused_at))


RESTARTS = [
    Ordeal(
        "rolling restart",
        "a successor takes the listening socket over by RANKER_HANDOVER",
        "nothing is lost or refused; the one before ends with exit code 0",
        rolling,
        needs=("handover",),
        hands_over=True,
        ends=True,
    ),
    Ordeal(
        "successor fails",
        "a successor by RANKER_HANDOVER finds no bundle",
        "it ends with an error; the one before goes on",
        failing_successor,
        needs=("handover",),
        hands_over=True,
    ),
]
