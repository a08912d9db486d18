"""POST /feedback: events, one or a list, are in the store and in the journal before they are acknowledged."""

import time
from collections.abc import Sequence
from typing import Any

from fastapi import Request, Response
from pydantic_core import from_json

from service.api.answers import json_response
from service.api.bodies import body_of
from service.api.endpoint import Parts
from service.call import Call
from service.errors import (
    BROKEN,
    InvalidEvent,
    InvalidRequest,
    JournalFailed,
    MalformedBody,
    RankerError,
    StoreFailed,
    TooManyEvents,
)
from service.feedback.judging import BadEvent, Judge, Judged
from service.feedback.taking import take
from service.journal.journal import JournalFull
from service.store.history import BrokenValue, StoreUnavailable
from service.wire.feedback import VALUES
from service.wire.pieces import PIECE, Tally, parsed

SHOWN = 3  # problems named in one message
UNDER_WAY = 20  # full lists whose events a worker has under way: more wait elsewhere than here


async def post_feedback(call: Call, request: Request, parts: Parts) -> Response:
    settings = parts.settings
    body = await body_of(call, request, settings.max_body_bytes, parts.metrics, parts.gate)
    value = await _parsed(body, settings.max_feedback_events, parts)
    single = not isinstance(value, list)
    values: Sequence[Any] = [value] if single else value
    if not values:
        raise InvalidRequest("body: an empty list; an event or a list of events is allowed")
    if len(values) > settings.max_feedback_events:
        raise _too_many(len(values), settings.max_feedback_events)

    judge = Judge(parts.live.current.encoder.schema, time.time_ns() // 1_000_000)
    places: list[int] = []
    events: list[Judged] = []
    refused: dict[int, tuple[str, str]] = {}
    for place, one in enumerate(values):
        await parts.turns.next()
        try:
            events.append(judge.judged(one))
            places.append(place)
        except BadEvent as error:
            refused[place] = InvalidEvent.kind, str(error)
    parts.metrics.add("ranker_feedback_events", len(refused), outcome="refused")
    if events:
        for place, failure in zip(places, await _written(events, parts), strict=True):
            if failure is not None:
                broken = isinstance(failure, BrokenValue)
                refused[place] = (
                    StoreFailed.kind,
                    BROKEN if broken else "this user's part of the store failed; send it again",
                )
    accepted = len(values) - len(refused)
    if not accepted:
        raise _nothing_taken(refused, single)
    told = [{"index": place, "kind": kind, "message": words} for place, (kind, words) in sorted(refused.items())]
    return json_response({"request_id": call.id, "accepted": accepted, "refused": told})


async def _parsed(body: bytes, most: int, parts: Parts) -> Any:
    """Raises MalformedBody, TooManyEvents."""
    if len(body) > PIECE:
        return await parsed(body, parts.turns, Tally(2 * VALUES * most, _too_many(None, most)))
    try:
        return from_json(body)
    except ValueError as error:
        raise MalformedBody(str(error)) from None


def _too_many(count: int | None, most: int) -> TooManyEvents:
    return TooManyEvents(f"{'far more' if count is None else count} events, at most {most}")


async def _written(events: Sequence[Judged], parts: Parts) -> Sequence[StoreUnavailable | None]:
    """Raises StoreFailed, JournalFailed."""
    way, most = parts.under_way, UNDER_WAY * parts.settings.max_feedback_events
    if way.events and way.events + len(events) > most:
        _failed(parts, len(events))
        raise StoreFailed(f"{way.events} events wait for the store already, at most {most} may")
    way.events += len(events)
    try:
        timeout_s = parts.settings.feedback_timeout_ms / 1000
        failures = (await take(events, parts.history, parts.journal, timeout_s, _counted(parts))).failures
        if parts.variants is not None:
            kept = [one for one, failure in zip(events, failures, strict=True) if failure is None]
            await parts.variants.clicked(kept, parts.live.current.encoder.schema.history.object_type)
    except StoreUnavailable as error:
        _failed(parts, len(events))
        raise StoreFailed(f"the store failed, and nothing is acknowledged: {_words(error)}") from error
    except JournalFull as error:
        _failed(parts, len(events))
        raise JournalFailed(f"the journal failed, and nothing is acknowledged: {error}") from error
    finally:
        way.events -= len(events)
    failed = sum(failure is not None for failure in failures)
    _failed(parts, failed)
    parts.metrics.add("ranker_feedback_events", len(events) - failed, outcome="accepted")
    return failures


def _counted(parts: Parts) -> set[str]:
    """Types of object whose impressions a model counts that answers here."""
    experiment = parts.variants.experiment if parts.variants is not None else None
    lives = [parts.live, *(arm.live for arm in experiment.arms.values())] if experiment else [parts.live]
    return {one.current.encoder.schema.history.object_type for one in lives if one.current.wanted.impressions}


def _failed(parts: Parts, count: int) -> None:
    parts.metrics.add("ranker_feedback_events", count, outcome="failed")


def _words(error: StoreUnavailable) -> str:
    """What a caller may know: not where the store is, nor what it answered."""
    return "no answer in time" if "within" in str(error) else "it does not answer"


def _nothing_taken(refused: dict[int, tuple[str, str]], single: bool) -> RankerError:
    failed = [words for kind, words in refused.values() if kind == StoreFailed.kind]
    if failed:
        return StoreFailed(f"the store failed, and nothing is acknowledged: {failed[0]}")
    told = [f"{words}" if single else f"event {place}: {words}" for place, (_, words) in sorted(refused.items())]
    more = f"; and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return InvalidEvent("; ".join(told[:SHOWN]) + more)
