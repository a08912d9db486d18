"""Whether an event is one: by its shape, the model's feature table, and the clock."""

from collections.abc import Container, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from model.features.behaviour import Behaviour
from model.features.ids import BadValue, shown
from model.features.schema import Schema
from model.servicelog.records import IMPRESSION
from service.loading.user import DAY_MS, Fields, reads
from service.wire.feedback import FeedbackEvent


class BadEvent(ValueError):
    """Says which field, what was given and what is allowed."""


class Judged(NamedTuple):
    """An event as the store and the journal have it."""

    user_id: str
    behaviour: Behaviour  # of the action `impression` too, which no history gets
    request_id: str | None
    watch_ms: int | None

    @property
    def is_behaviour(self) -> bool:
        return self.behaviour.action != IMPRESSION

    def is_stored(self, counted: Container[str]) -> bool:
        """`counted`: types of object whose impressions are counted; of others they are in the journal alone."""
        return self.is_behaviour or self.behaviour.object_type in counted


class Judge:
    """Judges events for one model, at one time (ms)."""

    def __init__(self, schema: Schema, now: int):
        self._fields, self._now = Fields(schema), now
        self._items = schema.history.object_type
        self._known = reads(schema)
        self._types = sorted({object_type for object_type, _ in self._known})

    def judged(self, value: Any) -> Judged:
        """Raises BadEvent."""
        if not isinstance(value, dict):
            raise BadEvent(f"{shown(value)} given, an object is allowed")
        try:
            event = FeedbackEvent.model_validate(value)
        except ValidationError as error:
            raise BadEvent(_problem(error)) from None
        object_type = self._items if event.object_type is None else event.object_type
        object_id = event.item_id if event.object_type is None else event.object_id
        if event.event == IMPRESSION and object_type not in self._types:
            raise BadEvent(f"object_type: {object_type!r} given, allowed: {', '.join(self._types)}")
        if event.event != IMPRESSION and (object_type, event.event) not in self._known:
            known = ", ".join(f"{action!r} on {kind!r}" for kind, action in sorted(self._known))
            raise BadEvent(f"event: {event.event!r} on {object_type!r} given, allowed: {known}, and {IMPRESSION!r}")
        at = "user_id"
        try:
            user_id = self._fields.user_id(event.user_id)
            at = "item_id" if event.object_type is None else "object_id"
            behaviour = self._fields.behaviour(event.event, object_type, object_id, event.timestamp)
        except BadValue as error:
            where = "timestamp" if str(error).startswith("time ") else at
            raise BadEvent(f"{where}: {str(error).removeprefix('time ')}") from None
        ahead_ms = event.timestamp - self._now
        if ahead_ms > DAY_MS:
            raise BadEvent(
                f"timestamp: {event.timestamp} lies {ahead_ms / 3_600_000:.1f} hours ahead of this machine's clock, "
                "up to 24 are allowed"
            )
        return Judged(user_id, behaviour, event.request_id, event.watch_ms)


def _problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    place: Sequence[str] = [str(part) for part in problem["loc"] if part not in ("int", "constrained-str", "str")]
    told = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        told = f"no such field; allowed: {', '.join(FeedbackEvent.model_fields)}"
    given = (
        ""
        if problem["type"] in ("missing", "value_error", "extra_forbidden")
        else f" (given {shown(problem['input'])})"
    )
    return f"{'.'.join(place)[:60] or 'event'}: {told}{given}"
