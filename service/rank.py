"""The way of a request, top to bottom: history → encode → score → sort → answer.

No HTTP and no Redis here: app.py hands the parts in.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from model.features.ids import BadValue, canonical
from model.features.schema import ITEM_ID
from service.errors import InvalidRequest, TooManyCandidates
from service.history import History, Stored, StoreUnavailable
from service.scorer import Scorer
from service.wire import RankRequest

log = logging.getLogger("ranker")

HISTORY = "history"  # in `degraded`: the store did not answer, and the user was ranked as a new one
REASONS = (HISTORY,)


@dataclass(frozen=True)
class Ranked:
    """One answered request, before it is written: `items` best first, and what the metrics want to know."""

    items: list[dict[str, Any]]
    candidates: int
    history_length: int
    unknown_items: int
    new_user: bool
    degraded: list[str]
    future: int
    malformed: int


@contextmanager
def stage(stages: dict[str, float], name: str) -> Iterator[None]:
    """Writes the seconds spent inside into `stages`."""
    begun = time.perf_counter()
    yield
    stages[name] = time.perf_counter() - begun


async def rank(
    request: RankRequest, now: int, history: History, scorer: Scorer, max_candidates: int, stages: dict[str, float]
) -> Ranked:
    """Ranks the candidates at the recommending time `now` (ms). Raises InvalidRequest, TooManyCandidates.

    A request with a `timestamp` is a replay and sees only what happened strictly before it. A live one sees all that
    the store holds: it has happened, even where a client's clock stamped it ahead of ours.
    """
    if len(request.candidates) > max_candidates:
        raise TooManyCandidates(f"{len(request.candidates)} candidates, at most {max_candidates}")
    try:
        user_id = canonical(request.user_id, scorer.encoder.schema.user_id)
    except BadValue as error:
        raise InvalidRequest(f"user_id: {error}") from None

    with stage(stages, "history"):
        stored, degraded = await _history_or_none(history, str(user_id), request.timestamp)

    with stage(stages, "encode"):
        try:
            encoded = scorer.encoder.encode(
                user_id,
                stored.profile,
                stored.behaviours,
                request.candidates,
                now,
                scorer.catalog,
                user=request.user,
                context=request.context,
            )
        except BadValue as error:
            raise InvalidRequest(str(error)) from None

    scores = await scorer.score(encoded.inputs, stages)

    with stage(stages, "sort"):
        order = (-scores).argsort(kind="stable")[: request.top_k]  # ties keep the caller's order
        ids = [c[ITEM_ID] if isinstance(c, dict) else c for c in request.candidates]
        best = zip(order.tolist(), scores[order].tolist(), strict=True)
        items = [{"item_id": ids[at], "score": score} for at, score in best]

    return Ranked(
        items=items,
        candidates=len(ids),
        history_length=encoded.history_length,
        unknown_items=encoded.unknown_items,
        new_user=not degraded and not stored.profile and not stored.behaviours,
        degraded=degraded,
        future=encoded.future,
        malformed=encoded.malformed + stored.skipped,
    )


async def _history_or_none(history: History, user_id: str, before: int | None) -> tuple[Stored, list[str]]:
    try:
        return await history.read(user_id, before), []
    except StoreUnavailable as error:
        log.debug("ranked without history: %s", error)  # `ranker_degraded_total` counts them; the log need not
        return Stored({}, [], 0), [HISTORY]
