"""The way of a request, top to bottom: history → encode → score → sort → answer.

No HTTP and no Redis here: api/routes.py hands the parts in.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from model.features.encode import Encoded
from model.features.ids import BadValue, canonical
from model.features.kinds import ITEM_ID
from service.call import Call
from service.errors import DeadlineExceeded, InvalidRequest, RankerError
from service.explain import Order, Subject, explain
from service.explore import Explore
from service.scoring.lanes import Scores
from service.scoring.served import Served
from service.store.history import Asked, Histories, Stored
from service.wire.shapes import RankRequest
from service.wire.turns import Turns

STORE_SHARE = 0.5  # of the time left: what is over goes to queue and scoring


@dataclass(frozen=True)
class Ranked:
    """One answered request, before it is written: `items` best first, and what the metrics count."""

    items: list[dict[str, Any]]
    candidates: int
    history_length: int
    unknown_items: int
    new_user: bool
    degraded: list[str]
    history_complete: bool | None  # whether the store still held all that a replay reads; None: a live request
    future: int
    malformed: int
    holes: int  # elements of lists that hold nothing
    history_age_s: float | None  # since the newest stored behaviour; None without any
    score_mean: float
    bad_scores: int  # that are no finite number
    encoded: Encoded
    used: "Used"
    order: Order  # places of `items` among the candidates
    propensities: list[float | None] | None  # of `items`; None: no exploration
    served: Served
    explanation: dict[str, Any] | None = None  # what holds for all items; None: nobody asked
    request_id: str | None = None  # of its own, where a batch has several variants; None: the call's


@dataclass(frozen=True)
class Used:
    """What a request was ranked from."""

    request: RankRequest
    user_id: int | str
    stored: Stored
    at: int  # its recommending time, ms
    read_us: int  # right before the store was asked


@dataclass(frozen=True)
class Encodable:
    """A request that is ready to be scored."""

    used: Used
    encoded: Encoded
    new_user: bool
    degraded: list[str]
    history_complete: bool | None
    skipped: int
    history_age_s: float | None


async def rank(
    call: Call, request: RankRequest, now: int, history: Histories, served: Served, explore: Explore | None = None
) -> Ranked:
    """Ranks the candidates at the recommending time `now` (ms) with one model. Raises InvalidRequest.

    A request with a `timestamp` is a replay and sees only what happened strictly before it. A live one sees all that
    the store holds: it has happened, even where a client's clock stamped it ahead of ours.
    """
    user_id = checked_user(request, served)

    read_us = time.time_ns() // 1000
    with call.stage("history"):
        asked = _asked(request, user_id, now, served)
        [stored] = await history.read([asked], served.wanted, store_share_s(call))

    call.check("encode")
    with call.stage("encode"):
        ready = _encode(request, user_id, stored, now, served, read_us)

    scores = await served.score(ready.encoded.inputs, call)  # stages `queue` and `score`

    call.check("sort")
    with call.stage("sort"):
        ranked = _sort(ready, scores, call, served, explore)

    if request.explain:
        ranked = await _explained(call, ready, ranked, scores, served)
    call.degraded = ranked.degraded
    return ranked


def store_share_s(call: Call) -> float | None:
    """What of the time that is left the store may take, in seconds; None: as much as it is set to."""
    left_s = call.left_s()
    return None if left_s is None else max(0.0, left_s) * STORE_SHARE


async def rank_many(
    call: Call,
    requests: Sequence[RankRequest | RankerError],
    now: int,
    history: Histories,
    served: Served,
    turns: Turns,
    explore: Explore | None = None,
) -> list[Ranked | RankerError]:
    """`rank` for a few: one round trip to the store, runs of the graph together, one answer or error each, in order.

    An invalid request gets its own error, and so does one whose own `timeout_ms` is over; the others are still ranked.
    """
    answers: dict[int, Ranked | RankerError] = {}
    valid: dict[int, tuple[RankRequest, int | str]] = {}
    for at, request in enumerate(requests):
        try:
            if isinstance(request, RankerError):
                raise request
            _check_time(call, request)
            valid[at] = request, checked_user(request, served)
        except RankerError as error:
            answers[at] = error

    if valid:
        asked = [_asked(request, user_id, now, served) for request, user_id in valid.values()]
        read_us = time.time_ns() // 1000
        with call.stage("history"):
            histories = await history.read(asked, served.wanted, store_share_s(call))

    ready: dict[int, Encodable] = {}
    if valid:
        with call.stage("encode"):
            for (at, (request, user_id)), stored in zip(valid.items(), histories, strict=True):
                await turns.next()
                try:
                    _check_time(call, request)
                    ready[at] = _encode(request, user_id, stored, now, served, read_us)
                except RankerError as error:
                    answers[at] = error

    if ready:
        try:
            scores = await served.score_many([one.encoded.inputs for one in ready.values()], call)
        except DeadlineExceeded as late:
            answers |= dict.fromkeys(ready, late)
            return [answers[at] for at in range(len(requests))]
        ranked: dict[int, Ranked] = {}
        with call.stage("sort"):
            for (at, one), scores_C in zip(ready.items(), scores, strict=True):
                await turns.next()
                answers[at] = ranked[at] = _sort(one, scores_C, call, served, explore)
        for (at, one), scores_C in zip(ready.items(), scores, strict=True):
            if one.used.request.explain:
                try:
                    _check_time(call, one.used.request)
                    answers[at] = await _explained(call, one, ranked[at], scores_C, served, bulk=True)
                except DeadlineExceeded as late:
                    answers[at] = late
        call.degraded = sorted({*call.degraded, *(reason for one in ready.values() for reason in one.degraded)})
    return [answers[at] for at in range(len(requests))]


def _check_time(call: Call, request: RankRequest) -> None:
    """Raises DeadlineExceeded where the request's own time is over; the call's deadline is the caller's to look at."""
    if request.timeout_ms is None:
        return
    late_ms = (time.perf_counter() - call.begun) * 1000 - request.timeout_ms
    if late_ms > 0:
        raise DeadlineExceeded(
            f"{request.timeout_ms} ms are over by {late_ms:.0f} ms, before its place in the batch", "encode"
        )


def checked_user(request: RankRequest, served: Served) -> int | str:
    """The user's id as the model has it. Raises InvalidRequest."""
    try:
        return canonical(request.user_id, served.encoder.schema.user_id)
    except BadValue as error:
        raise InvalidRequest(f"user_id: {error}") from None


def _asked(request: RankRequest, user_id: int | str, now: int, served: Served) -> Asked:
    at = request.timestamp if request.timestamp is not None else now
    today = served.encoder.calendar.begun_ms(at) if served.wanted.impressions else None
    return Asked(str(user_id), request.timestamp, today)


def _encode(
    request: RankRequest, user_id: int | str, stored: Stored, now: int, served: Served, read_us: int
) -> Encodable:
    at = request.timestamp if request.timestamp is not None else now
    try:
        encoded = served.encoder.encode(
            user_id,
            stored.profile,
            stored.behaviours,
            request.candidates,
            at,
            served.catalog,
            user=request.user,
            context=request.context,
            shown_today=stored.shown_today,
        )
    except BadValue as error:
        raise InvalidRequest(str(error)) from None
    degraded = [stored.missing] if stored.missing else []
    new_user = not degraded and not stored.profile and not stored.behaviours
    age_s = max(0, at - stored.behaviours[-1].timestamp) / 1000 if stored.behaviours else None
    complete = None if request.timestamp is None else stored.complete and not degraded
    used = Used(request, user_id, stored, at, read_us)
    return Encodable(used, encoded, new_user, degraded, complete, stored.skipped, age_s)


def _sort(ready: Encodable, scores_C: Scores, call: Call, served: Served, explore: Explore | None) -> Ranked:
    request = ready.used.request
    order = (-scores_C).argsort(kind="stable")  # ties keep the caller's order
    propensities = None
    if explore is not None and request.timestamp is None and explore.chosen(call.id, str(ready.used.user_id)):
        order, propensities = explore.drawn(scores_C, order, call.id, str(ready.used.user_id), request.top_k)
    order = order[: request.top_k]
    ids = request.candidates
    if dict in set(map(type, ids)):
        ids = [c[ITEM_ID] if isinstance(c, dict) else c for c in ids]
    best = zip(order.tolist(), scores_C[order].tolist(), strict=True)
    mean = float(np.add.reduce(scores_C)) / len(scores_C)
    return Ranked(
        items=[{"item_id": ids[at], "score": score} for at, score in best],
        candidates=len(ids),
        history_length=ready.encoded.history_length,
        unknown_items=ready.encoded.unknown_items,
        new_user=ready.new_user,
        degraded=ready.degraded,
        history_complete=ready.history_complete,
        future=ready.encoded.future,
        malformed=ready.encoded.malformed + ready.skipped,
        holes=ready.encoded.holes,
        history_age_s=ready.history_age_s,
        score_mean=mean,
        bad_scores=0 if math.isfinite(mean) else int((~np.isfinite(scores_C)).sum()),
        encoded=ready.encoded,
        used=ready.used,
        order=order,
        propensities=propensities,
        served=served,
    )


async def _explained(
    call: Call, ready: Encodable, ranked: Ranked, scores_C: Scores, served: Served, bulk: bool = False
) -> Ranked:
    """The same with what explains it. Raises DeadlineExceeded or ClientGone."""
    used = ready.used
    subject = Subject(used.request, used.user_id, used.stored, used.at, ready.encoded, scores_C, ranked.order)
    explanation = await explain(call, subject, served, bulk)
    items = [item | {"explanation": one} for item, one in zip(ranked.items, explanation.of_items, strict=True)]
    return replace(ranked, items=items, explanation=explanation.shared)
