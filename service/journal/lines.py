"""Records as lines of JSON, and back.

An impression's line carries the answer's own bytes: they say which items were returned with which scores, and are
written already. What was ranked by stands beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from model.features.behaviour import Behaviour
from model.servicelog.records import Event, Forgotten, Impression, Profile, Record, Shown

IMPRESSION, EVENT, PROFILE, FORGOTTEN = KINDS = ("impression", "event", "profile", "forgotten")
_OF_TYPE: Mapping[type[Any], str] = {Event: EVENT, Profile: PROFILE, Forgotten: FORGOTTEN}
_TYPE_OF = {EVENT: Event, PROFILE: Profile, FORGOTTEN: Forgotten}


@dataclass(frozen=True, slots=True)
class Showing:
    """What becomes an impression: an answer of POST /rank and what it was made of (records.Impression)."""

    answer: bytes  # JSON
    user_id: str
    now: int
    read_us: int
    replay: bool
    precision: str
    catalog: str
    statistics: str | None
    context: Mapping[str, Any]
    user: Mapping[str, Any]
    profile: Mapping[str, str]
    behaviours: Sequence[Behaviour]
    features: Mapping[str, Mapping[str, Any]]  # that the request named for returned items, by their place from 0
    propensities: Sequence[float]  # of the first items; none: no exploration


class BadLine(ValueError):
    """A line that is no record."""


def line_of_showing(showing: Showing, user_id: str) -> bytes:
    """`user_id` as the journal has it."""
    return orjson.dumps(
        {
            "kind": IMPRESSION,
            "user_id": user_id,
            "now": showing.now,
            "read_us": showing.read_us,
            "replay": showing.replay,
            "precision": showing.precision,
            "catalog": showing.catalog,
            "statistics": showing.statistics,
            "context": showing.context,
            "user": showing.user,
            "profile": showing.profile,
            "behaviours": showing.behaviours,
            "features": showing.features,
            "propensities": showing.propensities,
            "answer": orjson.Fragment(showing.answer),
        },
        default=list,  # a Behaviour
    )


def line_of(record: Event | Profile | Forgotten, user_id: str) -> bytes:
    """`user_id` as the journal has it."""
    fields = {name: getattr(record, name) for name in record.__slots__}
    return orjson.dumps({"kind": _OF_TYPE[type(record)], **fields, "user_id": user_id})


def record_of(line: bytes) -> Record:
    """Raises BadLine."""
    try:
        fields = orjson.loads(line)
        kind = fields.pop("kind")
        return _impression(**fields) if kind == IMPRESSION else _TYPE_OF[kind](**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadLine(f"no record: {line[:60]!r} ({type(error).__name__})") from None


def _impression(
    answer: Mapping[str, Any],
    behaviours: Sequence[Sequence[Any]],
    features: Mapping[str, Any],
    propensities: Sequence[float],
    **fields: Any,
) -> Impression:
    chances: list[float | None] = [*propensities, *(None,) * (len(answer["items"]) - len(propensities))]
    items = [
        Shown(str(item["item_id"]), item["score"], place + 1, chance, features.get(str(place)))
        for place, (item, chance) in enumerate(zip(answer["items"], chances, strict=True))
    ]
    named = {name: answer[name] for name in ("request_id", "model", "version", "variant", "degraded")}
    return Impression(items=items, behaviours=[Behaviour(*one) for one in behaviours], **named, **fields)
