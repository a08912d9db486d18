"""The way of a request, top to bottom: history → encode → score → sort → answer.

No HTTP and no Redis here: app.py hands the parts in.
"""

import asyncio
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.features.encode import Encoded
from model.features.ids import BadValue, canonical
from model.features.kinds import ITEM_ID
from service.errors import InvalidRequest, RankerError, TooManyCandidates
from service.scoring.scorer import Scorer
from service.store.history import History, Stored, StoreUnavailable
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
    history_age_s: float | None  # since the newest stored behaviour; None without any
    score_mean: float
    bad_scores: int  # that are no finite number


@contextmanager
def stage(stages: dict[str, float], name: str) -> Iterator[None]:
    """Writes the seconds spent inside into `stages`."""
    begun = time.perf_counter()
    yield
    stages[name] = time.perf_counter() - begun


@dataclass(frozen=True)
class Asked:
    """A request that is ready to be scored."""

    request: RankRequest
    encoded: Encoded
    new_user: bool
    degraded: list[str]
    skipped: int
    history_age_s: float | None


async def rank(
    request: RankRequest, now: int, history: History, scorer: Scorer, max_candidates: int, stages: dict[str, float]
) -> Ranked:
    """Ranks the candidates at the recommending time `now` (ms). Raises InvalidRequest, TooManyCandidates.

    A request with a `timestamp` is a replay and sees only what happened strictly before it. A live one sees all that
    the store holds: it has happened, even where a client's clock stamped it ahead of ours.
    """
    user_id = _user(request, scorer, max_candidates)

    with stage(stages, "history"):
        stored, degraded = await _histories_or_none(history, [(user_id, request.timestamp)])

    with stage(stages, "encode"):
        asked = _encoded(request, user_id, stored[0], degraded, now, scorer)

    scores = await scorer.score(asked.encoded.inputs, stages)

    with stage(stages, "sort"):
        return _sorted(asked, scores)


async def rank_many(
    requests: Sequence[RankRequest | RankerError],
    now: int,
    history: History,
    scorer: Scorer,
    max_candidates: int,
    stages: dict[str, float],
) -> list[Ranked | RankerError]:
    """`rank` for many: one round trip to the store, runs of the graph together. What is wrong with one stays its own.

    An error given for a request is its answer.
    """
    answers: dict[int, Ranked | RankerError] = {}
    sound: dict[int, tuple[RankRequest, int | str]] = {}
    for at, request in enumerate(requests):
        try:
            if isinstance(request, RankerError):
                raise request
            sound[at] = request, _user(request, scorer, max_candidates)
        except RankerError as error:
            answers[at] = error
    with stage(stages, "history"):
        wanted = [(user_id, request.timestamp) for request, user_id in sound.values()]
        found, degraded = await _histories_or_none(history, wanted)
    ready: dict[int, Asked] = {}
    with stage(stages, "encode"):
        for (at, (request, user_id)), stored in zip(sound.items(), found, strict=True):
            await asyncio.sleep(0)  # other requests of this worker come between
            try:
                ready[at] = _encoded(request, user_id, stored, degraded, now, scorer)
            except RankerError as error:
                answers[at] = error
    if ready:
        scores = await scorer.score_many([asked.encoded.inputs for asked in ready.values()], stages)
        with stage(stages, "sort"):
            for (at, asked), of_request in zip(ready.items(), scores, strict=True):
                answers[at] = _sorted(asked, of_request)
    return [answers[at] for at in range(len(requests))]


def _user(request: RankRequest, scorer: Scorer, max_candidates: int) -> int | str:
    if len(request.candidates) > max_candidates:
        raise TooManyCandidates(f"{len(request.candidates)} candidates, at most {max_candidates}")
    try:
        return canonical(request.user_id, scorer.encoder.schema.user_id)
    except BadValue as error:
        raise InvalidRequest(f"user_id: {error}") from None


def _encoded(
    request: RankRequest, user_id: int | str, stored: Stored, degraded: list[str], now: int, scorer: Scorer
) -> Asked:
    at = request.timestamp if request.timestamp is not None else now
    try:
        encoded = scorer.encoder.encode(
            user_id,
            stored.profile,
            stored.behaviours,
            request.candidates,
            at,
            scorer.catalog,
            user=request.user,
            context=request.context,
        )
    except BadValue as error:
        raise InvalidRequest(str(error)) from None
    new_user = not degraded and not stored.profile and not stored.behaviours
    age_s = max(0, at - stored.behaviours[-1].timestamp) / 1000 if stored.behaviours else None
    return Asked(request, encoded, new_user, degraded, stored.skipped, age_s)


def _sorted(asked: Asked, scores: npt.NDArray[np.float32]) -> Ranked:
    order = (-scores).argsort(kind="stable")[: asked.request.top_k]  # ties keep the caller's order
    ids = asked.request.candidates
    if dict in set(map(type, ids)):
        ids = [c[ITEM_ID] if isinstance(c, dict) else c for c in ids]
    best = zip(order.tolist(), scores[order].tolist(), strict=True)
    mean = float(np.add.reduce(scores)) / len(scores)
    return Ranked(
        items=[{"item_id": ids[at], "score": score} for at, score in best],
        candidates=len(ids),
        history_length=asked.encoded.history_length,
        unknown_items=asked.encoded.unknown_items,
        new_user=asked.new_user,
        degraded=asked.degraded,
        future=asked.encoded.future,
        malformed=asked.encoded.malformed + asked.skipped,
        history_age_s=asked.history_age_s,
        score_mean=mean,
        bad_scores=0 if math.isfinite(mean) else int((~np.isfinite(scores)).sum()),
    )


async def _histories_or_none(
    history: History, asked: Sequence[tuple[int | str, int | None]]
) -> tuple[list[Stored], list[str]]:
    try:
        return await history.read_many([(str(user_id), before) for user_id, before in asked]), []
    except StoreUnavailable as error:
        log.debug("ranked without history: %s", error)  # `ranker_degraded_total` counts them; the log need not
        return [Stored({}, [], 0) for _ in asked], [HISTORY]
